"""Frontends of one worker, on Unix listeners: who is let in, and when accepting pauses."""

import select
import socket
from collections.abc import Iterator

import pytest

from littlelb.dataplane.pipe.descriptors import Pipes
from littlelb.dataplane.pipe.flow import Backend
from littlelb.dataplane.pipe.gates import Gate, Gates
from littlelb.dataplane.pipe.relay import Relay
from littlelb.dataplane.pipe.wire import Json

WHERE: Backend = ("203.0.113.1", 80)
KEY = "TCP 203.0.113.1 80"


def rule(*hosts: int, drain: int | None = None) -> Json:
    """A rule with backends on these hosts."""
    return {"service": "default/web", "backends": [[f"10.1.0.{host}", 80] for host in hosts], "drain": drain}


class Bench:
    """Gates whose backends are socket pairs, and one frontend behind a Unix listener."""

    def __init__(self, connections: int) -> None:
        """Make them; nothing is served yet."""
        self.epoll = select.epoll()
        self.remotes: list[socket.socket] = []
        self.relay = Relay(self.epoll, Pipes(0), 5.0, self._dial)
        self.gates = Gates(self.epoll, self.relay, 100, connections)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(b"")  # an abstract name of the kernel's choice
        self.listener.listen(16)
        self.listener.settimeout(0)
        self.clients: list[socket.socket] = []

    def _dial(self, _backend: Backend) -> int:
        ours, theirs = socket.socketpair()
        ours.settimeout(0)
        self.remotes.append(theirs)
        return ours.detach()

    def lend(self) -> int:
        """A descriptor of the listener."""
        return self.listener.dup().detach()

    def knock(self, count: int = 1) -> None:
        """Connect so many clients."""
        for _ in range(count):
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(self.listener.getsockname())
            self.clients.append(sock)

    def turn(self) -> None:
        """Act once on everything that is ready."""
        for fd, mask in self.epoll.poll(0):
            if (half := self.relay.halves.get(fd)) is not None:
                self.relay.event(half, mask)
            elif (gate := self.gates.by_fd.get(fd)) is not None:
                self.gates.accept(gate, mask)
        self.relay.settle()

    @property
    def gate(self) -> Gate:
        """The one frontend."""
        return self.gates.by_key[KEY]

    def close(self) -> None:
        """Close everything."""
        for gate in list(self.gates.by_key):
            self.gates.drop(gate, 0)
        for half in list(self.relay.halves.values()):
            self.relay.perform(half.conn, half.conn.expire())
        self.relay.settle()
        for sock in [self.listener, *self.clients, *self.remotes]:
            sock.close()
        self.epoll.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A bench that allows eight connections."""
    made = Bench(8)
    yield made
    made.close()


def test_a_rule_without_a_listener_is_missed(bench: Bench) -> None:
    """An unknown frontend is not served by its rule alone, so the daemon must send the listener."""
    assert not bench.gates.update(KEY, WHERE, rule(1), None)
    assert bench.gates.update(KEY, WHERE, rule(1), bench.lend())
    assert bench.gates.update(KEY, WHERE, rule(2), None)


def test_accepting_pauses_at_the_limit_and_resumes_with_room(bench: Bench) -> None:
    """Eight are let in, the others wait unseen by epoll; when some have gone, they are let in."""
    bench.gates.update(KEY, WHERE, rule(1), bench.lend())
    bench.knock(12)
    bench.turn()
    assert (bench.relay.live, bench.gates.paused) == (8, True)
    bench.turn()
    assert [fd for fd, _ in bench.epoll.poll(0) if fd in bench.gates.by_fd] == []
    for sock in [*bench.clients[:4], *bench.remotes[:4]]:
        sock.close()
    bench.turn()
    bench.relay.now += 1
    bench.gates.tick()
    bench.turn()
    assert bench.gate.tally.accepted == 12


def test_a_missed_wake_up_is_made_good_by_the_sweep(bench: Bench) -> None:
    """Somebody who waits although epoll told another worker is found by the next sweep."""
    bench.gates.update(KEY, WHERE, rule(1), bench.lend())
    bench.knock()
    bench.gates.sweep()
    assert bench.gate.tally.accepted == 1


def test_an_empty_frontend_is_not_watched(bench: Bench) -> None:
    """Without backends nothing is accepted; with the first backend it begins."""
    bench.gates.update(KEY, WHERE, rule(), bench.lend())
    bench.knock()
    bench.turn()
    assert not bench.gate.armed
    bench.gates.update(KEY, WHERE, rule(1), None)
    bench.turn()
    assert bench.gate.tally.accepted == 1


@pytest.mark.parametrize(("drain", "live", "doomed"), [(0, 0, 0), (7, 1, 1), (None, 1, 0)])
def test_flows_of_a_removed_backend_get_their_time(bench: Bench, drain: int | None, live: int, doomed: int) -> None:
    """0 ends them now, n gives a deadline, None lets them live."""
    bench.gates.update(KEY, WHERE, rule(1), bench.lend())
    bench.knock()
    bench.turn()
    bench.turn()
    bench.gates.update(KEY, WHERE, rule(2, drain=drain), None)
    assert (bench.relay.live, len(bench.relay.doomed)) == (live, doomed)
    bench.gates.update(KEY, WHERE, rule(1, 2, drain=drain), None)
    assert bench.relay.doomed == {}


def test_an_attempt_at_a_removed_backend_goes_elsewhere(bench: Bench) -> None:
    """A connect under way to a backend that is removed is given up for one that is there."""
    bench.gates.update(KEY, WHERE, rule(1), bench.lend())
    bench.knock()
    bench.gates.accept(bench.gate, select.EPOLLIN)
    bench.gates.update(KEY, WHERE, rule(2), None)
    (conn,) = bench.gate.connections
    assert conn.backend == ("10.1.0.2", 80)
    assert len(bench.remotes) == 2


def test_a_dropped_frontend_is_forgotten(bench: Bench) -> None:
    """Its listener is closed here, its flows end when their seconds are over."""
    bench.gates.update(KEY, WHERE, rule(1), bench.lend())
    bench.knock()
    bench.turn()
    bench.gates.drop(KEY, 5)
    assert (bench.gates.by_key, bench.gates.by_fd, bench.relay.own) == ({}, {}, set())
    assert list(bench.relay.doomed.values()) == [bench.relay.now + 5]


def test_a_parted_frontend_carries_its_flows_on_by_the_rules(bench: Bench) -> None:
    """It accepts no more, takes only rules of the other plane, drains by them, and is forgotten with its last flow."""
    bench.gates.update(KEY, WHERE, rule(1), bench.lend())
    bench.knock()
    bench.turn()
    bench.turn()
    bench.gates.part(KEY)
    assert (bench.gates.by_fd, bench.relay.own, bench.relay.live) == ({}, set(), 1)
    assert not bench.gates.update(KEY, WHERE, rule(1), None)
    assert bench.gates.update(KEY, WHERE, {**rule(1), "plane": "nft"}, None)
    bench.gates.sweep()
    assert bench.relay.live == 1
    assert bench.gates.update(KEY, WHERE, {**rule(2, drain=0), "plane": "nft"}, None)
    assert bench.relay.live == 0
    bench.gates.sweep()
    assert bench.gates.by_key == {}


def test_a_parted_frontend_accepts_again_with_a_listener(bench: Bench) -> None:
    """The plane changed its mind: with a new listener and its own rule the frontend is served here as before."""
    bench.gates.update(KEY, WHERE, rule(1), bench.lend())
    bench.knock()
    bench.turn()
    bench.gates.part(KEY)
    assert bench.gates.update(KEY, WHERE, rule(1), bench.lend())
    bench.knock()
    bench.turn()
    bench.gates.sweep()
    assert (bench.gate.tally.accepted, bench.relay.live, bench.relay.own) == (2, 2, {WHERE})


def test_a_frontend_that_leaves_still_lets_in_who_is_on_the_way(bench: Bench) -> None:
    """By a rule of the other plane, with its listener still there, who completed the handshake is served."""
    bench.gates.update(KEY, WHERE, rule(1), bench.lend())
    bench.gates.update(KEY, WHERE, {**rule(1), "plane": "nft"}, None)
    bench.knock()
    bench.turn()
    assert bench.gate.tally.accepted == 1
