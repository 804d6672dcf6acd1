"""Which nodes serve."""

from dataclasses import replace

from littlelb.core.model import Endpoint, Family, Node
from littlelb.core.reasons import Reason
from littlelb.core.serving.nodes import select_nodes
from littlelb.core.serving.weights import index_weights
from tests.choices import NODE_PORT, OUTSIDE, addresses_of, choose, reasons_of, weights_of
from tests.worlds import ip, node, piece, service


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


def test_a_node_on_loopback_would_lead_to_ourselves() -> None:
    """Whatever a kubelet says of itself, connections never end on this machine by it; its other addresses count."""
    odd = Node(name="odd", addresses=(ip("127.0.0.1"), ip("169.254.1.1"), ip("198.51.100.7")))
    only = Node(name="only", addresses=(ip("127.0.0.1"), ip("::1")))
    assert [str(b.address) for b in choose(NODE_PORT, nodes=(odd, only)).backends] == ["198.51.100.7"]


def test_at_most_max_nodes_serve_one_service_and_they_are_its_own() -> None:
    """Rendezvous: another Service has other nodes, the same Service always the same."""
    nodes = tuple(node(f"n{n}", f"198.51.100.{n}") for n in range(1, 100))
    settings = replace(OUTSIDE, max_nodes=5)
    first = choose(NODE_PORT, settings=settings, nodes=nodes)
    assert len(first.backends) == 5
    assert first == choose(NODE_PORT, settings=settings, nodes=tuple(reversed(nodes)))
    other = choose(NODE_PORT, settings=settings, nodes=nodes, of=service("other", ports=[NODE_PORT]))
    assert set(first.backends) != set(other.backends)


def test_under_policy_local_only_nodes_with_endpoints_serve() -> None:
    """Ready ones, else those that still serve while they end: kube-proxy drops it everywhere else."""
    local = service(ports=[NODE_PORT], external_traffic_policy_local=True)
    ready = piece(addresses=[Endpoint(ip("10.1.0.11"), node="n2")])
    ending = piece(addresses=[Endpoint(ip("10.1.0.1"), ready=False, serving=True, terminating=True, node="n1")])
    assert addresses_of(choose(NODE_PORT, ready, of=local)) == ["198.51.100.12:30080"]
    assert addresses_of(choose(NODE_PORT, ending, of=local)) == ["198.51.100.11:30080"]
    assert addresses_of(choose(NODE_PORT, of=local)) == []


def test_under_policy_local_only_nodes_that_may_serve_are_asked() -> None:
    """A ready endpoint on a node that is left out, or of the other family, does not silence those that are ending."""
    local = service(ports=[NODE_PORT], external_traffic_policy_local=True)
    out = piece(name="a", addresses=[Endpoint(ip("10.1.0.1"), node="excluded")])
    six = piece(name="b", addresses=[Endpoint(ip("2001:db8::1"), node="n1")], family=Family.IPV6)
    ending = piece(
        name="c", addresses=[Endpoint(ip("10.1.0.2"), ready=False, serving=True, terminating=True, node="n2")]
    )
    assert addresses_of(choose(NODE_PORT, out, six, ending, of=local)) == ["198.51.100.12:30080"]


def test_no_usable_node_is_said() -> None:
    """With what to look at; and when the last ones stay in use, that."""
    none = choose(NODE_PORT, nodes=(Node(name="six", addresses=(ip("2001:db8::11"),)),))
    assert (none.backends, reasons_of(none)) == ((), [Reason.NO_BACKENDS])
    stale = choose(NODE_PORT, stale_nodes=True)
    assert (len(stale.backends), reasons_of(stale)) == (2, [Reason.STALE_NODES])


def test_nodes_are_weighed_before_they_are_counted() -> None:
    """Those that shall take nothing new are no choice, unless all are such; slices cannot weigh what nodes get."""
    weights = index_weights([node("n1", "198.51.100.11", weight="0"), node("n2", "198.51.100.12", weight="7")])
    few = replace(OUTSIDE, max_nodes=1)
    assert weights_of(choose(NODE_PORT, settings=few, node_weights=weights)) == {"198.51.100.12": 1}
    none = index_weights([node("n1", "198.51.100.11", weight="0"), node("n2", "198.51.100.12", weight="0")])
    assert weights_of(choose(NODE_PORT, node_weights=none)) == {"198.51.100.11": 1, "198.51.100.12": 1}
    vain = choose(NODE_PORT, piece(weight="3"))
    assert reasons_of(vain) == [Reason.INVALID_ANNOTATION]
    assert "have no effect where nodes serve" in vain.notices[0].message
