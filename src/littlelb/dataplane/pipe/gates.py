"""The frontends of one worker: their listeners, their rules, and when accepting has to pause.

Each listener is shared by all workers (one open file description), so a worker that comes or goes resets nobody. It
is watched level triggered with EPOLLEXCLUSIVE: one sleeping worker is woken, not all. A worker that was woken and then
paused would leave that connection in the queue until the next one comes: so a second epoll, never waited on, notes
each listener that has somebody waiting, and is asked once a second.
"""

import ctypes
import errno
import os
import select
import socket
import sys
from typing import Final

from littlelb.dataplane.pipe.descriptors import set_linger
from littlelb.dataplane.pipe.flow import Backend
from littlelb.dataplane.pipe.relay import Connection, Relay
from littlelb.dataplane.pipe.routes import Route, Tally
from littlelb.dataplane.pipe.wire import Json

_AT_ONCE: Final = 32
"""Connections of one listener before the others have their turn."""
_PASSING: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_PAUSE_SECONDS: Final = 0.1
_FLAGS: Final = socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)
_name = ctypes.create_string_buffer(28)
_length = ctypes.c_int(28)
_length_ref = ctypes.byref(_length)


_NONE: Final = -1


class Gate:
    """One frontend; without a listener while only flows are left that another plane takes no more of."""

    __slots__ = ("armed", "backends", "connections", "key", "listener", "route", "tally", "where")

    def __init__(self, key: str, where: Backend, listener: int, route: Route) -> None:
        """Take over the listener."""
        self.key = key
        self.where = where
        self.listener = listener
        self.route = route
        self.armed = False
        self.tally = Tally()
        self.backends: dict[Backend, Tally] = {}
        self.connections: set[Connection] = set()


