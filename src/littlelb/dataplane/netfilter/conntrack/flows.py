"""Reads what conntrack tells of a flow, and builds the messages that name one: bytes to values and back, nothing else.

A flow has two tuples. With address translation they differ, and that is how a balanced flow is known:

    original   client 192.0.2.10:39114  → frontend 203.0.113.10:80       as the client sent it
    reply      backend 198.51.100.11:80 → client or masquerade address   as the answer comes

linux/netfilter/nfnetlink_conntrack.h, nf_conntrack_common.h, nf_conntrack_tcp.h. Ports and counters are in network
order. The kernel writes the tuples of TCP, UDP and SCTP always alike and first, so they are read at fixed places; what
does not look so (ICMP, another kernel) is read attribute by attribute.
"""

import struct
from enum import IntEnum, IntFlag
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Final, NamedTuple

from msgspec import Struct

from littlelb.core.model import Ip, Protocol
from littlelb.dataplane.netfilter import wire

CT_NEW: Final = wire.SUBSYSTEM_CONNTRACK << 8
"""A flow: in the answer to a dump, in a notification (new, or changed), and as a request (create one)."""
CT_GET: Final = CT_NEW | 1
CT_DELETE: Final = CT_NEW | 2
"""As a request; and as the notification that a flow is gone."""

GROUP_NEW, GROUP_UPDATE, GROUP_DESTROY = 1, 2, 3
"""Multicast groups of the notifications (NFNLGRP_CONNTRACK_…)."""

TUPLE_ORIG, TUPLE_REPLY, STATUS, PROTOINFO, TIMEOUT, MARK = 1, 2, 3, 4, 7, 8
COUNTERS_ORIG, COUNTERS_REPLY, ID, ZONE, MARK_MASK, FILTER = 9, 10, 12, 18, 21, 25
IP, PROTO, TUPLE_ZONE = 1, 2, 3
V4_SOURCE, V4_DESTINATION, V6_SOURCE, V6_DESTINATION = 1, 2, 3, 4
PROTO_NUMBER, SOURCE_PORT, DESTINATION_PORT = 1, 2, 3
_PROTOINFO_TCP, _TCP_STATE = 1, 1
_PACKETS, _BYTES = 1, 2

NUMBERS: Final = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}
"""IANA protocol numbers."""
PROTOCOLS: Final = {number: protocol for protocol, number in NUMBERS.items()}


class Status(IntFlag):
    """What is true of a flow (IPS_…), as far as a balancer asks."""

    SEEN_REPLY = 0x2
    ASSURED = 0x4
    """Not thrown away early when the table is full."""
    CONFIRMED = 0x8
    SRC_NAT = 0x10
    DST_NAT = 0x20
    DYING = 0x200
    OFFLOAD = 0x4000


class TcpState(IntEnum):
    """How conntrack sees a TCP connection (TCP_CONNTRACK_…)."""

    NONE = 0
    SYN_SENT = 1
    SYN_RECV = 2
    ESTABLISHED = 3
    FIN_WAIT = 4
    CLOSE_WAIT = 5
    LAST_ACK = 6
    TIME_WAIT = 7
    CLOSE = 8
    SYN_SENT2 = 9


_STATES = tuple(TcpState)
_OVER = frozenset({TcpState.TIME_WAIT, TcpState.CLOSE})


class Tuple(Struct, frozen=True, gc=False):
    """One direction of a flow; the ports are 0 where the protocol has none (for ICMP they are not read)."""

    source: Ip
    destination: Ip
    source_port: int = 0
    destination_port: int = 0


class Counters(Struct, frozen=True, gc=False):
    """What went in one direction, headers of the network layer included; only with `nf_conntrack_acct`."""

    packets: int
    octets: int


class Flow(Struct, frozen=True, gc=False, kw_only=True):
    """One entry of the table."""

    protocol: int
    """IANA number; `PROTOCOLS` names those of Services."""
    original: Tuple
    reply: Tuple
    mark: int = 0
    status: int = 0
    """Bits of `Status`."""
    id: int = 0
    """Tells two flows of one tuple, one after the other, apart; 0: the kernel said none."""
    zone: int = 0
    timeout_seconds: int | None = None
    """Until it is forgotten if no packet comes; None while it is offloaded, or when old kernels tell its end."""
    tcp_state: TcpState | None = None
    sent: Counters | None = None
    """In the direction of the original tuple: from the client. None: accounting was off when it began."""
    received: Counters | None = None
    """In the direction of the reply: from the backend."""

    @property
    def live(self) -> bool:
        """Is it a connection still? TCP entries in TIME_WAIT and CLOSE only wait to be forgotten."""
        return self.tcp_state not in _OVER


