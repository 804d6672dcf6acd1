"""Removal, drain, limits, crashes, adoption and hand-over of the pipe with real worker processes (loopback)."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from littlelb.core.errors import Permanent
from littlelb.core.model import Plane
from littlelb.core.plan import Changes, diff
from littlelb.core.reasons import Reason
from littlelb.dataplane.pipe.plane import PipePlane
from littlelb.dataplane.unsettled import UNSETTLED
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
    is_worker,
    read_all,
    reset,
    servers,
    until,
)

pytestmark = pytest.mark.lab


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A plane that is not started yet."""
    made = World(tmp_path)
    try:
        yield made
    finally:
        await made.close()


def opened(host: int = 1) -> socket.socket:
    """A connection on which the backend has said its name."""
    sock = connect(host)
    assert sock.recv(1) == b"2"
    return sock


def alive(sock: socket.socket) -> bool:
    """Does it still echo?"""
    try:
        sock.sendall(b"x")
        return sock.recv(1) == b"x"
    except (ConnectionResetError, BrokenPipeError):  # the second says that the first was told before
        return False


class Load(threading.Thread):
    """Connects one after another until told to stop; counts answers and failures."""

    def __init__(self) -> None:
        """Start at once."""
        super().__init__()
        self.good = 0
        self.bad: list[str] = []
        self._enough = threading.Event()
        self.start()

    def run(self) -> None:
        """Ask for ever."""
        while not self._enough.is_set():
            try:
                answer = ask(message=b"x")
            except OSError as error:
                self.bad.append(str(error))
                continue
            if answer == b"2x":
                self.good += 1
            else:
                self.bad.append(f"cut after {answer!r}")

    def finish(self) -> None:
        """Wait for the last one."""
        self._enough.set()
        self.join(SECONDS)


# --- removal and drain -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("drain", "lives"), [(0, False), (None, True)])
async def test_a_removed_backend_gets_no_new_connections(world: World, drain: int | None, lives: bool) -> None:
    """After the change new connections go elsewhere; established ones are cut (0) or live on (None)."""
    with servers(h2=echo(b"2"), h3=echo(b"3")):
        await world.start()
        await world.plane.apply(Changes({frontend(): forward(2)}))
        with await asyncio.to_thread(opened) as sock:
            await world.plane.apply(Changes(change={frontend(): forward(3, drain=drain)}))
            assert {await asyncio.to_thread(ask) for _ in range(20)} == {b"3"}
            assert await asyncio.to_thread(alive, sock) is lives


async def test_a_removed_backend_is_cut_when_its_drain_ends(world: World) -> None:
    """With drain 1 an established connection still echoes after the change, and is reset when the second is over."""
    with servers(h2=echo(b"2"), h3=echo(b"3")):
        await world.start()
        await world.plane.apply(Changes({frontend(): forward(2)}))
        with await asyncio.to_thread(opened) as sock:
            await world.plane.apply(Changes(change={frontend(): forward(3, drain=1)}))
            assert await asyncio.to_thread(alive, sock)
            with pytest.raises(ConnectionResetError):
                await asyncio.to_thread(sock.recv, 1)


async def test_a_backend_that_returns_in_time_keeps_its_connections(world: World) -> None:
    """A backend that is back before its drain ends is not cut."""
    with servers(h2=echo(b"2"), h3=echo(b"3")):
        await world.start()
        await world.plane.apply(Changes({frontend(): forward(2)}))
        with await asyncio.to_thread(opened) as sock:
            await world.plane.apply(Changes(change={frontend(): forward(3, drain=1)}))
            await world.plane.apply(Changes(change={frontend(): forward(2, 3, drain=1)}))
            await asyncio.sleep(1.5)  # longer than the drain that must not end it
            assert await asyncio.to_thread(alive, sock)


