"""Flow filters: what the kernel is sent for them, which flows they mean, and which ones cannot be said."""

from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from littlelb.core.model import Family, Protocol
from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.conntrack import flows as ct
from littlelb.dataplane.netfilter.conntrack.filters import (
    FlowFilter,
    Selection,
    render_dump,
    render_filtered_delete,
    render_filtered_dump,
    widen,
)
from littlelb.dataplane.netfilter.conntrack.flows import Flow, Tuple

VIP, POD, CLIENT = ip_address("203.0.113.10"), ip_address("10.1.0.5"), ip_address("192.0.2.10")
VIP6, POD6, CLIENT6 = ip_address("2001:db8:113::a"), ip_address("2001:db8:1::5"), ip_address("2001:db8:2::a")


def flow(**changes: Any) -> Flow:
    """Make a TCP connection of the client to VIP port 80, answered by the pod's port 8080, with our mark."""
    values: dict[str, Any] = {
        "protocol": 6,
        "original": Tuple(CLIENT, VIP, 40000, 80),
        "reply": Tuple(POD, CLIENT, 8080, 40000),
        "mark": 0x6C000001,
    }
    return Flow(**values | changes)


def flow6() -> Flow:
    """Make an IPv6 one over UDP, without a mark."""
    return Flow(protocol=17, original=Tuple(CLIENT6, VIP6, 1, 2), reply=Tuple(POD6, CLIENT6, 3, 1))


def test_backend_is_asked_for_by_the_source_of_the_reply_tuple() -> None:
    """One message names the address, the protocol and the port, with the flags that say that these three count."""
    asked = FlowFilter(backend=POD, backend_port=8080, protocol=Protocol.TCP)
    assert render_filtered_delete(asked, wire.NLM_F_REQUEST | wire.NLM_F_ACK, 7).hex(" ", 4) == (
        "4c000000 02010500 07000000 00000000 02010000"  # 76 bytes, delete, 7th; IPv4, version 1
        " 24000280 0c000180 08000100 0a010005"  # reply tuple, address, source
        " 14000280 05000100 06000000 06000200 1f900000"  # protocol 6, source port
        " 14001980 08000100 00000000 08000200 19000000"  # filter: nothing of the original, 0x19 of the reply
    )


def test_frontend_and_backend_go_into_one_filter() -> None:
    """A deletion can ask for parts of both tuples, so that a pod of two Services loses the flows of one only."""
    asked = FlowFilter(
        frontend=VIP6, frontend_port=80, backend=POD6, backend_port=8080, protocol=Protocol.TCP, mark=1, mark_mask=0xF
    )
    (sent,) = wire.iterate_messages(render_filtered_delete(asked, 5, 1))
    found = sent.attributes()
    assert sent.family == wire.NFPROTO_IPV6
    assert wire.parse_attributes(found[ct.FILTER]) == {1: b"\x2a\0\0\0", 2: b"\x19\0\0\0"}
    original, reply = (wire.parse_attributes(found[kind]) for kind in (ct.TUPLE_ORIG, ct.TUPLE_REPLY))
    assert wire.parse_attributes(original[ct.IP]) == {ct.V6_DESTINATION: VIP6.packed}
    assert wire.parse_attributes(original[ct.PROTO]) == {ct.PROTO_NUMBER: b"\6", ct.DESTINATION_PORT: b"\0\x50"}
    assert wire.parse_attributes(reply[ct.IP]) == {ct.V6_SOURCE: POD6.packed}
    assert (found[ct.MARK], found[ct.MARK_MASK]) == (b"\0\0\0\1", b"\0\0\0\x0f")


def test_protocol_alone_is_asked_of_the_original_tuple() -> None:
    """All UDP flows of a family: the protocol has to stand in one of the tuples."""
    (sent,) = wire.iterate_messages(render_filtered_delete(FlowFilter(protocol=Protocol.UDP, family=Family.IPV4), 5, 1))
    found = sent.attributes()
    assert ct.TUPLE_REPLY not in found
    assert wire.parse_attributes(found[ct.FILTER]) == {1: b"\x08\0\0\0", 2: b"\0\0\0\0"}
    assert wire.parse_attributes(wire.parse_attributes(found[ct.TUPLE_ORIG])[ct.PROTO]) == {1: b"\x11"}


