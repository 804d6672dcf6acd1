"""The loopback world of the pipe's lab tests: servers that behave as told, a plane with workers, careful clients."""

import asyncio
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from littlelb.core.model import Backend, Forward, Frontend, Protocol
from littlelb.dataplane.pipe.crew import PipeSettings
from littlelb.dataplane.pipe.plane import PipePlane

PORT: Final = 18080
SECONDS: Final = 10.0
_BLOCK: Final = os.getpid() % 200 + 20
"""127.N.0.0/16 of this run: two runs side by side do not meet."""


def address(host: int) -> str:
    """An address of this run's own part of the loopback network."""
    return f"127.{_BLOCK}.{host >> 8}.{host & 255}"


def frontend(host: int = 1, port: int = PORT) -> Frontend:
    """Where clients of a test knock."""
    return Frontend(ip_address(address(host)), Protocol.TCP, port)


def forward(*hosts: int, drain: int | None = None, withdraw: int = 0) -> Forward:
    """A rule with backends on these hosts."""
    backends = tuple(Backend(ip_address(address(host)), PORT) for host in hosts)
    return Forward(service="default/web", backends=backends, drain_seconds=drain, withdraw_seconds=withdraw)


def reset(sock: socket.socket) -> None:
    """Close with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Server:
    """A listener of a test; each accepted connection is given to `serve` in a thread of its own."""

    def __init__(self, host: int, serve: Callable[[socket.socket], None]) -> None:
        """Listen."""
        self.accepted = 0
        self._serve = serve
        self._listener = socket.create_server((address(host), PORT), backlog=1024)
        self._threads: list[threading.Thread] = []
        self._live: set[socket.socket] = set()
        self._main = threading.Thread(target=self._run)
        self._main.start()

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:  # shut by `close`
                return
            self.accepted += 1
            sock.settimeout(SECONDS * 3)
            self._live.add(sock)
            thread = threading.Thread(target=self._one, args=(sock,))
            self._threads = [other for other in self._threads if other.is_alive()]
            self._threads.append(thread)
            thread.start()

    def _one(self, sock: socket.socket) -> None:
        with suppress(OSError):  # a test resets connections on purpose
            self._serve(sock)
        self._live.discard(sock)
        sock.close()

    def close(self) -> None:
        """End everything."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._main.join(SECONDS)
        for sock in list(self._live):
            with suppress(OSError):  # it may have ended in this moment
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(SECONDS)


def echo(name: bytes = b"") -> Callable[[socket.socket], None]:
    """Say the name, then everything that comes; FIN is answered with FIN."""

    def serve(sock: socket.socket) -> None:
        sock.sendall(name)
        while chunk := sock.recv(1 << 16):
            sock.sendall(chunk)

    return serve


@contextmanager
def servers(**behaviours: Callable[[socket.socket], None]) -> Iterator[dict[str, Server]]:
    """Servers by `h2=echo(b"2")`: host number and what it does."""
    with ExitStack() as stack:
        made = {}
        for host, serve in behaviours.items():
            made[host] = Server(int(host[1:]), serve)
            stack.callback(made[host].close)
        yield made


class World:
    """A plane, its workers, and the end of both."""

    def __init__(self, path: Path, **settings: float) -> None:
        """Put the run directory below `path`."""
        self.path = path / "run"
        self.settings = PipeSettings(self.path, **{"workers": 2, **settings})  # type: ignore[arg-type]
        self.changes = 0
        self.pids: set[int] = set()
        self.plane = self._build(self.settings)
        self._runner: asyncio.Task[None] | None = None

    def _build(self, settings: PipeSettings) -> PipePlane:
        return PipePlane(settings, lambda wanted: f"sshd (pid 812) [{wanted.port}]", self._changed)

    def _changed(self) -> None:
        self.changes += 1

    async def start(self, settings: PipeSettings | None = None) -> PipePlane:
        """Start a plane (again), as a new daemon would."""
        self.plane = self._build(settings or self.settings)
        await self.plane.start()
        self._runner = asyncio.create_task(self.plane.run(), name="pipe.run")
        self.workers()
        return self.plane

    def workers(self) -> list[int]:
        """Process ids of the members; remembered, to be ended."""
        crew = self.plane._crew
        assert crew is not None
        members = [member.hello.pid for member in [*crew.members, *crew.elders]]
        self.pids.update(members)
        return members

    async def stop(self, *, keep: bool) -> None:
        """End the daemon's part."""
        if self._runner is not None:
            self._runner.cancel()
            await asyncio.gather(self._runner, return_exceptions=True)
            self._runner = None
        await self.plane.stop(keep=keep)

    async def close(self) -> None:
        """End everything, whatever state it is in."""
        if self.plane._crew is None and any(self.path.glob("worker-*.sock")):
            await self.start()  # somebody else started them: they are adopted, and ended
        if self.plane._crew is not None:
            self.workers()
            await self.stop(keep=False)
        for pid in self.pids:
            if is_worker(pid):
                os.kill(pid, signal.SIGKILL)


def is_worker(pid: int) -> bool:
    """Is this process one of ours, and alive (no zombie)?"""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"littlelb.dataplane.pipe.worker" in command


def connect(host: int = 1, port: int = PORT, timeout: float = SECONDS) -> socket.socket:
    """Connect as a client."""
    return socket.create_connection((address(host), port), timeout=timeout)


def ask(host: int = 1, port: int = PORT, message: bytes = b"") -> bytes:
    """Connect, send, half-close, read to the end."""
    with connect(host, port) as sock:
        sock.sendall(message)
        sock.shutdown(socket.SHUT_WR)
        return read_all(sock)


def read_all(sock: socket.socket) -> bytes:
    """Read to FIN."""
    chunks = []
    while chunk := sock.recv(1 << 16):
        chunks.append(chunk)
    return b"".join(chunks)


async def until(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    """Wait for a state, with a deadline."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the state did not come"
        await asyncio.sleep(0.02)


def cpu_seconds(pid: int) -> float:
    """CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Proportional set size of a process."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no Pss line")
