"""The fake API server over HTTP: faults as a client feels them. Its semantics are in tests/contract."""

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import pytest

from littlelb.testing.clock import LoopClock, run_virtual
from littlelb.testing.fake_api import FakeApi, FixedCredentials
from littlelb.testing.fake_api_faults import Fault
from littlelb.testing.fake_api_store import Name

LIST = "/api/v1/services"
WATCH = f"{LIST}?watch=true&resourceVersion=0&timeoutSeconds=1"

Story = Callable[[FakeApi, aiohttp.ClientSession], Awaitable[None]]


def play(story: Story, *faults: Fault) -> None:
    """Run a story against a server with one Service and these faults."""

    async def scenario() -> None:
        async with FakeApi() as server, aiohttp.ClientSession(server.url) as session:
            server.cluster.create(Name("/services", "default", "web"), {"spec": {"ports": [{"port": 80}]}})
            for fault in faults:
                server.faults.add(fault)
            await story(server, session)

    run_virtual(scenario())


def test_status_with_retry_after() -> None:
    """The status is a Status object, and the wish a header; the second request is well again."""

    async def story(_: FakeApi, session: aiohttp.ClientSession) -> None:
        async with session.get(LIST) as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (503, "4")
            assert (await answer.json())["code"] == 503
        async with session.get(LIST) as answer:
            assert answer.status == 200

    play(story, Fault(status=503, retry_after=4, times=1))


def test_delay_and_swallow() -> None:
    """A delayed answer comes late, a swallowed one never."""

    async def story(_: FakeApi, session: aiohttp.ClientSession) -> None:
        async with session.get(LIST) as answer:
            assert answer.status == 200
        assert LoopClock().monotonic() == pytest.approx(7, abs=0.2)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(100), session.get(LIST):
                pytest.fail("it was answered")

    play(story, Fault(delay_seconds=7, times=1), Fault(swallow=True))


def test_cut() -> None:
    """The connection breaks inside the body."""

    async def story(_: FakeApi, session: aiohttp.ClientSession) -> None:
        with pytest.raises(aiohttp.ClientError):
            async with session.get(LIST) as answer:
                await answer.read()

    play(story, Fault(cut_after_bytes=20))


@pytest.mark.parametrize(
    ("fault", "body"),
    [
        (Fault(end_at_once=True), b""),
        (Fault(first_line=b"nonsense"), b'nonsense\n{"type": "ADDED"'),
        (Fault(error_event=410), b'{"type": "ERROR", "object": {"kind": "Status"'),
        (Fault(bytewise=True), b'{"type": "ADDED"'),
    ],
)
def test_faults_of_watches(fault: Fault, body: bytes) -> None:
    """What comes first, or nothing, and then the end."""

    async def story(_: FakeApi, session: aiohttp.ClientSession) -> None:
        async with session.get(WATCH) as answer:
            assert answer.status == 200
            found = await answer.read()
            assert found.startswith(body)
            assert bool(found) is bool(body)

    play(story, fault)


def test_a_silent_watch() -> None:
    """Headers come and nothing else, not even an end."""

    async def story(_: FakeApi, session: aiohttp.ClientSession) -> None:
        async with session.get(WATCH) as answer:
            assert answer.status == 200
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(100):
                    await answer.content.readany()

    play(story, Fault(silent=True))


def test_tokens() -> None:
    """With a list of tokens only those are let in, and credentials go on to the next when told to."""

    async def story(server: FakeApi, session: aiohttp.ClientSession) -> None:
        server.tokens = {"good"}
        credentials = FixedCredentials(server.url, "bad", "good")
        codes = []
        for _ in range(2):
            async with session.get(LIST, headers=await credentials.authorize()) as answer:
                codes.append(answer.status)
            credentials.invalidate()
        assert codes == [401, 200]

    play(story)


def test_a_restart_keeps_port_and_objects() -> None:
    """Stopped, it refuses connections; started again it is the same server."""

    async def story(server: FakeApi, session: aiohttp.ClientSession) -> None:
        url = server.url
        await server.stop()
        with pytest.raises(aiohttp.ClientConnectionError):
            await session.get(LIST)
        await server.start()
        assert server.url == url
        async with session.get(LIST) as answer:
            assert len((await answer.json())["items"]) == 1

    play(story)


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("GET", "/", None, 404),
        ("GET", "/api/v1/nonsense", None, 404),
        ("POST", "/api/v1/namespaces/default/services", b"nonsense", 400),
        ("POST", "/api/v1/namespaces/default/services", b"[]", 400),
        ("OPTIONS", LIST, None, 405),
    ],
)
def test_what_it_does_not_know(method: str, path: str, body: bytes | None, code: int) -> None:
    """Strange paths, bodies and methods are refused in order."""

    async def story(_: FakeApi, session: aiohttp.ClientSession) -> None:
        async with session.request(method, path, data=body) as answer:
            assert answer.status == code

    play(story)
