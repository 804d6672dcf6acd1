"""Which endpoints may serve."""

from dataclasses import replace
from ipaddress import ip_network

import pytest

from littlelb.core.model import (
    Backend,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Family,
    Node,
    Plane,
    Protocol,
    Service,
    ServicePort,
)
from littlelb.core.reasons import Reason
from littlelb.core.serving.backends import Choice, Wanted, choose_backends, index_nodes, select_nodes
from littlelb.core.serving.sources import choose_source
from littlelb.core.serving.weights import index_weights
from littlelb.core.state import BackendsMode, Settings, World
from tests.worlds import HOST, STAND_ALONE, ip, node, piece, service

OUTSIDE, INSIDE = Settings(), Settings(in_cluster=True)
NODES = (node("n1", "198.51.100.11"), node("n2", "198.51.100.12"))
NODE_PORT = ServicePort(80, node_port=30080)
POD_PORT = ServicePort(80)


def _choose(
    port: ServicePort,
    *slices: EndpointSlice,
    settings: Settings = OUTSIDE,
    of: Service | None = None,
    nodes: tuple[Node, ...] = NODES,
    plane: Plane = Plane.NFT,
    last_port: int = 0,
    **fields: object,
) -> Choice:
    world = replace(World(settings, HOST, nodes, index_nodes(nodes), stale_nodes=False, vips=frozenset()), **fields)  # type: ignore[arg-type]
    asked = of or service(ports=[port])
    source, _ = choose_source(asked, plane, settings)
    return choose_backends(Wanted(asked, port, Family.IPV4, slices, source, last_port), world)


def _addresses(choice: Choice) -> list[str]:
    return [f"{backend.address}:{backend.port}" for backend in choice.backends]


def _reasons(choice: Choice) -> list[Reason]:
    return [notice.reason for notice in choice.notices]


def test_ready_nodes_are_preferred_and_leaving_ones_never_used() -> None:
    """Labels decide who may at all."""
    nodes = {
        n.name: n
        for n in (
            node("b", "198.51.100.2", labels={"worker": ""}),
            node("a", "198.51.100.1", labels={"worker": ""}, ready=False),
            node("c", "198.51.100.3"),
            node("d", "198.51.100.4", labels={"worker": ""}, leaving=True),
        )
    }
    assert [n.name for n in select_nodes(nodes, "worker")] == ["b"]
    assert [n.name for n in select_nodes({"a": nodes["a"], "d": nodes["d"]}, "")] == ["a"]


def test_a_node_that_has_no_address_yet_takes_nobodys_place() -> None:
    """It joins Ready or not; until it has one, the others count, and if none is left the last ones do."""
    joining = Node(name="e")
    assert select_nodes({"e": joining}, "") == ()
    old = node("a", "198.51.100.1", ready=False)
    assert select_nodes({"a": old, "e": joining}, "") == (old,)


def test_outside_of_the_cluster_nodes_serve_by_their_node_port() -> None:
    """Even if there are slices."""
    assert _addresses(_choose(NODE_PORT, piece())) == ["198.51.100.11:30080", "198.51.100.12:30080"]


@pytest.mark.parametrize(
    ("settings", "port", "expected"),
    [
        (INSIDE, NODE_PORT, "10.1.0.11:8080"),
        (replace(INSIDE, backends=BackendsMode.NODES), NODE_PORT, "198.51.100.11:30080"),
        (replace(OUTSIDE, backends=BackendsMode.PODS), NODE_PORT, "10.1.0.11:8080"),
        (OUTSIDE, POD_PORT, "10.1.0.11:8080"),
        (STAND_ALONE, NODE_PORT, "10.1.0.11:8080"),
        (replace(OUTSIDE, backends=BackendsMode.NODES), POD_PORT, "10.1.0.11:8080"),
    ],
)
def test_mode_and_place_decide_between_nodes_and_pods(settings: Settings, port: ServicePort, expected: str) -> None:
    """`--backends`; a zero port is never used."""
    assert _addresses(_choose(port, piece(), settings=settings))[0] == expected


