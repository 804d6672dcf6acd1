"""Moves bytes between the two sockets of each connection, as `flow` says: the hot path of a worker.

Edge triggered: each readiness is used until the kernel says EAGAIN. A read goes into one shared buffer first, which is
the cheapest for requests; when the buffer comes back full it is bulk, and bytes move by splice(2) through a pipe
without being copied here. Bytes that the other side does not take yet stay in that pipe, or in one copy of at most
`BUFFER_BYTES`, and nothing more is read: so a slow reader costs a bounded amount.
"""

import ctypes
import os
import select
from collections.abc import Callable
from typing import Final, Protocol

from littlelb.dataplane.pipe.descriptors import Pipe, Pipes, dial, drain, fill, push, send_last, set_linger, shut
from littlelb.dataplane.pipe.flow import BACKEND, CLIENT, Backend, Flow, State, Step
from littlelb.dataplane.pipe.routes import Route, Tally

BUFFER_BYTES: Final = 32 << 10
_TURNS: Final = 16
"""Pipes full in a row before the others have their turn."""
_MASK: Final = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_BROKEN: Final = select.EPOLLERR | select.EPOLLHUP
_HUNG: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_READ: Final = select.EPOLLIN | _HUNG
_CONNECTING, _OPEN, _CONNECT, _WAIT = State.CONNECTING, State.OPEN, Step.CONNECT, Step.WAIT  # looked up once

Connect = Callable[[Backend], int]
_readv, _write, _IN = os.readv, os.write, select.EPOLLIN


class Door(Protocol):
    """What a connection needs of the frontend that let it in."""

    route: Route
    tally: Tally
    backends: dict[Backend, Tally]
    connections: "set[Connection]"


class Half:
    """One direction of a connection."""

    __slots__ = ("bulk", "conn", "dst", "final", "hung", "left", "moved", "other", "pending", "side", "src")

    def __init__(self, conn: "Connection", side: int) -> None:
        """Make the direction in which `side` sends."""
        self.conn = conn
        self.side = side
        self.src = self.dst = -1
        self.pending: bytes | Pipe | None = None
        """What was read and not yet taken by the other side."""
        self.left = 0
        """Bytes in the pending pipe."""
        self.hung = self.final = False
        """The source's end (FIN, RST) stands in the queue: read until it is met. `final`: it is FIN, no error."""
        self.moved = 0
        self.bulk = False
        """The last turn was more than a buffer: begin the next with splice."""
        self.other = self


class Connection(Flow):
    """A flow with its descriptors."""

    __slots__ = ("address", "door", "down", "touched", "up", "watched")

    def __init__(self, client: int, address: bytes, door: Door, now: float) -> None:
        """Take an accepted client."""
        super().__init__()
        self.door = door
        self.address = address
        self.touched = now
        self.watched = False  # by keepalive on the backend's side
        self.up = Half(self, CLIENT)
        self.down = Half(self, BACKEND)
        self.up.other, self.down.other = self.down, self.up
        self.up.src = self.down.dst = client


