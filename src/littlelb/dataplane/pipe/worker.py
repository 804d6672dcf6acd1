"""One worker process: `python -m littlelb.dataplane.pipe.worker`, an epoll loop that outlives the daemon.

It is told its settings as one JSON argument, gets everything else over its control socket, and needs no privilege:
listeners come as descriptors. So it gives up all capabilities and the way to new ones before it touches the network.
It ends when it is retired and its last flow is gone; SIGTERM ends it at once. Nothing here imports asyncio, structlog
or msgspec: a worker is meant to stay below 15 MiB.
"""

import contextlib
import ctypes
import gc
import os
import resource
import select
import signal
import socket
import sys
import time
from typing import Final, NamedTuple

from littlelb import __version__
from littlelb.dataplane.pipe.control import Control, Life
from littlelb.dataplane.pipe.descriptors import Pipes, watch_silence
from littlelb.dataplane.pipe.flow import State
from littlelb.dataplane.pipe.gates import Gates
from littlelb.dataplane.pipe.relay import Relay
from littlelb.dataplane.pipe.wire import Json, integer, parse, text

_RESERVE: Final = 64
"""Descriptors kept for the control socket, its peers, and listeners on their way."""
_SUSPECT_SECONDS: Final = 10.0
_TICK_SECONDS: Final = 0.1
_SWEEP_SECONDS: Final = 1.0
_PR_SET_NO_NEW_PRIVS: Final = 38
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NAME: Final = 15


class Settings(NamedTuple):
    """What a worker is told at its start (a tuple: the module `dataclasses` costs a worker a megabyte)."""

    socket: int
    """Descriptor of the bound and listening control socket."""
    path: str
    """Its name in the file system, removed at the end."""
    descriptors: int
    """RLIMIT_NOFILE to use; 0: as many as the hard limit allows."""
    connections: int
    connect_seconds: float
    idle_seconds: float
    detach: bool
    """Leave the parent: whoever started it has nothing to wait for, now or later."""


def parse_settings(argument: str) -> Settings:
    """Read the JSON argument. Raises WireError."""
    told: Json = parse(argument.encode())
    return Settings(
        socket=integer(told.get("socket"), 0, 1 << 20),
        path=text(told.get("path")),
        descriptors=integer(told.get("descriptors"), 0, 1 << 30),
        connections=integer(told.get("connections"), 1, 1 << 30),
        connect_seconds=integer(told.get("connect_ms"), 1, 1 << 30) / 1000,
        idle_seconds=integer(told.get("idle_ms"), 1, 1 << 40) / 1000,
        detach=told.get("detach") is True,
    )


class Worker:
    """The loop."""

    def __init__(self, settings: Settings) -> None:
        """Build everything on one epoll."""
        limit = set_descriptor_limit(settings.descriptors)
        reserve = min(_RESERVE, limit // 4)
        self._settings = settings
        self._epoll = select.epoll()
        self._pipes = Pipes(min(64, limit // 16))
        self._relay = Relay(self._epoll, self._pipes, settings.connect_seconds)
        self._relay.now = time.monotonic()
        self._gates = Gates(self._epoll, self._relay, limit - reserve, settings.connections)
        self._life = Life(read_facts())
        listener = socket.socket(fileno=settings.socket)
        self._control = Control(self._epoll, listener, self._gates, self._relay, self._life)
        self._next_tick = self._next_sweep = 0.0

    def run(self) -> None:
        """Turn until retired and empty."""
        while not self._finished():
            self._turn()

    def _turn(self) -> None:
        relay, gates = self._relay, self._gates.by_fd
        events = self._epoll.poll(self._wait_seconds(), 512)
        relay.now = now = time.monotonic()
        ready, relay.ready = relay.ready, []
        for half in ready:
            if half.conn.state is State.OPEN:
                relay.pump(half)
        halves = relay.halves
        for fd, mask in events:
            if (half_ := halves.get(fd)) is not None:
                relay.event(half_, mask)
            elif (gate := gates.get(fd)) is not None:
                self._gates.accept(gate, mask)
            else:
                self._control.event(fd, mask)
        relay.settle()
        if now >= self._next_tick:
            self._tick(now)

    def _wait_seconds(self) -> float:
        if self._relay.ready:
            return 0
        busy = self._relay.connecting or self._relay.doomed or self._gates.paused or self._life.retiring
        return _TICK_SECONDS if busy else _SWEEP_SECONDS

    def _tick(self, now: float) -> None:
        self._next_tick = now + _TICK_SECONDS
        relay = self._relay
        late = []
        for conn, deadline in relay.connecting.items():
            if deadline > now:
                break
            late.append(conn)
        for conn in late:
            relay.connect_failed(conn, _SUSPECT_SECONDS)
        for conn in [conn for conn, deadline in relay.doomed.items() if deadline <= now]:
            relay.perform(conn, conn.expire())
        self._gates.tick()
        if now >= self._next_sweep:
            self._next_sweep = now + _SWEEP_SECONDS
            self._gates.sweep()
            self._sweep_flows(now - self._settings.idle_seconds)
        relay.settle()

    def _sweep_flows(self, since: float) -> None:
        """End who was silent for too long, and have the kernel watch the backends of those who stay (most do not)."""
        idle = []
        for half in self._relay.halves.values():
            conn = half.conn
            if conn.touched < since:
                idle.append(conn)
            elif not conn.watched and conn.state is State.OPEN:
                conn.watched = True
                watch_silence(conn.up.dst)
        for conn in idle:
            self._relay.perform(conn, conn.expire())

    def _finished(self) -> bool:
        if not self._life.retiring:
            return False
        deadline = self._life.deadline
        if deadline is not None and self._relay.now >= deadline:
            for conn in {half.conn for half in self._relay.halves.values()}:
                self._relay.perform(conn, conn.expire())
            self._relay.settle()
        return not self._relay.halves


def set_descriptor_limit(wanted: int) -> int:
    """Set RLIMIT_NOFILE as far as it may go; return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = min(wanted, hard) if wanted else hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return limit


def read_facts() -> Json:
    """Return what `hello` says of this process."""
    with open("/proc/self/stat", encoding="ascii") as stat:  # noqa: PTH123  (pathlib costs a worker a megabyte)
        started = int(stat.read().rpartition(")")[2].split()[19])
    return {
        "version": __version__,
        "pid": os.getpid(),
        "started": started,
        "netns": os.stat("/proc/thread-self/ns/net").st_ino,  # noqa: PTH116  (the same)
    }


def drop_privileges() -> None:
    """Give up all capabilities (capabilities(7)) and the way to new ones; not having had any is no error."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_NAME, b"littlelb-pipe", 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    for capability in range(64):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this process
    libc.capset(header, (ctypes.c_uint32 * 6)())


def main() -> None:
    """Run one worker."""
    settings = parse_settings(sys.argv[-1])
    if settings.detach and os.fork():
        os._exit(0)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    drop_privileges()
    worker = Worker(settings)
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 50)
    worker.run()
    with contextlib.suppress(OSError):  # another daemon may have tidied up already
        os.unlink(settings.path)  # noqa: PTH108  (pathlib costs a worker a megabyte)


if __name__ == "__main__":
    main()
