"""What the kernel tells of others' changes, and what the anchor keeps alive when others flush the ruleset."""

import errno
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from littlelb.dataplane.netfilter import sets, wire
from littlelb.dataplane.netfilter.anchor import Anchor
from littlelb.dataplane.netfilter.batch import Kind
from littlelb.dataplane.netfilter.chains import Table, add_table
from littlelb.dataplane.netfilter.errors import KernelRefusal, RefusedForGood
from littlelb.dataplane.netfilter.event_socket import EventSocket, open_events
from littlelb.dataplane.netfilter.events import Change, Commit, Event, Lost
from littlelb.dataplane.netfilter.sets import Element, SetName
from littlelb.dataplane.netfilter.socket import NfSocket
from littlelb.testing.lan import Lan, backend_address, vip
from littlelb.testing.netns import Namespace, Network

pytestmark = pytest.mark.lab

DEADLINE_SECONDS = 10
"""For what must happen; how fast it does is for a bench to say."""
TABLE = "table inet ll { chain c { }\n set timed { type ipv4_addr; flags timeout; }\n}"
TIMED = SetName(wire.NFPROTO_INET, "ll", "timed")


def nft(home: Namespace, text: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a script of nft."""
    command = home.command(["nft", "-f", "-"])
    return subprocess.run(command, input=text, text=True, check=check, timeout=30, capture_output=True)


@pytest.fixture
def home() -> Iterator[Namespace]:
    """A namespace with a table, removed after the test."""
    with Network("nfe") as net:
        made = net.namespace("box")
        nft(made, TABLE)
        yield made


def until(events: EventSocket, wanted: Callable[[Event], bool]) -> list[Event]:
    """Read until such an event came; fail at the deadline."""
    heard: list[Event] = []
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not any(map(wanted, heard)):
        left = deadline - time.monotonic()
        assert left > 0, heard
        select.select([events], [], [], left)
        heard += events.receive()
    return heard


def committed(event: Event) -> bool:
    """Is it the end of a transaction?"""
    return isinstance(event, Commit)


def changes(heard: list[Event]) -> list[tuple[Kind, str, str | None]]:
    """Kind, table and name of the changes."""
    return [(event.kind, event.table, event.name) for event in heard if isinstance(event, Change)]


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("add element inet ll timed { 203.0.113.7 }", [(Kind.NEWSETELEM, "ll", "timed")]),
        ("add rule inet ll c accept", [(Kind.NEWRULE, "ll", "c")]),
        ("add chain inet ll d", [(Kind.NEWCHAIN, "ll", "d")]),
        ("delete set inet ll timed", [(Kind.DELSET, "ll", "timed")]),
        ("add table ip other", [(Kind.NEWTABLE, "other", None)]),
    ],
)
def test_a_foreign_nft_is_heard(home: Namespace, script: str, expected: list[tuple[Kind, str, str | None]]) -> None:
    """What another process changes is told, with the name of the process at the end."""
    events = home.call(open_events)
    nft(home, script)
    heard = until(events, committed)
    assert changes(heard) == expected
    (commit,) = [event for event in heard if isinstance(event, Commit)]
    assert commit.program == "nft"
    assert {event.port for event in heard if isinstance(event, Change)} == {commit.port}
    events.close()


def test_a_deleted_table_is_told_with_all_that_was_in_it(home: Namespace) -> None:
    """`flush ruleset` by somebody else names our table, our chain and our set."""
    events = home.call(open_events)
    nft(home, "flush ruleset")
    heard = changes(until(events, committed))
    assert {(Kind.DELTABLE, "ll", None), (Kind.DELCHAIN, "ll", "c"), (Kind.DELSET, "ll", "timed")} <= set(heard)
    events.close()


def test_our_own_changes(home: Namespace) -> None:
    """Changes bear the port of the socket that made them; those of sockets that are named are not told at all."""
    ours, other = home.call(NfSocket), home.call(NfSocket)
    all_events, foreign = home.call(open_events), home.call(lambda: open_events([ours.port]))
    ours.commit(sets.add_elements(TIMED, [Element(b"abcd")]))
    assert {event.port for event in until(all_events, committed) if not isinstance(event, Lost)} == {ours.port}
    assert foreign.receive() == []
    other.commit(sets.add_elements(TIMED, [Element(b"efgh")]))
    assert changes(until(foreign, committed)) == [(Kind.NEWSETELEM, "ll", "timed")]
    for opened in (ours, other, all_events, foreign):
        opened.close()


def test_more_than_the_buffer_holds(home: Namespace) -> None:
    """When the buffer is full, that something was lost is told, and later changes are heard again."""
    events, other = home.call(lambda: open_events(receive_bytes=4096)), home.call(NfSocket)
    other.commit(sets.add_elements(TIMED, [Element(number.to_bytes(4)) for number in range(5_000)]))
    until(events, lambda event: isinstance(event, Lost))
    while events.receive():
        pass
    nft(home, "delete set inet ll timed")
    assert (Kind.DELSET, "ll", "timed") in changes(until(events, lambda event: isinstance(event, Change)))
    events.close()
    other.close()


def test_listening_without_rights(home: Namespace) -> None:
    """Who has no rights in the network namespace is told the remedy."""
    code = "from littlelb.dataplane.netfilter.event_socket import open_events\nopen_events()"
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", code]
    done = home.run(command, check=False, env={"PYTHONPATH": "src"})
    assert "RefusedForGood: nf_tables refused: EPERM: not permitted: run as root" in done.stderr


def test_the_anchor_is_ours_alone(home: Namespace) -> None:
    """The table survives `flush ruleset`, nobody else can touch it, and it goes when we close it."""
    anchor, other = Anchor("ll-anchor"), home.call(NfSocket)
    home.call(anchor.open)
    anchor.open()  # it is down already
    assert anchor.alive()
    table = Table(wire.NFPROTO_INET, "ll-anchor", 2, anchor.port)
    listed = home.run(["nft", "list", "table", "inet", "ll-anchor"]).stdout
    assert "flags owner" in listed
    assert "ct state established" in listed
    nft(home, "flush ruleset")
    assert other.tables() == [table]
    assert nft(home, "delete table inet ll-anchor", check=False).returncode != 0
    with pytest.raises(KernelRefusal) as caught:
        other.commit([add_table(Table(wire.NFPROTO_INET, "ll-anchor"), exclusive=True)])
    assert caught.value.code in {errno.EPERM, errno.EEXIST}
    assert {chain.type for chain in other.chains()} == {"nat", "filter"}
    anchor.close()
    assert other.tables() == []
    assert not anchor.alive()
    other.close()


def test_two_anchors_take_over_from_each_other(home: Namespace) -> None:
    """A second process needs a name of its own; the first name is refused while the first anchor is down."""
    first, same, second = Anchor("ll-1"), Anchor("ll-1"), Anchor("ll-2")
    home.call(first.open)
    with pytest.raises(KernelRefusal):
        home.call(same.open)
    assert not same.alive()
    home.call(second.open)
    first.close()
    assert second.alive()
    second.close()


@dataclass
class Flow:
    """An established connection from the client over the VIP to a backend."""

    client: socket.socket
    backend: socket.socket
    listener: socket.socket

    def echo(self) -> bytes:
        """Send something through, and something back; return what the client received."""
        self.client.sendall(b"ping")
        assert self.backend.recv(4) == b"ping"
        self.backend.sendall(b"pong")
        return self.client.recv(4)

    def close(self) -> None:
        """Close all."""
        for opened in (self.client, self.backend, self.listener):
            opened.close()


def through_the_balancer(lan: Lan, family: int) -> Flow:
    """Connect the client by a dnat rule on the balancer, which has the VIP too."""
    address, target = vip(7)[family], backend_address(11)[family]
    domain, protocol = ((socket.AF_INET, "ip"), (socket.AF_INET6, "ip6"))[family]
    lan.balancer.sysctl(("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding")[family], "1")
    lan.balancer.ip("addr", "add", f"{address}/{address.max_prefixlen}", "dev", "eth0")
    to = (f"{target}:8080", f"[{target}]:8080")[family]
    nft(
        lan.balancer,
        "table inet ll { chain pre { type nat hook prerouting priority dstnat;"
        f" {protocol} daddr {address} tcp dport 80 dnat {protocol} to {to}\n }}\n}}",
    )
    listener = lan.backends[0].socket(domain, socket.SOCK_STREAM)
    client = lan.client.socket(domain, socket.SOCK_STREAM)
    for opened in (listener, client):
        opened.settimeout(DEADLINE_SECONDS)
    listener.bind((str(target), 8080))
    listener.listen()
    client.connect((str(address), 80))
    backend, _ = listener.accept()
    backend.settimeout(DEADLINE_SECONDS)
    return Flow(client, backend, listener)


BOTH = pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])


@BOTH
def test_flows_survive_a_flush_with_the_anchor(lan: Lan, family: int) -> None:
    """An established flow goes on, both ways, while the ruleset of the balancer is empty but for the anchor."""
    anchor = Anchor("ll-anchor")
    lan.balancer.call(anchor.open)
    flow = through_the_balancer(lan, family)
    assert flow.echo() == b"pong"
    nft(lan.balancer, "flush ruleset")
    for _ in range(3):
        assert flow.echo() == b"pong"
    anchor.close()
    flow.close()


@BOTH
def test_flows_do_not_survive_a_flush_without_it(lan: Lan, family: int) -> None:
    """The counter-proof: without the anchor the next packet meets the balancer's own stack, which resets the flow."""
    flow = through_the_balancer(lan, family)
    assert flow.echo() == b"pong"
    nft(lan.balancer, "flush ruleset")
    flow.client.sendall(b"ping")
    with pytest.raises(ConnectionResetError):
        flow.client.recv(4)
    flow.close()


def test_an_anchor_that_does_not_hold(home: Namespace) -> None:
    """What the kernel refuses is raised, and nothing stays open (the kernel takes no name of 300 bytes)."""
    anchor = Anchor("x" * 300)
    with pytest.raises(RefusedForGood):
        home.call(anchor.open)
    assert anchor.port is None
