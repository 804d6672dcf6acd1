"""Snapshot → DesiredState: the one function that decides everything, and never acts.

    allocate (global) ──→ decide (each Service by itself) ──→ merge into one mapping for each phase

The decision for one Service depends on that Service, its slices, its allocation and the World only. So when little has
changed, the decisions of the others are taken over from the previous state, and `touched` names what may differ.
"""

from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple, TypeVar

from littlelb.core.immutable.index import Index, reindex
from littlelb.core.immutable.layered import Layered, as_layered
from littlelb.core.ipam.allocation import allocate
from littlelb.core.ipam.cases import Docket
from littlelb.core.model import Announcement, Claim, Ip, Key
from littlelb.core.publication import compute_publication
from littlelb.core.serving.decide import decide
from littlelb.core.serving.nodes import index_nodes, select_nodes
from littlelb.core.serving.weights import index_weights
from littlelb.core.state import Allocation, Decision, DesiredState, Snapshot, Touched, World

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def compute(snapshot: Snapshot, previous: DesiredState | None = None) -> DesiredState:
    """Decide. With `previous`, only what `snapshot.dirty` concerns is decided again; the result is the same."""
    dirty = snapshot.dirty
    if previous is None or previous.world is None or dirty.everything:
        return _compute_all(snapshot, previous)
    allocations, docket, moved = allocate(snapshot, previous)
    holders = _move_holders(previous.holders, moved, previous.allocations, allocations)
    again = {*dirty.services, *dirty.endpoints, *moved}
    if holders is not previous.holders:
        given = {ip for key in moved for ip in (*_addresses(previous.allocations, key), *_addresses(allocations, key))}
        vips = [address for address in given if (address in holders) is not (address in previous.holders)]
        again.update(_with_endpoints_in(vips, previous.decisions, snapshot))
    world = replace(previous.world, host=snapshot.host, vips=holders)
    if dirty.nodes:
        world = _look_around(snapshot, holders, previous.world)
        again.update(_concerned_by_nodes(previous.world, world, previous.decisions))
    fresh = {key: decide(key, snapshot, allocations[key], world) for key in again if key in allocations}
    return _merge(previous, frozenset(again), fresh, _Shared(allocations, holders, docket, world))


def _compute_all(snapshot: Snapshot, previous: DesiredState | None) -> DesiredState:
    """Decide for every Service."""
    allocations, docket, moved = allocate(snapshot)
    holders = _move_holders(Layered(), moved, {}, allocations)
    world = _look_around(snapshot, holders, previous.world if previous is not None else None)
    fresh = {key: decide(key, snapshot, allocation, world) for key, allocation in allocations.items()}
    shared = _Shared(allocations, holders, docket, world)
    return replace(_merge(DesiredState(), frozenset(fresh), fresh, shared), touched=None)


def _look_around(snapshot: Snapshot, holders: Index[Ip], last: World | None) -> World:
    """Collect what all decisions share; when no node is usable now, the last ones that were stay."""
    usable = select_nodes(snapshot.nodes, snapshot.settings.node_selector)
    nodes = usable or (last.nodes if last is not None else ())
    return World(
        settings=snapshot.settings,
        host=snapshot.host,
        nodes=nodes,
        node_addresses=index_nodes(nodes),
        stale_nodes=not usable,
        vips=holders,
        node_weights=index_weights(snapshot.nodes.values()),
    )


def _addresses(allocations: Mapping[Key, Allocation], key: Key) -> frozenset[Ip]:
    """Name the addresses that one Service is given."""
    given = allocations.get(key)
    return frozenset(frontend.address for frontend in given.frontends) if given is not None else frozenset()


def _move_holders(
    holders: Index[Ip], moved: Iterable[Key], old: Mapping[Key, Allocation], new: Mapping[Key, Allocation]
) -> Index[Ip]:
    """Follow who was given which address; an address that one lets go may be another's too."""
    moves = [(key, _addresses(old, key), _addresses(new, key)) for key in moved]
    gone = [(address, key) for key, before, after in moves for address in before - after]
    come = [(address, key) for key, before, after in moves for address in after - before]
    return reindex(holders, gone, come)


def _concerned_by_nodes(old: World, new: World, decisions: Mapping[Key, Decision]) -> Iterable[Key]:
    """Find the Services whose backends may change with the nodes; of a node that only goes, those that it serves."""
    if old.node_weights != new.node_weights:
        yield from decisions
        return
    before, after = set(_reached(old)), set(_reached(new))
    if before == after and old.stale_nodes is new.stale_nodes:
        return
    lost = frozenset(address for _, address in before - after)
    only_lost = after <= before and old.stale_nodes is new.stale_nodes
    for key, decision in decisions.items():
        if decision.by_nodes and not (only_lost and _backends(decision).isdisjoint(lost)):
            yield key


def _reached(world: World) -> Iterator[tuple[str, Ip]]:
    """Pair the names of nodes with their addresses."""
    for nodes in world.node_addresses.values():
        yield from nodes.items()


def _backends(decision: Decision) -> frozenset[Ip]:
    """Name the addresses of all backends."""
    return frozenset(backend.address for _, forward in decision.forwards for backend in forward.backends)


def _with_endpoints_in(
    addresses: Collection[Ip], decisions: Mapping[Key, Decision], snapshot: Snapshot
) -> Iterable[Key]:
    """Find the Services that have one of these addresses among their endpoints."""
    numbers = sorted(int(address) for address in addresses)
    if not numbers:
        return
    for key, decision in decisions.items():
        span = decision.span
        if span is None or span[1] < numbers[0] or span[0] > numbers[-1]:
            continue
        pieces = snapshot.slices.get(key, ())
        if any(endpoint.address in addresses for piece in pieces for endpoint in piece.endpoints):
            yield key


class _Shared(NamedTuple):
    """What all decisions were made from."""

    allocations: Layered[Key, Allocation]
    holders: Index[Ip]
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
        holders=shared.holders,
        docket=shared.docket,
        world=shared.world,
        touched=_touched(again, [*old, *new]),
    )


def _exchange(mapping: Mapping[K, V], old: Iterable[K], new: Mapping[K, V]) -> Mapping[K, V]:
    """Take keys out and put others in; what is equal stays the same object."""
    layered = as_layered(mapping)
    if not layered:
        return Layered(new)
    come = {key: value for key, value in new.items() if layered.get(key) != value}
    return layered.changed(come, [key for key in old if key not in new])


def _touched(again: frozenset[Key], decisions: Iterable[Decision]) -> Touched:
    """Name every key that an old or a new decision has."""
    decisions = list(decisions)
    return Touched(
        frontends=frozenset(frontend for decision in decisions for frontend, _ in decision.forwards),
        addresses=frozenset(address for decision in decisions for address, _ in decision.placements),
        services=again,
    )