@pytest.mark.parametrize("withdraw", [0, 1])
async def test_a_removed_frontend_refuses_at_once(world: World, withdraw: int) -> None:
    """A removed frontend refuses new connections; its flows are reset now (0) or when their time is over (1)."""
    rule = forward(2, withdraw=withdraw)
    with servers(h2=echo(b"2")):
        await world.start()
        await world.plane.apply(Changes({frontend(): rule}))
        with await asyncio.to_thread(opened) as sock:
            await world.plane.apply(Changes(remove={frontend(): rule}))
            with pytest.raises(ConnectionRefusedError):
                await asyncio.to_thread(connect)
            assert await asyncio.to_thread(alive, sock) is bool(withdraw)
            assert await world.plane.drain(SECONDS) == 0
            assert await asyncio.to_thread(alive, sock) is False
    assert await world.plane.observe(None) == {}


# --- the other plane -------------------------------------------------------------------------------------------------


async def test_a_frontend_of_the_other_plane_keeps_its_flows_and_closes_later(world: World) -> None:
    """Nobody is refused before its time; then the port closes, flows go on, and the frontend is over with the last."""
    world.settings = replace(world.settings, leave_seconds=1.0)
    mine = forward(2, withdraw=0)
    theirs = msgspec.structs.replace(mine, plane=Plane.NFT)
    with servers(h2=echo(b"2")):
        await world.start()
        await world.plane.apply(Changes({frontend(): mine}))
        with await asyncio.to_thread(opened) as sock:
            await world.plane.apply(Changes(change={frontend(): theirs}))
            assert await asyncio.to_thread(ask) == b"2"
            assert await world.plane.observe(None) == {frontend(): theirs}
            await until(refused)
            assert await asyncio.to_thread(alive, sock)
            assert await world.plane.observe(None) == {frontend(): theirs}
            await world.stop(keep=True)
            await world.start()
            assert await world.plane.observe(None) == {frontend(): theirs}
            assert await asyncio.to_thread(alive, sock)
        await until_async(lambda: world.plane.observe(None), {})
        assert frontend() not in world.plane
        await world.plane.apply(Changes({frontend(): mine}))
        assert await asyncio.to_thread(ask) == b"2"


async def test_a_frontend_that_comes_back_in_time_is_never_closed(world: World) -> None:
    """A plane that changes its mind twice leaves everybody served; a removal cuts also what was left behind."""
    world.settings = replace(world.settings, leave_seconds=0.5)
    mine = forward(2, withdraw=0)
    theirs = msgspec.structs.replace(mine, plane=Plane.NFT)
    with servers(h2=echo(b"2")):
        await world.start()
        await world.plane.apply(Changes({frontend(): mine}))
        load = Load()
        try:
            for _ in range(4):
                await world.plane.apply(Changes(change={frontend(): theirs}))
                await until(lambda seen=load.good: load.good > seen + 20)  # type: ignore[misc]
                await world.plane.apply(Changes(change={frontend(): mine}))
            await asyncio.sleep(0.7)  # longer than a farewell that must not be
            await until(lambda seen=load.good: load.good > seen + 20)  # type: ignore[misc]
        finally:
            load.finish()
        assert load.bad == []
        with await asyncio.to_thread(opened) as sock:
            await world.plane.apply(Changes(change={frontend(): theirs}))
            await until(refused)
            await world.plane.apply(Changes(remove={frontend(): theirs}))
            assert await asyncio.to_thread(alive, sock) is False


def refused() -> bool:
    """Is the port closed?"""
    try:
        connect().close()
    except ConnectionRefusedError:
        return True
    return False


async def until_async(read: Callable[[], Awaitable[object]], wanted: object) -> None:
    """Ask until the answer is this one."""
    async with asyncio.timeout(SECONDS):
        while await read() != wanted:
            await asyncio.sleep(0.05)


# --- many, taken, limited --------------------------------------------------------------------------------------------


