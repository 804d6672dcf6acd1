"""Opens each Service's case, judged alone, and reopens those that something new concerns: never all for one's sake.

    Service, grant, conflict, node, listener changed ─→ cases reopened ─→ with all who want the same: a dispute

Whoever is in no dispute gets what it got before: two cases that have no thing in common, not even through others,
cannot make a difference to each other.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple, TypeAlias

from littlelb.core.immutable.index import Index, reindex
from littlelb.core.immutable.layered import Layered
from littlelb.core.ipam.addressing import default_address, judge_address
from littlelb.core.ipam.cases import Age, Case, Docket, Thing
from littlelb.core.ipam.cluster import ClusterAddresses, Moved, follow_nodes, follow_services, index_cluster
from littlelb.core.ipam.ports import frontends_on, parse_port_ranges
from littlelb.core.ipam.requests import judge_annotations, parse_request, selects
from littlelb.core.model import Family, Frontend, Grant, Ip, Key, Service
from littlelb.core.reasons import Reason, Refusal
from littlelb.core.state import DefaultAddress, Snapshot

NO_GRANT = Grant(frozenset(), 0.0)


def open_docket(snapshot: Snapshot) -> Docket:
    """Open the case of every Service that is ours, oldest first."""
    cluster = index_cluster(snapshot.services, snapshot.nodes)
    opened = [_open_case(s, cluster, snapshot) for s in snapshot.services.values() if selects(s, snapshot.settings)]
    cases = {case.service.key: case for case in sorted(opened, key=lambda case: case.age)}
    shared = frozenset(find_defaults(tuple(Family), snapshot))
    none: Index[Thing] = Layered()
    return Docket(
        cases=Layered(cases),
        contenders=reindex(none, (), _pairs(cases.keys(), cases, shared)),
        shared=shared,
        cluster=cluster,
        services=snapshot.services,
        listeners=snapshot.host.listeners,
    )


class Reopened(NamedTuple):
    """The next docket, and the keys whose case is another one now, or is closed."""

    docket: Docket
    keys: frozenset[Key]


def reopen_docket(snapshot: Snapshot, last: Docket) -> Reopened:
    """Follow what is dirty."""
    dirty = snapshot.dirty
    cluster, moved = follow_services(last.cluster, last.services, snapshot.services, dirty.services)
    again = {*dirty.services, *_contenders(last, moved.addresses | dirty.conflicts)}
    if dirty.nodes:
        cluster, moved = follow_nodes(cluster, snapshot.nodes)
        again.update(_contenders(last, moved.addresses), _in_networks(last, moved))
    if dirty.listeners:
        again.update(_listened(last, snapshot))
    fresh: dict[Key, Case | None] = {key: _reopen(key, cluster, snapshot) for key in again}
    for key in dirty.grants - again:
        if key in last.cases:
            fresh[key] = _regrant(last.cases[key], snapshot)
    open_now = {key: case for key, case in fresh.items() if case is not None}
    closed = [key for key, case in fresh.items() if case is None and key in last.cases]
    changed = frozenset((*open_now, *closed))
    docket = Docket(
        cases=last.cases.changed(open_now, closed),
        contenders=_follow_contenders(changed, open_now, last),
        shared=last.shared,
        cluster=cluster,
        services=snapshot.services,
        listeners=snapshot.host.listeners,
    )
    return Reopened(docket, changed)


def find_dispute(keys: Iterable[Key], docket: Docket, last: Docket) -> set[Key]:
    """Find all who have a thing in common with one of these Services, now or before, directly or through others."""
    found = set(keys)
    left = list(found)
    while left:
        key = left.pop()
        for thing, _ in (*_pairs((key,), docket.cases, docket.shared), *_pairs((key,), last.cases, docket.shared)):
            rivals = docket.contenders.get(thing, ())
            left.extend(rival for rival in rivals if rival not in found)
            found.update(rivals)
    return found


def is_alone(key: Key, docket: Docket) -> bool:
    """Does nobody else ask for any of its things?"""
    return all(docket.contenders.get(thing) == (key,) for thing, _ in _pairs((key,), docket.cases, docket.shared))


def find_defaults(families: tuple[Family, ...], snapshot: Snapshot) -> tuple[Ip, ...]:
    """Find the device's default addresses of some families."""
    found = (default_address(snapshot.host, family) for family in families)
    return tuple(address for address in found if address is not None)


# --- who meets whom --------------------------------------------------------------------------------------------------


def _pairs(keys: Iterable[Key], cases: Mapping[Key, Case], shared: frozenset[Ip]) -> Iterator[tuple[Thing, Key]]:
    """Pair Services with all things that they could have."""
    for key in keys:
        case = cases.get(key)
        if case is not None:
            for thing in _things(case, shared):
                yield thing, key


def _things(case: Case, shared: frozenset[Ip]) -> Iterator[Thing]:
    """Name the addresses of a case; of shared ones the ports, those that it holds and those that it asks for."""
    for address in {*case.asked, *case.wants, *case.held}:
        if address not in shared:
            yield address
            continue
        for frontend in {*case.grant.frontends, *frontends_on(case.service, address)}:
            if frontend.address == address:
                yield from _single_ports(frontend)


def _single_ports(frontend: Frontend) -> Iterator[Frontend]:
    """Take a range of ports apart: it meets everybody who has one of them."""
    if not frontend.last_port:
        yield frontend
        return
    for port in range(frontend.port, frontend.last_port + 1):
        yield Frontend(frontend.address, frontend.protocol, port)


