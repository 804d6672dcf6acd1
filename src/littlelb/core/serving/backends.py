"""Which endpoints may serve a frontend: pods from EndpointSlices, or nodes by their NodePort.

nodes: not leaving, not excluded, selected by labels; Ready ones if there are any (else all: after an API outage all
       may turn NotReady at once); at most `max_nodes` for a Service, by rendezvous
pods:  ready; if there are none, serving and terminating ones (KEP-1669); all with publishNotReadyAddresses
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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
from littlelb.core.state import BackendsMode, World


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


def choose_backends(
    service: Service, port: ServicePort, family: Family, slices: tuple[EndpointSlice, ...], world: World
) -> Choice:
    """Decide for one port and one address family of one Service."""
    if _uses_nodes(port, slices, world):
        return _choose_nodes(service, port, family, slices, world)
    return _choose_pods(service, port, family, slices, world)


def _uses_nodes(port: ServicePort, slices: tuple[EndpointSlice, ...], world: World) -> bool:
    """Node address and NodePort, or pods? Never a zero port."""
    settings = world.settings
    if settings.backends is BackendsMode.PODS or (settings.backends is BackendsMode.AUTO and settings.in_cluster):
        return False
    if settings.backends is BackendsMode.AUTO and settings.stand_alone:
        return not slices and port.node_port > 0
    return port.node_port > 0


def _choose_nodes(
    service: Service, port: ServicePort, family: Family, slices: tuple[EndpointSlice, ...], world: World
) -> Choice:
    """At most `max_nodes` nodes, each by its first InternalIP of the family."""
    reachable = world.node_addresses[family]
    if service.external_traffic_policy_local:
        local = _nodes_with_endpoints(slices)
        reachable = {name: address for name, address in reachable.items() if name in local}
    names = list(reachable)
    if len(names) > world.settings.max_nodes:
        names = sorted(rendezvous(service.uid or service.key, names, world.settings.max_nodes))
    notices: tuple[Notice, ...] = ()
    if world.stale_nodes and names:
        text = "no node is left that may serve (labels, taints, deletion): the last ones stay in use"
        notices = (Notice(Reason.STALE_NODES, text),)
    elif not names:
        text = (
            f"port {port.port}: no node with an {family} InternalIP may serve; look at the node selector and the nodes"
        )
        notices = (Notice(Reason.NO_BACKENDS, text),)
    return Choice(tuple(Backend(reachable[name], port.node_port) for name in names), notices, by_nodes=True)


def _nodes_with_endpoints(slices: tuple[EndpointSlice, ...]) -> frozenset[str]:
    """Nodes that answer under policy Local: those with ready endpoints, else with serving ones that end."""
    endpoints = [endpoint for piece in slices for endpoint in piece.endpoints]
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


def _choose_pods(
    service: Service, port: ServicePort, family: Family, slices: tuple[EndpointSlice, ...], world: World
) -> Choice:
    """Endpoints of the slices that have this port; each slice may map the port's name to a number of its own."""
    candidates: dict[Backend, Endpoint] = {}
    for piece in slices:
        number = _target_port(port.name, port.protocol, piece)
        if piece.family is family and number is not None:
            for endpoint in piece.endpoints:
                _merge(candidates, Backend(endpoint.address, number), endpoint)
    usable = {b: e for b, e in candidates.items() if not _why_unusable(b.address, world)}
    notices = list(_judge_endpoints(candidates, usable, world))
    chosen, refusal = _reachable(_serving(service, usable), port, world)
    notices.extend(Notice(Reason.UNUSABLE_ENDPOINT, f"EndpointSlice {s.key}: {s.fault}") for s in slices if s.fault)
    if not chosen and not notices and refusal is None:
        notices.append(Notice(Reason.NO_BACKENDS, f"port {port.port}: no {family} endpoint is ready: refused"))
    return Choice(tuple(sorted(chosen, key=_order)), tuple(notices), refusal)


def _merge(candidates: dict[Backend, Endpoint], backend: Backend, endpoint: Endpoint) -> None:
    """Enter an endpoint; one that stands in two slices (while it moves) counts once, by its better state."""
    known = candidates.get(backend)
    if known is None or (endpoint.ready, endpoint.serving) > (known.ready, known.serving):
        candidates[backend] = endpoint


def _target_port(name: str, protocol: Protocol, piece: EndpointSlice) -> int | None:
    """Find the number of a port in one slice, by name and protocol; a number that is none is not used."""
    for port in piece.ports:
        if port.name == name and port.protocol is protocol and port.port is not None and 1 <= port.port <= 65_535:
            return port.port
    return None


def _serving(service: Service, usable: Mapping[Backend, Endpoint]) -> list[Backend]:
    """Ready endpoints; else those that still serve while they end; all of them if the Service says so."""
    if service.publish_not_ready_addresses:
        return list(usable)
    ready = [backend for backend, endpoint in usable.items() if endpoint.ready]
    return ready or [b for b, e in usable.items() if e.serving and e.terminating]


def _order(backend: Backend) -> tuple[int, int, int]:
    """Order backends so that equal worlds give equal values."""
    return backend.address.version, int(backend.address), backend.port


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


def _judge_endpoints(
    candidates: Mapping[Backend, Endpoint], usable: Mapping[Backend, Endpoint], world: World
) -> Iterable[Notice]:
    """Name the first endpoint that is never used, and how many more there are."""
    unusable = [backend.address for backend in candidates if backend not in usable]
    if unusable:
        more = f" (and {len(unusable) - 1} more)" if len(unusable) > 1 else ""
        text = f"endpoint {unusable[0]}{more} is {_why_unusable(unusable[0], world)} and is not used"
        yield Notice(Reason.UNUSABLE_ENDPOINT, text)


def _reachable(chosen: list[Backend], port: ServicePort, world: World) -> tuple[list[Backend], Notice | None]:
    """Outside of the cluster, `auto` leaves out pods to which only the default route would lead."""
    settings = world.settings
    if settings.in_cluster or settings.stand_alone or settings.backends is BackendsMode.PODS:
        return chosen, None
    routed = [backend for backend in chosen if _routed(backend.address, world.host)]
    if routed or not chosen:
        return routed, None
    text = (
        f"port {port.port} has no NodePort, and this machine has no route to pod address {chosen[0].address} but the "
        "default one: add a route to the pod network, or set allocateLoadBalancerNodePorts: true"
    )
    return [], Notice(Reason.UNREACHABLE_PODS, text)


def _routed(address: Ip, host: HostFacts) -> bool:
    """Is there a route to it other than the default one?"""
    nets = (*host.routed, *host.on_link)
    return any(net.version == address.version and address in net for net in nets)
