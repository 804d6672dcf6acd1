"""Which endpoints may serve a frontend: pods from EndpointSlices, or nodes by their NodePort.

nodes: not leaving, not excluded, selected by labels; Ready ones if there are any (else all: after an API outage all
       may turn NotReady at once); at most `max_nodes` for a Service, by rendezvous; with policy Local those that have
       ready endpoints, else those whose endpoints serve while they end (what healthCheckNodePort would tell)
pods:  ready; if there are none, serving and terminating ones (KEP-1669); all with publishNotReadyAddresses; with
       policy Local this is asked of the pods of this node first
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple, TypeAlias

from littlelb.core.hashing import rendezvous
from littlelb.core.ipam.requests import family_of
from littlelb.core.labels import parse_selector
from littlelb.core.model import (
    Backend,
    Endpoint,
    EndpointSlice,
    Family,
    HostFacts,
    Ip,
    Node,
    Protocol,
    Service,
    ServicePort,
)
from littlelb.core.reasons import Notice, Reason
from littlelb.core.serving.sources import Source
from littlelb.core.serving.weights import Weight, parse_weight, share_out
from littlelb.core.state import BackendsMode, World

UNWEIGHTED: Final = Weight()


@dataclass(frozen=True, slots=True)
class Wanted:
    """What needs backends: one port, or one range of ports, of one Service in one address family."""

    service: Service
    port: ServicePort
    """For a range its first port, without name and NodePort."""
    family: Family
    slices: tuple[EndpointSlice, ...]
    source: Source
    last_port: int = 0
    """The last port of a range; 0: it is one port."""

    def __str__(self) -> str:
        """`port 80` or `ports 5000-5999`, for messages."""
        return f"ports {self.port.port}-{self.last_port}" if self.last_port else f"port {self.port.port}"


@dataclass(frozen=True, slots=True)
class Choice:
    """Backends of one port, and what the owner should know."""

    backends: tuple[Backend, ...] = ()
    notices: tuple[Notice, ...] = ()
    refusal: Notice | None = None
    """Why this port cannot be served at all."""
    by_nodes: bool = False
    """It depends on which nodes may serve."""


def select_nodes(nodes: Mapping[str, Node], selector: str) -> tuple[Node, ...]:
    """Find the nodes that may serve, in the order of their names; one that joins has no address for a moment."""
    matches = parse_selector(selector)
    usable = [node for _, node in sorted(nodes.items()) if node.addresses and not node.leaving and matches(node.labels)]
    return tuple([node for node in usable if node.ready] or usable)


def choose_backends(wanted: Wanted, world: World) -> Choice:
    """Decide for one port and one address family of one Service."""
    if wanted.last_port and world.settings.backends is BackendsMode.NODES:
        text = f"{wanted}: ranges are forwarded to pods only, and --backends is nodes"
        return Choice(refusal=Notice(Reason.INVALID_PORT, text))
    if _uses_nodes(wanted.port, wanted.slices, world):
        return _choose_nodes(wanted, world)
    return _choose_pods(wanted, world)


def _uses_nodes(port: ServicePort, slices: tuple[EndpointSlice, ...], world: World) -> bool:
    """Node address and NodePort, or pods? Never a zero port."""
    settings = world.settings
    if settings.backends is BackendsMode.PODS or (settings.backends is BackendsMode.AUTO and settings.in_cluster):
        return False
    if settings.backends is BackendsMode.AUTO and settings.stand_alone:
        return not slices and port.node_port > 0
    return port.node_port > 0


def _choose_nodes(wanted: Wanted, world: World) -> Choice:
    """At most `max_nodes` nodes, each by its first InternalIP of the family."""
    reachable = world.node_addresses[wanted.family]
    if wanted.service.external_traffic_policy_local:
        local = _nodes_with_endpoints(wanted, reachable)
        reachable = {name: address for name, address in reachable.items() if name in local}
    if world.node_weights:
        reachable = _weighing_something(reachable, world)
    names = list(reachable)
    if len(names) > world.settings.max_nodes:
        names = sorted(rendezvous(wanted.service.uid or wanted.service.key, names, world.settings.max_nodes))
    weights = share_out([world.node_weights.get(name, UNWEIGHTED)[0] for name in names])
    backends = tuple(
        Backend(reachable[name], wanted.port.node_port, weight, wanted.source.keeps(reachable[name]))
        for name, weight in zip(names, weights, strict=True)
    )
    return Choice(backends, tuple(_judge_nodes(wanted, names, world)), by_nodes=True)


def _weighing_something(reachable: Mapping[str, Ip], world: World) -> Mapping[str, Ip]:
    """Leave out the nodes that shall take no new connections, before the others are counted; unless all are such."""
    weighing = {name: ip for name, ip in reachable.items() if world.node_weights.get(name, UNWEIGHTED)[0]}
    return weighing or reachable


def _judge_nodes(wanted: Wanted, names: list[str], world: World) -> Iterable[Notice]:
    """Say what the owner should know about the nodes that serve."""
    if not names:
        text = (
            f"{wanted}: no node with an {wanted.family} InternalIP may serve; look at the node selector and the nodes"
        )
        yield Notice(Reason.NO_BACKENDS, text)
    elif world.stale_nodes:
        text = "no node is left that may serve (labels, taints, deletion): the last ones stay in use"
        yield Notice(Reason.STALE_NODES, text)
    if any(piece.weight for piece in wanted.slices):
        text = "weights of EndpointSlices have no effect where nodes serve: kube-proxy spreads what a node gets"
        yield Notice(Reason.INVALID_ANNOTATION, text)
    yield from _judge_weights(names, world)


def _judge_weights(nodes: Iterable[str], world: World) -> Iterable[Notice]:
    """Say which weights of these nodes cannot be read."""
    if world.node_weights:
        weights = (world.node_weights.get(name, UNWEIGHTED) for name in dict.fromkeys(nodes))
        yield from (notice for _, notice in weights if notice is not None)


def _nodes_with_endpoints(wanted: Wanted, reachable: Mapping[str, Ip]) -> frozenset[str]:
    """Nodes that answer under policy Local: those with ready endpoints, else with serving ones that end."""
    endpoints = [
        endpoint
        for piece in wanted.slices
        if piece.family is wanted.family
        for endpoint in piece.endpoints
        if endpoint.node in reachable
    ]
    ready = frozenset(endpoint.node for endpoint in endpoints if endpoint.ready)
    return ready or frozenset(e.node for e in endpoints if e.serving and e.terminating)


def index_nodes(nodes: Iterable[Node]) -> Mapping[Family, Mapping[str, Ip]]:
    """Find each node's first InternalIP of each family. A node that says it is on loopback would lead to ourselves."""
    found: dict[Family, dict[str, Ip]] = {family: {} for family in Family}
    for node in nodes:
        for address in node.addresses:
            if not _never_a_backend(address):
                found[family_of(address)].setdefault(node.name, address)
    return found


