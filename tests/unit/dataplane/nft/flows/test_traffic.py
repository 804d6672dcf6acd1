"""Sums of what flows carry: they only grow, though flows end and their counts go with them."""

from ipaddress import ip_address

from littlelb.core.model import Protocol
from littlelb.dataplane.netfilter.conntrack import flows as ct
from littlelb.dataplane.netfilter.conntrack.flows import Counters, Flow, TcpState, Tuple
from littlelb.dataplane.netfilter.conntrack.usage import Pair
from littlelb.dataplane.nft.flows.traffic import Traffic
from tests.unit.dataplane.nft.rules import VIP4

CLIENT, POD = ip_address("192.0.2.10"), ip_address("10.1.0.1")
PAIR = Pair(Protocol.TCP, VIP4, 80, POD, 8080)


def flow(number: int, octets: int | None = None, *, over: bool = False, protocol: Protocol = Protocol.TCP) -> Flow:
    """A flow by its id: what it carried from the client, and half of it back; None: nobody counted."""
    counted = octets is not None
    return Flow(
        protocol=ct.NUMBERS[protocol],
        original=Tuple(CLIENT, VIP4, 40000 + number, 80),
        reply=Tuple(POD, CLIENT, 8080, 40000 + number),
        id=number,
        tcp_state=TcpState.TIME_WAIT if over else TcpState.ESTABLISHED,
        sent=Counters((octets or 0) // 100, octets or 0) if counted else None,
        received=Counters(1, (octets or 0) // 2) if counted else None,
    )


def look(traffic: Traffic, *flows: Flow) -> tuple[int, int, int, int]:
    """Take one list; return what is known of PAIR: live, packets, bytes in, bytes out."""
    traffic.begin()
    traffic.take(flows)
    traffic.end()
    for sums in traffic.sums():
        if sums.pair == PAIR:
            return sums.live, sums.packets, sums.bytes_in, sums.bytes_out
    return 0, 0, 0, 0


def test_only_what_grew_is_added_and_nothing_is_lost_with_a_flow() -> None:
    """One grows, one ends, one comes: the sums are of all three."""
    traffic = Traffic()
    assert look(traffic, flow(1, 1000), flow(2, 400)) == (2, 16, 1400, 700)
    assert look(traffic, flow(1, 1500), flow(2, 500, over=True)) == (1, 22, 2000, 1000)
    assert look(traffic, flow(1, 1500), flow(3, 100)) == (2, 24, 2100, 1050)
    assert look(traffic) == (0, 24, 2100, 1050)


def test_a_flow_with_the_id_of_one_that_ended_is_new() -> None:
    """It has carried less."""
    traffic = Traffic()
    look(traffic, flow(1, 1000))
    assert look(traffic, flow(1, 200)) == (1, 14, 1200, 600)


def test_flows_that_nobody_counts_are_live_all_the_same() -> None:
    """Accounting was off when they began."""
    assert look(Traffic(), flow(1), flow(2)) == (2, 0, 0, 0)


def test_flows_are_told_apart_by_protocol() -> None:
    """And those of protocols that no Service has are passed over."""
    traffic = Traffic()
    icmp = Flow(protocol=1, original=Tuple(CLIENT, VIP4), reply=Tuple(POD, CLIENT))
    look(traffic, flow(1, 100), flow(2, 100, protocol=Protocol.UDP), icmp)
    assert {sums.pair.protocol for sums in traffic.sums()} == {Protocol.TCP, Protocol.UDP}


def test_what_nobody_asks_for_is_forgotten() -> None:
    """A backend that is gone."""
    traffic = Traffic()
    look(traffic, flow(1, 100))
    traffic.forget([PAIR])
    assert list(traffic.sums()) == []
