"""Who gets which address: requests and what is already held → allocations or refusals. Global, and without memory.

    1. who holds something keeps it, while it asks for it or waits for something else   (incumbents first)
    2. the others in order of age: creationTimestamp, then uid; without one, first sight, then namespace/name
    3. an address asked for by name belongs to one Service; the device's default address is shared, port by port

An address that a Service asks for newly is served beside the old one until it has been granted (make before break); if
it is refused, the old one stays. Two Services that want each other's address are both refused until one lets go.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import NamedTuple, TypeAlias

from littlelb.core.ipam.addressing import default_address, index_cluster, judge_address, notices_for
from littlelb.core.ipam.cases import Age, Case, ClusterAddresses, Docket
from littlelb.core.ipam.requests import judge_annotations, parse_address, parse_request, quote, selects
from littlelb.core.model import Family, Frontend, Grant, Ip, Key, Listener, Service
from littlelb.core.planes import FORWARDED, choose_plane
from littlelb.core.reasons import Notice, Reason, Refusal
from littlelb.core.state import Allocation, DefaultAddress, DesiredState, Snapshot

NO_GRANT = Grant(frozenset(), 0.0)


@dataclass(slots=True)
class _Books:
    """What has been given out so far in one run of `allocate`."""

    owners: dict[Ip, Key] = field(default_factory=dict)
    """Addresses that belong to one Service."""
    ports: dict[Frontend, Key] = field(default_factory=dict)
    """Frontends on shared addresses."""


class Allotment(NamedTuple):
    """What one run gives out, and what the next one need not look at again."""

    allocations: dict[Key, Allocation]
    docket: Docket


def allocate(snapshot: Snapshot, previous: DesiredState | None = None) -> Allotment:
    """Decide for all Services that are ours; pure, and independent of the order of the mapping.

    With `previous`, nothing but Services and grants may have changed since; cases that did not are taken over from it,
    and so is what was given to those who hold all they want. The result is the same.
    """
    docket = _open_docket(snapshot, previous.docket if previous is not None else None)
    books = _Books()
    shared = frozenset(_defaults(tuple(Family), snapshot))
    for key, case in docket.cases.items():
        for address in case.wants if case.settled else case.held:
            _keep(key, case, address, shared, books)
    allocations: dict[Key, Allocation] = {}
    for key, case in docket.cases.items():
        known = _undisputed(key, case, previous, shared, books) if previous is not None else None
        allocations[key] = known if known is not None else _settle(case, shared, books, snapshot)
    return Allotment(allocations, docket)


def _undisputed(
    key: Key, case: Case, previous: DesiredState, shared: frozenset[Ip], books: _Books
) -> Allocation | None:
    """Find what was given to an incumbent before, if neither its case nor anybody else's claim makes a difference."""
    before, docket = previous.allocations.get(key), previous.docket
    if before is None or docket is None or not case.settled or before.refusals or docket.cases.get(key) is not case:
        return None
    for frontend in before.frontends:
        owner = books.ports.get(frontend) if frontend.address in shared else books.owners.get(frontend.address)
        if owner != key:
            return None
    return before


def _open_docket(snapshot: Snapshot, last: Docket | None) -> Docket:
    """Open the case of every Service that is ours, or take it over, and order them, oldest first."""
    cluster = index_cluster(snapshot, last.cluster if last is not None else None)
    kept = dict(_unchanged(snapshot, last, cluster)) if last is not None else {}
    left = snapshot.services.keys() - kept.keys() if last is None else _reopened(snapshot, last, kept)
    services = (snapshot.services[key] for key in left)
    opened = {s.key: _open_case(s, cluster, snapshot) for s in services if selects(s, snapshot.settings)}
    return Docket(dict(sorted((kept | opened).items(), key=lambda entry: entry[1].age)), cluster)


def _reopened(snapshot: Snapshot, last: Docket, kept: Mapping[Key, Case]) -> Iterable[Key]:
    """Services that are there and whose case is not taken over."""
    keys = snapshot.dirty.services | last.cases.keys()
    return [key for key in keys if key not in kept and key in snapshot.services]