def test_from_a_folder_nodes_serve_when_there_is_no_slice() -> None:
    """And pods when there is one."""
    assert _addresses(_choose(NODE_PORT, settings=STAND_ALONE))[0] == "198.51.100.11:30080"


def test_a_node_on_loopback_would_lead_to_ourselves() -> None:
    """Whatever a kubelet says of itself, connections never end on this machine by it; its other addresses count."""
    odd = Node(name="odd", addresses=(ip("127.0.0.1"), ip("169.254.1.1"), ip("198.51.100.7")))
    only = Node(name="only", addresses=(ip("127.0.0.1"), ip("::1")))
    assert [str(b.address) for b in _choose(NODE_PORT, nodes=(odd, only)).backends] == ["198.51.100.7"]


def test_at_most_max_nodes_serve_one_service_and_they_are_its_own() -> None:
    """Rendezvous: another Service has other nodes, the same Service always the same."""
    nodes = tuple(node(f"n{n}", f"198.51.100.{n}") for n in range(1, 100))
    settings = replace(OUTSIDE, max_nodes=5)
    first = _choose(NODE_PORT, settings=settings, nodes=nodes)
    assert len(first.backends) == 5
    assert first == _choose(NODE_PORT, settings=settings, nodes=tuple(reversed(nodes)))
    other = _choose(NODE_PORT, settings=settings, nodes=nodes, of=service("other", ports=[NODE_PORT]))
    assert set(first.backends) != set(other.backends)


def test_under_policy_local_only_nodes_with_endpoints_serve() -> None:
    """Ready ones, else those that still serve while they end: kube-proxy drops it everywhere else."""
    local = service(ports=[NODE_PORT], external_traffic_policy_local=True)
    ready = piece(addresses=[Endpoint(ip("10.1.0.11"), node="n2")])
    ending = piece(addresses=[Endpoint(ip("10.1.0.1"), ready=False, serving=True, terminating=True, node="n1")])
    assert _addresses(_choose(NODE_PORT, ready, of=local)) == ["198.51.100.12:30080"]
    assert _addresses(_choose(NODE_PORT, ending, of=local)) == ["198.51.100.11:30080"]
    assert _addresses(_choose(NODE_PORT, of=local)) == []


def test_no_usable_node_is_said() -> None:
    """With what to look at; and when the last ones stay in use, that."""
    none = _choose(NODE_PORT, nodes=(Node(name="six", addresses=(ip("2001:db8::11"),)),))
    assert (none.backends, _reasons(none)) == ((), [Reason.NO_BACKENDS])
    stale = _choose(NODE_PORT, stale_nodes=True)
    assert (len(stale.backends), _reasons(stale)) == (2, [Reason.STALE_NODES])


READY = Endpoint(ip("10.1.0.1"))
ENDING = Endpoint(ip("10.1.0.2"), ready=False, serving=True, terminating=True)
ENDED = Endpoint(ip("10.1.0.3"), ready=False, serving=False, terminating=True)
STARTING = Endpoint(ip("10.1.0.4"), ready=False, serving=False)


@pytest.mark.parametrize(
    ("endpoints", "all_of_them", "expected"),
    [
        ([READY, ENDING, ENDED, STARTING], False, ["10.1.0.1:8080"]),
        ([ENDING, ENDED, STARTING], False, ["10.1.0.2:8080"]),
        ([ENDED, STARTING], False, []),
        ([READY, STARTING], True, ["10.1.0.1:8080", "10.1.0.4:8080"]),
    ],
)
def test_conditions_of_endpoints(endpoints: list[Endpoint], all_of_them: bool, expected: list[str]) -> None:
    """KEP-1669, and publishNotReadyAddresses."""
    of = service(publish_not_ready_addresses=all_of_them)
    assert _addresses(_choose(POD_PORT, piece(addresses=endpoints), settings=INSIDE, of=of)) == expected


