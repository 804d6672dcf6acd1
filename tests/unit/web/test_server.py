"""How the server gets its places to listen, and gives them back: real sockets, on loopback and in temporary folders."""

import asyncio
import errno
import socket
import stat
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import structlog
from aiohttp import web

from littlelb.web import SOCKET_NAME
from littlelb.web.server import RETRY_SECONDS, _explain, serve_tcp, serve_unix


class StepClock:
    """A clock whose sleeps end when the test says so."""

    def __init__(self) -> None:
        """Nobody sleeps yet."""
        self.asleep: asyncio.Queue[float] = asyncio.Queue()
        self._wake = asyncio.Event()

    def now(self) -> float:
        """Tell no time."""
        return 0.0

    def monotonic(self) -> float:
        """Tell no time."""
        return 0.0

    async def sleep(self, seconds: float) -> None:
        """Wait for `wake`."""
        self._wake.clear()
        self.asleep.put_nowait(seconds)
        await self._wake.wait()

    def wake(self) -> None:
        """End the sleep."""
        self._wake.set()


def app() -> web.Application:
    """Answer `here` to everything."""

    async def here(_request: web.Request) -> web.Response:
        return web.Response(text="here")

    made = web.Application()
    made.router.add_get("/", here)
    return made


@asynccontextmanager
async def running(serving: Coroutine[None, None, None], ready: Callable[[], bool]) -> AsyncIterator[asyncio.Task[None]]:
    """Run a server until the block ends; the block starts when it is ready."""
    task = asyncio.create_task(serving)
    try:
        async with asyncio.timeout(10):
            while not ready() and not task.done():
                await asyncio.sleep(0.005)
        if task.done():
            task.result()
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def ask_unix(path: Path) -> str:
    """GET / over a Unix socket."""
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
        session.get("http://loadbalancer/") as answer,
    ):
        return await answer.text()


def listening(path: Path) -> bool:
    """Does somebody accept on this socket?"""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


async def test_unix_socket(home: Path) -> None:
    """The folder is made, the socket is for our user only, and it is gone afterwards."""
    path = home / "run" / SOCKET_NAME
    async with running(serve_unix(app(), path.parent, StepClock()), lambda: listening(path)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert await ask_unix(path) == "here"
    assert not path.exists()


async def test_a_dead_daemons_socket_is_replaced(home: Path) -> None:
    """A socket that nobody listens on any more, as kill -9 leaves it, is no obstacle."""
    path = home / SOCKET_NAME
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    assert path.exists()
    async with running(serve_unix(app(), home, StepClock()), lambda: listening(path)):
        assert await ask_unix(path) == "here"


async def test_a_living_daemons_socket_is_left_alone(home: Path) -> None:
    """A second server says once that the place is taken, and takes it when it is free."""
    path, clock = home / SOCKET_NAME, StepClock()
    with structlog.testing.capture_logs() as logs:
        async with running(serve_unix(app(), home, StepClock()), lambda: listening(path)) as first:
            second = asyncio.create_task(serve_unix(app(), home, clock))
            assert await asyncio.wait_for(clock.asleep.get(), 10) == RETRY_SECONDS
            clock.wake()
            await asyncio.wait_for(clock.asleep.get(), 10)
            assert await ask_unix(path) == "here"
            first.cancel()
            await asyncio.wait([first])
        clock.wake()
        async with running(_join(second), lambda: listening(path)):
            assert await ask_unix(path) == "here"
    failed = [entry for entry in logs if entry["event"] == "web.listen_failed"]
    assert len(failed) == 1
    assert failed[0]["where"] == str(path)
    assert "something else listens there" in failed[0]["reason"]


async def _join(task: asyncio.Task[None]) -> None:
    await task


async def test_a_file_in_the_way_is_not_removed(home: Path) -> None:
    """What is not a socket is not ours to remove."""
    path, clock = home / SOCKET_NAME, StepClock()
    path.write_text("precious")
    with structlog.testing.capture_logs() as logs:
        async with running(serve_unix(app(), home, clock), lambda: not clock.asleep.empty()):
            assert path.read_text() == "precious"
    assert "remove it" in logs[0]["reason"]


async def test_a_busy_port_is_said_and_tried_again() -> None:
    """A busy TCP port does not end the server: it is served once it is free."""
    clock = StepClock()
    with structlog.testing.capture_logs() as logs:
        with socket.create_server(("127.0.0.1", 0)) as squatter:
            port = squatter.getsockname()[1]
            task = asyncio.create_task(serve_tcp(app(), "localhost", port, clock))
            await asyncio.wait_for(clock.asleep.get(), 10)
        clock.wake()
        async with running(_join(task), lambda: any(entry["event"] == "web.listening" for entry in logs)):
            assert await _ask_tcp(port) == "here"
    assert logs[0]["event"] == "web.listen_failed"
    assert "another place with --listen" in logs[0]["reason"]


async def _ask_tcp(port: int) -> str:
    """GET / over TCP."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/") as answer:
        return await answer.text()


async def test_an_address_that_is_not_here() -> None:
    """An address that this machine does not have is explained."""
    clock = StepClock()
    with structlog.testing.capture_logs() as logs:
        async with running(serve_tcp(app(), "192.0.2.1", 0, clock), lambda: not clock.asleep.empty()):
            assert "does not have that address" in logs[0]["reason"]


async def test_ipv6() -> None:
    """A literal IPv6 address is served as one."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6) as free:
            port = free.getsockname()[1]
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with structlog.testing.capture_logs() as logs:
        async with (
            running(serve_tcp(app(), "::1", port, StepClock()), lambda: bool(logs)),
            aiohttp.ClientSession() as session,
            session.get(f"http://[::1]:{port}/") as answer,
        ):
            assert await answer.text() == "here"


def test_reasons_say_what_to_do() -> None:
    """Each kind of refusal by the kernel has its advice; an unknown one keeps the kernel's words."""
    assert "run as root" in _explain(PermissionError(errno.EACCES, "Permission denied"))
    assert _explain(OSError(errno.EMFILE, "Too many open files")) == "Too many open files"


async def test_a_busy_daemon_is_a_living_one(home: Path) -> None:
    """A socket whose queue is full is not taken for one that was left behind."""
    path, clock = home / SOCKET_NAME, StepClock()
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as queued:
        busy.bind(str(path))
        busy.listen(0)
        queued.connect(str(path))
        with structlog.testing.capture_logs() as logs:
            async with running(serve_unix(app(), home, clock), lambda: not clock.asleep.empty()):
                assert path.exists()
    assert "something else listens there" in logs[0]["reason"]