def _unchanged(snapshot: Snapshot, last: Docket, cluster: ClusterAddresses) -> Iterator[tuple[Key, Case]]:
    """Find the cases in which nothing is new: neither the Service nor its grant, nor whose cluster IP it asks for."""
    dirty, grants = snapshot.dirty.services, snapshot.grants
    new = last.cluster.cluster_ips.items() ^ cluster.cluster_ips.items()
    moved = frozenset(address for text, _ in new if not isinstance(address := parse_address(text), Refusal))
    for key, case in last.cases.items():
        if key in dirty or (moved and not moved.isdisjoint(case.asked)):
            continue
        granted = grants.get(key, NO_GRANT)
        if granted is case.granted or granted == case.granted:
            yield key, case


def _defaults(families: tuple[Family, ...], snapshot: Snapshot) -> tuple[Ip, ...]:
    """Find the device's default addresses of some families."""
    found = (default_address(snapshot.host, family) for family in families)
    return tuple(address for address in found if address is not None)


def _age(service: Service, snapshot: Snapshot) -> Age:
    """Say how old a Service is, in a form that orders them."""
    if service.created is not None:
        return service.created, 0, service.uid, service.key
    return float("inf"), snapshot.seen.get(service.key, 0), "", service.key


def _open_case(service: Service, cluster: ClusterAddresses, snapshot: Snapshot) -> Case:
    """Read the request and judge what can be judged without looking at other Services."""
    asked, wants, refusals = _judge_request(service, cluster, snapshot)
    granted = snapshot.grants.get(service.key, NO_GRANT)
    grant = _give_back(granted, wants, snapshot)
    held = grant.addresses
    return Case(
        service=service,
        age=_age(service, snapshot),
        granted=granted,
        grant=grant,
        asked=asked,
        wants=wants,
        refusals=refusals,
        held=tuple(sorted(held, key=lambda ip: (ip.version, int(ip)))),
        settled=bool(wants) and held.issuperset(wants),
    )


def _give_back(grant: Grant, wants: tuple[Ip, ...], snapshot: Snapshot) -> Grant:
    """Forget borrowed addresses that the host has no more: keeping one would mean to put it on the device again."""
    lost = grant.borrowed.difference(snapshot.host.own, wants)
    if not lost:
        return grant
    return replace(grant, frontends=frozenset(f for f in grant.frontends if f.address not in lost))


Judged: TypeAlias = tuple[tuple[Ip, ...], tuple[Ip, ...], tuple[Refusal, ...]]
"""Addresses asked for by name, those that it may want, and what is wrong."""


def _judge_request(service: Service, cluster: ClusterAddresses, snapshot: Snapshot) -> Judged:
    """Judge one Service's request."""
    if service.fault:
        return (), (), (Refusal(Reason.INVALID_SERVICE, f"the object cannot be understood: {service.fault}"),)
    refusals, _ = judge_annotations(service)
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
    found = _defaults(families, snapshot)
    if not service.ip_families:
        found = found[:1]  # SingleStack, as the API server would have chosen (KEP-563)
    if not found:
        message = (
            f"device {snapshot.host.device} has no {' or '.join(families)} address of its own to share: "
            "set spec.loadBalancerIP, or give the device an address"
        )
        return (), (), (Refusal(Reason.NO_DEFAULT_ADDRESS, message),)
    return (), found, ()


def _keep(key: Key, case: Case, address: Ip, shared: frozenset[Ip], books: _Books) -> None:
    """Enter what an incumbent goes on holding."""
    if address not in shared:
        books.owners.setdefault(address, key)
        return
    for frontend in case.grant.frontends:
        if frontend.address == address:
            books.ports.setdefault(frontend, key)


def _settle(case: Case, shared: frozenset[Ip], books: _Books, snapshot: Snapshot) -> Allocation:
    """Give one Service what is free of what it wants, and what it keeps meanwhile."""
    key = case.service.key
    frontends: list[Frontend] = []
    refusals = list(case.refusals)
    for address in case.wants:
        owner = books.owners.get(address, key)
        if owner != key:
            refusals.append(Refusal(Reason.ADDRESS_IN_USE, _held_by(str(address), owner, snapshot)))
            continue
        good, bad = _judge_ports(case, address, snapshot)
        refusals.extend(bad)
        if address in shared:
            good, lost = _take_ports(key, good, books, snapshot)
            refusals.extend(lost)
        elif good:
            books.owners[address] = key
        frontends.extend(good)
    kept = () if case.settled else _kept(case, shared, books)
    for address in kept:
        frontends.extend(_kept_frontends(case, address, shared, books, snapshot))
    _, notes = judge_annotations(case.service)
    notices = (*notes, *_notices(case, snapshot))
    return Allocation(tuple(dict.fromkeys(frontends)), kept, tuple(refusals), notices)


