"""What allocation takes over from one run to the next: each Service's case, judged alone, and who meets whom."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from littlelb.core.immutable.index import Index
from littlelb.core.immutable.layered import Layered
from littlelb.core.ipam.cluster import ClusterAddresses
from littlelb.core.model import Frontend, Grant, Ip, Key, Listener, Service
from littlelb.core.reasons import Refusal

Age: TypeAlias = tuple[float, int, str, str]
"""creationTimestamp, order of first sight, uid, key: the smaller, the older."""
Thing: TypeAlias = Ip | Frontend
"""What two Services cannot both have: an address, or one port of an address that they share."""


@dataclass(frozen=True, slots=True)
class Case:
    """One Service before the court: what it wants, what it holds, what is wrong with the request itself."""

    service: Service
    age: Age
    granted: Grant
    """As the store has it."""
    grant: Grant
    """Less what it cannot keep."""
    asked: tuple[Ip, ...]
    """Addresses asked for by name, good or bad."""
    wants: tuple[Ip, ...]
    refusals: tuple[Refusal, ...]
    held: tuple[Ip, ...]
    """Addresses it holds, in a stable order."""
    settled: bool
    """Has it got all it wants? Then it lets go of everything else."""


@dataclass(frozen=True, slots=True)
class Docket:
    """All cases, and what they were judged with."""

    cases: Layered[Key, Case]
    contenders: Index[Thing]
    """Thing → Services that ask for it, good or bad, or hold it."""
    shared: frozenset[Ip]
    """The device's default addresses: everybody may have a port of them."""
    cluster: ClusterAddresses
    services: Mapping[Key, Service]
    """All there were, ours or not."""
    listeners: tuple[Listener, ...]
