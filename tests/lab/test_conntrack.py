"""Flows of a real kernel: translated TCP and UDP, IPv4 and IPv6, deleted in both ways; others' flows stay."""

import asyncio
import errno
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import pytest

from littlelb.core.model import Family, Ip, Protocol
from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.conntrack import flows as ct
from littlelb.dataplane.netfilter.conntrack.exchange import Exchange
from littlelb.dataplane.netfilter.conntrack.filters import FlowFilter, render_filtered_dump
from littlelb.dataplane.netfilter.conntrack.flows import Flow, Status, TcpState, render_delete_one
from littlelb.dataplane.netfilter.conntrack.limits import Accounting, read_pressure
from littlelb.dataplane.netfilter.conntrack.probe import Support, supports_filtered_delete
from littlelb.dataplane.netfilter.conntrack.socket import MANY_FILTERS, ConntrackSocket
from littlelb.dataplane.netfilter.conntrack.usage import Pair, Usage
from littlelb.testing.lan import Lan, backend_address, lan_address, vip

pytestmark = pytest.mark.lab

DEADLINE_SECONDS = 10
MARK, MASK = 0x4C000000, 0xFF000000
FAMILIES = (Family.IPV4, Family.IPV6)
PROTOCOLS = (Protocol.TCP, Protocol.UDP)
EACH = pytest.mark.parametrize(
    ("family", "protocol"), [(family, protocol) for family in FAMILIES for protocol in PROTOCOLS]
)
PORT, BACKEND_PORT = 80, 8080
"""Of the frontends, and behind them."""

RULES = f"""
table inet test {{
    chain prerouting {{
        type nat hook prerouting priority -100;
        ip daddr {{ {vip(10)[0]}, {vip(11)[0]} }} meta l4proto {{ tcp, udp }} th dport {PORT} \
            ct mark set ct mark or {MARK:#x} \
            dnat ip to numgen inc mod 2 map \
            {{ 0 : {backend_address(11)[0]} . {BACKEND_PORT}, 1 : {backend_address(12)[0]} . {BACKEND_PORT} }}
        ip6 daddr {{ {vip(10)[1]}, {vip(11)[1]} }} meta l4proto {{ tcp, udp }} th dport {PORT} \
            ct mark set ct mark or {MARK:#x} \
            dnat ip6 to numgen inc mod 2 map \
            {{ 0 : {backend_address(11)[1]} . {BACKEND_PORT}, 1 : {backend_address(12)[1]} . {BACKEND_PORT} }}
    }}
}}
"""
"""Two frontends, each of which goes to both backends in turn; what comes here bears our mark."""


