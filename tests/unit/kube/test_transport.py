"""The transport against a server in this process: sessions, sockets, tokens, and words for what goes wrong."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable

import pytest

from littlelb.core.errors import Permanent, Transient
from littlelb.kube.transport import Request, Transport, open_socket
from littlelb.testing.clock import LoopClock, run_virtual
from littlelb.testing.fake_api import FakeApi, FixedCredentials
from littlelb.testing.fake_api_faults import Fault

VERSION = Request("GET", "/version")


def with_server(story: Callable[[FakeApi, Transport, FixedCredentials], Awaitable[None]], *tokens: str) -> None:
    """Run a story with a server and a transport that speaks to it."""

    async def scenario() -> None:
        async with FakeApi() as server:
            credentials = FixedCredentials(server.url, *tokens)
            transport = Transport(credentials)
            try:
                await story(server, transport, credentials)
            finally:
                await transport.close()

    run_virtual(scenario())


def test_sockets_notice_a_vanished_peer() -> None:
    """Keepalive 10/5/3 and TCP_USER_TIMEOUT 25 s are set: a half-open connection fails within 30 s."""
    with open_socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))) as sock:
        tcp = socket.IPPROTO_TCP
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(tcp, socket.TCP_KEEPIDLE) == 10
        assert sock.getsockopt(tcp, socket.TCP_KEEPINTVL) == 5
        assert sock.getsockopt(tcp, socket.TCP_KEEPCNT) == 3
        assert sock.getsockopt(tcp, socket.TCP_USER_TIMEOUT) == 25_000


def test_an_answer_is_an_answer_whatever_its_code() -> None:
    """A 404 is not the transport's business; body, code and Retry-After come back."""

    async def story(server: FakeApi, transport: Transport, _: FixedCredentials) -> None:
        answer = await transport.fetch(Request("GET", "/api/v1/nothing"))
        assert (answer.code, answer.retry_after_seconds) == (404, None)
        server.faults.add(Fault(status=429, retry_after=7))
        answer = await transport.fetch(VERSION)
        assert (answer.code, answer.retry_after_seconds) == (429, 7.0)
        assert b"a fault with status 429" in answer.body

    with_server(story)


def test_a_401_reads_the_credentials_again_once() -> None:
    """The second token is good: one retry. None is good: the 401 comes back, and nothing is tried a third time."""

    async def story(server: FakeApi, transport: Transport, credentials: FixedCredentials) -> None:
        server.tokens = {"second"}
        assert (await transport.fetch(VERSION)).code == 200
        assert credentials.renewals == 1
        server.tokens = {"other"}
        server.faults.seen.clear()
        assert (await transport.fetch(VERSION)).code == 401
        assert len(server.faults.seen) == 2

    with_server(story, "first", "second")


def test_a_401_on_a_watch_reads_the_credentials_again() -> None:
    """Streams renew as short requests do."""

    async def story(server: FakeApi, transport: Transport, credentials: FixedCredentials) -> None:
        server.tokens = {"second"}
        async with transport.stream(VERSION) as stream:
            assert stream.code == 200
        assert credentials.renewals == 1

    with_server(story, "first", "second")


def test_a_new_generation_closes_the_old_sessions() -> None:
    """Connections are kept between requests, and opened anew only when CA or client certificate changed."""

    async def story(server: FakeApi, transport: Transport, credentials: FixedCredentials) -> None:
        await transport.fetch(VERSION)
        first = transport._short
        await transport.fetch(VERSION)
        assert transport._short is first
        credentials.generation += 1
        await transport.fetch(VERSION)
        assert first is not None
        assert first.closed
        assert transport._short is not first
        assert len(server.faults.seen) == 3

    with_server(story)


def test_nobody_listens() -> None:
    """A refused connection is transient, and the message names the server."""

    async def story(server: FakeApi, transport: Transport, _: FixedCredentials) -> None:
        await server.stop()
        with pytest.raises(Transient, match=rf"cannot connect to {server.url}: .*[Rr]efused|Connect call failed"):
            await transport.fetch(VERSION)

    with_server(story)


def test_a_swallowed_request_ends_in_time() -> None:
    """A server that takes the request and says nothing costs 20 s, no more."""

    async def story(server: FakeApi, transport: Transport, _: FixedCredentials) -> None:
        server.faults.add(Fault(swallow=True))
        with pytest.raises(Transient, match="no answer from"):
            await transport.fetch(VERSION)
        assert LoopClock().monotonic() <= 21
        with pytest.raises(Transient, match="no answer from"):
            async with transport.stream(VERSION):
                pytest.fail("a stream without headers was opened")
        assert LoopClock().monotonic() <= 47

    with_server(story)


def test_a_cut_answer_is_transient() -> None:
    """Half an answer is none."""

    async def story(server: FakeApi, transport: Transport, _: FixedCredentials) -> None:
        server.faults.add(Fault(cut_after_bytes=5))
        with pytest.raises(Transient, match="broke"):
            await transport.fetch(VERSION)

    with_server(story)


def test_reading_can_be_cancelled_without_loss() -> None:
    """A read that times out leaves the stream as it is; the bytes come with the next read."""

    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n")
        await asyncio.sleep(8)
        writer.write(b"late")
        await writer.drain()
        writer.close()

    async def scenario() -> None:
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            host, port = server.sockets[0].getsockname()
            transport = Transport(FixedCredentials(f"http://{host}:{port}"))
            async with transport.stream(VERSION) as stream:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(5):
                        await stream.read()
                assert await stream.read() == b"late"
                assert await stream.read() == b""
            await transport.close()

    run_virtual(scenario())


def test_tls_where_none_is_spoken() -> None:
    """A server that speaks plain HTTP where TLS was expected is named, and tried again."""

    async def scenario() -> None:
        async with FakeApi() as server:
            url = server.url.replace("http:", "https:")
            transport = Transport(FixedCredentials(url, tls=ssl.create_default_context()))
            with pytest.raises(Transient, match=url):
                await transport.fetch(VERSION)
            await transport.close()

    run_virtual(scenario())


@pytest.mark.parametrize("bad", ["https://", "nonsense"])
def test_an_address_that_is_none(bad: str) -> None:
    """Nonsense in the place of the server's address is permanent, with the setting's name."""

    async def scenario() -> None:
        transport = Transport(FixedCredentials(bad))
        with pytest.raises(Permanent, match="check `server`"):
            await transport.fetch(VERSION)
        await transport.close()

    run_virtual(scenario())


def test_through_a_proxy() -> None:
    """With proxy-url the request goes to the proxy; a proxy that is not there is named as such."""

    async def scenario() -> None:
        async with FakeApi() as proxy:
            credentials = FixedCredentials("http://192.0.2.1:6443")
            credentials.proxy = proxy.url
            transport = Transport(credentials)
            assert (await transport.fetch(VERSION)).code == 200
            await proxy.stop()
            with pytest.raises(Transient, match="cannot connect to the proxy"):
                await transport.fetch(VERSION)
            await transport.close()

    run_virtual(scenario())
