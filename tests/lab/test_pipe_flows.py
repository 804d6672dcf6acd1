"""What becomes of bytes, FIN and RST between client and backend through real workers (loopback)."""

import asyncio
import hashlib
import os
import socket
import sys
import threading
from collections.abc import AsyncIterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from littlelb.core.model import Forward
from littlelb.core.plan import Changes
from tests.lab.pipe_world import (
    PORT,
    SECONDS,
    World,
    address,
    ask,
    connect,
    cpu_seconds,
    echo,
    forward,
    frontend,
    read_all,
    reset,
    resident_bytes,
    servers,
    until,
)

pytestmark = pytest.mark.lab


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A started plane without frontends."""
    made = World(tmp_path)
    try:
        await made.start()
        yield made
    finally:
        await made.close()


async def serve(world: World, rule: Forward, host: int = 1) -> None:
    """Apply one frontend and expect no failure."""
    assert await world.plane.apply(Changes({frontend(host): rule})) == {}


async def test_half_close_of_the_client_delivers_all_bytes(world: World) -> None:
    """The client sends 5 MB and FIN before it reads: the backend's echo comes back identical, then its FIN."""
    message = os.urandom(5 << 20)
    with servers(h2=swallow_then_answer):
        await serve(world, forward(2))
        answer = await asyncio.to_thread(ask, message=message)
    assert answer == hashlib.sha256(message).digest()


def swallow_then_answer(sock: socket.socket) -> None:
    """Read up to FIN, then answer with the digest."""
    sock.sendall(hashlib.sha256(read_all(sock)).digest())


async def test_half_close_of_the_backend_delivers_all_bytes(world: World) -> None:
    """The backend sends 5 MB and FIN first; what the client sends afterwards still arrives there."""
    message, received = os.urandom(5 << 20), bytearray()
    done = threading.Event()

    def talk_then_listen(sock: socket.socket) -> None:
        sock.sendall(message)
        sock.shutdown(socket.SHUT_WR)
        received.extend(read_all(sock))
        done.set()

    def client() -> bytes:
        with connect() as sock:
            got = read_all(sock)
            sock.sendall(b"late words")
        return got

    with servers(h2=talk_then_listen):
        await serve(world, forward(2))
        assert await asyncio.to_thread(client) == message
        assert await asyncio.to_thread(done.wait, SECONDS)
    assert received == b"late words"


async def test_reset_by_the_client_reaches_the_backend(world: World) -> None:
    """RST from the client arrives as RST, not as FIN."""
    seen: list[str] = []

    def wait_for_the_end(sock: socket.socket) -> None:
        sock.sendall(b"hello")
        try:
            seen.append(repr(sock.recv(100)))
        except ConnectionResetError:
            seen.append("reset")

    with servers(h2=wait_for_the_end):
        await serve(world, forward(2))
        sock = await asyncio.to_thread(connect)
        assert await asyncio.to_thread(sock.recv, 5) == b"hello"
        reset(sock)
        await until(lambda: bool(seen))
    assert seen == ["reset"]


async def test_reset_after_half_close_reaches_the_backend(world: World) -> None:
    """A client that sent FIN and then resets is reported to a backend that is still silent."""
    seen: list[str] = []
    ended = threading.Event()

    def wait_for_the_end(sock: socket.socket) -> None:
        assert sock.recv(100) == b""
        ended.set()
        try:
            while True:
                sock.sendall(b"x")
                threading.Event().wait(0.02)
        except OSError:
            seen.append("reset")

    with servers(h2=wait_for_the_end):
        await serve(world, forward(2))
        sock = await asyncio.to_thread(connect)
        sock.shutdown(socket.SHUT_WR)
        assert await asyncio.to_thread(ended.wait, SECONDS)
        reset(sock)
        await until(lambda: bool(seen))