@lru_cache(maxsize=8192)  # the same few come in all the flows of a table
def address(packed: bytes) -> Ip:
    """Read an address. Raises ValueError for anything but 4 or 16 bytes."""
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


# --- reading ---------------------------------------------------------------------------------------------------------


class _Layout(NamedTuple):
    """How the kernel writes both tuples of a family: structure, attribute headers in it, where the rest begins."""

    structure: struct.Struct
    original: tuple[bytes, ...]
    reply: tuple[bytes, ...]
    rest: int


def _layout(size: int, source: int) -> _Layout:
    """`size` of an address in bytes, `source` the attribute kind of the source address (the destination's follows)."""
    one = f"12s{size}s4s{size}s8sB3x4sH2x4sH2x"

    def heads(kind: int) -> tuple[bytes, ...]:
        first, second = wire.attribute(source, bytes(size)), wire.attribute(source + 1, bytes(size))
        number = wire.attribute(PROTO_NUMBER, b"\0")
        ports = wire.attribute(SOURCE_PORT, b"\0\0"), wire.attribute(DESTINATION_PORT, b"\0\0")
        ip, proto = wire.nested(IP, first, second), wire.nested(PROTO, number, *ports)
        whole = wire.nested(kind, ip, proto)
        return whole[:12], second[:4], proto[:8], ports[0][:4], ports[1][:4]

    structure = struct.Struct(f"!4x{one}{one}")
    return _Layout(structure, heads(TUPLE_ORIG), heads(TUPLE_REPLY), structure.size)


_LAYOUTS = {
    wire.NFPROTO_IPV4: _layout(4, V4_SOURCE),
    wire.NFPROTO_IPV6: _layout(16, V6_SOURCE),
}


_COUNTERS = struct.Struct("!4sQ4sQ")
_TCP_HEAD = wire.nested(_PROTOINFO_TCP, wire.attribute(_TCP_STATE, b"\0"))[2:8]
_COUNTER_HEADS = (wire.u64(_PACKETS, 0)[:4], wire.u64(_BYTES, 0)[:4])


def parse_flow(payload: bytes) -> Flow:
    """Read the payload of a CT_NEW or CT_DELETE message. Raises `wire.Malformed`."""
    fixed = _parse_fixed(payload)
    protocol, original, reply, start = _parse_slowly(payload) if fixed is None else fixed
    found = wire.parse_attributes(payload, start)
    timeout, info = found.get(TIMEOUT), found.get(PROTOINFO)
    sent, received = found.get(COUNTERS_ORIG), found.get(COUNTERS_REPLY)
    return Flow(
        protocol=protocol,
        original=original,
        reply=reply,
        mark=int.from_bytes(found.get(MARK, b"")),
        status=int.from_bytes(found.get(STATUS, b"")),
        id=int.from_bytes(found.get(ID, b"")),
        zone=int.from_bytes(found.get(ZONE, b"")),
        timeout_seconds=None if timeout is None else int.from_bytes(timeout),
        tcp_state=None if info is None else _parse_tcp_state(info),
        sent=None if sent is None else _parse_counters(sent),
        received=None if received is None else _parse_counters(received),
    )


def _parse_fixed(payload: bytes) -> tuple[int, Tuple, Tuple, int] | None:
    """Protocol, both tuples, and where the rest begins; None: it is not laid out as the kernel does for ports."""
    layout = _LAYOUTS.get(payload[0]) if payload else None
    if layout is None or len(payload) < layout.rest:
        return None
    a1, src, a2, dst, a3, protocol, a4, sport, a5, dport, b1, rsrc, b2, rdst, b3, _, b4, rsport, b5, rdport = (
        layout.structure.unpack_from(payload)
    )
    if (a1, a2, a3, a4, a5) != layout.original or (b1, b2, b3, b4, b5) != layout.reply:
        return None
    original = Tuple(address(src), address(dst), sport, dport)
    return protocol, original, Tuple(address(rsrc), address(rdst), rsport, rdport), layout.rest


def _parse_slowly(payload: bytes) -> tuple[int, Tuple, Tuple, int]:
    """Do the same for tuples of any form."""
    if len(payload) < 4:
        raise wire.Malformed(f"conntrack: {len(payload)} bytes hold no nfgenmsg")
    found = wire.parse_attributes(payload, 4)
    try:
        protocol, original = _parse_tuple(found[TUPLE_ORIG])
        _, reply = _parse_tuple(found[TUPLE_REPLY])
    except (KeyError, ValueError) as error:
        raise wire.Malformed(f"conntrack: a flow without its tuples ({error})") from error
    return protocol, original, reply, 4


