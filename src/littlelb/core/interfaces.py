"""The seams: what the loop asks of the rooms that act. `control` meets adapters through these Protocols only."""

from collections.abc import Hashable, Mapping
from enum import IntEnum
from typing import Protocol, TypeVar

from littlelb.core.model import Ip
from littlelb.core.plan import Changes, Failure
from littlelb.core.state import DesiredState

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Phase(IntEnum):
    """Bring-up runs upwards, tear-down downwards."""

    CLAIM = 0
    """The finalizer goes on before anything else and comes off after everything else (docs/decisions/0005)."""
    FORWARD = 1
    ADDRESS = 2
    ANNOUNCE = 3
    PUBLISH = 4


class Target(Protocol[K, V]):
    """One kind of thing in the world that the loop keeps as it should be.

    K is what names one of them (Frontend, Ip, Service key), V is what is wanted of it; V compares by value.
    """

    @property
    def phase(self) -> Phase:
        """Where in the order it stands."""
        ...

    def wanted(self, state: DesiredState) -> Mapping[K, V]:
        """Select this target's part of the desired state. Pure, and O(1): no copying."""
        ...

    async def observe(self, keys: frozenset[K] | None) -> Mapping[K, V]:
        """Read what is there and bears our mark.

        `keys` None: read the world, never belief. Otherwise only those keys matter, and the answer may come from what
        was last applied. Raises `Transient` or `Permanent`.
        """
        ...

    async def apply(self, changes: Changes[K, V]) -> Mapping[K, Failure]:
        """Make the changes; return the keys that failed, and why. Never raises for a world that said no."""
        ...


class Keyed(Protocol):
    """An object of a source: a Service, an EndpointSlice or a Node."""

    @property
    def key(self) -> str:
        """`namespace/name`, or the name where there is no namespace."""
        ...


T_contra = TypeVar("T_contra", contravariant=True)


class Sink(Protocol[T_contra]):
    """The store, as a source of one kind of object (Service, EndpointSlice, Node) sees it; never raises or blocks."""

    def upsert(self, item: T_contra) -> None:
        """Take an object that is new, or that may have changed."""
        ...

    def remove(self, key: str) -> None:
        """Forget the object with this key, if it is known."""
        ...

    def retain(self, keys: frozenset[str]) -> None:
        """End of a complete list: forget every object whose key is not in `keys`; the kind now counts as listed."""
        ...


class Clock(Protocol):
    """Time, so that tests can own it."""

    def now(self) -> float:
        """Seconds since the epoch, for people."""
        ...

    def monotonic(self) -> float:
        """Seconds of a clock that never steps, for intervals."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


class Prober(Protocol):
    """Asks the LAN whether an address is free (RFC 5227 section 2.1.1, RFC 4862 section 5.4)."""

    async def probe(self, device: str, addresses: frozenset[Ip]) -> Mapping[Ip, str]:
        """Return those that another machine has → its MAC address as text. All are asked at the same time (600 ms)."""
        ...