async def test_two_thousand_frontends_in_one_batch(world: World) -> None:
    """2,000 frontends are applied, observed and served; the one whose port is taken fails alone and names the owner."""
    wanted = {frontend(host): forward(2) for host in range(1000, 3000)}
    with servers(h2=echo(b"2")), socket.create_server((address(1500), PORT)):
        await world.start()
        failures = await world.plane.apply(Changes(wanted))
        message = failures[frontend(1500)].message
        assert list(failures) == [frontend(1500)]
        assert failures[frontend(1500)].reason == Reason.PORT_IN_USE
        assert f"sshd (pid 812) [{PORT}]" in message
        del wanted[frontend(1500)]
        assert await world.plane.observe(None) == wanted
        assert {await asyncio.to_thread(ask, host) for host in range(1000, 3000, 37)} == {b"2"}
        assert await world.plane.observe(frozenset({frontend(1000), frontend(1)})) == {frontend(1000): forward(2)}
    assert not await world.plane.apply(Changes({frontend(1500): forward(2)}))


async def test_at_the_limit_accepting_pauses_without_spinning_and_resumes(tmp_path: Path) -> None:
    """With few descriptors 200 clients wait their turn: workers sleep meanwhile, and all are served in the end."""
    world = World(tmp_path, descriptors=100)
    try:
        with servers(h2=echo(b"2")):
            await world.start()
            await world.plane.apply(Changes({frontend(): forward(2)}))
            waiting = [await asyncio.to_thread(connect) for _ in range(200)]
            await asyncio.sleep(0.5)  # whoever can be accepted is
            used = sum(map(cpu_seconds, world.workers()))
            await asyncio.sleep(2)
            spent = sum(map(cpu_seconds, world.workers())) - used
            active = (await world.plane.counters())[frontend()].active
            served = []
            for sock in waiting:
                served.append(await asyncio.to_thread(sock.recv, 1))
                reset(sock)
        assert served == [b"2"] * 200
        assert 20 < active < 100
        assert spent < 0.2
    finally:
        await world.close()


# --- workers and daemons that end ------------------------------------------------------------------------------------


async def test_a_killed_worker_is_replaced_and_nobody_is_refused(world: World) -> None:
    """Kill -9 of a worker cuts only its own flows: no connect is refused, a new worker gets all frontends."""
    with servers(h2=echo(b"2")):
        await world.start()
        await world.plane.apply(Changes({frontend(): forward(2)}))
        load = Load()
        try:
            for _ in range(3):
                victim = world.workers()[0]
                os.kill(victim, signal.SIGKILL)
                await until(lambda victim=victim: len(members := world.workers()) == 2 and victim not in members)  # type: ignore[misc]
                await until(lambda seen=load.good: load.good > seen + 20)  # type: ignore[misc]
        finally:
            load.finish()
        assert await world.plane.observe(None) == {frontend(): forward(2)}
    assert world.changes >= 6
    assert [why for why in load.bad if "refused" in why] == []
    assert len(load.bad) <= 3  # the one connection that was in the dead worker's hands, each time


DAEMON = """
    import asyncio, json, sys
    from pathlib import Path
    from littlelb.core.plan import Changes
    from littlelb.dataplane.pipe.crew import PipeSettings
    from littlelb.dataplane.pipe.plane import PipePlane
    from tests.lab.pipe_world import frontend, forward
    import tests.lab.pipe_world as pipe_world

    async def main():
        pipe_world._BLOCK = int(sys.argv[2])
        plane = PipePlane(PipeSettings(Path(sys.argv[1]), workers=2), lambda _: "", lambda: None)
        await plane.start()
        failures = await plane.apply(Changes({frontend(): forward(2)}))
        pids = [member.hello.pid for member in plane._crew.members]
        print(json.dumps([str(failures), pids]), file=sys.stderr, flush=True)
        await asyncio.sleep(60)

    asyncio.run(main())
"""