def _notices(case: Case, snapshot: Snapshot) -> Iterator[Notice]:
    """What the owner should know about the addresses that were asked for."""
    for address in case.wants:
        yield from notices_for(address, snapshot)


def _kept(case: Case, shared: frozenset[Ip], books: _Books) -> tuple[Ip, ...]:
    """Addresses that are held, no longer asked for, and still this Service's."""
    return tuple(
        address
        for address in case.held
        if address not in case.wants and (address in shared or books.owners.get(address) == case.service.key)
    )


def _kept_frontends(
    case: Case, address: Ip, shared: frozenset[Ip], books: _Books, snapshot: Snapshot
) -> Iterable[Frontend]:
    """Ports on a kept address: those of the Service as it is now, on a shared address only those that it held."""
    good, _ = _judge_ports(case, address, snapshot)
    if address not in shared:
        return good
    return [frontend for frontend in good if books.ports.get(frontend) == case.service.key]


def _judge_ports(case: Case, address: Ip, snapshot: Snapshot) -> tuple[list[Frontend], list[Refusal]]:
    """Sort the ports of a Service into those that can be served on an address and those that cannot."""
    good: dict[Frontend, None] = {}
    bad: list[Refusal] = []
    for port in case.service.ports:
        frontend = Frontend(address, port.protocol, port.port)
        refusal = _judge_port(case.service, frontend, case.grant, snapshot)
        if refusal is None and frontend in good:
            refusal = Refusal(Reason.INVALID_PORT, f"port {port.port}/{port.protocol} is listed twice", frontend)
        if refusal is None:
            good[frontend] = None
        else:
            bad.append(refusal)
    if not case.service.ports:
        bad.append(Refusal(Reason.INVALID_SERVICE, "spec.ports is empty: there is nothing to serve"))
    return list(good), bad


def _judge_port(service: Service, frontend: Frontend, grant: Grant, snapshot: Snapshot) -> Refusal | None:
    """Refuse what is no port, what no plane forwards, and what this host itself listens on."""
    if not 1 <= frontend.port <= 65_535:
        return Refusal(Reason.INVALID_PORT, f"port {quote(str(frontend.port))} is not from 1 to 65535", frontend)
    plane = choose_plane(service, snapshot.settings)
    if frontend.protocol not in FORWARDED[plane]:
        able = " and ".join(sorted(FORWARDED[plane]))
        message = f"port {frontend.port}/{frontend.protocol}: the {plane} plane forwards {able} only"
        return Refusal(Reason.PROTOCOL_NOT_SUPPORTED, message, frontend)
    if frontend in grant.frontends:
        return None
    listener = next((one for one in snapshot.host.listeners if _listens(one, frontend)), None)
    if listener is None:
        return None
    message = f"{frontend} is taken by this host's own {listener.process}: use another port, or stop that process"
    return Refusal(Reason.PORT_IN_USE, message, frontend)


def _listens(listener: Listener, frontend: Frontend) -> bool:
    """Would a socket of this host answer at the frontend? The wildcard address answers everywhere."""
    return (listener.protocol, listener.port) == (frontend.protocol, frontend.port) and (
        listener.address is None or listener.address == frontend.address
    )


def _take_ports(
    key: Key, frontends: Iterable[Frontend], books: _Books, snapshot: Snapshot
) -> tuple[list[Frontend], list[Refusal]]:
    """On a shared address every port is a thing of its own."""
    good: list[Frontend] = []
    bad: list[Refusal] = []
    for frontend in frontends:
        owner = books.ports.setdefault(frontend, key)
        if owner == key:
            good.append(frontend)
        else:
            bad.append(Refusal(Reason.PORT_IN_USE, _held_by(str(frontend), owner, snapshot), frontend))
    return good, bad


def _held_by(what: str, owner: Key, snapshot: Snapshot) -> str:
    """Name the winner, and since when, so that the loser knows whom to ask."""
    grants: Mapping[Key, Grant] = snapshot.grants
    grant = grants.get(owner)
    since = (
        f" since {datetime.fromtimestamp(grant.since, UTC):%Y-%m-%d %H:%M:%S} UTC" if grant else ", which came first"
    )
    return f"address {what} is held by {owner}{since}; it is tried again when that changes, or ask for another one"