def test_filter_by_mark_needs_no_new_kernel() -> None:
    """By mark and family nothing is sent but mark and mask, which old kernels know, and a version that is minded."""
    asked = FlowFilter(mark=0x6C000000, mark_mask=0xFF000000, family=Family.IPV6)
    assert render_filtered_delete(asked, 5, 2).hex(" ", 4) == (
        "24000000 02010500 02000000 00000000 0a010000 08000800 6c000000 08001500 ff000000"
    )
    assert render_dump(asked, 3).hex(" ", 4) == (
        "24000000 01010103 03000000 00000000 0a000000 08000800 6c000000 08001500 ff000000"
    )


def test_dump_leaves_the_tuples_to_us() -> None:
    """A dump asks for family and mark only, since kernels before 5.8 overlook the rest."""
    asked = FlowFilter(backend=POD, backend_port=53, protocol=Protocol.UDP, mark=1, mark_mask=1)
    (plain,) = wire.iterate_messages(render_dump(asked, 1))
    (filtered,) = wire.iterate_messages(render_filtered_dump(asked, 1))
    assert set(plain.attributes()) == {ct.MARK, ct.MARK_MASK}
    assert set(filtered.attributes()) == {ct.MARK, ct.MARK_MASK, ct.TUPLE_REPLY, ct.FILTER}
    assert plain.family == filtered.family == wire.NFPROTO_IPV4


@pytest.mark.parametrize("asked", [FlowFilter(), FlowFilter(family=Family.IPV4)])
def test_deletion_without_a_filter_cannot_be_built(asked: FlowFilter) -> None:
    """What would empty the table (for old kernels a family alone does, too) raises before anything is sent."""
    with pytest.raises(ValueError, match="empty the whole table"):
        render_filtered_delete(asked, 5, 1)
    assert asked.matches(flow())


def test_range_of_ports_is_not_left_to_the_kernel() -> None:
    """A range can only be selected here: what the kernel would be sent cannot be built."""
    asked = FlowFilter(frontend=VIP, frontend_port=70, frontend_last_port=80, protocol=Protocol.UDP)
    with pytest.raises(ValueError, match="range of ports"):
        render_filtered_delete(asked, 5, 1)
    assert asked.has_range
    assert not FlowFilter(frontend=VIP, frontend_port=7, frontend_last_port=7, protocol=Protocol.UDP).has_range


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ({"frontend": VIP, "backend": POD6}, "one address family"),
        ({"backend": POD, "family": Family.IPV6}, "one address family"),
        ({"backend": POD, "backend_port": 80}, "ports need a protocol"),
        ({"frontend": VIP, "frontend_port": 80, "protocol": Protocol.SCTP}, "ports need a protocol"),
        ({"protocol": Protocol.UDP}, "a protocol needs a family"),
        ({"mark": 3, "mark_mask": 1}, "outside of its mask"),
        ({"frontend": VIP, "frontend_port": 9, "frontend_last_port": 8, "protocol": Protocol.TCP}, "no range"),
        ({"frontend": VIP, "frontend_last_port": 8, "protocol": Protocol.TCP}, "no range"),
    ],
)
def test_what_the_kernel_cannot_be_asked_raises(said: dict[str, Any], complaint: str) -> None:
    """A filter that contradicts itself, or that the kernel would take for a wider one, cannot be made."""
    with pytest.raises(ValueError, match=complaint):
        FlowFilter(**said)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        (FlowFilter(backend=POD), True),
        (FlowFilter(backend=VIP), False),
        (FlowFilter(backend=POD, backend_port=8080, protocol=Protocol.TCP), True),
        (FlowFilter(backend=POD, backend_port=80, protocol=Protocol.TCP), False),
        (FlowFilter(backend=POD, protocol=Protocol.UDP), False),
        (FlowFilter(frontend=VIP, frontend_port=80, protocol=Protocol.TCP), True),
        (FlowFilter(frontend=VIP, frontend_port=8080, protocol=Protocol.TCP), False),
        (FlowFilter(frontend=VIP, frontend_port=70, frontend_last_port=80, protocol=Protocol.TCP), True),
        (FlowFilter(frontend=VIP, frontend_port=80, frontend_last_port=80, protocol=Protocol.TCP), True),
        (FlowFilter(frontend=VIP, frontend_port=70, frontend_last_port=79, protocol=Protocol.TCP), False),
        (FlowFilter(frontend=VIP, frontend_port=81, frontend_last_port=90, protocol=Protocol.TCP), False),
        (FlowFilter(frontend=POD), False),
        (FlowFilter(frontend=VIP, backend=POD), True),
        (FlowFilter(frontend=CLIENT, backend=POD), False),
        (FlowFilter(mark=0x6C000000, mark_mask=0xFF000000), True),
        (FlowFilter(mark=0, mark_mask=0xFF000000), False),
        (FlowFilter(mark=0, mark_mask=0x00FF0000, backend=POD), True),
        (FlowFilter(family=Family.IPV4), True),
        (FlowFilter(family=Family.IPV6), False),
    ],
)
def test_predicate(asked: FlowFilter, meant: bool) -> None:
    """A flow is meant when every part that is said of it is true."""
    assert asked.matches(flow()) is meant


