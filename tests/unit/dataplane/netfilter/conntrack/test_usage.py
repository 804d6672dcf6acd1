"""Sums by frontend and backend: what is counted, what is live, what is passed over."""

from ipaddress import ip_address

from littlelb.core.model import Protocol
from littlelb.dataplane.netfilter.conntrack.flows import Counters, Flow, TcpState, Tuple
from littlelb.dataplane.netfilter.conntrack.usage import Pair, Tally, Usage

CLIENT, VIP, POD = ip_address("192.0.2.10"), ip_address("203.0.113.10"), ip_address("10.1.0.5")


def connection(number: int, state: TcpState = TcpState.ESTABLISHED, *, counted: bool = True) -> Flow:
    """Make a connection of client port `number`, with 2 packets each way."""
    return Flow(
        protocol=6,
        original=Tuple(CLIENT, VIP, number, 80),
        reply=Tuple(POD, CLIENT, 8080, number),
        tcp_state=state,
        sent=Counters(2, 100) if counted else None,
        received=Counters(2, 3000) if counted else None,
    )


def test_flows_of_a_pair_are_added_up() -> None:
    """Connections that are over count in the sums, but not as live; flows without accounting count as flows only."""
    tally = Tally()
    tally.add([connection(1), connection(2, TcpState.TIME_WAIT)])
    tally.add([connection(3, counted=False)])
    assert tally.usage() == {
        Pair(Protocol.TCP, VIP, 80, POD, 8080): Usage(
            flows=3, live=2, sent_packets=4, sent_bytes=200, received_packets=4, received_bytes=6000
        )
    }


def test_pairs_are_told_apart_by_each_of_their_parts() -> None:
    """Another protocol, address or port on either side is another pair, even where the numbers of addresses agree."""
    low, low6 = ip_address("0.0.0.1"), ip_address("::1")
    flows = [
        Flow(protocol=protocol, original=Tuple(CLIENT, front, 1, port), reply=Tuple(back, CLIENT, back_port, 1))
        for protocol, front, port, back, back_port in [
            (6, VIP, 80, POD, 8080),
            (17, VIP, 80, POD, 8080),
            (6, POD, 80, POD, 8080),
            (6, VIP, 81, POD, 8080),
            (6, VIP, 80, VIP, 8080),
            (6, VIP, 80, POD, 8081),
            (6, low, 80, low, 80),
            (6, low6, 80, low6, 80),
        ]
    ]
    tally = Tally()
    tally.add(flows)
    assert [usage.flows for usage in tally.usage().values()] == [1] * len(flows)


def test_protocols_that_no_service_has_are_passed_over() -> None:
    """A ping through the balancer is in no sum."""
    tally = Tally()
    tally.add([Flow(protocol=1, original=Tuple(CLIENT, VIP), reply=Tuple(VIP, CLIENT))])
    assert tally.usage() == {}
