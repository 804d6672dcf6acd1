"""The worker's answers, asked over a Unix socket in the same process."""

import select
import socket
from collections.abc import Iterator

import pytest

from littlelb.dataplane.pipe.control import Control, Life
from littlelb.dataplane.pipe.descriptors import Pipes
from littlelb.dataplane.pipe.gates import Gates
from littlelb.dataplane.pipe.relay import Relay
from littlelb.dataplane.pipe.wire import MAX_FDS, PROTOCOL, Framer, Json, render, sequence

KEY = "TCP 203.0.113.1 80"


class Bench:
    """A control socket with its worker's parts, and one daemon that asks."""

    def __init__(self) -> None:
        """Connect."""
        self.epoll = select.epoll()
        self.relay = Relay(self.epoll, Pipes(0), 5.0)
        self.gates = Gates(self.epoll, self.relay, 1000, 1000)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(b"")
        self.listener.listen(1)
        self.life = Life({"version": "1.2.3", "pid": 7, "started": 1, "netns": 4})
        self.control = Control(self.epoll, self.listener, self.gates, self.relay, self.life)
        self.daemon = socket.socket(socket.AF_UNIX)
        self.daemon.connect(self.listener.getsockname())
        self.daemon.settimeout(5)
        self.framer = Framer()
        self.lendable = socket.socket(socket.AF_UNIX)
        self.lendable.bind(b"")
        self.lendable.listen(1)

    def turn(self) -> None:
        """Let the worker work."""
        while events := self.epoll.poll(0):
            for fd, mask in events:
                self.control.event(fd, mask)
        self.relay.settle()

    def ask(self, message: Json, *fds: int) -> tuple[Json, list[int]]:
        """Send one question, let the worker work, read its answer."""
        length, body = render(message)
        socket.send_fds(self.daemon, [length], list(fds))
        self.daemon.sendall(body)
        while True:
            self.turn()
            try:
                chunk, lent, _, _ = socket.recv_fds(self.daemon, 1 << 16, MAX_FDS, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            for answer in self.framer.feed(chunk, lent):
                return answer

    def serve(self, **fields: object) -> Json:
        """Set one rule, with its listener."""
        rule = {"frontend": KEY, "service": "default/web", "backends": [], "lent": True} | fields
        return self.ask({"do": "set", "rules": [rule], "fds": 1}, self.lendable.fileno())[0]


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A worker without frontends."""
    made = Bench()
    yield made
    made.gates.close()
    made.relay.settle()
    made.daemon.close()
    made.turn()
    for sock in (made.listener, made.lendable):
        sock.close()
    made.epoll.close()


def test_hello_says_who_is_there(bench: Bench) -> None:
    """Protocol, version, process, network namespace, and whether it is about to end."""
    facts = {"ok": True, "protocol": PROTOCOL, "version": "1.2.3", "pid": 7, "started": 1, "netns": 4}
    assert bench.ask({"do": "hello"}) == ({**facts, "retiring": False}, [])


def test_a_rule_is_served_lent_and_dropped(bench: Bench) -> None:
    """What was set is what is said to be served; its listener can be borrowed; a drop forgets it."""
    assert bench.serve() == {"ok": True, "missing": []}
    rule = {"frontend": KEY, "service": "default/web", "backends": []}
    assert bench.ask({"do": "serving"})[0] == {"ok": True, "rules": [rule], "more": False}
    answer, fds = bench.ask({"do": "lend", "from": 0})
    assert answer["frontends"] == [KEY]
    with socket.socket(fileno=fds[0]) as borrowed:
        assert borrowed.getsockname() == bench.lendable.getsockname()
    assert bench.ask({"do": "drop", "frontends": [[KEY, 0]]})[0] == {"ok": True}
    assert bench.ask({"do": "serving"})[0] == {"ok": True, "rules": [], "more": False}


def test_a_parted_frontend_has_no_listener_to_lend(bench: Bench) -> None:
    """It is still said to be served, by the rule that its flows follow, until the last of them has ended."""
    bench.serve(plane="nft")
    assert bench.ask({"do": "part", "frontends": [KEY]})[0] == {"ok": True}
    assert bench.ask({"do": "lend", "from": 0})[0]["frontends"] == []
    rule = {"frontend": KEY, "service": "default/web", "backends": [], "plane": "nft"}
    assert bench.ask({"do": "serving"})[0]["rules"] == [rule]
    bench.gates.sweep()
    assert bench.ask({"do": "serving"})[0]["rules"] == []


def test_a_rule_without_its_listener_is_reported(bench: Bench) -> None:
    """The daemon learns which listeners it has to send."""
    rule = {"frontend": KEY, "service": "default/web", "backends": []}
    assert bench.ask({"do": "set", "rules": [rule]})[0] == {"ok": True, "missing": [KEY]}


def test_counters_name_the_frontend(bench: Bench) -> None:
    """A frontend that nobody has used counts zero."""
    bench.serve()
    answer, _ = bench.ask({"do": "counters"})
    assert answer["frontends"] == [[KEY, 0, 0, 0, 0, 0, []]]
    assert (answer["flows"], answer["paused"]) == (0, False)


def test_large_rules_come_on_several_pages(bench: Bench) -> None:
    """No answer may become longer than a message: of three rules near a megabyte two go together; none is left out."""
    keys = [f"TCP 203.0.113.1 {port}" for port in (81, 82, 83)]
    for key in keys:
        bench.serve(frontend=key, backends=[["10.1.0.1", 8080]] * 9_000)
    for question, field in (("serving", "rules"), ("counters", "frontends")):
        first, _ = bench.ask({"do": question})
        last, _ = bench.ask({"do": question, "from": 2})
        assert [len(sequence(answer[field])) for answer in (first, last)] == [2, 1]
        assert (first["more"], last["more"]) == (True, False)


def test_retire_stops_accepting_and_sets_the_end(bench: Bench) -> None:
    """A retiring worker has no frontends any more and says so."""
    bench.serve()
    bench.relay.now = 100.0
    assert bench.ask({"do": "retire", "seconds": 5})[0] == {"ok": True}
    assert (bench.life.retiring, bench.life.deadline, bench.gates.by_key) == (True, 105.0, {})
    assert bench.ask({"do": "hello"})[0]["retiring"] is True


@pytest.mark.parametrize(
    "question",
    [
        {"do": "dance"},
        {},
        {"do": "set", "rules": 7},
        {"do": "set", "rules": [7]},
        {"do": "set", "rules": [{"frontend": KEY, "backends": [["10.1.0.1", 99999]]}]},
        {"do": "drop", "frontends": [[KEY]]},
        {"do": "part", "frontends": [7]},
        {"do": "lend", "from": -1},
        {"do": "retire", "seconds": "soon"},
    ],
)
def test_nonsense_is_answered_and_changes_nothing(bench: Bench, question: Json) -> None:
    """A question that makes no sense is refused in words; what is served stays."""
    bench.serve()
    answer, _ = bench.ask(question)
    assert answer["ok"] is False
    assert answer["error"]
    assert bench.ask({"do": "lend", "from": 0})[0]["frontends"] == [KEY]
    assert not bench.life.retiring
