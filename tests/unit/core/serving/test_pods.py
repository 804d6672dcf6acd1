"""Which pods serve."""

from dataclasses import replace

import pytest

from littlelb.core.model import Backend, Endpoint, EndpointPort, Family, Protocol, ServicePort
from littlelb.core.reasons import Reason
from littlelb.core.serving.weights import index_weights
from littlelb.core.state import BackendsMode
from tests.choices import INSIDE, NODE_PORT, OUTSIDE, POD_PORT, addresses_of, choose, reasons_of, weights_of
from tests.worlds import STAND_ALONE, ip, node, piece, service

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
    assert addresses_of(choose(POD_PORT, piece(addresses=endpoints), settings=INSIDE, of=of)) == expected


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
    assert addresses_of(choose(web, *slices, settings=INSIDE)) == ["10.1.0.1:8080", "10.1.0.2:9090"]


def test_an_endpoint_in_two_slices_counts_once_by_its_better_state() -> None:
    """While it moves from one slice to another."""
    twice = [piece(name="a", addresses=[replace_ready(READY, ready=False)]), piece(name="b", addresses=[READY])]
    for order in (twice, twice[::-1]):
        assert addresses_of(choose(POD_PORT, *order, settings=INSIDE)) == ["10.1.0.1:8080"]


def replace_ready(endpoint: Endpoint, *, ready: bool) -> Endpoint:
    """The same endpoint in another state."""
    return Endpoint(endpoint.address, ready, ready, endpoint.terminating, endpoint.node)


@pytest.mark.parametrize(
    "bad", ["127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "203.0.113.7", "192.0.2.2", "198.51.100.2"]
)
def test_endpoints_that_lead_to_ourselves_are_never_used(bad: str) -> None:
    """Loopback, link-local, VIPs of ours and, outside of the cluster, this machine; the rest of the slice serves on."""
    slices = piece(addresses=[bad, "10.1.0.1"])
    choice = choose(POD_PORT, slices, vips=frozenset({ip("203.0.113.7")}))
    assert addresses_of(choice) == ["10.1.0.1:8080"]
    assert reasons_of(choice) == [Reason.UNUSABLE_ENDPOINT]
    assert bad in choice.notices[0].message


def test_inside_the_cluster_a_host_network_pod_of_this_node_is_an_endpoint() -> None:
    """Its address is this machine's; only VIPs would be a loop."""
    assert addresses_of(choose(POD_PORT, piece(addresses=["192.0.2.2"]), settings=INSIDE)) == ["192.0.2.2:8080"]


def test_more_than_one_bad_endpoint_is_counted() -> None:
    """One notice, not thousands."""
    choice = choose(POD_PORT, piece(addresses=["127.0.0.1", "127.0.0.2", "127.0.0.3"]), settings=INSIDE)
    assert "127.0.0.1 (and 2 more)" in choice.notices[0].message


def test_pods_behind_the_default_route_only_are_refused_outside_of_the_cluster() -> None:
    """With the two remedies; with `--backends pods`, the user says that it works."""
    far = piece(addresses=["10.99.0.1"])
    choice = choose(POD_PORT, far)
    assert choice.refusal is not None
    assert choice.refusal.reason is Reason.UNREACHABLE_PODS
    assert choice.refusal.message.endswith("add a route to the pod network, or set allocateLoadBalancerNodePorts: true")
    ranged = choose(POD_PORT, far, last_port=90)
    assert ranged.refusal is not None
    assert ranged.refusal.message.endswith("add a route to the pod network")
    assert choice.backends == ()
    assert addresses_of(choose(POD_PORT, far, settings=replace(OUTSIDE, backends=BackendsMode.PODS))) == [
        "10.99.0.1:8080"
    ]
    assert addresses_of(choose(POD_PORT, far, settings=STAND_ALONE)) == ["10.99.0.1:8080"]
    assert addresses_of(choose(POD_PORT, far, piece(name="near"))) == ["10.1.0.11:8080"]


def test_no_endpoint_and_faulty_slices_are_said() -> None:
    """Connections are refused; a slice's fault is named."""
    assert reasons_of(choose(POD_PORT, settings=INSIDE)) == [Reason.NO_BACKENDS]
    faulty = choose(POD_PORT, piece(fault="endpoints[3]: no address"), settings=INSIDE)
    assert faulty.backends == (Backend(ip("10.1.0.11"), 8080),)
    assert reasons_of(faulty) == [Reason.UNUSABLE_ENDPOINT]


def test_slices_weigh_their_endpoints_and_nodes_their_pods() -> None:
    """A canary: nine of ten connections to the old ones; on a node of double weight both count double."""
    old = piece(name="old", addresses=["10.1.0.1"], weight="90")
    new = piece(name="new", addresses=[Endpoint(ip("10.1.0.2"), node="big")], weight="10")
    assert weights_of(choose(POD_PORT, old, new, settings=INSIDE)) == {"10.1.0.1": 9, "10.1.0.2": 1}
    weights = index_weights([node("big", "198.51.100.11", weight="3"), node("n2", "198.51.100.12")])
    assert weights_of(choose(POD_PORT, old, new, settings=INSIDE, node_weights=weights)) == {
        "10.1.0.1": 3,
        "10.1.0.2": 1,
    }
    assert weights_of(choose(POD_PORT, piece(), settings=INSIDE, node_weights=weights)) == {"10.1.0.11": 1}


def test_weight_zero_takes_nothing_new_unless_all_have_it() -> None:
    """So that the last version of all still answers."""
    idle, busy = piece(name="a", addresses=["10.1.0.1"], weight="0"), piece(name="b", addresses=["10.1.0.2"])
    assert weights_of(choose(POD_PORT, idle, busy, settings=INSIDE)) == {"10.1.0.2": 1}
    assert weights_of(choose(POD_PORT, idle, settings=INSIDE)) == {"10.1.0.1": 1}


def test_a_weight_that_is_none_is_said() -> None:
    """Of a slice aloud; of a node without an Event for each of its Services."""
    choice = choose(POD_PORT, piece(weight="heavy"), settings=INSIDE)
    assert (weights_of(choice), reasons_of(choice)) == ({"10.1.0.11": 1}, [Reason.INVALID_ANNOTATION])
    assert choice.notices[0].warning
    odd = index_weights([node("n1", "198.51.100.11", weight="-1")])
    choice = choose(NODE_PORT, node_weights=odd)
    assert [(notice.reason, notice.warning) for notice in choice.notices] == [(Reason.INVALID_ANNOTATION, False)]
    pods = choose(POD_PORT, piece(addresses=[Endpoint(ip("10.1.0.1"), node="n1")]), settings=INSIDE, node_weights=odd)
    assert "node n1: littlelb.io/weight: '-1' is not a number" in pods.notices[0].message


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
        choice = choose(POD_PORT, piece(addresses=endpoints), settings=here, of=local)
        assert addresses_of(choice) == expected
    assert len(choose(POD_PORT, piece(addresses=[near, far]), settings=here).backends) == 2
    assert len(choose(POD_PORT, piece(addresses=[near, far]), settings=INSIDE, of=local).backends) == 2