def test_first_look_passes_over_what_cannot_be_meant() -> None:
    """A message without any address that is asked for is not read; one with it is, whatever becomes of it."""
    selection = Selection([FlowFilter(backend=POD, frontend=VIP), FlowFilter(frontend=VIP6)])
    raw, raw6 = ct.render_create(flow(), 5, 1), ct.render_create(flow6(), 5, 1)
    elsewhere = ct.render_create(flow(reply=Tuple(VIP, CLIENT, 1, 2)), 5, 1)
    assert [selection.may_match(one) for one in (raw, raw6, elsewhere)] == [True, True, False]
    assert Selection([FlowFilter(backend=POD), FlowFilter(mark=1, mark_mask=1)]).may_match(elsewhere)


def test_selection_means_what_any_of_its_filters_means() -> None:
    """Filters by backend, by frontend and by mark are held against a flow together."""
    filters = [FlowFilter(backend=POD, frontend=CLIENT), FlowFilter(frontend=VIP6), FlowFilter(mark=2, mark_mask=3)]
    selection = Selection(filters)
    assert not selection.matches(flow())
    assert selection.matches(flow(mark=0xF2))
    assert selection.matches(flow(original=Tuple(CLIENT, CLIENT, 1, 2)))
    assert selection.matches(flow6())
    assert not Selection([]).matches(flow())


def test_selection_of_many_reads_every_message() -> None:
    """With many addresses the first look is not worth its time; the predicate decides as before."""
    filters = [FlowFilter(backend=POD + number) for number in range(20)]
    selection = Selection(filters)
    assert selection.may_match(b"")
    assert selection.matches(flow(reply=Tuple(POD + 19, CLIENT, 1, 2)))
    assert not selection.matches(flow(reply=Tuple(POD + 20, CLIENT, 1, 2)))


@pytest.mark.parametrize(
    ("filters", "wide"),
    [
        ([FlowFilter(backend=POD), FlowFilter(frontend=VIP)], FlowFilter(family=Family.IPV4)),
        ([FlowFilter(backend=POD), FlowFilter(frontend=VIP6)], FlowFilter()),
        ([FlowFilter(backend=POD6, mark=1, mark_mask=1)], FlowFilter(family=Family.IPV6, mark=1, mark_mask=1)),
        ([FlowFilter(mark=1, mark_mask=1), FlowFilter(mark=1, mark_mask=3)], FlowFilter()),
        ([FlowFilter(backend=POD), FlowFilter()], FlowFilter()),
    ],
)
def test_one_list_for_several_filters(filters: list[FlowFilter], wide: FlowFilter) -> None:
    """The list asks for the family and the mark that all have in common, and for nothing else."""
    assert widen(filters) == wide


ADDRESSES = st.sampled_from([VIP, POD, None])
PORTS = st.sampled_from([0, 80])


@given(ADDRESSES, PORTS, ADDRESSES, PORTS, st.sampled_from([Protocol.TCP, Protocol.UDP]))
def test_flags_name_exactly_the_parts_that_are_sent(
    frontend: Any, frontend_port: int, backend: Any, backend_port: int, protocol: Protocol
) -> None:
    """Whatever is combined: each part in a tuple has its flag, each flag its part, and never is there no flag."""
    asked = FlowFilter(
        frontend=frontend,
        frontend_port=frontend_port,
        backend=backend,
        backend_port=backend_port,
        protocol=protocol,
        family=Family.IPV4,
    )
    (sent,) = wire.iterate_messages(render_filtered_delete(asked, 5, 1))
    found = sent.attributes()
    flags = {kind: value[0] for kind, value in wire.parse_attributes(found[ct.FILTER]).items()}
    assert any(flags.values())
    for kind in (ct.TUPLE_ORIG, ct.TUPLE_REPLY):
        parts = wire.parse_attributes(found.get(kind, b""))
        bits = [1 << part - 1 for part in wire.parse_attributes(parts.get(ct.IP, b""))]
        bits += [1 << part + 2 for part in wire.parse_attributes(parts.get(ct.PROTO, b""))]
        assert sum(bits) == flags[kind]