@dataclass
class World:
    """A LAN with a balancer made of one ruleset, two servers behind it, and clients that hold their sockets open."""

    lan: Lan
    sockets: list[socket.socket] = field(default_factory=list)
    servers: list[socket.socket] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Set the kernel up."""
        box = self.lan.balancer
        for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
            box.sysctl(key, "1")
        for number in (10, 11):
            address, address6 = vip(number)
            box.batch(f"addr add {address}/32 dev eth0", f"addr add {address6}/128 dev eth0 nodad")
        for line in ("198.51.100.0/24 via 192.0.2.2", "2001:db8:0:51::/64 via 2001:db8:0:2::2"):
            self.lan.client.ip("route", "add", *line.split())
        self.lan.balancer.sysctl("net.netfilter.nf_conntrack_tcp_loose", "0")
        # Without, the last packets of a connection of the test before would begin a flow of this one.
        subprocess.run(box.command(["nft", "-f", "-"]), input=RULES, text=True, check=True, timeout=30)
        for backend in self.lan.backends:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                server = backend.socket(socket.AF_INET6, kind)
                server.settimeout(0)
                server.bind(("::", BACKEND_PORT))
                if kind == socket.SOCK_STREAM:
                    server.listen(64)
                self.servers.append(server)

    def open(self, address: Ip, port: int, protocol: Protocol, count: int = 1) -> None:
        """Begin flows from the client: connections, or one datagram each, of five bytes."""
        kind = socket.SOCK_STREAM if protocol is Protocol.TCP else socket.SOCK_DGRAM
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        for _ in range(count):
            client = self.lan.client.socket(family, kind)
            client.settimeout(DEADLINE_SECONDS)
            client.connect((str(address), port))
            client.send(b"hello")
            self.sockets.append(client)

    def conntrack(self, support: Support | None = None) -> ConntrackSocket:
        """Open our socket in the balancer."""
        return self.lan.balancer.call(lambda: ConntrackSocket(support))

    def exchange(self) -> Exchange:
        """Open the bare one."""
        return self.lan.balancer.call(Exchange)

    def forget(self) -> None:
        """Close what the clients and the servers hold, and empty the table."""
        while self.sockets:
            self.sockets.pop().close()
        for server in self.servers:
            with suppress(BlockingIOError):
                while server.type == socket.SOCK_STREAM:
                    server.accept()[0].close()
        self.lan.balancer.run(["conntrack", "-F"])

    def close(self) -> None:
        """Remove everything."""
        for one in (*self.sockets, *self.servers):
            one.close()
        self.lan.close()


@pytest.fixture(scope="module")
def built() -> Iterator[World]:
    """Build the machines once."""
    world = World(Lan(backends=2))
    try:
        yield world
    finally:
        world.close()


@pytest.fixture
def world(built: World) -> Iterator[World]:
    """Give them with an empty table."""
    built.forget()
    yield built
    built.forget()


def pick(pair: tuple[Ip, Ip], family: Family) -> Ip:
    """Address of the family out of the two of a machine."""
    return pair[FAMILIES.index(family)]


async def listed(conntrack: ConntrackSocket, filters: Sequence[FlowFilter] = (FlowFilter(),)) -> list[Flow]:
    """All flows in one list."""
    return [flow async for slice_ in conntrack.flows(filters) for flow in slice_]


def read_flows(conntrack: ConntrackSocket, until: Callable[[list[Flow]], bool]) -> list[Flow]:
    """Wait for the flows to be as they should be; fail at the deadline."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        found = asyncio.run(listed(conntrack))
        if until(found):
            return found
        assert time.monotonic() < deadline, found
        time.sleep(0.01)


def fill(world: World, conntrack: ConntrackSocket) -> list[Flow]:
    """Open four flows to each frontend, in every family and protocol, and one past the balancer's rules."""
    for family in FAMILIES:
        for protocol in PROTOCOLS:
            for number in (10, 11):
                world.open(pick(vip(number), family), PORT, protocol, 4)
            world.open(pick(backend_address(11), family), BACKEND_PORT, protocol)
    settled = {None, TcpState.ESTABLISHED}
    return [
        flow
        for flow in read_flows(
            conntrack,
            lambda found: len(balanced(found)) == 36 and all(one.tcp_state in settled for one in balanced(found)),
        )
        if flow.protocol in ct.PROTOCOLS
    ]


def balanced(found: Sequence[Flow]) -> list[Flow]:
    """Leave out ICMPv6 and whatever the machines talk among themselves."""
    return [flow for flow in found if flow.protocol in ct.PROTOCOLS and flow.original.destination_port in (80, 8080)]


def names(found: Sequence[Flow]) -> set[tuple[int, ct.Tuple]]:
    """What does not change while a flow lives."""
    return {(flow.protocol, flow.original) for flow in balanced(found)}


WAYS = {"as probed": None, "listed": Support()}


@pytest.mark.parametrize("way", WAYS)
@EACH
@pytest.mark.parametrize(
    "asked_for", ["backend", "backend address", "frontend", "frontend ports", "frontend and backend", "marked"]
)
def test_exactly_what_is_meant_is_deleted(
    world: World, way: str, family: Family, protocol: Protocol, asked_for: str
) -> None:
    """Whatever way is taken, the flows that the predicate means are gone and all others are there."""
    backend, frontend = pick(backend_address(11), family), pick(vip(10), family)
    asked = {
        "backend": FlowFilter(backend=backend, backend_port=BACKEND_PORT, protocol=protocol),
        "backend address": FlowFilter(backend=backend),
        "frontend": FlowFilter(frontend=frontend, frontend_port=PORT, protocol=protocol),
        "frontend ports": FlowFilter(
            frontend=frontend, frontend_port=PORT - 1, frontend_last_port=PORT + 1, protocol=protocol
        ),
        "frontend and backend": FlowFilter(
            frontend=frontend, frontend_port=PORT, backend=backend, backend_port=BACKEND_PORT, protocol=protocol
        ),
        "marked": FlowFilter(backend=backend, protocol=protocol, mark=MARK, mark_mask=MASK),
    }[asked_for]
    expected = {
        "backend": 5,
        "backend address": 10,
        "frontend": 4,
        "frontend ports": 4,
        "frontend and backend": 2,
        "marked": 4,
    }[asked_for]
    with world.conntrack(WAYS[way]) as conntrack:
        before = fill(world, conntrack)
        meant = names([flow for flow in before if asked.matches(flow)])
        assert len(meant) == expected
        asyncio.run(conntrack.delete([asked]))
        assert names(asyncio.run(listed(conntrack))) == names(before) - meant