def _follow_contenders(changed: Iterable[Key], fresh: Mapping[Key, Case], last: Docket) -> Index[Thing]:
    """Bring the index up to date; most cases go on asking for the same."""
    gone: list[tuple[Thing, Key]] = []
    come: list[tuple[Thing, Key]] = []
    for key in changed:
        before, after = set(_pairs((key,), last.cases, last.shared)), set(_pairs((key,), fresh, last.shared))
        gone.extend(before - after)
        come.extend(after - before)
    return reindex(last.contenders, gone, come)


def _contenders(last: Docket, addresses: Iterable[Ip]) -> Iterator[Key]:
    """Find who asks for one of these addresses."""
    for address in addresses:
        yield from last.contenders.get(address, ())


def _in_networks(last: Docket, moved: Moved) -> Iterator[Key]:
    """Find who asks for an address in a network that another node has now."""
    if moved.networks:
        for thing, keys in last.contenders.items():
            if not isinstance(thing, Frontend) and moved.concerns(thing):
                yield from keys


def _listened(last: Docket, snapshot: Snapshot) -> Iterator[Key]:
    """Find who has a port on which this host began or ceased to listen."""
    news = {(one.protocol, one.port) for one in set(last.listeners) ^ set(snapshot.host.listeners)}
    for key, case in last.cases.items():
        for frontend in (one for ip in (*case.wants, *case.held)[:1] for one in frontends_on(case.service, ip)):
            ports = range(frontend.port, max(frontend.port, frontend.last_port) + 1)
            if any(protocol is frontend.protocol and port in ports for protocol, port in news):
                yield key
                break


# --- one case --------------------------------------------------------------------------------------------------------


def _reopen(key: Key, cluster: ClusterAddresses, snapshot: Snapshot) -> Case | None:
    """Open a case anew, if the Service is still there and ours."""
    service = snapshot.services.get(key)
    if service is None or not selects(service, snapshot.settings):
        return None
    return _open_case(service, cluster, snapshot)


def _open_case(service: Service, cluster: ClusterAddresses, snapshot: Snapshot) -> Case:
    """Read the request and judge what can be judged without looking at other Services."""
    asked, wants, refusals = _judge_request(service, cluster, snapshot)
    empty = Case(service, _age(service, snapshot), NO_GRANT, NO_GRANT, asked, wants, refusals, held=(), settled=False)
    return _regrant(empty, snapshot)


def _regrant(case: Case, snapshot: Snapshot) -> Case:
    """Enter what it holds now."""
    granted = snapshot.grants.get(case.service.key, NO_GRANT)
    if granted is case.granted:
        return case
    grant = _give_back(granted, case.wants, snapshot)
    held = grant.addresses
    return Case(
        service=case.service,
        age=case.age,
        granted=granted,
        grant=grant,
        asked=case.asked,
        wants=case.wants,
        refusals=case.refusals,
        held=tuple(sorted(held, key=lambda ip: (ip.version, int(ip)))),
        settled=bool(case.wants) and held.issuperset(case.wants),
    )


def _give_back(grant: Grant, wants: tuple[Ip, ...], snapshot: Snapshot) -> Grant:
    """Forget borrowed addresses that the host has no more: keeping one would mean to put it on the device again."""
    lost = grant.borrowed.difference(snapshot.host.own, wants)
    if not lost:
        return grant
    return replace(grant, frontends=frozenset(f for f in grant.frontends if f.address not in lost))


def _age(service: Service, snapshot: Snapshot) -> Age:
    """Say how old a Service is, in a form that orders them."""
    if service.created is not None:
        return service.created, 0, service.uid, service.key
    return float("inf"), snapshot.seen.get(service.key, 0), "", service.key


Judged: TypeAlias = tuple[tuple[Ip, ...], tuple[Ip, ...], tuple[Refusal, ...]]
"""Addresses asked for by name, those that it may want, and what is wrong."""


def _judge_request(service: Service, cluster: ClusterAddresses, snapshot: Snapshot) -> Judged:
    """Judge one Service's request."""
    if service.fault:
        return (), (), (Refusal(Reason.INVALID_SERVICE, f"the object cannot be understood: {service.fault}"),)
    refusals, _ = judge_annotations(service)
    ranges = parse_port_ranges(service)
    if isinstance(ranges, Refusal):
        refusals = (*refusals, ranges)
    request = parse_request(service)
    if refusals or request.refusals:
        return (), (), refusals + request.refusals
    if not request.addresses:
        return _judge_default(service, snapshot)
    judged = {address: judge_address(address, cluster, snapshot) for address in request.addresses}
    good = tuple(address for address, refusal in judged.items() if refusal is None)
    return request.addresses, good, tuple(refusal for refusal in judged.values() if refusal is not None)


def _judge_default(service: Service, snapshot: Snapshot) -> Judged:
    """No address asked for: the device's own, of each family that the Service has."""
    if snapshot.settings.default_address is DefaultAddress.REFUSE:
        message = "no address was asked for, and --default-address=refuse: set spec.loadBalancerIP"
        return (), (), (Refusal(Reason.NO_DEFAULT_ADDRESS, message),)
    families = service.ip_families or tuple(Family)
    found = find_defaults(families, snapshot)
    if not service.ip_families:
        found = found[:1]  # SingleStack, as the API server would have chosen (KEP-563)
    if not found:
        message = (
            f"device {snapshot.host.device} has no {' or '.join(families)} address of its own to share: "
            "set spec.loadBalancerIP, or give the device an address"
        )
        return (), (), (Refusal(Reason.NO_DEFAULT_ADDRESS, message),)
    return (), found, ()
