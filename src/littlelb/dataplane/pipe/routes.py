"""Whom a frontend lets in and which backend is next: pure, from one rule of the wire to a choice per connection.

Round robin begins at an index that differs between workers; weights make it smooth (the backend that is most behind its
share is next, as nginx does). With affinity the order is a rendezvous hash of the client's address, weighted by
-weight / ln(hash) (Schindelhauer and Schomaker 2005): the same in every worker, and a backend that goes moves only its
own clients (not `core.hashing`, whose hash brings 3.6 MB of OpenSSL into each worker). A backend that just failed to
answer is tried last for a while.
"""

from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from math import log
from typing import Final
from zlib import crc32

from littlelb.dataplane.pipe.flow import Backend
from littlelb.dataplane.pipe.wire import Json, WireError, integer, sequence, text

MAX_SECONDS: Final = 10_000_000
MAX_WEIGHT: Final = 1 << 31
_MASK: Final = (1 << 64) - 1


def rendezvous(key: str, weights: Mapping[str, int]) -> list[str]:
    """Return the names in order of preference for `key`; the same in every process (highest random weight)."""
    return sorted(weights, key=lambda name: (_score(key, name, weights[name]), name), reverse=True)


def _score(key: str, name: str, weight: int) -> float:
    """Of all names, each has the highest score for a share of the keys that is its share of the weights."""
    return -weight / log(((_hash(key, name) >> 12) + 0.5) / (1 << 52))  # 52 bits: never 0 nor 1 as a float


def _hash(key: str, name: str) -> int:
    """Two CRCs spread over 64 bits by the finaliser of SplitMix64; CRC alone is linear: names would be tied."""
    mixed = (crc32(key.encode()) << 32 | crc32(name.encode())) + 0x9E3779B97F4A7C15 & _MASK
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _MASK
    return mixed ^ mixed >> 31


class Route:
    """One frontend's rule, ready for use. Raises WireError when the rule is not one."""

    __slots__ = (
        "_affinity",
        "_behind",
        "_names",
        "_next",
        "_ranges",
        "_shares",
        "_suspects",
        "_weights",
        "backends",
        "drain",
        "leaving",
        "rule",
        "size_bytes",
    )

    def __init__(self, rule: Json, start: int = 0) -> None:
        """Take a rule as in `wire`; `start` varies the first backend."""
        self.rule = {name: value for name, value in rule.items() if name not in {"lent", "frontend"}}
        weighted = [_backend(item) for item in sequence(rule.get("backends"))]
        self.backends = tuple(backend for backend, _ in weighted)
        self.size_bytes = 400 + 90 * len(self.backends) + 50 * len(sequence(rule.get("ranges") or []))
        """At most, in an answer that tells this rule or its counters."""
        self.drain = None if rule.get("drain") is None else integer(rule.get("drain"), 0, MAX_SECONDS)
        self.leaving = rule.get("plane") == "nft"
        """New connections belong to the other plane: only what is here already is carried on."""
        self._ranges = _ranges(rule.get("ranges"))
        self._affinity = bool(rule.get("affinity"))
        self._names = {f"{address} {port}": (address, port) for address, port in self.backends}
        self._shares = [weight for _, weight in weighted]
        self._weights = {f"{address} {port}": weight for (address, port), weight in weighted}
        self._next = start
        self._behind = [0] * len(weighted) if len(set(self._shares)) > 1 else []
        """How far each backend is behind its share; empty where all shares are the same."""
        for _ in range(start % len(weighted) if self._behind else 0):
            self._step()
        self._suspects: dict[Backend, float] = {}

    @property
    def needs_client(self) -> bool:
        """Does a choice depend on the client's address?"""
        return self._affinity or self._ranges is not None

    def admits(self, client: bytes) -> bool:
        """May this packed address connect? A family without a range is unrestricted, an empty list admits none."""
        if self._ranges is None:
            return True
        if not self._ranges:
            return False
        mine = [(network, shift) for bits, network, shift in self._ranges if bits == len(client) * 8]
        value = int.from_bytes(client, "big")
        return not mine or any(value >> shift == network for network, shift in mine)

    def choose(self, client: bytes, now: float) -> Backend | None:
        """Return the backend of a new connection."""
        if self._affinity or self._suspects:
            return next(iter(self.order(client, now)), None)
        if not self.backends:
            return None
        self._step()
        return self.backends[self._next]

    def _step(self) -> None:
        """Go on to the next backend in turn: smoothly where weights differ."""
        if not self._behind:
            self._next = (self._next + 1) % max(len(self.backends), 1)
            return
        self._behind = [behind + share for behind, share in zip(self._behind, self._shares, strict=True)]
        self._next = self._behind.index(max(self._behind))
        self._behind[self._next] -= sum(self._shares)

    def order(self, client: bytes, now: float) -> list[Backend]:
        """Return all backends, best first; those that failed lately come last. Steps the round robin on."""
        if self._affinity:
            ordered = [self._names[name] for name in rendezvous(client.hex(), self._weights)]
        else:
            self._step()
            ordered = [*self.backends[self._next :], *self.backends[: self._next]]
        self._suspects = {backend: until for backend, until in self._suspects.items() if until > now}
        return sorted(ordered, key=self._suspects.__contains__) if self._suspects else ordered

    def suspect(self, backend: Backend, until: float) -> None:
        """Prefer others until then."""
        if backend in self.backends:
            self._suspects[backend] = until


class Tally:
    """What one frontend, or one backend of it, has seen."""

    __slots__ = ("accepted", "active", "failed", "moved")

    def __init__(self) -> None:
        """Start at zero."""
        self.accepted = self.active = self.failed = 0
        self.moved = [0, 0]
        """Bytes from clients, bytes from backends, of connections that have ended."""


def _backend(item: object) -> tuple[Backend, int]:
    """Read `[address, port, weight, …]` → (backend, weight)."""
    match sequence(item):
        case [address, port, weight, *_]:
            return (_address(address), integer(port, 1, 65535)), integer(weight, 1, MAX_WEIGHT)
        case [address, port]:
            return (_address(address), integer(port, 1, 65535)), 1
        case _:
            raise WireError(f"{item!r:.80} is not a backend")


def _address(value: object) -> str:
    try:
        return str(ip_address(text(value)))
    except ValueError as error:
        raise WireError(str(error)) from error


def _ranges(value: object) -> list[tuple[int, int, int]] | None:
    """Return (bits of the family, network >> shift, shift) for each range."""
    if value is None:
        return None
    ranges: list[tuple[int, int, int]] = []
    for item in sequence(value):
        try:
            network = ip_network(text(item))
        except ValueError as error:
            raise WireError(str(error)) from error
        shift = network.max_prefixlen - network.prefixlen
        ranges.append((network.max_prefixlen, int(network.network_address) >> shift, shift))
    return ranges


def parse_frontend(value: object) -> tuple[str, Backend]:
    """Read `TCP 192.0.2.7 80` → (the same in canonical form, (address, port)). Raises WireError."""
    match text(value).split(" "):
        case ["TCP", address, port] if port.isascii() and port.isdigit():
            where = (_address(address), integer(int(port), 1, 65535))
            return f"TCP {where[0]} {where[1]}", where
        case _:
            raise WireError(f"{value!r:.80} is not a frontend")