@pytest.mark.parametrize("way", WAYS)
def test_mark_alone_leaves_others_alone(world: World, way: str) -> None:
    """All that bears our bits goes, in both families; what others made stays, and so do their bits of the mark."""
    with world.conntrack(WAYS[way]) as conntrack:
        before = fill(world, conntrack)
        asyncio.run(conntrack.delete([FlowFilter(mark=MARK, mark_mask=MASK)]))
        left = balanced(asyncio.run(listed(conntrack)))
        assert names(left) == names([flow for flow in before if not flow.mark & MASK])
        assert len(left) == 4


@pytest.mark.parametrize("way", WAYS)
def test_several_filters_at_once(world: World, way: str) -> None:
    """Filters of both families and both kinds are carried out together; more of them than are worth a message each."""
    v4, v6 = backend_address(12)
    nobody = [FlowFilter(backend=pick(lan_address(number), Family.IPV4)) for number in range(100, 101 + MANY_FILTERS)]
    asked = [FlowFilter(backend=v6, protocol=Protocol.UDP), FlowFilter(frontend=vip(10)[0], backend=v4)]
    with world.conntrack(WAYS[way]) as conntrack:
        before = fill(world, conntrack)
        meant = names([flow for flow in before if any(one.matches(flow) for one in asked)])
        assert len(meant) == 8
        asyncio.run(conntrack.delete(asked + nobody))
        assert names(asyncio.run(listed(conntrack))) == names(before) - meant


def test_deletion_of_everything_is_refused(world: World) -> None:
    """A filter that means everything raises before the others are carried out."""
    with world.conntrack() as conntrack:
        before = fill(world, conntrack)
        with pytest.raises(ValueError, match="empty the whole table"):
            asyncio.run(conntrack.delete([FlowFilter(backend=backend_address(11)[0]), FlowFilter()]))
        assert names(asyncio.run(listed(conntrack))) == names(before)


def test_later_flow_of_the_same_tuple_is_spared(world: World) -> None:
    """A deletion by tuple and id says ENOENT when the id is that of an earlier flow, and deletes nothing."""
    with world.conntrack() as conntrack:
        world.open(vip(10)[0], PORT, Protocol.UDP)
        (flow,) = balanced(read_flows(conntrack, lambda found: len(balanced(found)) == 1))
        earlier = Flow(protocol=flow.protocol, original=flow.original, reply=flow.reply, id=flow.id ^ 1)
        exchange = world.exchange()
        assert exchange.ask_all([partial(render_delete_one, earlier)]) == [errno.ENOENT]
        assert names(asyncio.run(listed(conntrack))) == names([flow])
        assert exchange.ask_all([partial(render_delete_one, one) for one in (earlier, flow)]) == [errno.ENOENT, 0]
        assert not balanced(asyncio.run(listed(conntrack)))
        exchange.close()


def test_kernel_is_trusted_only_where_it_means_what_we_mean(world: World) -> None:
    """The probe agrees with what the kernel lists for a filter that no flow fits, and leaves nothing behind."""
    exchange = world.exchange()
    with world.conntrack() as conntrack:
        before = fill(world, conntrack)
        support = supports_filtered_delete(exchange)
        assert names(asyncio.run(listed(conntrack))) == names(before)
        assert not [flow for flow in asyncio.run(listed(conntrack)) if flow.zone]
        for family in FAMILIES:
            asked = FlowFilter(frontend=pick(lan_address(200), family))
            wrong = [one for part in exchange.listing(partial(render_filtered_dump, asked)) for one in part]
            assert support.covers(asked) <= (not wrong), f"the kernel finds {len(wrong)} flows where there are none"
        assert conntrack.support == support
    exchange.close()