async def test_a_killed_daemon_is_survived_and_its_workers_adopted(world: World) -> None:
    """After kill -9 of the daemon flows and listeners go on; the next adopts the same workers and rules."""
    from tests.lab import pipe_world  # noqa: PLC0415  (its private number is told to the other process)

    command = [sys.executable, "-c", textwrap.dedent(DAEMON), str(world.path), str(pipe_world._BLOCK)]
    with servers(h2=echo(b"2"), h3=echo(b"3")):
        with subprocess.Popen(  # noqa: ASYNC220  (it is killed in this block)
            command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={"PYTHONPATH": "src:."}
        ) as daemon:
            assert daemon.stderr is not None
            failures, pids = json.loads(await asyncio.to_thread(daemon.stderr.readline))
            world.pids.update(pids)
            assert failures == "{}"
            sock = await asyncio.to_thread(opened)
            daemon.kill()
        with sock:
            assert await asyncio.to_thread(alive, sock)
            assert await asyncio.to_thread(ask) == b"2"
            await world.start()
            assert sorted(world.workers()) == sorted(pids)
            assert await world.plane.observe(None) == {frontend(): forward(2)}
            assert await world.plane.apply(Changes(change={frontend(): forward(3)})) == {}
            assert await asyncio.to_thread(ask) == b"3"
            assert await asyncio.to_thread(alive, sock)


async def test_stop_and_keep_refuses_nobody(world: World) -> None:
    """A daemon that stops with `keep` and one that starts again refuse none of the connects meanwhile."""
    with servers(h2=echo(b"2")):
        await world.start()
        await world.plane.apply(Changes({frontend(): forward(2)}))
        load = Load()
        try:
            for _ in range(5):
                await world.stop(keep=True)
                await until(lambda seen=load.good: load.good > seen + 20)  # type: ignore[misc]
                await world.start()
        finally:
            load.finish()
    assert load.bad == []


async def test_another_version_takes_over_without_a_refusal(world: World) -> None:
    """Workers of another version lend their listeners, serve until the first pass, and end after their last flow."""
    with servers(h2=echo(b"2")):
        await world.start()
        await world.plane.apply(Changes({frontend(): forward(2), frontend(7): forward(2)}))
        old = world.workers()
        sock = await asyncio.to_thread(opened)
        loads = [Load(), Load()]
        try:
            await until(lambda: sum(load.good for load in loads) > 500)
            await world.stop(keep=True)
            await world.start(replace(world.settings, version="0.2.0-test"))
            observed = await world.plane.observe(None)
            assert observed == {frontend(): UNSETTLED, frontend(7): UNSETTLED}
            await world.plane.apply(diff({frontend(): forward(2)}, observed).tear_down())
            await world.plane.apply(diff({frontend(): forward(2)}, observed).bring_up())
            assert await world.plane.observe(None) == {frontend(): forward(2)}
            await until(lambda: sum(is_worker(pid) for pid in old) == 1)
            await until(lambda: sum(load.good for load in loads) > 2000, 30)
        finally:
            for load in loads:
                load.finish()
        assert [load.bad for load in loads] == [[], []]
        with pytest.raises(ConnectionRefusedError):
            await asyncio.to_thread(connect, 7)
        assert await asyncio.to_thread(alive, sock)
        sock.close()
        await until(lambda: not any(is_worker(pid) for pid in old))


async def test_stop_ends_everything(world: World) -> None:
    """A stop without `keep` resets flows, refuses newcomers, ends the workers and leaves an empty directory."""
    with servers(h2=echo(b"2")):
        await world.start()
        pids = world.workers()
        await world.plane.apply(Changes({frontend(): forward(2)}))
        with await asyncio.to_thread(opened) as sock:
            await world.stop(keep=False)
            assert await asyncio.to_thread(alive, sock) is False
        with pytest.raises(ConnectionRefusedError):
            await asyncio.to_thread(connect)
        await until(lambda: not any(is_worker(pid) for pid in pids))
        await until(lambda: list(world.path.iterdir()) == [])