class _Candidate(NamedTuple):
    """An endpoint that could serve, and the weight of its slice."""

    endpoint: Endpoint
    weight: int


_Place: TypeAlias = tuple[Ip, int]
"""Address and port; a range has port 0."""
_Candidates: TypeAlias = Mapping[_Place, _Candidate]


def _choose_pods(wanted: Wanted, world: World) -> Choice:
    """Endpoints of the slices that have this port; each slice may map the port's name to a number of its own."""
    candidates, notices = _collect(wanted)
    usable = {place: c for place, c in candidates.items() if not _why_unusable(place[0], world)}
    notices.extend(_judge_endpoints(candidates, usable, world))
    chosen, refusal = _reachable(_serving(wanted, usable, world), wanted, world)
    notices.extend(
        Notice(Reason.UNUSABLE_ENDPOINT, f"EndpointSlice {s.key}: {s.fault}") for s in wanted.slices if s.fault
    )
    if not chosen and not notices and refusal is None:
        notices.append(Notice(Reason.NO_BACKENDS, f"{wanted}: no {wanted.family} endpoint is ready: refused"))
    notices.extend(_judge_weights((candidate.endpoint.node for candidate in chosen.values()), world))
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
            _merge(candidates, (endpoint.address, number), _Candidate(endpoint, weight))
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
    places = sorted(chosen, key=lambda place: (int(place[0]), place[1]))
    weights = share_out([_weigh(chosen[place], world) for place in places])
    return tuple(
        Backend(address, port, weight, source.keeps(address, chosen[address, port].endpoint.node))
        for (address, port), weight in zip(places, weights, strict=True)
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
    if _never_a_backend(address):
        return "a loopback, link-local, unspecified or multicast address"
    if address in world.vips:
        return "an address that this balancer itself serves"
    if not world.settings.in_cluster and (address in world.host.own or address in world.host.elsewhere):
        return "an address of this machine"
    return ""


def _never_a_backend(address: Ip) -> bool:
    """Loopback, link-local, unspecified or multicast; by numbers, because this is asked of every endpoint there is."""
    if address.version == 6:
        return address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast
    number = int(address)
    first = number >> 24
    return number == 0 or first == 127 or 224 <= first < 240 or number >> 16 == 0xA9FE


def _judge_endpoints(candidates: _Candidates, usable: _Candidates, world: World) -> Iterable[Notice]:
    """Name the first endpoint that is never used, and how many more there are."""
    unusable = [address for address, port in candidates if (address, port) not in usable]
    if unusable:
        more = f" (and {len(unusable) - 1} more)" if len(unusable) > 1 else ""
        text = f"endpoint {unusable[0]}{more} is {_why_unusable(unusable[0], world)} and is not used"
        yield Notice(Reason.UNUSABLE_ENDPOINT, text)


def _reachable(chosen: _Candidates, wanted: Wanted, world: World) -> tuple[_Candidates, Notice | None]:
    """Outside of the cluster, `auto` leaves out pods to which only the default route would lead."""
    settings = world.settings
    if settings.in_cluster or settings.stand_alone or settings.backends is BackendsMode.PODS:
        return chosen, None
    routed = {place: c for place, c in chosen.items() if _routed(place[0], world.host)}
    if routed or not chosen:
        return routed, None
    text = (
        f"{wanted} has no NodePort, and this machine has no route to pod address {next(iter(chosen))[0]} but the "
        "default one: add a route to the pod network, or set allocateLoadBalancerNodePorts: true"
    )
    return {}, Notice(Reason.UNREACHABLE_PODS, text)


def _routed(address: Ip, host: HostFacts) -> bool:
    """Is there a route to it other than the default one?"""
    nets = (*host.routed, *host.on_link)
    return any(net.version == address.version and address in net for net in nets)
