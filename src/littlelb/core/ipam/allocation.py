"""Who gets which address: requests and what is already held → allocations or refusals. Global, and without memory.

    1. who holds something keeps it, while it asks for it or waits for something else   (incumbents first)
    2. the others in order of age: creationTimestamp, then uid; without one, first sight, then namespace/name
    3. an address asked for by name belongs to one Service; the device's default address is shared, port by port

An address that a Service asks for newly is served beside the old one until it has been granted (make before break); if
it is refused, the old one stays. Two Services that want each other's address are both refused until one lets go.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from littlelb.core.immutable.layered import Layered
from littlelb.core.ipam.addressing import notices_for
from littlelb.core.ipam.cases import Case, Docket
from littlelb.core.ipam.docket import find_dispute, is_alone, open_docket, reopen_docket
from littlelb.core.ipam.ports import frontends_on, overlap
from littlelb.core.ipam.requests import judge_annotations, quote
from littlelb.core.model import Frontend, Grant, Ip, Key, Listener, Service
from littlelb.core.reasons import Notice, Reason, Refusal
from littlelb.core.serving.planes import explain_unable
from littlelb.core.state import Allocation, DesiredState, Snapshot


@dataclass(slots=True)
class _Books:
    """What has been given out so far in one run of `allocate`."""

    owners: dict[Ip, Key] = field(default_factory=dict)
    """Addresses that belong to one Service."""
    ports: dict[Frontend, Key] = field(default_factory=dict)
    """Frontends on shared addresses."""
    ranges: dict[Frontend, Key] = field(default_factory=dict)
    """Those of them that are ranges of ports."""

    def claim(self, frontend: Frontend, key: Key) -> Key:
        """Enter a frontend on a shared address, unless it has a port that another one has; return whose it is."""
        if frontend not in self.ports and (self.ranges or frontend.last_port):
            rivals = self.ports if frontend.last_port else self.ranges
            for other, owner in rivals.items():
                if owner != key and overlap(other, frontend):
                    return owner
        if frontend.last_port:
            self.ranges.setdefault(frontend, key)
        return self.ports.setdefault(frontend, key)


class Allotment(NamedTuple):
    """What one run gives out, and what the next one need not look at again."""

    allocations: Layered[Key, Allocation]
    docket: Docket
    moved: frozenset[Key]
    """Services that got something else than before, or lost all."""


def allocate(snapshot: Snapshot, previous: DesiredState | None = None) -> Allotment:
    """Decide for all Services that are ours; pure, and independent of the order of the mapping.

    With `previous`, only the disputes that something dirty is part of are decided again; the result is the same.
    """
    if previous is None or previous.docket is None:
        docket = open_docket(snapshot)
        allocations = Layered(_settle_all(list(docket.cases.values()), docket, snapshot))
        return Allotment(allocations, docket, frozenset(allocations))
    docket, keys = reopen_docket(snapshot, previous.docket)
    if not keys:
        return Allotment(previous.allocations, docket, frozenset())
    again = find_dispute((key for key in keys if not _got_it_all(key, docket, previous)), docket, previous.docket)
    cases = sorted((docket.cases[key] for key in again if key in docket.cases), key=lambda case: case.age)
    fresh = _settle_all(cases, docket, snapshot)
    new = {key: value for key, value in fresh.items() if previous.allocations.get(key) != value}
    lost = [key for key in keys if key not in docket.cases and key in previous.allocations]
    return Allotment(previous.allocations.changed(new, lost), docket, frozenset((*new, *lost)))


def _got_it_all(key: Key, docket: Docket, previous: DesiredState) -> bool:
    """Is nothing new but that it was granted just what it was given, and nobody else asks for any of it?"""
    given, case = previous.allocations.get(key), docket.cases.get(key)
    last = previous.docket.cases.get(key) if previous.docket is not None else None
    if given is None or case is None or last is None or given.refusals or given.kept:
        return False
    same = (case.service, case.wants, case.refusals) == (last.service, last.wants, last.refusals)
    return same and case.granted.frontends == frozenset(given.frontends) and is_alone(key, docket)


def _settle_all(cases: Sequence[Case], docket: Docket, snapshot: Snapshot) -> dict[Key, Allocation]:
    """Give out what these, who are ordered by age, are in dispute about: first what is held."""
    books = _Books()
    for case in cases:
        for address in case.wants if case.settled else case.held:
            _keep(case.service.key, case, address, docket.shared, books)
    return {case.service.key: _settle(case, docket.shared, books, snapshot) for case in cases}


def _keep(key: Key, case: Case, address: Ip, shared: frozenset[Ip], books: _Books) -> None:
    """Enter what an incumbent goes on holding."""
    if address not in shared:
        books.owners.setdefault(address, key)
        return
    for frontend in case.grant.frontends:
        if frontend.address == address:
            books.claim(frontend, key)


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
    for frontend in frontends_on(case.service, address):
        refusal = _judge_port(case.service, frontend, case.grant, snapshot)
        if refusal is None and frontend in good:
            refusal = Refusal(
                Reason.INVALID_PORT, f"port {frontend.port}/{frontend.protocol} is listed twice", frontend
            )
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
    unable = explain_unable(service, frontend, snapshot.settings)
    if unable:
        return Refusal(Reason.PROTOCOL_NOT_SUPPORTED, unable, frontend)
    if frontend in grant.frontends:
        return None
    listener = next((one for one in snapshot.host.listeners if _listens(one, frontend)), None)
    if listener is None:
        return None
    message = f"{frontend} is taken by this host's own {listener.process}: use another port, or stop that process"
    return Refusal(Reason.PORT_IN_USE, message, frontend)


def _listens(listener: Listener, frontend: Frontend) -> bool:
    """Would a socket of this host answer at the frontend? The wildcard address answers everywhere."""
    return (
        listener.protocol is frontend.protocol
        and frontend.port <= listener.port <= (frontend.last_port or frontend.port)
        and (listener.address is None or listener.address == frontend.address)
    )


def _take_ports(
    key: Key, frontends: Iterable[Frontend], books: _Books, snapshot: Snapshot
) -> tuple[list[Frontend], list[Refusal]]:
    """On a shared address every port is a thing of its own."""
    good: list[Frontend] = []
    bad: list[Refusal] = []
    for frontend in frontends:
        owner = books.claim(frontend, key)
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
