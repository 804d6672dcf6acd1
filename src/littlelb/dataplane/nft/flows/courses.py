"""What a change of our elements means for flows, which flows are meant, and the element that ends them. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from littlelb.core.counters import BackendKey
from littlelb.core.model import Backend, Frontend, Ip, Protocol
from littlelb.dataplane.netfilter.conntrack.filters import FlowFilter
from littlelb.dataplane.netfilter.conntrack.usage import Pair
from littlelb.dataplane.netfilter.keys import parse_port
from littlelb.dataplane.nft.elements.layout import NUMBERS, backend_fields, frontend_fields
from littlelb.dataplane.nft.elements.transitions import (
    Arrival,
    Removal,
    Step,
    compute_flows,
    select_backends,
)
from littlelb.dataplane.nft.flows.drains import Course
from littlelb.dataplane.nft.ruleset import MARK_OURS

OURS: Final = FlowFilter(mark=MARK_OURS, mark_mask=MARK_OURS)
"""Every flow that we translated."""
_PROTOCOLS: Final = {number: protocol for protocol, number in NUMBERS.items()}


@dataclass(frozen=True, slots=True)
class Turn:
    """What one transaction means for flows."""

    removals: tuple[Removal, ...] = ()
    arrivals: tuple[Arrival, ...] = ()
    departures: Mapping[Frontend, int] = field(default_factory=dict)
    """Frontends that are gone → seconds that their flows have."""
    serving: Mapping[Frontend, frozenset[BackendKey]] = field(default_factory=dict)
    """Frontends → the backends that new flows go to, where there are some that they did not go to before."""


def compute_turn(steps: Iterable[Step]) -> Turn:
    """Return what these steps mean, once they are in the kernel."""
    steps = list(steps)
    removals, arrivals = compute_flows(steps)
    departures, serving = {}, {}
    for step in steps:
        if step.after is None:
            departures[step.frontend] = 0 if step.before is None else step.before.withdraw_seconds
        elif not (now := select_backends(step.new)) <= select_backends(step.old):
            serving[step.frontend] = now
    return Turn(tuple(removals), tuple(arrivals), departures, serving)


def filter_course(course: Course) -> FlowFilter:
    """Flows that we translated from this frontend to this backend."""
    frontend, (address, port) = course
    return FlowFilter(
        frontend=frontend.address,
        frontend_port=frontend.port,
        frontend_last_port=frontend.last_port,
        backend=address,
        backend_port=port,
        protocol=frontend.protocol,
        mark=MARK_OURS,
        mark_mask=MARK_OURS,
    )


def filter_older(frontend: Frontend) -> FlowFilter:
    """Flows to this frontend that began before it was ours: they are not translated, and never will be."""
    return FlowFilter(
        frontend=frontend.address,
        frontend_port=frontend.port,
        frontend_last_port=frontend.last_port,
        protocol=frontend.protocol,
        mark=0,
        mark_mask=MARK_OURS,
    )


class Atlas:
    """Knows which frontends are ranges of ports, and so to which course a flow belongs."""

    def __init__(self, ranges: Iterable[Frontend] = ()) -> None:
        """`ranges`: frontends with more than one port; others may be among them."""
        self._ranges: dict[tuple[Ip, Protocol], list[Frontend]] = {}
        for frontend in ranges:
            if frontend.last_port:
                self._ranges.setdefault((frontend.address, frontend.protocol), []).append(frontend)

    def find(self, pair: Pair) -> Course:
        """Find the course of the flows of a pair."""
        for frontend in self._ranges.get((pair.frontend, pair.protocol), ()):
            if frontend.port <= pair.frontend_port <= frontend.last_port:
                return frontend, (pair.backend, 0)
        return Frontend(pair.frontend, pair.protocol, pair.frontend_port), (pair.backend, pair.backend_port)


def ending_set(frontend: Frontend) -> str:
    """Name of the set whose flows are reset."""
    return f"ending{frontend.address.version}"


def render_ending_key(course: Course) -> bytes:
    """`original daddr . l4proto . original dport . reply saddr . reply sport`."""
    frontend, (address, port) = course
    return frontend_fields(frontend)[0] + backend_fields(Backend(address, port))


def parse_ending_key(key: bytes) -> Course | None:
    """Read what `render_ending_key` built; None: nobody of us wrote that."""
    kind: type[IPv4Address | IPv6Address] = IPv4Address if len(key) == 20 else IPv6Address
    size = 4 if kind is IPv4Address else 16
    protocol = _PROTOCOLS.get(key[size])
    if protocol is not Protocol.TCP or len(key) != 2 * size + 12:
        return None
    frontend = Frontend(kind(key[:size]), protocol, parse_port(key[size + 4 : size + 8]))
    return frontend, (kind(key[size + 8 : -4]), parse_port(key[-4:]))