def test_ports_are_found_by_name_in_each_slice() -> None:
    """While a rollout changes a port, two slices give two numbers; other families, names and protocols do not count."""
    web = ServicePort(80, name="web")
    ports = [
        (EndpointPort("web", Protocol.TCP, 8080), "10.1.0.1", Family.IPV4),
        (EndpointPort("web", Protocol.TCP, 9090), "10.1.0.2", Family.IPV4),
        (EndpointPort("web", Protocol.UDP, 1), "10.1.0.3", Family.IPV4),
        (EndpointPort("other", Protocol.TCP, 2), "10.1.0.4", Family.IPV4),
        (EndpointPort("web", Protocol.TCP, None), "10.1.0.5", Family.IPV4),
        (EndpointPort("web", Protocol.TCP, 70_000), "10.1.0.6", Family.IPV4),
        (EndpointPort("web", Protocol.TCP, 8080), "2001:db8::1", Family.IPV6),
    ]
    slices = [piece(name=f"s{n}", addresses=[a], ports=(p,), family=f) for n, (p, a, f) in enumerate(ports)]
    assert _addresses(_choose(web, *slices, settings=INSIDE)) == ["10.1.0.1:8080", "10.1.0.2:9090"]


def test_an_endpoint_in_two_slices_counts_once_by_its_better_state() -> None:
    """While it moves from one slice to another."""
    twice = [piece(name="a", addresses=[replace_ready(READY, ready=False)]), piece(name="b", addresses=[READY])]
    for order in (twice, twice[::-1]):
        assert _addresses(_choose(POD_PORT, *order, settings=INSIDE)) == ["10.1.0.1:8080"]


def replace_ready(endpoint: Endpoint, *, ready: bool) -> Endpoint:
    """The same endpoint in another state."""
    return Endpoint(endpoint.address, ready, ready, endpoint.terminating, endpoint.node)