async def test_reset_by_the_backend_reaches_the_client(world: World) -> None:
    """RST from the backend arrives as RST, after the bytes that it sent before."""

    def speak_and_break(sock: socket.socket) -> None:
        sock.sendall(b"last words")
        sock.recv(100)
        reset(sock)

    def client() -> str:
        with connect() as sock:
            assert sock.recv(100) == b"last words"
            sock.sendall(b"x")
            try:
                return repr(sock.recv(100))
            except ConnectionResetError:
                return "reset"

    with servers(h2=speak_and_break):
        await serve(world, forward(2))
        assert await asyncio.to_thread(client) == "reset"


async def test_dead_first_backends_are_not_seen_by_the_client(world: World) -> None:
    """Two of three backends refuse: each of 40 clients is served, and bytes sent before the connect are not lost."""
    with servers(h4=echo()):
        await serve(world, forward(2, 3, 4))
        answers = [await asyncio.to_thread(ask, message=b"early") for _ in range(40)]
        counters = (await world.plane.counters())[frontend()]
    assert answers == [b"early"] * 40
    assert counters.accepted == 40
    assert counters.failed_connects > 0


async def test_a_silent_backend_is_left_after_the_time_out_and_delays_nobody_else(tmp_path: Path) -> None:
    """Clients that meet a backend which drops SYNs are served by the next one; later ones do not meet it any more."""
    world = World(tmp_path, connect_seconds=0.5, workers=1)
    silent = socket.create_server((address(3), PORT), backlog=0)
    fillers = []
    try:
        for _ in range(4):  # its accept queue is full: the kernel drops further SYNs
            fillers.append(socket.socket())
            fillers[-1].setblocking(False)  # noqa: FBT003  (its name says it)
            fillers[-1].connect_ex((address(3), PORT))
        with servers(h2=echo(b"2")):
            await world.start()
            await serve(world, forward(2, 3))
            first = await asyncio.gather(*(asyncio.to_thread(ask, message=b"x") for _ in range(8)))
            failed = (await world.plane.counters())[frontend()].failed_connects
            later = [await asyncio.to_thread(ask, message=b"x") for _ in range(20)]
            assert (await world.plane.counters())[frontend()].failed_connects == failed
        assert first + later == [b"2x"] * 28
        assert 0 < failed <= 8
    finally:
        for sock in [*fillers, silent]:
            sock.close()
        await world.close()


async def test_all_backends_dead_resets_the_client(world: World) -> None:
    """When no backend answers, the client gets RST at once instead of silence."""
    await serve(world, forward(2, 3))
    with pytest.raises(ConnectionResetError):
        await asyncio.to_thread(ask)


async def test_no_backend_refuses_at_once_and_keeps_the_port(world: World) -> None:
    """A frontend without backends refuses the handshake, keeps its port, and serves again as soon as there is one."""
    with servers(h2=echo(b"2")):
        await serve(world, forward())
        for _ in range(3):
            with pytest.raises(ConnectionRefusedError):
                await asyncio.to_thread(connect)
            with socket.socket() as thief:
                thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with pytest.raises(OSError, match="in use"):
                    thief.bind((address(1), PORT))
            assert await world.plane.apply(Changes(change={frontend(): forward(2)})) == {}
            assert await asyncio.to_thread(ask, message=b"x") == b"2x"
            assert await world.plane.apply(Changes(change={frontend(): forward()})) == {}


async def test_source_ranges_reset_strangers(world: World) -> None:
    """A client outside the ranges is reset, one inside is served."""
    rule = forward(2)
    allowed = Forward(service=rule.service, backends=rule.backends, source_ranges=(ip_network("127.0.0.0/8"),))
    denied = Forward(service=rule.service, backends=rule.backends, source_ranges=(ip_network("192.0.2.0/24"),))
    with servers(h2=echo(b"2")):
        await serve(world, allowed)
        assert await asyncio.to_thread(ask) == b"2"
        assert await world.plane.apply(Changes(change={frontend(): denied})) == {}
        with pytest.raises(ConnectionResetError):
            await asyncio.to_thread(ask)