def _parse_tuple(value: bytes) -> tuple[int, Tuple]:
    """Raise KeyError or ValueError where a part is missing or no address."""
    parts = wire.parse_attributes(value)
    ip, proto = wire.parse_attributes(parts[IP]), wire.parse_attributes(parts[PROTO])
    source, destination = (V4_SOURCE, V4_DESTINATION) if V4_SOURCE in ip else (V6_SOURCE, V6_DESTINATION)
    ports = int.from_bytes(proto.get(SOURCE_PORT, b"")), int.from_bytes(proto.get(DESTINATION_PORT, b""))
    return int.from_bytes(proto[PROTO_NUMBER]), Tuple(address(ip[source]), address(ip[destination]), *ports)


def _parse_tcp_state(info: bytes) -> TcpState | None:
    if info[2:8] == _TCP_HEAD and len(info) > 8:
        state = info[8:9]
    else:
        state = wire.parse_attributes(wire.parse_attributes(info).get(_PROTOINFO_TCP, b"")).get(_TCP_STATE, b"")
    number = int.from_bytes(state)
    return _STATES[number] if state and number < len(_STATES) else None  # no TCP, or a state of a later kernel


def _parse_counters(value: bytes) -> Counters:
    if len(value) == _COUNTERS.size:
        first, packets, second, octets = _COUNTERS.unpack(value)
        if (first, second) == _COUNTER_HEADS:
            return Counters(packets, octets)
    found = wire.parse_attributes(value)
    return Counters(int.from_bytes(found.get(_PACKETS, b"")), int.from_bytes(found.get(_BYTES, b"")))


# --- building --------------------------------------------------------------------------------------------------------


def render_tuple(kind: int, protocol: int, one: Tuple) -> bytes:
    """Build the attribute (TUPLE_ORIG or TUPLE_REPLY) that names a flow of a protocol with ports."""
    source, destination = (V4_SOURCE, V4_DESTINATION) if one.source.version == 4 else (V6_SOURCE, V6_DESTINATION)
    return wire.nested(
        kind,
        wire.nested(IP, wire.attribute(source, one.source.packed), wire.attribute(destination, one.destination.packed)),
        wire.nested(
            PROTO,
            wire.attribute(PROTO_NUMBER, bytes((protocol,))),
            wire.attribute(SOURCE_PORT, one.source_port.to_bytes(2)),
            wire.attribute(DESTINATION_PORT, one.destination_port.to_bytes(2)),
        ),
    )


def family(one: Ip) -> int:
    """Return the NFPROTO_… of an address."""
    return wire.NFPROTO_IPV4 if one.version == 4 else wire.NFPROTO_IPV6


def _render_zone(flow: Flow) -> bytes:
    return wire.attribute(ZONE, flow.zone.to_bytes(2)) if flow.zone else b""


def _render_name(flow: Flow) -> bytes:
    return render_tuple(TUPLE_ORIG, flow.protocol, flow.original) + _render_zone(flow)


def render_get(flow: Flow, flags: int, sequence: int) -> bytes:
    """Build the question whether a flow of this tuple, in this zone, is there: answered by it, or by ENOENT."""
    return wire.message(CT_GET, flags, sequence, family(flow.original.source), _render_name(flow))


def render_delete_one(flow: Flow, flags: int, sequence: int) -> bytes:
    """Build the request that deletes this flow; with its id, so that a later flow of the same tuple is left alone.

    The answer is ENOENT where it is gone. Flows whose zone counts for one direction only are not found by it.
    """
    body = _render_name(flow) + (wire.u32(ID, flow.id) if flow.id else b"")
    return wire.message(CT_DELETE, flags, sequence, family(flow.original.source), body)


def render_create(flow: Flow, flags: int, sequence: int) -> bytes:
    """Build the request that enters a flow, untranslated unless its tuples say so; with its timeout, mark and zone."""
    body = render_tuple(TUPLE_ORIG, flow.protocol, flow.original)
    body += render_tuple(TUPLE_REPLY, flow.protocol, flow.reply) + _render_zone(flow)
    body += wire.u32(TIMEOUT, flow.timeout_seconds or 0) + wire.u32(MARK, flow.mark)
    return wire.message(CT_NEW, flags, sequence, family(flow.original.source), body)
