"""Which nodes serve by their NodePort, and with what weight.

Not leaving, not excluded, selected by labels; Ready ones if there are any (else all: after an API outage all may turn
NotReady at once); at most `max_nodes` for a Service, by rendezvous. With policy Local those that have ready endpoints,
else those whose endpoints serve while they end: what their healthCheckNodePort would tell (KEP-1669).
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from littlelb.core.hashing import rendezvous
from littlelb.core.ipam.requests import family_of
from littlelb.core.labels import parse_selector
from littlelb.core.model import Backend, Family, Ip, Node
from littlelb.core.reasons import Notice, Reason
from littlelb.core.serving.choice import Choice, Wanted, never_a_backend
from littlelb.core.serving.weights import UNWEIGHTED, judge_weights, share_out
from littlelb.core.state import World


def select_nodes(nodes: Mapping[str, Node], selector: str) -> tuple[Node, ...]:
    """Find the nodes that may serve, in the order of their names; one that joins has no address for a moment."""
    matches = parse_selector(selector)
    usable = [node for _, node in sorted(nodes.items()) if node.addresses and not node.leaving and matches(node.labels)]
    return tuple([node for node in usable if node.ready] or usable)


def index_nodes(nodes: Iterable[Node]) -> Mapping[Family, Mapping[str, Ip]]:
    """Find each node's first InternalIP of each family. A node that says it is on loopback would lead to ourselves."""
    found: dict[Family, dict[str, Ip]] = {family: {} for family in Family}
    for node in nodes:
        for address in node.addresses:
            if not never_a_backend(address):
                found[family_of(address)].setdefault(node.name, address)
    return found


def choose_nodes(wanted: Wanted, world: World) -> Choice:
    """At most `max_nodes` nodes, each by its first InternalIP of the family."""
    reachable = world.node_addresses[wanted.family]
    if wanted.service.external_traffic_policy_local:
        local = _nodes_with_endpoints(wanted, reachable)
        reachable = {name: address for name, address in reachable.items() if name in local}
    if world.node_weights:
        reachable = _weighing_something(reachable, world)
    names = tuple(reachable)
    if len(names) > world.settings.max_nodes:
        names = _prefer(wanted.service.uid or wanted.service.key, names, world.settings.max_nodes)
    weights = share_out([world.node_weights.get(name, UNWEIGHTED)[0] for name in names])
    backends = tuple(
        Backend(reachable[name], wanted.port.node_port, weight, wanted.source.keeps(reachable[name]))
        for name, weight in zip(names, weights, strict=True)
    )
    return Choice(backends, tuple(_judge_nodes(wanted, names, world)), by_nodes=True)


@lru_cache(maxsize=8)
def _prefer(key: str, names: tuple[str, ...], count: int) -> tuple[str, ...]:
    """Take the nodes that a Service prefers, in the order of their names; all its ports ask for the same."""
    return tuple(sorted(rendezvous(key, names, count)))


def _weighing_something(reachable: Mapping[str, Ip], world: World) -> Mapping[str, Ip]:
    """Leave out the nodes that shall take no new connections, before the others are counted; unless all are such."""
    weighing = {name: ip for name, ip in reachable.items() if world.node_weights.get(name, UNWEIGHTED)[0]}
    return weighing or reachable


def _judge_nodes(wanted: Wanted, names: Sequence[str], world: World) -> Iterable[Notice]:
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
    yield from judge_weights(names, world.node_weights)


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
