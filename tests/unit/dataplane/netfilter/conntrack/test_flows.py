"""Flows as the kernel tells them: recorded messages, both ways of reading, and messages cut short."""

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.conntrack import flows as ct
from littlelb.dataplane.netfilter.conntrack.flows import Counters, Flow, Status, TcpState, Tuple

TCP = bytes.fromhex(
    "0c01000000010200090000005954000002000000340001801400018008000100c000020a08000200cb00710a1c0002800500010006000000"
    "0600020098ca00000600030000500000340002801400018008000100c633640b08000200c63364021c000280050001000600000006000200"
    "1f9000000600030098ca000008000300000001be080008006c00000008000c00c58a82ee08000b0000000001080007000006977f30000480"
    "2c0001800500010003000000050002000a000000050003000a000000060004002300000006000500230000001c0009800c00010000000000"
    "000000030c00020000000000000000a91c000a800c00010000000000000000020c0002000000000000000070"
)
"""A translated, masqueraded connection, answered by Linux 6.18 to a dump; accounting is on, the mark is set."""

TCP6 = bytes.fromhex(
    "3c0100000001020009000000595400000a0000004c0001802c0001801400030020010db800000002000000000000000a1400040020010db8"
    "00000113000000000000000a1c000280050001000600000006000200885e000006000300005000004c0002802c0001801400030020010db8"
    "00000051000000000000000b1400040020010db80000005100000000000000021c0002800500010006000000060002001f90000006000300"
    "885e000008000300000001be080008006c00000008000c000c17c64a08000b0000000001080007000006977f300004802c00018005000100"
    "03000000050002000a000000050003000a000000060004002300000006000500230000001c0009800c00010000000000000000020c000200"
    "00000000000000981c000a800c00010000000000000000010c0002000000000000000050"
)

UDP = bytes.fromhex(
    "dc00000000010200090000005954000002000000340001801400018008000100c000020a08000200cb00710a1c0002800500010011000000"
    "06000200bd8f00000600030000350000340002801400018008000100c633640c08000200c63364021c000280050001001100000006000200"
    "14e9000006000300bd8f000008000300000001b8080008000000000008000c00f2d2ff4508000b0000000001080007000000001d1c000980"
    "0c00010000000000000000010c000200000000000000001d1c000a800c00010000000000000000000c0002000000000000000000"
)
"""A datagram that nobody has answered yet."""

ADDRESSES = st.ip_addresses(v=4), st.ip_addresses(v=6)
U8, U16, U32, U64 = (st.integers(0, (1 << bits) - 1) for bits in (8, 16, 32, 64))


def read(recorded: bytes) -> Flow:
    """Parse a recorded message."""
    (one,) = wire.iterate_messages(recorded)
    assert one.type == ct.CT_NEW
    return ct.parse_flow(one.payload)


def test_tcp_connection() -> None:
    """Both tuples, mark, state, time-out and counters of an IPv4 connection are read."""
    client, vip, backend, own = map(ip_address, ("192.0.2.10", "203.0.113.10", "198.51.100.11", "198.51.100.2"))
    flow = read(TCP)
    assert flow == Flow(
        protocol=6,
        original=Tuple(client, vip, 39114, 80),
        reply=Tuple(backend, own, 8080, 39114),
        mark=0x6C000000,
        status=0x1BE,
        id=0xC58A82EE,
        timeout_seconds=431999,
        tcp_state=TcpState.ESTABLISHED,
        sent=Counters(3, 169),
        received=Counters(2, 112),
    )
    wanted = Status.SEEN_REPLY | Status.ASSURED | Status.CONFIRMED | Status.SRC_NAT | Status.DST_NAT
    assert flow.status & wanted == wanted


def test_ipv6_connection() -> None:
    """The same for IPv6."""
    flow = read(TCP6)
    assert flow.original == Tuple(ip_address("2001:db8:0:2::a"), ip_address("2001:db8:0:113::a"), 34910, 80)
    assert flow.reply == Tuple(ip_address("2001:db8:0:51::b"), ip_address("2001:db8:0:51::2"), 8080, 34910)
    assert (flow.protocol, flow.tcp_state, flow.id) == (6, TcpState.ESTABLISHED, 0x0C17C64A)
    assert (flow.sent, flow.received) == (Counters(2, 152), Counters(1, 80))


def test_udp_flow_has_no_state() -> None:
    """A UDP flow is live as long as it is there; its answer may be missing."""
    flow = read(UDP)
    assert (flow.protocol, flow.tcp_state, flow.live) == (17, None, True)
    assert not flow.status & Status.SEEN_REPLY
    assert (flow.sent, flow.received) == (Counters(1, 29), Counters(0, 0))


@pytest.mark.parametrize("recorded", [TCP, TCP6, UDP])
def test_both_ways_of_reading_agree(recorded: bytes) -> None:
    """Reading the tuples at fixed places gives what reading them attribute by attribute gives."""
    (one,) = wire.iterate_messages(recorded)
    fixed = ct._parse_fixed(one.payload)
    assert fixed is not None
    assert fixed[:3] == ct._parse_slowly(one.payload)[:3]