@pytest.mark.parametrize(
    "bad", ["127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "203.0.113.7", "192.0.2.2", "198.51.100.2"]
)
def test_endpoints_that_lead_to_ourselves_are_never_used(bad: str) -> None:
    """Loopback, link-local, VIPs of ours and, outside of the cluster, this machine; the rest of the slice serves on."""
    slices = piece(addresses=[bad, "10.1.0.1"])
    choice = _choose(POD_PORT, slices, vips=frozenset({ip("203.0.113.7")}))
    assert _addresses(choice) == ["10.1.0.1:8080"]
    assert _reasons(choice) == [Reason.UNUSABLE_ENDPOINT]
    assert bad in choice.notices[0].message


def test_inside_the_cluster_a_host_network_pod_of_this_node_is_an_endpoint() -> None:
    """Its address is this machine's; only VIPs would be a loop."""
    assert _addresses(_choose(POD_PORT, piece(addresses=["192.0.2.2"]), settings=INSIDE)) == ["192.0.2.2:8080"]


def test_more_than_one_bad_endpoint_is_counted() -> None:
    """One notice, not thousands."""
    choice = _choose(POD_PORT, piece(addresses=["127.0.0.1", "127.0.0.2", "127.0.0.3"]), settings=INSIDE)
    assert "127.0.0.1 (and 2 more)" in choice.notices[0].message


def test_pods_behind_the_default_route_only_are_refused_outside_of_the_cluster() -> None:
    """With the two remedies; with `--backends pods`, the user says that it works."""
    far = piece(addresses=["10.99.0.1"])
    choice = _choose(POD_PORT, far)
    assert choice.refusal is not None
    assert choice.refusal.reason is Reason.UNREACHABLE_PODS
    assert choice.backends == ()
    assert _addresses(_choose(POD_PORT, far, settings=replace(OUTSIDE, backends=BackendsMode.PODS))) == [
        "10.99.0.1:8080"
    ]
    assert _addresses(_choose(POD_PORT, far, settings=STAND_ALONE)) == ["10.99.0.1:8080"]
    assert _addresses(_choose(POD_PORT, far, piece(name="near"))) == ["10.1.0.11:8080"]


def test_no_endpoint_and_faulty_slices_are_said() -> None:
    """Connections are refused; a slice's fault is named."""
    assert _reasons(_choose(POD_PORT, settings=INSIDE)) == [Reason.NO_BACKENDS]
    faulty = _choose(POD_PORT, piece(fault="endpoints[3]: no address"), settings=INSIDE)
    assert faulty.backends == (Backend(ip("10.1.0.11"), 8080),)
    assert _reasons(faulty) == [Reason.UNUSABLE_ENDPOINT]


def test_ipv6_endpoints_of_special_addresses_are_not_used_either() -> None:
    """Loopback, link-local, unspecified, multicast; a plain one is."""
    found = piece("web", ["::1", "fe80::1", "::", "ff02::1", "2001:db8:1::7"], family=Family.IPV6)
    world = World(INSIDE, HOST, NODES, index_nodes(NODES), stale_nodes=False, vips=frozenset())
    source, _ = choose_source(service(), Plane.PIPE, INSIDE)
    choice = choose_backends(Wanted(service(), POD_PORT, Family.IPV6, (found,), source), world)
    assert [str(backend.address) for backend in choice.backends] == ["2001:db8:1::7"]


def _weights(choice: Choice) -> dict[str, int]:
    return {str(backend.address): backend.weight for backend in choice.backends}


def test_slices_weigh_their_endpoints_and_nodes_their_pods() -> None:
    """A canary: nine of ten connections to the old ones; on a node of double weight both count double."""
    old = piece(name="old", addresses=["10.1.0.1"], weight="90")
    new = piece(name="new", addresses=[Endpoint(ip("10.1.0.2"), node="big")], weight="10")
    assert _weights(_choose(POD_PORT, old, new, settings=INSIDE)) == {"10.1.0.1": 9, "10.1.0.2": 1}
    weights = index_weights([node("big", "198.51.100.11", weight="3"), node("n2", "198.51.100.12")])
    assert _weights(_choose(POD_PORT, old, new, settings=INSIDE, node_weights=weights)) == {
        "10.1.0.1": 3,
        "10.1.0.2": 1,
    }
    assert _weights(_choose(POD_PORT, piece(), settings=INSIDE, node_weights=weights)) == {"10.1.0.11": 1}


def test_weight_zero_takes_nothing_new_unless_all_have_it() -> None:
    """So that the last version of all still answers."""
    idle, busy = piece(name="a", addresses=["10.1.0.1"], weight="0"), piece(name="b", addresses=["10.1.0.2"])
    assert _weights(_choose(POD_PORT, idle, busy, settings=INSIDE)) == {"10.1.0.2": 1}
    assert _weights(_choose(POD_PORT, idle, settings=INSIDE)) == {"10.1.0.1": 1}


def test_a_weight_that_is_none_is_said() -> None:
    """Of a slice aloud; of a node without an Event for each of its Services."""
    choice = _choose(POD_PORT, piece(weight="heavy"), settings=INSIDE)
    assert (_weights(choice), _reasons(choice)) == ({"10.1.0.11": 1}, [Reason.INVALID_ANNOTATION])
    assert choice.notices[0].warning
    odd = index_weights([node("n1", "198.51.100.11", weight="-1")])
    choice = _choose(NODE_PORT, node_weights=odd)
    assert [(notice.reason, notice.warning) for notice in choice.notices] == [(Reason.INVALID_ANNOTATION, False)]
    pods = _choose(POD_PORT, piece(addresses=[Endpoint(ip("10.1.0.1"), node="n1")]), settings=INSIDE, node_weights=odd)
    assert "node n1: littlelb.io/weight: '-1' is not a number" in pods.notices[0].message


def test_nodes_are_weighed_before_they_are_counted() -> None:
    """Those that shall take nothing new are no choice, unless all are such; slices cannot weigh what nodes get."""
    weights = index_weights([node("n1", "198.51.100.11", weight="0"), node("n2", "198.51.100.12", weight="7")])
    few = replace(OUTSIDE, max_nodes=1)
    assert _weights(_choose(NODE_PORT, settings=few, node_weights=weights)) == {"198.51.100.12": 1}
    none = index_weights([node("n1", "198.51.100.11", weight="0"), node("n2", "198.51.100.12", weight="0")])
    assert _weights(_choose(NODE_PORT, node_weights=none)) == {"198.51.100.11": 1, "198.51.100.12": 1}
    vain = _choose(NODE_PORT, piece(weight="3"))
    assert _reasons(vain) == [Reason.INVALID_ANNOTATION]
    assert "have no effect where nodes serve" in vain.notices[0].message


def test_under_policy_local_pods_of_this_node_come_first() -> None:
    """Ready ones, else those that still serve while they end; without any here those of all nodes serve."""
    local = service(external_traffic_policy_local=True)
    here = replace(INSIDE, node_name="n1")
    near, far = Endpoint(ip("10.1.0.1"), node="n1"), Endpoint(ip("10.1.0.2"), node="n2")
    ending = Endpoint(ip("10.1.0.3"), ready=False, serving=True, terminating=True, node="n1")
    ended = Endpoint(ip("10.1.0.4"), ready=False, serving=False, terminating=True, node="n1")
    for endpoints, expected in (
        ([near, far, ending], ["10.1.0.1:8080"]),
        ([far, ending], ["10.1.0.3:8080"]),
        ([far, ended], ["10.1.0.2:8080"]),
    ):
        choice = _choose(POD_PORT, piece(addresses=endpoints), settings=here, of=local)
        assert _addresses(choice) == expected
    assert len(_choose(POD_PORT, piece(addresses=[near, far]), settings=here).backends) == 2
    assert len(_choose(POD_PORT, piece(addresses=[near, far]), settings=INSIDE, of=local).backends) == 2


def test_under_policy_local_only_nodes_that_may_serve_are_asked() -> None:
    """A ready endpoint on a node that is left out, or of the other family, does not silence those that are ending."""
    local = service(ports=[NODE_PORT], external_traffic_policy_local=True)
    out = piece(name="a", addresses=[Endpoint(ip("10.1.0.1"), node="excluded")])
    six = piece(name="b", addresses=[Endpoint(ip("2001:db8::1"), node="n1")], family=Family.IPV6)
    ending = piece(
        name="c", addresses=[Endpoint(ip("10.1.0.2"), ready=False, serving=True, terminating=True, node="n2")]
    )
    assert _addresses(_choose(NODE_PORT, out, six, ending, of=local)) == ["198.51.100.12:30080"]


def test_backends_keep_the_clients_address_as_the_source_mode_says() -> None:
    """Pods of this node and of routed networks; nodes only by their network."""
    here = replace(INSIDE, node_name="n1", routed_networks=(ip_network("10.2.0.0/16"), ip_network("2001:db8::/32")))
    mixed = piece(addresses=[Endpoint(ip("10.1.0.1"), node="n1"), Endpoint(ip("10.1.0.2"), node="n2"), "10.2.0.1"])
    assert [b.keeps_source for b in _choose(POD_PORT, mixed, settings=here).backends] == [True, False, True]
    assert not any(b.keeps_source for b in _choose(POD_PORT, mixed, settings=here, plane=Plane.PIPE).backends)
    outside = replace(OUTSIDE, node_name="n1", routed_networks=(ip_network("198.51.100.12/32"),))
    assert [b.keeps_source for b in _choose(NODE_PORT, settings=outside).backends] == [False, True]


def test_a_range_goes_to_the_same_port_of_every_pod() -> None:
    """Whatever ports the slices name; nodes have no NodePorts for it."""
    slices = (piece(name="a"), piece(name="b", addresses=["10.1.0.12"], port=None, ports=()))
    media = ServicePort(5000, Protocol.UDP)
    assert _addresses(_choose(media, *slices, last_port=5999)) == ["10.1.0.11:0", "10.1.0.12:0"]
    nodes = _choose(media, *slices, last_port=5999, settings=replace(OUTSIDE, backends=BackendsMode.NODES))
    assert nodes.refusal is not None
    assert nodes.refusal.message == "ports 5000-5999: ranges are forwarded to pods only, and --backends is nodes"
    nobody = _choose(media, last_port=5999, settings=INSIDE)
    assert nobody.notices[0].message == "ports 5000-5999: no IPv4 endpoint is ready: refused"
