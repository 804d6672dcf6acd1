"""Copying between the two sockets of a connection, on socket pairs and with a clock that stands still."""

import os
import select
import socket
from collections.abc import Callable, Iterator

import pytest

from littlelb.dataplane.pipe.descriptors import Pipes
from littlelb.dataplane.pipe.flow import CLIENT, Backend, State
from littlelb.dataplane.pipe.relay import BUFFER_BYTES, Connection, Relay
from littlelb.dataplane.pipe.routes import Route, Tally

A: Backend = ("10.1.0.1", 80)
B: Backend = ("10.1.0.2", 80)


class Door:
    """A frontend with two backends."""

    def __init__(self) -> None:
        """Begin with the first backend."""
        self.route = Route({"backends": [list(B), list(A)]})
        self.tally = Tally()
        self.backends: dict[Backend, Tally] = {}
        self.connections: set[Connection] = set()


class Bench:
    """A relay whose backends are the other ends of socket pairs."""

    def __init__(self, pipes: int = 4) -> None:
        """Make one without connections."""
        self.epoll = select.epoll()
        self.pipes = Pipes(pipes)
        self.relay = Relay(self.epoll, self.pipes, 5.0, self._dial)
        self.door = Door()
        self.dialled: list[Backend] = []
        self.dead: set[Backend] = set()
        self.remotes: list[socket.socket] = []

    def _dial(self, backend: Backend) -> int:
        self.dialled.append(backend)
        if backend in self.dead:
            return -111
        ours, theirs = socket.socketpair()
        ours.settimeout(0)
        theirs.settimeout(5)
        self.remotes.append(theirs)
        return ours.detach()

    def accept(self) -> socket.socket:
        """Let a client in; return its end."""
        theirs, ours = socket.socketpair()
        ours.settimeout(0)
        theirs.settimeout(5)
        self.relay.open(ours.detach(), b"", self.door)
        return theirs

    def turn(self) -> None:
        """Act on everything that is ready, until nothing is."""
        while (events := self.epoll.poll(0)) or self.relay.ready:
            ready, self.relay.ready = self.relay.ready, []
            for half in ready:
                if half.conn.state is State.OPEN:
                    self.relay.pump(half)
            for fd, mask in events:
                if (found := self.relay.halves.get(fd)) is not None:
                    self.relay.event(found, mask)
            self.relay.settle()

    def close(self) -> None:
        """Close what is left."""
        for fd in self.relay.halves:
            os.close(fd)
        for sock in self.remotes:
            sock.close()
        self.epoll.close()


@pytest.fixture
def make() -> Iterator[Callable[..., Bench]]:
    """Make benches that are closed in the end."""
    made: list[Bench] = []

    def build(pipes: int = 4) -> Bench:
        made.append(Bench(pipes))
        return made[-1]

    yield build
    for bench in made:
        bench.close()


def test_bytes_sent_before_the_connect_arrive(make: Callable[..., Bench]) -> None:
    """What the client says before its backend is known waits in the kernel and is delivered."""
    bench = make()
    client = bench.accept()
    client.sendall(b"early")
    bench.turn()
    assert bench.remotes[0].recv(10) == b"early"
    bench.remotes[0].sendall(b"answer")
    bench.turn()
    assert client.recv(10) == b"answer"
    client.close()


def test_a_backend_may_speak_first(make: Callable[..., Bench]) -> None:
    """A greeting that comes with the connect, before the client has said anything, is delivered."""
    bench = make()
    with bench.accept() as client:
        bench.remotes[0].sendall(b"220 ready")
        bench.turn()
        assert client.recv(10) == b"220 ready"


def test_the_last_words_of_both_sides_arrive(make: Callable[..., Bench]) -> None:
    """Bytes whose FIN came with them are all delivered, more than a buffer of them too, each before its FIN."""
    bench = make()
    message = os.urandom(3 * BUFFER_BYTES + 5)
    with bench.accept() as client:
        bench.turn()
        client.sendall(message)
        client.shutdown(socket.SHUT_WR)
        bench.remotes[0].sendall(message[::-1])
        bench.remotes[0].shutdown(socket.SHUT_WR)
        bench.turn()
        assert bench.remotes[0].makefile("rb").read() == message
        assert client.makefile("rb").read() == message[::-1]
    assert bench.relay.live == 0


def test_readiness_to_write_alone_reads_nothing(make: Callable[..., Bench]) -> None:
    """The edge that comes when FIN is acknowledged costs no read: only IN, or an end, says that there is something."""
    bench = make()
    with bench.accept() as client:
        bench.turn()
        (up,) = [half for half in bench.relay.halves.values() if half.side == CLIENT]
        client.sendall(b"later")
        bench.relay.event(up, select.EPOLLOUT)
        assert up.moved == 0
        bench.relay.event(up, select.EPOLLOUT | select.EPOLLIN)
        assert up.moved == 5