class Relay:
    """All connections of one worker."""

    def __init__(self, epoll: select.epoll, pipes: Pipes, connect_seconds: float, connect: Connect = dial) -> None:
        """Serve connections by this epoll; `connect` begins one to a backend and returns its descriptor, or < 0."""
        self.now = 0.0
        self.live = 0
        """Connections."""
        self.halves: dict[int, Half] = {}
        self.ready: list[Half] = []
        """Have more to read; their turn comes again before the next wait."""
        self.connecting: dict[Connection, float] = {}
        """→ when to give up on this backend; in that order, since the time-out is the same for all."""
        self.doomed: dict[Connection, float] = {}
        self.own: set[Backend] = set()
        """Our own frontends: never connected to, or a connection would go round for ever."""
        self.pipes = pipes
        self._epoll = epoll
        self._dial = connect
        self._connect_seconds = connect_seconds
        self._graves: list[int] = []
        self._buffer = bytearray(BUFFER_BYTES)
        self._buffers = [self._buffer]
        self._view = memoryview(self._buffer)
        self._octets = (ctypes.c_char * BUFFER_BYTES).from_buffer(self._buffer)
        self._steps: dict[Step, Callable[[Connection], None]] = {
            Step.WAIT: lambda _: None,
            Step.PUMP: lambda conn: self.pump(conn.up),
            Step.SHUT_CLIENT: lambda conn: shut(conn.down.dst),
            Step.SHUT_BACKEND: lambda conn: shut(conn.up.dst),
            Step.CLOSE: lambda conn: self._close(conn, reset=False),
            Step.RESET: lambda conn: self._close(conn, reset=True),
        }

    @property
    def descriptors(self) -> int:
        """How many are in use here."""
        return len(self.halves) + len(self._graves) + 2 * self.pipes.count

    def open(self, client: int, address: bytes, door: Door) -> None:
        """Begin with an accepted, non-blocking socket; `address` is packed, or empty when nothing depends on it."""
        conn = Connection(client, address, door, self.now)
        door.tally.accepted += 1
        door.tally.active += 1
        door.connections.add(conn)
        self.live += 1
        self.halves[client] = conn.up
        self._epoll.register(client, _MASK)
        self.perform(conn, conn.begin(door.route.choose(address, self.now)))

    def event(self, half: Half, events: int) -> None:
        """Act on what epoll said of the source of `half`: here on a request or an answer that comes and goes."""
        conn = half.conn
        if events & _READ != _IN or half.bulk or conn.state is not _OPEN or half.pending or half.other.pending:
            self._event_rare(half, events)
            return
        conn.touched = self.now
        try:
            self._forward(half)
        except OSError:
            self._broken(half)

    def _event_rare(self, half: Half, events: int) -> None:
        conn = half.conn
        if events & _HUNG:
            half.hung = True
            half.final = not events & _BROKEN
        if conn.state is _CONNECTING:
            self._event_connecting(half, events)
            return
        conn.touched = self.now
        if events & select.EPOLLOUT and half.other.pending is not None:
            self.pump(half.other)
        if events & _READ and conn.state is _OPEN:
            if events & select.EPOLLERR and not conn.unfinished[half.side]:
                self.perform(conn, conn.error())
            else:
                self.pump(half)

    def _event_connecting(self, half: Half, events: int) -> None:
        conn = half.conn
        if half.side == CLIENT:
            if events & _BROKEN:
                self.perform(conn, conn.error())
        elif events & _BROKEN:
            self.connect_failed(conn, 1.0)
        elif events & select.EPOLLOUT:
            del self.connecting[conn]
            self.perform(conn, conn.connect_ok())
            if events & _READ and conn.state is _OPEN:  # it speaks first; what it says later is a new edge
                self.pump(half)

    def connect_failed(self, conn: Connection, suspect_seconds: float) -> None:
        """Try the next backend of now; this one is left for last for a while."""
        self.perform(conn, self._failed(conn, suspect_seconds))

    def perform(self, conn: Connection, step: Step) -> None:
        """Do what the state machine says."""
        while step is _CONNECT:
            step = self._connect(conn)
        self._steps[step](conn)

    def _connect(self, conn: Connection) -> Step:
        backend = conn.backend
        assert backend is not None  # noqa: S101  (the step is given with a backend only)
        tally = conn.door.backends.get(backend)
        if tally is None:
            tally = conn.door.backends[backend] = Tally()
        tally.accepted += 1
        tally.active += 1
        try:
            fd = self._dial(backend) if backend not in self.own else -1
        except OSError:
            fd = -1
        if fd < 0:
            return self._failed(conn, 1.0)
        conn.down.src = conn.up.dst = fd
        self.halves[fd] = conn.down
        self._epoll.register(fd, _MASK)
        self.connecting[conn] = self.now + self._connect_seconds
        return _WAIT

    def _failed(self, conn: Connection, suspect_seconds: float) -> Step:
        backend, route = conn.backend, conn.door.route
        if backend is not None:
            tally = conn.door.backends[backend]
            tally.failed += 1
            tally.active -= 1
            route.suspect(backend, self.now + suspect_seconds)
        conn.door.tally.failed += 1
        self.connecting.pop(conn, None)
        if conn.down.src >= 0:
            self._bury(conn.down.src)
            conn.down.src = conn.up.dst = -1
        conn.down.hung = conn.down.final = False
        return conn.connect_failed(route.order(conn.address, self.now))

    def pump(self, half: Half) -> None:
        """Move bytes until one side has no more, or takes no more."""
        try:
            if (half.pending is None or self._flush(half)) and half.conn.unfinished[half.side]:
                self._copy(half)
        except OSError:
            self._broken(half)

    def _broken(self, half: Half) -> None:
        """One side is dead; what it said last (an answer to a refused upload) still goes out before the RST."""
        if half.conn.state is not _OPEN:
            return
        other = half.other
        try:
            if other.pending is None and half.conn.unfinished[other.side]:
                self._copy(other)
        except OSError:  # the connection is given up in any case
            pass
        self.perform(half.conn, half.conn.error())

    def _copy(self, half: Half) -> None:
        if half.bulk:
            self._splice(half)
            return
        # After a short read the queue is empty, and what comes next is a new edge; but an end that is known is no edge.
        while self._forward(half) and half.hung:
            pass

    def _forward(self, half: Half) -> bool:
        """Read once and write that; False when there was nothing, all is arranged, or some had to be put aside."""
        try:
            count = _readv(half.src, self._buffers)
        except BlockingIOError:
            return False
        if count == 0:
            self.perform(half.conn, half.conn.eof(half.side))
            return False
        half.moved += count
        try:
            done = send_last(half.dst, self._octets, count) if half.final else _write(half.dst, self._view[:count])
        except BlockingIOError:
            done = 0
        if done < count:
            half.pending = bytes(self._view[done:count])
            if not self._flush(half):
                return False
        if count == BUFFER_BYTES:
            self._splice(half)
            return False
        return True

    def _splice(self, half: Half) -> None:
        pipe = self.pipes.take()
        if pipe is None:
            half.bulk = False
            self.ready.append(half)
            return
        before = half.moved
        half.pending = pipe
        half.left = 0
        try:
            self._splice_turns(half, pipe)
        finally:
            half.bulk = half.moved - before >= BUFFER_BYTES

    def _splice_turns(self, half: Half, pipe: Pipe) -> None:
        for _ in range(_TURNS):
            try:
                count = fill(pipe, half.src)
            except BlockingIOError:
                self._flush(half)
                return
            if count == 0:
                self._flush(half)
                self.perform(half.conn, half.conn.eof(half.side))
                return
            half.moved += count
            half.left = count  # also when the next line raises: then the pipe is not empty
            half.left = drain(pipe, half.dst, count)
            if half.left:
                return
        self._flush(half)
        self.ready.append(half)

    def _flush(self, half: Half) -> bool:
        """Write what is pending until EAGAIN; True when nothing is left."""
        pending = half.pending
        if isinstance(pending, bytes):
            half.pending = push(half.dst, pending)
            if half.pending:
                return False
        elif pending is not None:
            half.left = drain(pending, half.dst, half.left)
            if half.left:
                return False
            self.pipes.give(pending)
        half.pending = None
        return True

    def _close(self, conn: Connection, *, reset: bool) -> None:
        door = conn.door
        self.connecting.pop(conn, None)
        self.doomed.pop(conn, None)
        door.connections.discard(conn)
        self.live -= 1
        door.tally.active -= 1
        if conn.backend is not None:
            door.backends[conn.backend].active -= 1
        for half in (conn.up, conn.down):
            door.tally.moved[half.side] += half.moved
            if isinstance(half.pending, tuple):
                self.pipes.give(half.pending, empty=half.left == 0)
            if half.src >= 0:
                if reset:
                    set_linger(half.src)
                self._bury(half.src)
            half.pending = None
            half.other = half  # no cycles: the memory goes now, not at the next collection

    def _bury(self, fd: int) -> None:
        """Close at the end of this turn: its number must not come back while events of this turn may still name it."""
        del self.halves[fd]
        self.condemn(fd)

    def condemn(self, fd: int) -> None:
        """Have any descriptor closed at the end of this turn."""
        self._graves.append(fd)

    def settle(self) -> None:
        """End of a turn: close what was given up."""
        graves, self._graves = self._graves, []
        for fd in graves:
            os.close(fd)
