"""Finds out whether this kernel deletes by parts of tuples, and whether it means the same by them as we do.

Two things can be wrong: kernels before 6.9 do not know such deletions, and IPv6 addresses are compared the wrong way
round (`filters`): there a deletion takes away what it should spare. Neither is told by a version number, for vendors
carry changes back. So it is tried, on a flow of ours that no packet can belong to:

    in a zone of its own, to UDP port 9, between addresses that never are on a wire (0.0.0.0/8, 100::/64 of RFC 6666)

A deletion that misses it by one part must leave it, and one that fits must take it. Every deletion asks for the mark of
our flow too, 32 bits that nobody else has. So even a kernel that gets the tuples wrong can delete no other flow, and a
kernel that does not know the filter refuses a tuple with parts missing (`filters` says why for each version).
"""

import errno
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, Protocol

from littlelb.core import model
from littlelb.core.errors import Permanent
from littlelb.core.model import Family, Ip
from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.conntrack import flows as ct
from littlelb.dataplane.netfilter.conntrack.exchange import Render
from littlelb.dataplane.netfilter.conntrack.filters import FlowFilter, render_filtered_delete
from littlelb.dataplane.netfilter.conntrack.flows import Flow, Tuple

_MARK: Final = 0x6C69_7462
_ZONE: Final = 0x6C62
_DISCARD: Final = 9
"""The UDP port of the discard service (RFC 863)."""
_SECONDS: Final = 5
"""The flow of the probe is forgotten by itself, should we end before we delete it."""

_ADDRESSES: Final = {
    Family.IPV4: (ip_address("0.0.0.1"), ip_address("0.0.0.2"), ip_address("0.0.0.3")),
    Family.IPV6: (ip_address("100::1"), ip_address("100::2"), ip_address("100::3")),
}


@dataclass(frozen=True, slots=True)
class Support:
    """The families whose flows can be deleted by one filtered message."""

    families: frozenset[Family] = frozenset()

    def covers(self, asked: FlowFilter) -> bool:
        """May this filter be left to the kernel? One without parts of tuples always may, one with a range never."""
        return not asked.has_tuple or (asked.family in self.families and not asked.has_range)


class Asker(Protocol):
    """What the probe needs of an `Exchange`."""

    @property
    def port(self) -> int:
        """A number that no other socket in the namespace has."""
        ...

    def ask(self, render: Render) -> int:
        """Send one request; return its errno, 0: done."""
        ...


def supports_filtered_delete(exchange: Asker) -> Support:
    """Probe both families: less than a millisecond, and up to four walks over the table for each.

    Raises Permanent without the right to change the table.
    """
    return Support(frozenset(family for family in Family if _works(exchange, *_ADDRESSES[family])))


def _works(exchange: Asker, client: Ip, server: Ip, other: Ip) -> bool:
    """Enter the flow, try, and take it away again."""
    port = exchange.port & 0xFFFF  # two that probe at the same time do not meet
    flow = Flow(
        protocol=ct.NUMBERS[model.Protocol.UDP],
        original=Tuple(client, server, port, _DISCARD),
        reply=Tuple(server, client, _DISCARD, port),
        mark=_MARK,
        zone=_ZONE,
        timeout_seconds=_SECONDS,
    )
    create = wire.NLM_F_CREATE | wire.NLM_F_EXCL
    if code := exchange.ask(lambda flags, sequence: ct.render_create(flow, flags | create, sequence)):
        return _judge_refusal(code)
    misses = (
        _ours(frontend=other),
        _ours(backend=other),
        _ours(frontend=server, frontend_port=_DISCARD, backend=server, backend_port=port),
    )
    fits = _ours(frontend=server, frontend_port=_DISCARD, backend=server, backend_port=_DISCARD)
    try:
        spared = all(_delete(exchange, asked) == 0 and _is_there(exchange, flow) for asked in misses)
        return spared and _delete(exchange, fits) == 0 and not _is_there(exchange, flow)
    finally:
        exchange.ask(lambda flags, sequence: ct.render_delete_one(flow, flags, sequence))


def _judge_refusal(code: int) -> bool:
    """Say that it does not work where flows cannot be entered; raise where nothing can be done at all."""
    if code in {errno.EPERM, errno.EACCES}:
        raise Permanent("conntrack: no right to change flows: run as root, or with CAP_NET_ADMIN")
    return False  # no zones, no marks, a full table: the other way works without


def _ours(
    *, frontend: Ip | None = None, frontend_port: int = 0, backend: Ip | None = None, backend_port: int = 0
) -> FlowFilter:
    return FlowFilter(
        frontend=frontend,
        frontend_port=frontend_port,
        backend=backend,
        backend_port=backend_port,
        protocol=model.Protocol.UDP,
        mark=_MARK,
        mark_mask=0xFFFF_FFFF,
    )


def _delete(exchange: Asker, asked: FlowFilter) -> int:
    return exchange.ask(lambda flags, sequence: render_filtered_delete(asked, flags, sequence))


def _is_there(exchange: Asker, flow: Flow) -> bool:
    return exchange.ask(lambda flags, sequence: ct.render_get(flow, flags, sequence)) == 0