async def test_affinity_keeps_a_client_on_one_backend(world: World) -> None:
    """With affinity one client address meets one backend only, whichever worker accepts; without, all of them."""
    rule = forward(2, 3, 4)
    sticky = Forward(service=rule.service, backends=rule.backends, affinity_seconds=60)
    with servers(h2=echo(b"2"), h3=echo(b"3"), h4=echo(b"4")):
        await serve(world, sticky)
        assert len({await asyncio.to_thread(ask) for _ in range(20)}) == 1
        assert await world.plane.apply(Changes(change={frontend(): rule})) == {}
        assert {await asyncio.to_thread(ask) for _ in range(30)} == {b"2", b"3", b"4"}


async def test_a_frontend_as_its_own_backend_ends(world: World) -> None:
    """A backend that is a frontend of ours is never connected to: no connection goes round in a circle."""
    await serve(world, forward(1))
    with pytest.raises(ConnectionResetError):
        await asyncio.to_thread(ask)
    assert (await world.plane.counters())[frontend()].accepted == 1


async def test_slow_clients_do_not_stop_others(world: World) -> None:
    """With 400 clients that sent half a request and wait, 200 others are all served."""
    with servers(h2=echo(b"2")):
        await serve(world, forward(2))
        slow = [await asyncio.to_thread(connect) for _ in range(400)]
        try:
            for sock in slow:
                sock.sendall(b"GET /")
            answers = [await asyncio.to_thread(ask, message=b"x") for _ in range(200)]
        finally:
            for sock in slow:
                sock.close()
    assert answers == [b"2x"] * 200


async def test_a_slow_reader_costs_bounded_memory(world: World) -> None:
    """A client that reads nothing of an endless stream stops the backend, while the workers hardly grow and idle."""
    sent = [0]

    def flood(sock: socket.socket) -> None:
        chunk = bytes(1 << 18)
        while True:
            sent[0] += sock.send(chunk)

    with servers(h2=flood):
        await serve(world, forward(2))
        before = sum(map(resident_bytes, world.workers()))
        sock = await asyncio.to_thread(connect)
        try:
            stalled = -1
            while stalled != sent[0]:  # the kernel's buffers are full when a whole second moves nothing
                stalled = sent[0]
                await asyncio.sleep(1)
            used = sum(map(cpu_seconds, world.workers()))
            await asyncio.sleep(1)
            assert sum(map(cpu_seconds, world.workers())) - used < 0.1
            assert sum(map(resident_bytes, world.workers())) - before < 1 << 20
            assert 0 < stalled < 64 << 20
        finally:
            reset(sock)


async def test_a_connection_that_lasts_is_watched(world: World) -> None:
    """The kernel asks backends of connections older than a second or two whether they are still there (keepalive)."""
    with servers(h2=echo(b"2")):
        await serve(world, forward(2))
        with await asyncio.to_thread(connect) as sock:
            assert await asyncio.to_thread(sock.recv, 1) == b"2"
            await until(lambda: timers(address(2), PORT) == {2})


def timers(host: str, port: int) -> set[int]:
    """Kinds of the timers that run for connections to this server (proc_net_tcp: 2 is keepalive)."""
    peer = f"{int.from_bytes(socket.inet_aton(host), sys.byteorder):08X}:{port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]]
    return {int(line[5].split(":")[0]) for line in lines if (line[2], line[3]) == (peer, "01")}


async def test_ipv6_is_served(world: World) -> None:
    """A frontend on ::1 forwards like any other, and leaves IPv4 on the same port alone."""
    six = frontend(1, PORT + 1)
    six = type(six)(ip_address("::1"), six.protocol, 20000 + os.getpid() % 20000)
    with servers(h2=echo(b"2")):
        assert await world.plane.apply(Changes({six: forward(2)})) == {}

        def client() -> bytes:
            with socket.create_connection(("::1", six.port), timeout=SECONDS) as sock:
                return sock.recv(1)

        assert await asyncio.to_thread(client) == b"2"
