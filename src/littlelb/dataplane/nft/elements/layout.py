"""Frontend and Forward → the elements of our maps: which stages a packet passes, which class, and its slots.

    services ─→ class ─→ slot ─→ backend                          no stage is needed
    staged: guarded, mixed, sticky or sticky_keep; classes ─→ class        (of ranges: all with `range_`, and `ranges`)

    guarded     source ranges, those in `allowed`
    mixed       some of the backends see the client's address, those in `kept`
    sticky      IPv4 affinity; sticky_keep: and all backends see the client's address
    class       random, hash: slots 0 to N-1, one for each backend in the order of address and port; where there are
                more than 64, or weights, a Maglev table. client: IPv6 affinity, always a Maglev table

A backend that comes or goes moves those behind it by one slot: connections do not notice, for a slot is only asked for
on their first packet. What is written depends on the set of backends alone, not on their order or on what was there
before: another machine with the same objects has the same slots.
"""

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Network, collapse_addresses
from typing import Final, TypeAlias

from littlelb.core.hashing import TABLE_SIZES, maglev, maglev_size
from littlelb.core.model import Backend, Forward, Frontend, Net, Plane, Protocol
from littlelb.core.plan import Failure, Severity
from littlelb.core.reasons import Reason
from littlelb.dataplane.netfilter.keys import address_field, number_field, port_field, protocol_field
from littlelb.dataplane.netfilter.sets import Verdict, VerdictCode, goto
from littlelb.dataplane.nft.ruleset import EXACT, entry_map

Place: TypeAlias = tuple[str, bytes, bytes | None]
"""Name of the set, key, and for intervals the last key."""
Value: TypeAlias = bytes | Verdict | None
"""None: the set is no map."""
Rules: TypeAlias = Mapping[Place, Value]

NUMBERS: Final = {Protocol.TCP: 6, Protocol.UDP: 17}
"""Protocols that this plane carries, and their numbers."""
_ACCEPT: Final = Verdict(VerdictCode.ACCEPT)
_DROP: Final = Verdict(VerdictCode.DROP)


def judge(frontend: Frontend, forward: Forward) -> Failure | None:
    """Say why these cannot be elements of our maps; None: they can."""
    if frontend.protocol not in NUMBERS:
        return _failure(f"{frontend}: the kernel plane carries TCP and UDP only")
    if forward.plane is Plane.PIPE:
        return None
    version = frontend.address.version
    foreign = [backend.address for backend in forward.backends if backend.address.version != version]
    if foreign:
        return _failure(f"{frontend}: the kernel cannot forward IPv{version} to {foreign[0]}")
    if len(forward.backends) > TABLE_SIZES[-1]:
        return _failure(f"{len(forward.backends)} backends are more than the kernel plane's {TABLE_SIZES[-1]} slots")
    return None


def _failure(message: str) -> Failure:
    return Failure(Reason.FAILED, message, Severity.PERMANENT)


def render_rules(frontend: Frontend, forward: Forward) -> Rules:
    """Return the elements of one frontend, all but those of its address. `judge` has nothing against them."""
    return _Writer(frontend, forward).rules()


def frontend_fields(frontend: Frontend) -> tuple[bytes, bytes | None]:
    """`daddr . l4proto . dport` as key, and as last key where it is a range of ports."""
    head = address_field(frontend.address) + protocol_field(NUMBERS[frontend.protocol])
    last = head + port_field(frontend.last_port) if frontend.last_port else None
    return head + port_field(frontend.port), last


def backend_fields(backend: Backend) -> bytes:
    """`daddr . dport` of a backend, as value of a slot and of a remembered client."""
    return address_field(backend.address) + port_field(backend.port)


def select_ranges(ranges: tuple[Net, ...] | None, version: int) -> tuple[Net, ...] | None:
    """Source ranges of one family, merged; None: everybody; empty: nobody."""
    if ranges is None or not ranges:
        return ranges
    own = [network for network in ranges if network.version == version]
    if not own or any(network.prefixlen == 0 for network in own):
        return None
    return _merge(own)


def _merge(networks: Iterable[Net]) -> tuple[Net, ...]:
    four = [network for network in networks if isinstance(network, IPv4Network)]
    six = [network for network in networks if isinstance(network, IPv6Network)]
    return (*collapse_addresses(four), *collapse_addresses(six))