class Gates:
    """All frontends."""

    def __init__(self, epoll: select.epoll, relay: Relay, descriptors: int, connections: int) -> None:
        """Never use more than so many descriptors for listeners, connections and pipes, nor have more connections."""
        self.by_key: dict[str, Gate] = {}
        self.by_fd: dict[int, Gate] = {}
        self.paused = False
        self._paused_until = 0.0
        self._epoll = epoll
        self._parted: dict[str, Gate] = {}
        self._waiting = select.epoll()
        self._relay = relay
        self._descriptors = descriptors
        self._connections = connections
        self._slack = max(2, min(32, descriptors // 8, connections // 8))

    def update(self, key: str, where: Backend, rule: Json, listener: int | None) -> bool:
        """Serve by this rule from now on; False when its listener is not known here."""
        gate = self.by_key.get(key)
        route = Route(rule, start=os.getpid() + len(self.by_key))
        if gate is None:
            if listener is None:
                return False
            gate = self.by_key[key] = self.by_fd[listener] = Gate(key, where, listener, route)
            self._relay.own.add(where)
        elif listener is not None:
            self._replace(gate, listener)
        elif gate.listener == _NONE and not route.leaving:
            return False
        gate.route = route
        self._free(gate)
        if route.backends:
            self._arm(gate)
        else:
            self._disarm(gate)
        return True

    def part(self, key: str) -> None:
        """Stop accepting, because another plane does it from now on; flows go on by the rule until they end."""
        gate = self.by_key.get(key)
        if gate is not None:
            self._relay.own.discard(gate.where)
            self._release(gate)
            self._parted[key] = gate

    def drop(self, key: str, seconds: int) -> None:
        """Stop accepting; its flows may go on for so long."""
        gate = self.by_key.pop(key, None)
        if gate is None:
            return
        self._parted.pop(key, None)
        self._relay.own.discard(gate.where)
        self._release(gate)
        self._doom(gate, set(gate.connections), seconds)

    def close(self) -> None:
        """Stop accepting for good; the listeners live on in other processes, flows in this one."""
        for gate in self.by_key.values():
            self._release(gate)
        self.by_key.clear()
        self._parted.clear()

    def accept(self, gate: Gate, events: int) -> None:
        """Take whoever waits."""
        if events & (select.EPOLLHUP | select.EPOLLERR):  # no longer listening: the daemon is about to say more
            self._disarm(gate)
            return
        listener, route = gate.listener, gate.route
        name, length = (_name, _length_ref) if route.needs_client else (None, None)
        room = self._room()
        for _ in range(min(room, _AT_ONCE)):
            _length.value = 28
            client = _libc.accept4(listener, name, length, _FLAGS)
            if client < 0:
                if self._passing(ctypes.get_errno()):
                    continue
                return
            address = b"" if name is None else _client_address()
            if route.admits(address):
                self._relay.open(client, address, gate)
            else:
                set_linger(client)
                os.close(client)
        if self._room() <= 0:
            self._pause()

    def _passing(self, code: int) -> bool:
        """Say whether to try the next one: errors of one connection pass, exhaustion pauses, EAGAIN ends."""
        if code in _PASSING:
            self._pause()
            self._paused_until = self._relay.now + _PAUSE_SECONDS
            return False
        return code not in {errno.EAGAIN, errno.EINVAL, errno.EBADF}

    def _room(self) -> int:
        """For how many connections, each of two descriptors; not more than that while they are accepted."""
        used = self._relay.descriptors + len(self.by_key)
        return min((self._descriptors - used) // 2, self._connections - self._relay.live)

    def _pause(self) -> None:
        """Leave newcomers in the kernel's queue, without being told of them again and again."""
        self.paused = True
        self._paused_until = self._relay.now + _PAUSE_SECONDS / 2
        for gate in self.by_key.values():
            self._disarm(gate)

    def tick(self) -> None:
        """Resume when there is room."""
        if not self.paused or self._relay.now < self._paused_until:
            return
        used = self._relay.descriptors + len(self.by_key)
        room = min(self._descriptors - used, self._connections - self._relay.live)
        if room >= self._slack:
            self.paused = False
            for gate in self.by_key.values():
                if gate.route.backends:
                    self._arm(gate)

    def sweep(self) -> None:
        """Take those whose wake-up went to a worker that could not take them; forget frontends that are over."""
        for key in [key for key, gate in self._parted.items() if not gate.connections]:
            del self.by_key[key], self._parted[key]
        if self.paused:
            return
        for fd, events in self._waiting.poll(0):
            if (gate := self.by_fd.get(fd)) is not None and gate.armed:
                self.accept(gate, events)

    def _arm(self, gate: Gate) -> None:
        if not gate.armed and not self.paused and gate.listener != _NONE:
            gate.armed = True
            self._epoll.register(gate.listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)
            self._waiting.register(gate.listener, select.EPOLLIN)

    def _disarm(self, gate: Gate) -> None:
        if gate.armed:
            gate.armed = False
            self._epoll.unregister(gate.listener)
            self._waiting.unregister(gate.listener)

    def _replace(self, gate: Gate, listener: int) -> None:
        self._release(gate)
        self._parted.pop(gate.key, None)
        self._relay.own.add(gate.where)
        gate.listener = listener
        self.by_fd[listener] = gate

    def _release(self, gate: Gate) -> None:
        self._disarm(gate)
        if gate.listener != _NONE:
            del self.by_fd[gate.listener]
            self._relay.condemn(gate.listener)
            gate.listener = _NONE

    def _free(self, gate: Gate) -> None:
        """The rule has changed: flows of backends that left it get their time, those of the others are free."""
        kept = set(gate.route.backends)
        gone = {conn for conn in gate.connections if conn.backend not in kept}
        for conn in gate.connections - gone:
            self._relay.doomed.pop(conn, None)
        self._doom(gate, gone, gate.route.drain)
        for backend in [b for b, tally in gate.backends.items() if b not in kept and not tally.active]:
            del gate.backends[backend]

    def _doom(self, gate: Gate, connections: set[Connection], seconds: int | None) -> None:
        for conn in connections:
            if conn in self._relay.connecting and conn.door is gate and gate.key in self.by_key:
                self._relay.connect_failed(conn, 0)
            elif seconds == 0:
                self._relay.perform(conn, conn.expire())
            elif seconds is not None:
                deadline = self._relay.now + seconds
                self._relay.doomed[conn] = min(self._relay.doomed.get(conn, deadline), deadline)


def _client_address() -> bytes:
    """Return the packed address of sockaddr_in or sockaddr_in6, as accept4(2) left it."""
    return _name.raw[8:24] if int.from_bytes(_name.raw[:2], sys.byteorder) == socket.AF_INET6 else _name.raw[4:8]