def test_icmp_flow_is_read_without_ports() -> None:
    """Tuples of another form are read too: a ping has an identifier instead of ports."""
    echo = wire.nested(ct.PROTO, wire.attribute(1, b"\1"), wire.attribute(4, b"\0\7"), wire.attribute(5, b"\x08"))
    addresses = wire.nested(ct.IP, wire.attribute(1, b"\xc0\0\2\1"), wire.attribute(2, b"\xc0\0\2\2"))
    payload = b"\2\0\0\0" + b"".join(wire.nested(kind, addresses, echo) for kind in (ct.TUPLE_ORIG, ct.TUPLE_REPLY))
    flow = ct.parse_flow(payload)
    assert flow.protocol == 1
    assert flow.original == flow.reply == Tuple(ip_address("192.0.2.1"), ip_address("192.0.2.2"))


@pytest.mark.parametrize(
    ("state", "live"),
    [(TcpState.SYN_SENT, True), (TcpState.FIN_WAIT, True), (TcpState.TIME_WAIT, False), (TcpState.CLOSE, False)],
)
def test_connection_that_is_over_is_not_live(state: TcpState, live: bool) -> None:
    """Entries that only wait to be forgotten are no connections any more."""
    changed = bytearray(TCP)
    changed[TCP.index(bytes.fromhex("0500010003000000")) + 4] = state
    flow = read(bytes(changed))
    assert (flow.tcp_state, flow.live) == (state, live)


def test_state_of_a_later_kernel_is_unknown() -> None:
    """A TCP state that is not in our list is read as none."""
    changed = bytearray(TCP)
    changed[TCP.index(bytes.fromhex("0500010003000000")) + 4] = 77
    assert read(bytes(changed)).tcp_state is None


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    """Any flow that can be entered by hand."""
    addresses = draw(st.sampled_from(ADDRESSES))
    sides = [Tuple(draw(addresses), draw(addresses), draw(U16), draw(U16)) for _ in range(2)]
    rest: dict[str, Any] = {"mark": draw(U32), "zone": draw(U16), "timeout_seconds": draw(U32)}
    return Flow(protocol=draw(st.sampled_from([6, 17, 132])), original=sides[0], reply=sides[1], **rest)


@given(flows())
def test_round_trip(flow: Flow) -> None:
    """What is rendered to enter a flow reads back as that flow, in both ways of reading."""
    (one,) = wire.iterate_messages(ct.render_create(flow, wire.NLM_F_REQUEST, 1))
    assert ct.parse_flow(one.payload) == flow
    fixed = ct._parse_fixed(one.payload)
    assert fixed is not None
    assert fixed[:3] == ct._parse_slowly(one.payload)[:3]


@given(flows(), U32)
def test_deletion_of_one_names_tuple_zone_and_id(flow: Flow, number: int) -> None:
    """A flow is deleted by its original tuple and its id, in its zone; nothing else is in the message."""
    one = Flow(protocol=flow.protocol, original=flow.original, reply=flow.reply, zone=flow.zone, id=number)
    (sent,) = wire.iterate_messages(ct.render_delete_one(one, wire.NLM_F_REQUEST, 3))
    found = sent.attributes()
    assert (sent.type, sent.family) == (ct.CT_DELETE, ct.family(flow.original.source))
    assert ct._parse_tuple(found.pop(ct.TUPLE_ORIG)) == (flow.protocol, flow.original)
    assert int.from_bytes(found.pop(ct.ZONE, b"")) == flow.zone
    assert int.from_bytes(found.pop(ct.ID, b"")) == number
    assert not found


@pytest.mark.parametrize("recorded", [TCP, TCP6, UDP])
def test_message_cut_short_is_malformed_or_lacks_its_end(recorded: bytes) -> None:
    """No prefix of a message raises anything but Malformed, and none shorter than the tuples is taken for a flow."""
    (one,) = wire.iterate_messages(recorded)
    whole = ct.parse_flow(one.payload)
    tuples_end = 108 if whole.original.source.version == 4 else 156
    for size in range(len(one.payload)):
        try:
            flow = ct.parse_flow(one.payload[:size])
        except wire.Malformed:
            continue
        assert size >= tuples_end - 2, "the padding after the last port may be missing"
        assert (flow.original, flow.reply) == (whole.original, whole.reply)


@given(st.binary(max_size=200))
def test_noise_is_malformed(noise: bytes) -> None:
    """Arbitrary bytes raise Malformed, and nothing else."""
    with pytest.raises(wire.Malformed):
        ct.parse_flow(noise)


@given(st.integers(0, len(TCP) - 17), U8)
def test_one_wrong_byte_raises_nothing_else(place: int, value: int) -> None:
    """A recorded message with one byte changed is read, or is Malformed."""
    changed = bytearray(TCP[16:])
    changed[place] = value
    try:
        flow = ct.parse_flow(bytes(changed))
    except wire.Malformed:
        return
    assert isinstance(flow, Flow)