class _Writer:
    """Writes the elements of one frontend."""

    def __init__(self, frontend: Frontend, forward: Forward) -> None:
        self._forward = forward
        self._number = 4 if isinstance(frontend.address, IPv4Address) else 6
        self._prefix, self._kind = ("range_", "-range") if frontend.last_port else ("", "")
        self._key, self._last = frontend_fields(frontend)
        self._ranges = select_ranges(forward.source_ranges, self._number)
        self._backends = sorted(forward.backends, key=lambda backend: (backend.address, backend.port))

    def rules(self) -> Rules:
        rules: dict[Place, Value] = {}
        if not self._is_served():
            rules[self._place(entry_map(self._prefix))] = self._refusal()
        else:
            stages = self._stages()
            for name in ["staged", *stages] if stages else []:
                rules[self._place(f"{self._prefix}{name}")] = None
            entry = "classes" if stages and not self._prefix else entry_map(self._prefix)
            rules[self._place(entry)] = goto(f"{self._class()}{self._kind}{self._number}-{self._size()}")
            rules.update(self._slots())
            rules.update(self._sources())
            if self._is_sticky():
                chain = f"remember-{self._forward.affinity_seconds}"
                rules[self._place(f"{self._prefix}remember")] = Verdict(VerdictCode.JUMP, chain)
        if self._forward.from_link_only and self._forward.plane is not Plane.PIPE:
            rules[self._place(f"{self._prefix}link_only")] = None
        return rules

    def _is_served(self) -> bool:
        return self._forward.plane is not Plane.PIPE and bool(self._backends) and self._ranges != ()

    def _is_sticky(self) -> bool:
        return self._number == 4 and self._forward.affinity_seconds > 0

    def _place(self, name: str, more: bytes = b"", more_last: bytes | None = None) -> Place:
        """Where an element is that begins with the frontend; an interval if the frontend or what follows is one."""
        if self._last is None and more_last is None:
            return f"{name}{self._number}", self._key + more, None
        return f"{name}{self._number}", self._key + more, (self._last or self._key) + (more_last or more)

    def _refusal(self) -> Verdict:
        """What becomes of a packet that no slot is looked up for."""
        if self._forward.plane is Plane.PIPE:
            return _ACCEPT
        return _DROP if self._backends else goto(f"refuse{self._number}")

    def _stages(self) -> list[str]:
        """What has to be asked before the class."""
        sticky = "sticky_keep" if self._keeps() == "all" else "sticky"
        stages = (
            (self._ranges is not None, "guarded"),
            (self._keeps() == "some", "mixed"),
            (self._is_sticky(), sticky),
        )
        return [name for needed, name in stages if needed]

    def _keeps(self) -> str:
        """How many of the backends see the client's address: all, some, none."""
        keeping = sum(backend.keeps_source for backend in self._backends)
        return "none" if not keeping else "all" if keeping == len(self._backends) else "some"

    def _class(self) -> str:
        keeps = self._keeps() == "all"
        if self._forward.affinity_seconds and self._number == 6:
            return "client-keep" if keeps else "client"
        return "hash" if keeps else "random"

    def _size(self) -> int:
        return len(self._backends) if self._is_exact() else maglev_size(self._weights())

    def _weights(self) -> tuple[int, ...]:
        return tuple(backend.weight for backend in self._backends)

    def _is_exact(self) -> bool:
        by_client = self._number == 6 and self._forward.affinity_seconds
        return not by_client and len(self._backends) <= EXACT and len(set(self._weights())) == 1

    def _slots(self) -> Iterator[tuple[Place, Value]]:
        values = [
            address_field(backend.address) if self._prefix else backend_fields(backend) for backend in self._backends
        ]
        table: Iterable[int] = range(len(values))
        if not self._is_exact():
            names = tuple((f"{backend.address} {backend.port}", backend.weight) for backend in self._backends)
            table = _table(names, self._size())
        for slot, index in enumerate(table):
            # nft compares intervals byte by byte from the left: there it turns numbers round before the lookup (hton)
            field = slot.to_bytes(4) if self._prefix else number_field(slot)
            yield self._place(f"{self._prefix}slots", field), values[index]

    def _sources(self) -> Iterator[tuple[Place, Value]]:
        """Who may come, and for which backends their addresses are kept."""
        for network in self._ranges or ():
            first, last = network.network_address.packed, network.broadcast_address.packed
            yield self._place("allowed", first, last), None
        if self._keeps() == "some":
            for address in {backend.address for backend in self._backends if backend.keeps_source}:
                yield self._place(f"{self._prefix}kept", address_field(address)), None


@lru_cache(maxsize=64)
def _table(names: tuple[tuple[str, int], ...], size: int) -> tuple[int, ...]:
    """Remember some Maglev tables: a change needs the one before it and the one after it."""
    return tuple(maglev(names, size))
