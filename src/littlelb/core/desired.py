"""Snapshot → DesiredState: the one function that decides everything, and never acts.

    allocate (global) ──→ decide (each Service by itself) ──→ merge into one mapping for each phase

The decision for one Service depends on that Service, its slices, its allocation and the World only. So when little has
changed, the decisions of the others are taken over from the previous state, and `touched` names what may differ.
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple, TypeVar

from littlelb.core.backends import index_nodes, select_nodes
from littlelb.core.decide import decide
from littlelb.core.ipam.allocation import allocate
from littlelb.core.ipam.cases import Docket
from littlelb.core.model import (
    Announcement,
    Claim,
    Ip,
    Key,
)
from littlelb.core.publication import compute_publication
from littlelb.core.state import Allocation, Decision, DesiredState, Snapshot, Touched, World

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def compute(snapshot: Snapshot, previous: DesiredState | None = None) -> DesiredState:
    """Decide. With `previous`, only what `snapshot.dirty` concerns is decided again; the result is the same."""
    dirty = snapshot.dirty
    if previous is None or previous.world is None or dirty.everything:
        return _compute_all(snapshot, previous)
    again = set(dirty.services | dirty.endpoints)
    allocations, docket, world = previous.allocations, previous.docket, previous.world
    if dirty.services:
        allocations, docket = allocate(snapshot, previous)
        moved = [key for key, value in allocations.items() if _differ(previous.allocations.get(key), value)]
        moved.extend(key for key in previous.allocations if key not in allocations)
        again.update(moved)
        vips = _move_vips(world.vips, moved, previous.allocations, allocations)
        again.update(_with_endpoints_in(vips ^ world.vips, previous.decisions, snapshot))
        world = replace(world, vips=vips)
    fresh = {key: decide(key, snapshot, allocations[key], world) for key in again if key in allocations}
    return _merge(previous, frozenset(again), fresh, _Shared(allocations, docket, world))


def _compute_all(snapshot: Snapshot, previous: DesiredState | None) -> DesiredState:
    """Decide for every Service."""
    allocations, docket = allocate(snapshot)
    nodes = select_nodes(snapshot.nodes, snapshot.settings.node_selector)
    last = previous.world.nodes if previous is not None and previous.world is not None else ()
    world = World(
        settings=snapshot.settings,
        host=snapshot.host,
        nodes=nodes or last,
        node_addresses=index_nodes(nodes or last),
        stale_nodes=not nodes,
        vips=_addresses(allocations.values()),
    )
    fresh = {key: decide(key, snapshot, allocation, world) for key, allocation in allocations.items()}
    shared = _Shared(allocations, docket, world)
    return replace(_merge(DesiredState(), frozenset(fresh), fresh, shared), touched=None)


def _differ(old: Allocation | None, new: Allocation) -> bool:
    """Most are the same object as before: no need to compare ten thousand by value."""
    return old is not new and old != new


def _addresses(allocations: Iterable[Allocation]) -> frozenset[Ip]:
    """All addresses that are given out."""
    return frozenset(frontend.address for allocation in allocations for frontend in allocation.frontends)


def _move_vips(
    vips: frozenset[Ip], moved: Iterable[Key], old: Mapping[Key, Allocation], new: Mapping[Key, Allocation]
) -> frozenset[Ip]:
    """Follow the addresses that are given out; an address that one lets go may be another's too."""
    lost = _addresses(old[key] for key in moved if key in old)
    won = _addresses(new[key] for key in moved if key in new)
    return _addresses(new.values()) if lost - won else vips | won


def _with_endpoints_in(
    addresses: frozenset[Ip], decisions: Mapping[Key, Decision], snapshot: Snapshot
) -> Iterable[Key]:
    """Find the Services that have one of these addresses among their endpoints."""
    numbers = [int(address) for address in addresses]
    for key, decision in decisions.items():
        if decision.span is not None and any(decision.span[0] <= number <= decision.span[1] for number in numbers):
            pieces = snapshot.slices.get(key, ())
            if any(endpoint.address in addresses for piece in pieces for endpoint in piece.endpoints):
                yield key


class _Shared(NamedTuple):
    """What all decisions were made from."""

    allocations: Mapping[Key, Allocation]
    docket: Docket | None
    world: World


def _merge(
    previous: DesiredState, again: frozenset[Key], fresh: Mapping[Key, Decision], shared: _Shared
) -> DesiredState:
    """Replace the decisions of some Services in the mappings of all phases."""
    old = [previous.decisions[key] for key in again if key in previous.decisions]
    new = list(fresh.values())
    addresses = [address for decision in old for address, _ in decision.placements]
    placed = {address: placement for decision in new for address, placement in decision.placements}
    return DesiredState(
        claims=_exchange(previous.claims, again, {d.service: Claim(d.uid) for d in new if d.forwards}),
        forwards=_exchange(
            previous.forwards,
            [frontend for decision in old for frontend, _ in decision.forwards],
            {frontend: forward for decision in new for frontend, forward in decision.forwards},
        ),
        placements=_exchange(previous.placements, addresses, placed),
        announcements=_exchange(
            previous.announcements, addresses, {address: Announcement(p.device) for address, p in placed.items()}
        ),
        publications=_exchange(previous.publications, again, {d.service: compute_publication(d, {}) for d in new}),
        decisions=_exchange(previous.decisions, again, fresh),
        allocations=shared.allocations,
        docket=shared.docket,
        world=shared.world,
        touched=_touched(again, [*old, *new]),
    )


def _exchange(mapping: Mapping[K, V], old: Iterable[K], new: Mapping[K, V]) -> Mapping[K, V]:
    """Take keys out and put others in; without a real change it is the same object, not a copy of ten thousand."""
    gone = [key for key in old if key not in new and key in mapping]
    come = {key: value for key, value in new.items() if mapping.get(key) != value}
    if not gone and not come:
        return mapping
    changed = dict(mapping)
    for key in gone:
        changed.pop(key, None)
    changed.update(come)
    return changed


def _touched(again: frozenset[Key], decisions: Iterable[Decision]) -> Touched:
    """Name every key that an old or a new decision has."""
    decisions = list(decisions)
    return Touched(
        frontends=frozenset(frontend for decision in decisions for frontend, _ in decision.forwards),
        addresses=frozenset(address for decision in decisions for address, _ in decision.placements),
        services=again,
    )
