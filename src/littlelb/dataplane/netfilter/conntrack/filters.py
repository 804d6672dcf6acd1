"""Says which flows are meant, to the kernel as a filter in one message, and in Python as a predicate: the same ones.

What the kernel's filter (CTA_FILTER, nf_conntrack_netlink.c) can say, and what it cannot:

- Beside CTA_MARK with CTA_MARK_MASK (every kernel that has nf_tables) it compares parts of the original tuple, of the
  reply tuple, or of both: the frontend and the backend fit into one filter. Flags say which parts; a filter without any
  flag, mark and family means *every flow*, so such a one is never built for a deletion.
- Parts of tuples need a family; ports need the protocol, and are compared for TCP and UDP only.
- A dump takes it since Linux 5.8, a deletion since 6.9. Before, a deletion that holds a tuple looks for exactly one
  flow and refuses one with parts missing (EINVAL): it never empties the table. Without a tuple, 5.8 to 6.8 refuse
  CTA_FILTER (EOPNOTSUPP), and older ones overlook it; that is why no deletion of ours has CTA_FILTER without a tuple.
- *IPv6 addresses are compared the wrong way round* (seen up to 6.18): the filter «source 2001:db8::1» means all flows
  but those. Whoever deletes with it deletes everybody else's. `probe.py` finds out before it is trusted.
- Without CTA_FILTER a deletion minds the family only if the version in nfgenmsg is not 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from sys import byteorder
from typing import Final, NamedTuple

from littlelb.core.model import Family, Ip, Protocol
from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.conntrack import flows as ct

_F_SOURCE, _F_PROTOCOL, _F_SOURCE_PORT = 0x1, 0x8, 0x10
"""Flags of CTA_FILTER_ORIG_FLAGS and CTA_FILTER_REPLY_FLAGS (kinds 1 and 2, as those of the tuples); the bit after that
of a source is the one of the destination."""

_FAMILIES: Final = {Family.IPV4: wire.NFPROTO_IPV4, Family.IPV6: wire.NFPROTO_IPV6}
_WITH_PORTS = frozenset({Protocol.TCP, Protocol.UDP})
_FEW_NEEDLES = 8
"""Above, reading every message costs less than looking for each of them."""
_VERSION_OFFSET = 17
"""Of nfgenmsg's version in a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowFilter:
    """Which flows: all that is said must be true. A port of 0 and a None say nothing."""

    frontend: Ip | None = None
    """Destination of the original tuple: where the client knocked."""
    frontend_port: int = 0
    frontend_last_port: int = 0
    """The last port of a range that begins with `frontend_port`; 0: it is one port. The kernel knows no ranges."""
    backend: Ip | None = None
    """Source of the reply tuple: who answers."""
    backend_port: int = 0
    protocol: Protocol | None = None
    mark: int = 0
    mark_mask: int = 0
    """Bits of the mark that count; 0: none."""
    family: Family | None = None
    """Taken from the addresses where there is one."""

    def __post_init__(self) -> None:
        """Raise ValueError for what contradicts itself, or what the kernel cannot be asked."""
        families = {Family.IPV4 if ip.version == 4 else Family.IPV6 for ip in (self.frontend, self.backend) if ip}
        families |= {self.family} if self.family else set()
        if len(families) > 1:
            raise ValueError("a flow has one address family")
        self._check_ports()
        if self.protocol and not families:
            raise ValueError("a protocol needs a family: the kernel compares parts of tuples of one family only")
        if self.mark & ~self.mark_mask:
            raise ValueError(f"mark {self.mark:#x} has bits outside of its mask {self.mark_mask:#x}")
        object.__setattr__(self, "family", next(iter(families), None))

    def _check_ports(self) -> None:
        if (self.frontend_port or self.backend_port) and self.protocol not in _WITH_PORTS:
            raise ValueError("ports need a protocol, TCP or UDP: the kernel compares no others")
        if self.frontend_last_port and not 0 < self.frontend_port <= self.frontend_last_port:
            raise ValueError(f"{self.frontend_port}-{self.frontend_last_port} is no range of ports")

    @property
    def has_range(self) -> bool:
        """Does it ask for a range of ports, so that it has to be selected here?"""
        return self.frontend_last_port > self.frontend_port

    @property
    def has_tuple(self) -> bool:
        """Is a part of a tuple asked for (rather than only mark and family)?"""
        return bool(self.frontend or self.backend or self.protocol)

    @property
    def is_empty(self) -> bool:
        """Does it mean every flow there is, at least for kernels before 5.3, which overlook the family?"""
        return not (self.has_tuple or self.mark_mask)

    @property
    def nfproto(self) -> int:
        """NFPROTO_… of its family; 0: both."""
        return _FAMILIES[self.family] if self.family else wire.AF_UNSPEC

    def matches(self, flow: ct.Flow) -> bool:
        """Is this one meant?"""
        return (
            self._matches_frontend(flow)
            and self._matches_backend(flow)
            and (not self.protocol or ct.NUMBERS[self.protocol] == flow.protocol)
            and flow.mark & self.mark_mask == self.mark
            and (not self.family or ct.family(flow.original.source) == _FAMILIES[self.family])
        )

    def _matches_frontend(self, flow: ct.Flow) -> bool:
        address, port = self.frontend, self.frontend_port
        last = self.frontend_last_port or port
        return (address is None or address == flow.original.destination) and (
            not port or port <= flow.original.destination_port <= last
        )

    def _matches_backend(self, flow: ct.Flow) -> bool:
        address, port = self.backend, self.backend_port
        return (address is None or address == flow.reply.source) and (not port or port == flow.reply.source_port)


