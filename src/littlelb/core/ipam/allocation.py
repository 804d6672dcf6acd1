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

from littlelb.core.ipam.addressing import ClusterAddresses, default_address, index_cluster, judge_address, notices_for
from littlelb.core.ipam.requests import judge_annotations, parse_request, quote, selects
from littlelb.core.model import Family, Frontend, Grant, Ip, Key, Listener, Notice, Reason, Refusal, Service
from littlelb.core.state import Allocation, DefaultAddress, Snapshot

NO_GRANT = Grant(frozenset(), 0.0)


@dataclass(slots=True)
class _Books:
    """What has been given out so far in one run of `allocate`."""

    owners: dict[Ip, Key] = field(default_factory=dict)
    """Addresses that belong to one Service."""
    ports: dict[Frontend, Key] = field(default_factory=dict)
    """Frontends on shared addresses."""


@dataclass(frozen=True, slots=True)
class _Case:
    """One Service before the court: what it wants, what it holds, what is wrong with the request itself."""

    service: Service
    grant: Grant
    wants: tuple[Ip, ...]
    refusals: tuple[Refusal, ...]

    @property
    def held(self) -> tuple[Ip, ...]:
        """Addresses it holds, in a stable order."""
        return tuple(sorted(self.grant.addresses, key=lambda ip: (ip.version, int(ip))))

    @property
    def settled(self) -> bool:
        """Has it got all it wants? Then it lets go of everything else."""
        return bool(self.wants) and self.grant.addresses.issuperset(self.wants)


def allocate(snapshot: Snapshot) -> dict[Key, Allocation]:
    """Decide for all Services that are ours; pure, and independent of the order of the mapping."""
    cluster = index_cluster(snapshot)
    cases = [_give_back(_open_case(service, cluster, snapshot), snapshot) for service in _by_age(snapshot)]
    books = _Books()
    shared = frozenset(_defaults(tuple(Family), snapshot))
    for case in cases:
        for address in case.wants if case.settled else case.held:
            _keep(case, address, shared, books)
    return {case.service.key: _settle(case, shared, books, snapshot) for case in cases}


def _defaults(families: tuple[Family, ...], snapshot: Snapshot) -> tuple[Ip, ...]:
    """Find the device's default addresses of some families."""
    found = (default_address(snapshot.host, family) for family in families)
    return tuple(address for address in found if address is not None)


def _by_age(snapshot: Snapshot) -> list[Service]:
    """Order the Services that are ours, oldest first."""

    def age(service: Service) -> tuple[float, int, str, str]:
        if service.created is not None:
            return service.created, 0, service.uid, service.key
        return float("inf"), snapshot.seen.get(service.key, 0), "", service.key

    return sorted((s for s in snapshot.services.values() if selects(s, snapshot.settings)), key=age)


def _open_case(service: Service, cluster: ClusterAddresses, snapshot: Snapshot) -> _Case:
    """Read the request and judge what can be judged without looking at other Services."""
    grant = snapshot.grants.get(service.key, NO_GRANT)
    if service.fault:
        refusal = Refusal(Reason.INVALID_SERVICE, f"the object cannot be understood: {service.fault}")
        return _Case(service, grant, (), (refusal,))
    refusals, _ = judge_annotations(service)
    request = parse_request(service)
    if refusals or request.refusals:
        return _Case(service, grant, (), refusals + request.refusals)
    if not request.addresses:
        return _default_case(service, grant, snapshot)
    judged = {address: judge_address(address, cluster, snapshot) for address in request.addresses}
    good = tuple(address for address, refusal in judged.items() if refusal is None)
    return _Case(service, grant, good, tuple(refusal for refusal in judged.values() if refusal is not None))


def _give_back(case: _Case, snapshot: Snapshot) -> _Case:
    """Forget borrowed addresses that the host has no more: keeping one would mean to put it on the device again."""
    lost = case.grant.borrowed.difference(snapshot.host.own, case.wants)
    if not lost:
        return case
    left = frozenset(frontend for frontend in case.grant.frontends if frontend.address not in lost)
    return replace(case, grant=replace(case.grant, frontends=left))


