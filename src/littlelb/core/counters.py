"""What the planes count, in one form for all of them: connections, packets and bytes of a frontend and its backends.

A plane fills what it knows: element counters know connections only, conntrack the flows of now, a worker its own bytes.
What nobody counts stays None, which is not the same as zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from littlelb.core.model import Frontend, Ip

BackendKey: TypeAlias = tuple[Ip, int]
"""Address and port of a backend: its weight may change while it counts on. Port 0: behind a range of ports."""


@dataclass(frozen=True, slots=True)
class BackendCounters:
    """One backend of one frontend, or, in a sum, all of a Service."""

    connections: int = 0
    """Begun since the plane started to serve it."""
    active: int | None = None
    """Open now: to a backend that is no longer wanted, those that drain."""
    packets: int | None = None
    """Of the flows that are counted in bytes, both ways."""
    bytes_in: int | None = None
    """From clients."""
    bytes_out: int | None = None
    """To clients."""


@dataclass(frozen=True, slots=True)
class ServiceCounters:
    """One frontend: its own sum, and its backends, with those that it no longer has while flows to them are left."""

    total: BackendCounters = BackendCounters()
    backends: Mapping[BackendKey, BackendCounters] = field(default_factory=dict)


def add(one: BackendCounters, other: BackendCounters) -> BackendCounters:
    """Add two; what neither counts stays None."""
    return BackendCounters(
        one.connections + other.connections,
        _plus(one.active, other.active),
        _plus(one.packets, other.packets),
        _plus(one.bytes_in, other.bytes_in),
        _plus(one.bytes_out, other.bytes_out),
    )


def merge(
    one: Mapping[Frontend, ServiceCounters], other: Mapping[Frontend, ServiceCounters]
) -> dict[Frontend, ServiceCounters]:
    """Add what two planes counted: a frontend that went from one to the other was counted by both."""
    merged = dict(one)
    for frontend, there in other.items():
        here = merged.get(frontend)
        merged[frontend] = there if here is None else _join(here, there)
    return merged


def _join(one: ServiceCounters, other: ServiceCounters) -> ServiceCounters:
    backends = dict(one.backends)
    for key, there in other.backends.items():
        backends[key] = add(backends[key], there) if key in backends else there
    return ServiceCounters(add(one.total, other.total), backends)


def _plus(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return one + other
