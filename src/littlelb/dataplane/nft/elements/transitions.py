"""What a change means for flows that are under way: whoever cuts and drains them is told in these words."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from littlelb.core.counters import BackendKey
from littlelb.core.model import Backend, Forward, Frontend, Plane, Protocol
from littlelb.dataplane.netfilter.keys import parse_port
from littlelb.dataplane.netfilter.sets import Verdict, VerdictCode
from littlelb.dataplane.nft.elements.layout import Rules


@dataclass(frozen=True, slots=True)
class Removal:
    """A backend gets no new connections of this frontend any more."""

    frontend: Frontend
    backend: BackendKey
    """Port 0: behind a range of ports."""
    drain_seconds: int | None
    """How long its flows may go on; None: until they end by themselves."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A frontend for UDP that was not there: flows to it that are older were not translated, and never would be."""

    frontend: Frontend


@dataclass(frozen=True, slots=True)
class Step:
    """One frontend: what the kernel holds of it, and what it shall hold."""

    frontend: Frontend
    old: Rules
    new: Rules
    before: Forward | None
    """As last applied; None: never, by this process."""
    after: Forward | None
    """None: it goes."""


def compute_flows(steps: Iterable[Step]) -> tuple[list[Removal], list[Arrival]]:
    """Return what goes and what comes."""
    removals: list[Removal] = []
    arrivals: list[Arrival] = []
    for step in steps:
        removals += _removals(step)
        if step.frontend.protocol is Protocol.UDP and step.after is not None and not step.old:
            arrivals.append(Arrival(step.frontend))
    return removals, arrivals


def _removals(step: Step) -> Iterator[Removal]:
    kept = {(b.address, b.port) for b in step.after.backends} if step.after else set()
    for backend in sorted(select_backends(step.old) - kept, key=lambda b: (int(b[0]), b[1])):
        if step.after is not None:
            seconds = step.after.drain_seconds
        else:
            seconds = 0 if step.before is None else step.before.withdraw_seconds
        yield Removal(step.frontend, backend, seconds)


def select_backends(rules: Rules) -> frozenset[BackendKey]:
    """Backends that new connections go to by these elements."""
    return frozenset(
        _backend(value) for place, value in rules.items() if isinstance(value, bytes) and "slots" in place[0]
    )


def guess_forward(rules: Rules) -> Forward:
    """Say for people what these elements do; whose they are they do not tell."""
    backends = sorted(select_backends(rules), key=lambda one: (int(one[0]), one[1]))
    passing = any(isinstance(value, Verdict) and value.code is VerdictCode.ACCEPT for value in rules.values())
    plane = Plane.PIPE if passing else Plane.NFT
    return Forward(service="", backends=tuple(Backend(*backend) for backend in backends), plane=plane)


def _backend(value: bytes) -> BackendKey:
    size = 16 if len(value) >= 16 else 4
    address = IPv4Address(value[:4]) if size == 4 else IPv6Address(value[:16])
    return address, parse_port(value[size:]) if len(value) > size else 0
