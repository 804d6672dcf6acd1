"""What becomes of one Service: allocation, endpoints and annotations → its Decision. Pure, and of no other Service."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import TypeAlias

from littlelb.core.ipam.addressing import prefix_length
from littlelb.core.ipam.requests import (
    SourceRanges,
    family_of,
    parse_affinity,
    parse_drain_seconds,
    parse_source_ranges,
)
from littlelb.core.model import (
    Backend,
    EndpointSlice,
    Family,
    Forward,
    Frontend,
    Key,
    Placement,
    Plane,
    Service,
    ServicePort,
)
from littlelb.core.reasons import Notice, Refusal
from littlelb.core.serving.backends import choose_backends
from littlelb.core.serving.choice import Choice, Wanted
from littlelb.core.serving.ip_mode import VIP, choose_ip_mode
from littlelb.core.serving.planes import choose_plane, explain_plane
from littlelb.core.serving.sources import Source, choose_source, explain_loss, explain_source
from littlelb.core.state import Allocation, Decision, LocalPolicy, Snapshot, World

Choices: TypeAlias = Mapping[Frontend, Choice]


def _span(slices: tuple[EndpointSlice, ...]) -> tuple[int, int] | None:
    """Say between which numbers all endpoints' addresses are: one comparison tells most VIPs from endpoints."""
    numbers = [int(endpoint.address) for piece in slices for endpoint in piece.endpoints]
    return (min(numbers), max(numbers)) if numbers else None


@dataclass(frozen=True, slots=True)
class _Terms:
    """What holds for all frontends of one Service."""

    service: Service
    slices: tuple[EndpointSlice, ...]
    plane: Plane
    source: Source
    ip_mode: str
    from_link_only: bool
    ranges: SourceRanges
    affinity_seconds: int
    drain_seconds: int | None
    notices: tuple[Notice | None, ...]
    """About what the Service says, as far as it is not followed."""


def decide(key: Key, snapshot: Snapshot, allocation: Allocation, world: World) -> Decision:
    """Decide for one Service; pure in its inputs, so that nobody else has to be asked again."""
    terms = _read_terms(snapshot.services[key], snapshot.slices.get(key, ()), world)
    found = _choose(terms, allocation.frontends, world)
    loss = explain_loss(terms.service, terms.source, _backends(found.values()))
    strict = loss is not None and world.settings.local_policy is LocalPolicy.STRICT
    choices = _refuse_losses(terms, found) if strict else found
    forwards = tuple(
        (f, _forward(terms, choice, held=f.address not in world.host.own))
        for f, choice in choices.items()
        if choice.refusal is None
    )
    addresses = dict.fromkeys(frontend.address for frontend, _ in forwards)
    return Decision(
        service=key,
        uid=terms.service.uid,
        forwards=forwards,
        placements=tuple(
            (address, Placement(world.host.device, prefix_length(address, world.host, world.settings)))
            for address in addresses
            if address not in world.host.own
        ),
        kept=tuple(address for address in allocation.kept if address in addresses),
        ports=tuple((port.protocol, port.port) for port in terms.service.ports),
        plane=terms.plane,
        client_address=_client_address(terms.service, loss),
        ip_mode=terms.ip_mode,
        external_ips=world.settings.external_ips,
        refusals=(*allocation.refusals, *_refusals(choices)),
        notices=_notices(terms, allocation, choices, None if strict else loss),
        span=_span(terms.slices),
        by_nodes=any(choice.by_nodes for choice in choices.values()),
    )


def _read_terms(service: Service, slices: tuple[EndpointSlice, ...], world: World) -> _Terms:
    """Read what the Service says, and what is wrong with it."""
    settings = world.settings
    plane = choose_plane(service, settings)
    ranges = parse_source_ranges(service)
    source, source_notice = choose_source(service, plane, settings)
    ip_mode, ip_mode_notice = choose_ip_mode(service, plane, ranges, settings)
    affinity_seconds, affinity_notice = parse_affinity(service)
    drain_seconds, drain_notice = parse_drain_seconds(service)
    return _Terms(
        service=service,
        slices=slices,
        plane=plane,
        source=source,
        ip_mode=ip_mode,
        # kube-proxy, where it runs beside us, serves the pods and processes of this node, with their own addresses.
        from_link_only=settings.in_cluster and plane is Plane.NFT and ip_mode == VIP,
        ranges=ranges,
        affinity_seconds=affinity_seconds,
        drain_seconds=drain_seconds,
        notices=(
            explain_plane(service, settings),
            affinity_notice,
            drain_notice,
            ranges.notice,
            source_notice,
            ip_mode_notice,
        ),
    )


def _choose(terms: _Terms, frontends: tuple[Frontend, ...], world: World) -> dict[Frontend, Choice]:
    """Choose backends once for each port and family; several addresses share them."""
    ports = {(port.protocol, port.port): port for port in terms.service.ports}
    known: dict[tuple[ServicePort, int, Family], Choice] = {}
    choices: dict[Frontend, Choice] = {}
    for frontend in frontends:
        family = family_of(frontend.address)
        if frontend.last_port:
            port = ServicePort(frontend.port, frontend.protocol)
        else:
            port = ports[frontend.protocol, frontend.port]
        same = (port, frontend.last_port, family)
        if same not in known:
            wanted = Wanted(terms.service, port, family, terms.slices, terms.source, frontend.last_port)
            known[same] = choose_backends(wanted, world)
        choices[frontend] = known[same]
    return choices


def _backends(choices: Iterable[Choice]) -> Iterable[Backend]:
    return chain.from_iterable(choice.backends for choice in choices)


def _refuse_losses(terms: _Terms, choices: Choices) -> Choices:
    """Refuse every port that some backend would serve without seeing the client's address (`--local-policy strict`)."""
    judged = {f: (choice, explain_loss(terms.service, terms.source, choice.backends)) for f, choice in choices.items()}
    return {
        frontend: replace(choice, refusal=choice.refusal or loss, backends=() if loss else choice.backends)
        for frontend, (choice, loss) in judged.items()
    }


def _refusals(choices: Choices) -> Iterable[Refusal]:
    """Turn what refuses a port into its Refusal."""
    for frontend, choice in choices.items():
        if choice.refusal is not None:
            yield Refusal(choice.refusal.reason, choice.refusal.message, frontend)


def _client_address(service: Service, loss: Notice | None) -> str | None:
    """Say what became of the client's address, where policy Local asks for it."""
    if not service.external_traffic_policy_local:
        return None
    return loss.message if loss is not None else ""


def _notices(terms: _Terms, allocation: Allocation, choices: Choices, loss: Notice | None) -> tuple[Notice, ...]:
    """Collect what the owner should know, each once."""
    of_backends = (note for choice in choices.values() for note in choice.notices)
    source = explain_source(terms.source, _backends(choices.values()))
    found = (*allocation.notices, *of_backends, *terms.notices, loss, source)
    return tuple(dict.fromkeys(note for note in found if note is not None))


def _forward(terms: _Terms, choice: Choice, *, held: bool) -> Forward:
    """Build FORWARD's value for one frontend."""
    return Forward(
        service=terms.service.key,
        plane=terms.plane,
        held=held,
        backends=choice.backends,
        source_ranges=terms.ranges.nets,
        affinity_seconds=terms.affinity_seconds,
        from_link_only=terms.from_link_only,
        drain_seconds=terms.drain_seconds,
        withdraw_seconds=terms.drain_seconds or 0,
    )