def _default_case(service: Service, grant: Grant, snapshot: Snapshot) -> _Case:
    """No address asked for: the device's own, of each family that the Service has."""
    if snapshot.settings.default_address is DefaultAddress.REFUSE:
        message = "no address was asked for, and --default-address=refuse: set spec.loadBalancerIP"
        return _Case(service, grant, (), (Refusal(Reason.NO_DEFAULT_ADDRESS, message),))
    families = service.ip_families or tuple(Family)
    found = _defaults(families, snapshot)
    if not service.ip_families:
        found = found[:1]  # SingleStack, as the API server would have chosen (KEP-563)
    if not found:
        message = (
            f"device {snapshot.host.device} has no {' or '.join(families)} address of its own to share: "
            "set spec.loadBalancerIP, or give the device an address"
        )
        return _Case(service, grant, (), (Refusal(Reason.NO_DEFAULT_ADDRESS, message),))
    return _Case(service, grant, found, ())


def _keep(case: _Case, address: Ip, shared: frozenset[Ip], books: _Books) -> None:
    """Enter what an incumbent goes on holding."""
    if address not in shared:
        books.owners.setdefault(address, case.service.key)
        return
    for frontend in case.grant.frontends:
        if frontend.address == address:
            books.ports.setdefault(frontend, case.service.key)


def _settle(case: _Case, shared: frozenset[Ip], books: _Books, snapshot: Snapshot) -> Allocation:
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


def _notices(case: _Case, snapshot: Snapshot) -> Iterator[Notice]:
    """What the owner should know about the addresses that were asked for."""
    for address in case.wants:
        yield from notices_for(address, snapshot)


def _kept(case: _Case, shared: frozenset[Ip], books: _Books) -> tuple[Ip, ...]:
    """Addresses that are held, no longer asked for, and still this Service's."""
    return tuple(
        address
        for address in case.held
        if address not in case.wants and (address in shared or books.owners.get(address) == case.service.key)
    )


def _kept_frontends(
    case: _Case, address: Ip, shared: frozenset[Ip], books: _Books, snapshot: Snapshot
) -> Iterable[Frontend]:
    """Ports on a kept address: those of the Service as it is now, on a shared address only those that it held."""
    good, _ = _judge_ports(case, address, snapshot)
    if address not in shared:
        return good
    return [frontend for frontend in good if books.ports.get(frontend) == case.service.key]


def _judge_ports(case: _Case, address: Ip, snapshot: Snapshot) -> tuple[list[Frontend], list[Refusal]]:
    """Sort the ports of a Service into those that can be served on an address and those that cannot."""
    good: dict[Frontend, None] = {}
    bad: list[Refusal] = []
    for port in case.service.ports:
        frontend = Frontend(address, port.protocol, port.port)
        refusal = _judge_port(frontend, case.grant, snapshot)
        if refusal is None and frontend in good:
            refusal = Refusal(Reason.INVALID_PORT, f"port {port.port}/{port.protocol} is listed twice", frontend)
        if refusal is None:
            good[frontend] = None
        else:
            bad.append(refusal)
    if not case.service.ports:
        bad.append(Refusal(Reason.INVALID_SERVICE, "spec.ports is empty: there is nothing to serve"))
    return list(good), bad


def _judge_port(frontend: Frontend, grant: Grant, snapshot: Snapshot) -> Refusal | None:
    """Refuse what is no port, what no plane forwards, and what this host itself listens on."""
    if not 1 <= frontend.port <= 65_535:
        return Refusal(Reason.INVALID_PORT, f"port {quote(str(frontend.port))} is not from 1 to 65535", frontend)
    if frontend.protocol not in snapshot.settings.protocols:
        able = " and ".join(sorted(snapshot.settings.protocols))
        message = f"port {frontend.port}/{frontend.protocol}: this data plane forwards {able} only"
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