def test_usage_by_frontend_and_backend(world: World) -> None:
    """One list tells for each pair how many flows it has and what went through them, if accounting was on."""
    accounting = Accounting()

    def on_box(call: Callable[[], None]) -> None:
        world.lan.balancer.call(call)

    on_box(accounting.turn_on)
    try:
        with world.conntrack() as conntrack:
            fill(world, conntrack)
            found = asyncio.run(conntrack.usage([FlowFilter(mark=MARK, mark_mask=MASK)]))
            counted = asyncio.run(conntrack.count([FlowFilter(mark=MARK, mark_mask=MASK)]))
    finally:
        on_box(accounting.restore)
    assert world.lan.balancer.sysctl("net.netfilter.nf_conntrack_acct") == "0"
    pairs = [
        Pair(protocol, pick(vip(front), family), PORT, pick(backend_address(back), family), BACKEND_PORT)
        for family in FAMILIES
        for protocol in PROTOCOLS
        for front in (10, 11)
        for back in (11, 12)
    ]
    assert counted == dict.fromkeys(pairs, 2)
    assert set(found) == set(pairs)
    v4 = next(usage for pair, usage in found.items() if pair.protocol is Protocol.UDP and pair.frontend.version == 4)
    assert v4 == Usage(flows=2, live=2, sent_packets=2, sent_bytes=2 * (20 + 8 + 5))
    tcp = next(usage for pair, usage in found.items() if pair.protocol is Protocol.TCP)
    assert tcp.sent_packets >= 4
    assert tcp.received_packets >= 2


def test_flow_says_what_became_of_it(world: World) -> None:
    """An answered connection has been seen both ways and is assured; its time-out is that of established ones."""
    with world.conntrack() as conntrack:
        world.open(vip(10)[1], PORT, Protocol.TCP)
        (flow,) = balanced(
            read_flows(conntrack, lambda found: any(one.status & Status.ASSURED for one in balanced(found)))
        )
    assert flow.status & Status.DST_NAT
    assert not flow.status & Status.SRC_NAT
    assert (flow.tcp_state, flow.live, flow.mark) == (TcpState.ESTABLISHED, True, MARK)
    assert flow.timeout_seconds is not None
    assert 0 < flow.timeout_seconds <= 432000
    assert flow.sent is None, "accounting is off"


def test_end_of_a_flow_is_told(world: World) -> None:
    """The notifications of new flows and of their ends are read as what is listed."""
    told = world.lan.balancer.socket(socket.AF_NETLINK, socket.SOCK_RAW, wire.NETLINK_NETFILTER)
    told.bind((0, 1 << (ct.GROUP_NEW - 1) | 1 << (ct.GROUP_DESTROY - 1)))
    told.settimeout(DEADLINE_SECONDS)
    with told, world.conntrack() as conntrack:
        world.open(vip(10)[1], PORT, Protocol.UDP)
        (flow,) = balanced(read_flows(conntrack, lambda found: len(balanced(found)) == 1))
        asyncio.run(conntrack.delete([FlowFilter(mark=MARK, mark_mask=MASK)]))
        heard: list[tuple[int, Flow]] = []
        while not any(kind == ct.CT_DELETE for kind, _ in heard):
            messages = [(one.type, ct.parse_flow(one.payload)) for one in wire.iterate_messages(told.recv(1 << 16))]
            heard += [(kind, one) for kind, one in messages if one.original == flow.original]
    assert [kind for kind, _ in heard] == [ct.CT_NEW, ct.CT_DELETE]
    assert {(one.id, one.reply, one.mark) for _, one in heard} == {(flow.id, flow.reply, MARK)}


def test_pressure_is_read_in_the_namespace(world: World) -> None:
    """The count is that of this namespace, the limit that of the machine."""
    with world.conntrack() as conntrack:
        before = fill(world, conntrack)
        pressure = world.lan.balancer.call(read_pressure)
    assert pressure is not None
    assert len(before) <= pressure.flows < pressure.limit
    assert not pressure.is_high


def test_two_lists_at_the_same_time(world: World) -> None:
    """One list under way does not disturb another, nor a deletion."""

    async def both(conntrack: ConntrackSocket) -> tuple[list[Flow], list[Flow]]:
        first, second, _ = await asyncio.gather(
            listed(conntrack), listed(conntrack), conntrack.delete([FlowFilter(backend=lan_address(200)[0])])
        )
        return first, second

    with world.conntrack() as conntrack:
        before = fill(world, conntrack)

        def run() -> tuple[list[Flow], list[Flow]]:
            return asyncio.run(both(conntrack))

        first, second = world.lan.balancer.call(run)
        assert names(first) == names(second) == names(before)
