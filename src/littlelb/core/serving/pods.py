"""Which pods serve, and with what weight: endpoints of EndpointSlices.

Ready ones; if there are none, serving and terminating ones (KEP-1669); all with publishNotReadyAddresses. With policy
Local this is asked of the pods of this node first, and of those of all nodes if none of these serves.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

from littlelb.core.model import Backend, Endpoint, EndpointSlice, Ip, Protocol, Service
from littlelb.core.reasons import Notice, Reason
from littlelb.core.serving.choice import Choice, Wanted, never_a_backend
from littlelb.core.serving.sources import Source
from littlelb.core.serving.weights import UNWEIGHTED, judge_weights, parse_weight, share_out
from littlelb.core.state import BackendsMode, World


class _Candidate(NamedTuple):
    """An endpoint that could serve, and the weight of its slice."""

    endpoint: Endpoint
    weight: int


_Place: TypeAlias = tuple[int, int]
"""The number of the address, and the port; a range has port 0. Numbers are hashed and ordered ten times as fast."""
_Candidates: TypeAlias = Mapping[_Place, _Candidate]


def choose_pods(wanted: Wanted, world: World) -> Choice:
    """Endpoints of the slices that have this port; each slice may map the port's name to a number of its own."""
    candidates, notices = _collect(wanted)
    usable = {place: c for place, c in candidates.items() if not _why_unusable(c.endpoint.address, world)}
    notices.extend(_judge_endpoints(candidates, usable, world))
    chosen, refusal = _reachable(_serving(wanted, usable, world), wanted, world)
    notices.extend(
        Notice(Reason.UNUSABLE_ENDPOINT, f"EndpointSlice {s.key}: {s.fault}") for s in wanted.slices if s.fault
    )
    if not chosen and not notices and refusal is None:
        notices.append(Notice(Reason.NO_BACKENDS, f"{wanted}: no {wanted.family} endpoint is ready: refused"))
    notices.extend(judge_weights((c.endpoint.node for c in chosen.values()), world.node_weights))
    return Choice(_spread(chosen, wanted.source, world), tuple(notices), refusal)


def _collect(wanted: Wanted) -> tuple[_Candidates, list[Notice]]:
    """Find all endpoints of the port, each once, and what is wrong with the weights of their slices."""
    candidates: dict[_Place, _Candidate] = {}
    notices: list[Notice] = []
    for piece in wanted.slices:
        number = 0 if wanted.last_port else _target_port(wanted.port.name, wanted.port.protocol, piece)
        if piece.family is not wanted.family or number is None:
            continue
        weight, notice = parse_weight(piece.weight, f"EndpointSlice {piece.key}")
        notices.extend([notice] if notice else [])
        for endpoint in piece.endpoints:
            _merge(candidates, (int(endpoint.address), number), _Candidate(endpoint, weight))
    return candidates, notices


def _merge(candidates: dict[_Place, _Candidate], place: _Place, candidate: _Candidate) -> None:
    """Enter an endpoint; one that stands in two slices (while it moves) counts once, by its better state."""
    known = candidates.get(place)
    if known is None or _state(candidate) > _state(known):
        candidates[place] = candidate


def _state(candidate: _Candidate) -> tuple[bool, bool]:
    return candidate.endpoint.ready, candidate.endpoint.serving


def _spread(chosen: _Candidates, source: Source, world: World) -> tuple[Backend, ...]:
    """Give each its weight, and leave out those of none."""
    places = sorted(chosen)
    weights = share_out([_weigh(chosen[place], world) for place in places])
    found = zip(((chosen[place].endpoint, place[1]) for place in places), weights, strict=True)
    return tuple(
        Backend(endpoint.address, port, weight, source.keeps(endpoint.address, endpoint.node))
        for (endpoint, port), weight in found
        if weight
    )


def _weigh(candidate: _Candidate, world: World) -> int:
    """Multiply the weights of slice and node."""
    if not world.node_weights:
        return candidate.weight
    return candidate.weight * world.node_weights.get(candidate.endpoint.node, UNWEIGHTED)[0]


def _target_port(name: str, protocol: Protocol, piece: EndpointSlice) -> int | None:
    """Find the number of a port in one slice, by name and protocol; a number that is none is not used."""
    for port in piece.ports:
        if port.name == name and port.protocol is protocol and port.port is not None and 1 <= port.port <= 65_535:
            return port.port
    return None


def _serving(wanted: Wanted, usable: _Candidates, world: World) -> _Candidates:
    """Those of this node under policy Local, if any of them serves; else those of all nodes."""
    node = world.settings.node_name
    if node and wanted.service.external_traffic_policy_local:
        near = {place: c for place, c in usable.items() if c.endpoint.node == node}
        if local := _by_condition(wanted.service, near):
            return local
    return _by_condition(wanted.service, usable)


def _by_condition(service: Service, usable: _Candidates) -> _Candidates:
    """Ready endpoints; else those that still serve while they end; all of them if the Service says so."""
    if service.publish_not_ready_addresses:
        return usable
    ready = {place: c for place, c in usable.items() if c.endpoint.ready}
    return ready or {p: c for p, c in usable.items() if c.endpoint.serving and c.endpoint.terminating}


def _why_unusable(address: Ip, world: World) -> str:
    """Name why an address is never a backend, or nothing. A VIP would be a loop; our own ports are not for rent."""
    if never_a_backend(address):
        return "a loopback, link-local, unspecified or multicast address"
    if address in world.vips:
        return "an address that this balancer itself serves"
    if not world.settings.in_cluster and (address in world.host.own or address in world.host.elsewhere):
        return "an address of this machine"
    return ""


def _judge_endpoints(candidates: _Candidates, usable: _Candidates, world: World) -> Iterable[Notice]:
    """Name the first endpoint that is never used, and how many more there are."""
    unusable = [c.endpoint.address for place, c in candidates.items() if place not in usable]
    if unusable:
        more = f" (and {len(unusable) - 1} more)" if len(unusable) > 1 else ""
        text = f"endpoint {unusable[0]}{more} is {_why_unusable(unusable[0], world)} and is not used"
        yield Notice(Reason.UNUSABLE_ENDPOINT, text)


def _reachable(chosen: _Candidates, wanted: Wanted, world: World) -> tuple[_Candidates, Notice | None]:
    """Outside of the cluster, `auto` leaves out pods to which only the default route would lead."""
    settings = world.settings
    if settings.in_cluster or settings.stand_alone or settings.backends is BackendsMode.PODS:
        return chosen, None
    routed = {place: c for place, c in chosen.items() if world.host.reaches(c.endpoint.address)}
    if routed or not chosen:
        return routed, None
    first = next(iter(chosen.values())).endpoint.address
    other = "" if wanted.last_port else ", or set allocateLoadBalancerNodePorts: true"
    text = (
        f"{wanted}: there is no NodePort, and this machine has no route to pod address {first} but the default one: "
        f"add a route to the pod network{other}"
    )
    return {}, Notice(Reason.UNREACHABLE_PODS, text)