def test_a_pipe_that_met_a_dead_socket_is_not_lent_again(make: Callable[..., Bench]) -> None:
    """What was spliced for a backend that has just gone stays in that pipe, and ends with it."""
    bench = make(1)
    with bench.accept() as client:
        bench.turn()
        (up,) = [half for half in bench.relay.halves.values() if half.side == CLIENT]
        up.bulk = True
        client.sendall(b"secret")
        bench.remotes[0].close()
        bench.relay.event(up, select.EPOLLIN)
        assert (bench.relay.live, bench.pipes.count) == (0, 0)


def test_a_refusing_backend_is_passed_over(make: Callable[..., Bench]) -> None:
    """The next backend gets the client, the failure is counted, and the refusing one is tried last from now on."""
    bench = make()
    bench.dead = {A}
    with bench.accept() as client:
        bench.turn()
        client.sendall(b"x")
        bench.turn()
        assert bench.remotes[0].recv(1) == b"x"
    assert bench.dialled == [A, B]
    assert (bench.door.tally.failed, bench.door.backends[B].active, bench.door.backends[A].active) == (1, 1, 0)
    bench.accept().close()
    assert bench.dialled == [A, B, B]


def test_no_backend_left_closes_the_client(make: Callable[..., Bench]) -> None:
    """When all refuse, the connection ends at once and nothing of it stays."""
    bench = make()
    bench.dead = {A, B}
    with bench.accept() as client:
        bench.turn()
        bench.relay.settle()
        assert client.recv(1) == b""
    assert bench.dialled == [A, B]
    assert (bench.relay.live, bench.relay.halves, bench.door.connections) == (0, {}, set())


def test_our_own_frontend_is_never_connected_to(make: Callable[..., Bench]) -> None:
    """A backend that is a frontend of ours is passed over without a connect."""
    bench = make()
    bench.relay.own = {A}
    with bench.accept():
        assert bench.dialled == [B]


def test_half_close_passes_and_the_other_way_stays_open(make: Callable[..., Bench]) -> None:
    """FIN of the client reaches the backend, which can still answer; then both are closed."""
    bench = make()
    with bench.accept() as client:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        bench.turn()
        assert bench.remotes[0].recv(100) == b"question"
        assert bench.remotes[0].recv(100) == b""
        bench.remotes[0].sendall(b"answer")
        bench.remotes[0].close()
        bench.turn()
        assert client.recv(100) == b"answer"
        assert client.recv(100) == b""
    assert bench.relay.live == 0
    assert bench.door.tally.moved == [8, 6]


@pytest.mark.parametrize("pipes", [0, 4])
def test_bulk_is_identical_with_and_without_pipes(make: Callable[..., Bench], pipes: int) -> None:
    """4 MB pass unchanged, by splice where a pipe can be had and by copying where not."""
    bench = make(pipes)
    message = os.urandom(4 << 20)
    received = bytearray()
    with bench.accept() as client:
        client.settimeout(0)
        bench.turn()
        bench.remotes[0].settimeout(0)
        sent = 0
        while len(received) < len(message):
            if sent < len(message):
                sent += _send(client, message[sent:])
            bench.turn()
            received += _receive(bench.remotes[0])
    assert received == message


def _send(sock: socket.socket, chunk: bytes) -> int:
    try:
        return sock.send(chunk)
    except BlockingIOError:
        return 0


def _receive(sock: socket.socket) -> bytes:
    try:
        return sock.recv(1 << 16)
    except BlockingIOError:
        return b""


@pytest.mark.parametrize("pipes", [0, 1])
def test_a_slow_reader_holds_one_pipe_or_one_buffer(make: Callable[..., Bench], pipes: int) -> None:
    """When the reader takes nothing, at most one pipe or one buffer is kept, and it is given back at the end."""
    bench = make(pipes)
    client = bench.accept()
    client.settimeout(0)
    idle = 0
    while idle < 3:
        idle = idle + 1 if not _send(client, bytes(1 << 16)) else 0
        bench.turn()
    (up,) = [half for half in bench.relay.halves.values() if half.pending is not None]
    if pipes:
        assert (isinstance(up.pending, tuple), bench.pipes.count) == (True, 1)
    else:
        assert isinstance(up.pending, bytes)
        assert len(up.pending) <= BUFFER_BYTES
    bench.remotes[0].close()
    bench.turn()
    assert bench.relay.live == 0
    assert bench.pipes.count == 0
    client.close()


def test_a_client_that_goes_before_the_connect_frees_everything(make: Callable[..., Bench]) -> None:
    """A client that closes both ways while its backend is awaited takes that attempt with it."""
    bench = make()
    client = bench.accept()
    assert len(bench.relay.connecting) == 1
    client.close()
    events = [(fd, mask) for fd, mask in bench.epoll.poll(0) if bench.relay.halves[fd].side == 0]
    for fd, mask in events:
        bench.relay.event(bench.relay.halves[fd], mask)
    bench.relay.settle()
    assert (bench.relay.live, bench.relay.connecting) == (0, {})


def test_descriptors_are_counted(make: Callable[..., Bench]) -> None:
    """Two for each connection, until it has ended."""
    bench = make()
    with bench.accept(), bench.accept():
        assert bench.relay.descriptors == 4
    bench.turn()
    for remote in bench.remotes:
        remote.close()
    bench.turn()
    assert bench.relay.descriptors == 0
