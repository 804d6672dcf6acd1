"""Which remembered clients must be forgotten: those of a backend that is gone, or of a frontend that no longer asks."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from littlelb.dataplane.netfilter.keys import parse_port
from littlelb.dataplane.netfilter.sets import Element
from littlelb.dataplane.nft.elements.layout import Rules, frontend_fields
from littlelb.dataplane.nft.elements.transitions import Step, select_backends


@dataclass(frozen=True, slots=True)
class Purge:
    """One frontend whose clients may go on only to the backends that are left."""

    head: bytes
    """Address and protocol."""
    first: int
    last: int
    """Ports."""
    kept: frozenset[bytes]
    """Addresses of backends, and ports but behind a range of ports."""


def compute_purges(steps: Iterable[Step]) -> list[Purge]:
    """Return what a transaction makes of the clients that are remembered."""
    return [_purge(step) for step in steps if _is_sticky(step.old) and _kept(step) != select_backends(step.old)]


def _is_sticky(rules: Rules) -> bool:
    return any(place[0] in {"remember4", "range_remember4"} for place in rules)


def _kept(step: Step) -> frozenset[tuple[object, int]]:
    return frozenset(select_backends(step.new) & select_backends(step.old)) if _is_sticky(step.new) else frozenset()


def _purge(step: Step) -> Purge:
    key, _ = frontend_fields(step.frontend)
    ports = step.frontend.port, step.frontend.last_port or step.frontend.port
    sticky = _is_sticky(step.new)
    kept = {value for place, value in step.new.items() if isinstance(value, bytes) and "slots" in place[0]}
    return Purge(key[:8], *ports, frozenset(kept if sticky else ()))


def select_stale(elements: Iterable[Element], purges: Sequence[Purge]) -> Iterator[Element]:
    """Select elements of `affinity4` (client . frontend → backend)."""
    by_head: dict[bytes, list[Purge]] = {}
    for purge in purges:
        by_head.setdefault(purge.head, []).append(purge)
    for element in elements:
        port = parse_port(element.key[12:])
        for purge in by_head.get(element.key[4:12], ()):
            if purge.first <= port <= purge.last and not _goes_on(element.data, purge):
                yield element


def _goes_on(data: object, purge: Purge) -> bool:
    return isinstance(data, bytes) and (data in purge.kept or data[:4] in purge.kept)
