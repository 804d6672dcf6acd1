"""What becomes of one Service: allocation, endpoints and annotations → its Decision. Pure, and of no other Service."""

from dataclasses import dataclass

from littlelb.core.ipam.addressing import prefix_length
from littlelb.core.ipam.requests import SourceRanges, family_of, parse_drain_seconds, parse_source_ranges
from littlelb.core.model import EndpointSlice, Family, Forward, Frontend, Key, Placement, Plane, Service, ServicePort
from littlelb.core.reasons import Notice, Reason, Refusal
from littlelb.core.serving.backends import Choice, choose_backends
from littlelb.core.serving.planes import choose_plane
from littlelb.core.state import Allocation, Decision, Snapshot, World


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
    ranges: SourceRanges
    drain_seconds: int | None


def decide(key: Key, snapshot: Snapshot, allocation: Allocation, world: World) -> Decision:
    """Decide for one Service; pure in its inputs, so that nobody else has to be asked again."""
    service = snapshot.services[key]
    ranges = parse_source_ranges(service)
    drain_seconds, drain_notice = parse_drain_seconds(service)
    terms = _Terms(
        service, snapshot.slices.get(key, ()), choose_plane(service, snapshot.settings), ranges, drain_seconds
    )
    choices = _choices(terms, allocation.frontends, world)
    forwards = tuple(
        (f, _forward(terms, choice, held=f.address not in world.host.own))
        for f, choice in choices.items()
        if choice.refusal is None
    )
    refused = tuple(Refusal(c.refusal.reason, c.refusal.message, f) for f, c in choices.items() if c.refusal)
    addresses = dict.fromkeys(frontend.address for frontend, _ in forwards)
    device = world.host.device
    notices = [*allocation.notices, *(note for choice in choices.values() for note in choice.notices)]
    notices.extend(note for note in (drain_notice, ranges.notice, _policy_notice(service)) if note is not None)
    return Decision(
        service=key,
        uid=service.uid,
        forwards=forwards,
        placements=tuple(
            (address, Placement(device, prefix_length(address, world.host, world.settings)))
            for address in addresses
            if address not in world.host.own
        ),
        kept=tuple(address for address in allocation.kept if address in addresses),
        ports=tuple((port.protocol, port.port) for port in service.ports),
        ip_mode=_ip_mode(service, ranges, world),
        external_ips=world.settings.external_ips,
        refusals=allocation.refusals + refused,
        notices=tuple(dict.fromkeys(notices)),
        span=_span(terms.slices),
        by_nodes=any(choice.by_nodes for choice in choices.values()),
    )


def _choices(terms: _Terms, frontends: tuple[Frontend, ...], world: World) -> dict[Frontend, Choice]:
    """Choose backends once for each port and family; several addresses share them."""
    ports = {(port.protocol, port.port): port for port in terms.service.ports}
    known: dict[tuple[ServicePort, Family], Choice] = {}
    choices: dict[Frontend, Choice] = {}
    for frontend in frontends:
        port, family = ports[frontend.protocol, frontend.port], family_of(frontend.address)
        if (port, family) not in known:
            known[port, family] = choose_backends(terms.service, port, family, terms.slices, world)
        choices[frontend] = known[port, family]
    return choices


def _forward(terms: _Terms, choice: Choice, *, held: bool) -> Forward:
    """Build FORWARD's value for one frontend."""
    return Forward(
        service=terms.service.key,
        plane=terms.plane,
        held=held,
        backends=choice.backends,
        source_ranges=terms.ranges.nets,
        affinity_seconds=terms.service.affinity_seconds,
        drain_seconds=terms.drain_seconds,
        withdraw_seconds=terms.drain_seconds or 0,
    )


def _policy_notice(service: Service) -> Notice | None:
    """The pipe opens connections of its own: with policy Local the owner expects the client's address, so say it."""
    if not service.external_traffic_policy_local:
        return None
    text = "externalTrafficPolicy is Local, but the pipe plane hides the client's address: backends see this machine's"
    return Notice(Reason.CLIENT_ADDRESS_LOST, text)


def _ip_mode(service: Service, ranges: SourceRanges, world: World) -> str:
    """VIP, unless kube-proxy would do something else than we do; never Proxy with policy Local (undefined upstream)."""
    if service.external_traffic_policy_local:
        return "VIP"
    return "Proxy" if world.settings.in_cluster or not ranges.kube_proxy_agrees else "VIP"