class Selection:
    """Several filters as one predicate: is a flow meant by any of them?"""

    def __init__(self, filters: Sequence[FlowFilter]) -> None:
        """Sort them by the address that they name, so that a flow is held against few of them."""
        self._by_address: dict[Ip, list[FlowFilter]] = {}
        self._anywhere: list[FlowFilter] = []
        for one in filters:
            named = one.backend or one.frontend
            (self._by_address.setdefault(named, []) if named else self._anywhere).append(one)
        self._needles = [] if self._anywhere else [address.packed for address in self._by_address]
        if len(self._needles) > _FEW_NEEDLES:
            self._needles = []

    def may_match(self, payload: bytes) -> bool:
        """Is this message worth to be read? A first look that costs a tenth of reading it."""
        return not self._needles or any(needle in payload for needle in self._needles)

    def matches(self, flow: ct.Flow) -> bool:
        """Is this one meant?"""
        if any(one.matches(flow) for one in self._anywhere):
            return True
        if not self._by_address:  # addresses hash slowly
            return False
        near = self._by_address.get(flow.reply.source, ()), self._by_address.get(flow.original.destination, ())
        return any(one.matches(flow) for some in near for one in some)


def widen(filters: Sequence[FlowFilter]) -> FlowFilter:
    """Return a filter by family and mark, for one dump, that leaves out no flow that any of these means."""
    families = {one.family for one in filters}
    marks = {(one.mark, one.mark_mask) for one in filters}
    mark, mask = marks.pop() if len(marks) == 1 else (0, 0)
    return FlowFilter(family=families.pop() if len(families) == 1 else None, mark=mark, mark_mask=mask)


class _Side(NamedTuple):
    """What is asked of one tuple; `end` 0: of its source, 1: of its destination."""

    kind: int
    end: int
    address: Ip | None
    port: int

    def render(self, protocol: Protocol | None) -> tuple[int, bytes]:
        """Return the flags that say which parts count, and the tuple with these parts."""
        flags, parts = 0, b""
        if self.address:
            flags |= _F_SOURCE << self.end
            source = ct.V4_SOURCE if self.address.version == 4 else ct.V6_SOURCE
            parts += wire.nested(ct.IP, wire.attribute(source + self.end, self.address.packed))
        if protocol:
            flags |= _F_PROTOCOL
            inner = wire.attribute(ct.PROTO_NUMBER, bytes((ct.NUMBERS[protocol],)))
            if self.port:
                flags |= _F_SOURCE_PORT << self.end
                inner += wire.attribute(ct.SOURCE_PORT + self.end, self.port.to_bytes(2))
            parts += wire.nested(ct.PROTO, inner)
        return flags, wire.nested(self.kind, parts)


def _render_tuples(asked: FlowFilter) -> bytes:
    """Build the tuples and the flags; flags are in host order, unlike all else."""
    reply = _Side(ct.TUPLE_REPLY, 0, asked.backend, asked.backend_port)
    original = _Side(ct.TUPLE_ORIG, 1, asked.frontend, asked.frontend_port)
    if not asked.has_tuple:
        return b""
    sides = [side for side in (original, reply) if side.address or side.port] or [original]
    flags = {ct.TUPLE_ORIG: 0, ct.TUPLE_REPLY: 0}
    body = b""
    for side in sides:
        flags[side.kind], rendered = side.render(asked.protocol)
        body += rendered
    words = (wire.attribute(kind, value.to_bytes(4, byteorder)) for kind, value in flags.items())
    return body + wire.nested(ct.FILTER, *words)


def _render_mark(asked: FlowFilter) -> bytes:
    if not asked.mark_mask:
        return b""
    return wire.u32(ct.MARK, asked.mark) + wire.u32(ct.MARK_MASK, asked.mark_mask)


def render_filtered_delete(asked: FlowFilter, flags: int, sequence: int) -> bytes:
    """Build the one request that deletes all such flows.

    With parts of tuples only for a kernel that was probed. Raises ValueError for the filter that means everything, and
    for a range of ports.
    """
    if asked.is_empty:
        raise ValueError("a deletion without a filter would empty the whole table")
    if asked.has_range:
        raise ValueError("the kernel cannot be asked for a range of ports")
    body = _render_tuples(asked) + _render_mark(asked)
    request = wire.message(ct.CT_DELETE, flags, sequence, asked.nfproto, body)
    return request[:_VERSION_OFFSET] + b"\1" + request[_VERSION_OFFSET + 1 :]


def render_dump(asked: FlowFilter, sequence: int) -> bytes:
    """Build the request for all flows of its family and mark, on every kernel; the rest is for `matches` to select."""
    flags = wire.NLM_F_REQUEST | wire.NLM_F_DUMP
    return wire.message(ct.CT_GET, flags, sequence, asked.nfproto, _render_mark(asked))


def render_filtered_dump(asked: FlowFilter, sequence: int) -> bytes:
    """Build the request for the flows that the kernel takes the filter to mean: that of the probe."""
    flags = wire.NLM_F_REQUEST | wire.NLM_F_DUMP
    return wire.message(ct.CT_GET, flags, sequence, asked.nfproto, _render_tuples(asked) + _render_mark(asked))