async def test_a_look_changes_nothing_and_an_end_ends_all(world: World) -> None:
    """Another process sees what is served beside the daemon and after it, also by another version, and can end it."""
    visitor = PipePlane(world.settings, lambda _: "", lambda: None)
    stranger = PipePlane(replace(world.settings, version="0.2.0-test"), lambda _: "", lambda: None)
    assert await visitor.look() == {}
    assert not await asyncio.to_thread(world.path.exists)
    with servers(h2=echo(b"2")):
        await world.start()
        pids = world.workers()
        await world.plane.apply(Changes({frontend(): forward(2)}))
        assert await visitor.look() == {frontend(): forward(2)}
        assert visitor.pids == world.plane.pids == frozenset(pids)
        await world.stop(keep=True)
        assert await visitor.look() == {frontend(): forward(2)}
        assert await stranger.look() == {frontend(): UNSETTLED}
        assert await asyncio.to_thread(ask) == b"2"
        await stranger.end_workers()
        await until(lambda: not any(is_worker(pid) for pid in pids))
        with pytest.raises(ConnectionRefusedError):
            await asyncio.to_thread(connect)
        assert await visitor.look() == {}


async def test_leftovers_in_the_run_directory_are_tidied(world: World) -> None:
    """A socket that nobody listens on goes, a strange file stays, and a worker that hangs does not stop the start."""
    await world.start()
    hung = world.workers()[0]
    await world.stop(keep=True)
    stale = world.path / "worker-0123456789abcdef.sock"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(f"/proc/self/fd/{os.open(world.path, os.O_PATH | os.O_CLOEXEC)}/{stale.name}")
    (world.path / "notes.txt").write_text("not ours")
    os.kill(hung, signal.SIGSTOP)
    try:
        await world.start()
        assert hung not in world.workers()
        assert len(world.workers()) == 2
        assert not stale.exists()
        assert (world.path / "notes.txt").exists()
    finally:
        os.kill(hung, signal.SIGKILL)


async def test_a_directory_of_others_is_not_used(world: World) -> None:
    """A run directory that others can enter is refused with the remedy."""
    await asyncio.to_thread(world.path.mkdir, 0o755)
    with pytest.raises(Permanent, match="mode 0700"):
        await world.start()


async def test_a_worker_has_no_privileges(world: World) -> None:
    """A worker holds no capability, cannot gain any, and its socket and directory are ours alone."""
    await world.start()
    for pid in world.workers():
        status = read_status(pid)
        assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
        assert status["NoNewPrivs"] == "1"
    assert modes(world) == (0o700, {0o600})


def read_status(pid: int) -> dict[str, str]:
    """What proc(5) says of a process."""
    lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def modes(world: World) -> tuple[int, set[int]]:
    """Permissions of the run directory, and of what is in it."""
    return world.path.stat().st_mode & 0o777, {file.stat().st_mode & 0o777 for file in world.path.iterdir()}


async def test_nonsense_on_the_control_socket_harms_nobody(world: World) -> None:
    """A peer that sends garbage is cut off; the worker goes on serving."""
    with servers(h2=echo(b"2")):
        await world.start()
        await world.plane.apply(Changes({frontend(): forward(2)}))
        for name in sockets(world):
            for garbage in (b"\xff" * 100, b"\0\0\0\2[]", b'\0\0\0\x0d{"do":"what"}'):
                answer = await asyncio.to_thread(_shout, name, garbage)
                assert answer == b"" or b'"ok":false' in answer
        assert await asyncio.to_thread(ask) == b"2"
        assert await world.plane.observe(None) == {frontend(): forward(2)}


def sockets(world: World) -> list[Path]:
    """Control sockets in the run directory."""
    return [file for file in world.path.iterdir() if file.suffix == ".sock"]


def _shout(path: Path, garbage: bytes) -> bytes:
    directory = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(SECONDS)
            sock.connect(f"/proc/self/fd/{directory}/{path.name}")
            sock.sendall(garbage)
            sock.shutdown(socket.SHUT_WR)
            try:
                return read_all(sock)
            except ConnectionResetError:
                return b""
    finally:
        os.close(directory)
