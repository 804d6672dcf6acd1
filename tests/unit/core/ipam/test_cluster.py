"""Whose an address of the cluster is, and what moves."""

from ipaddress import ip_network

from hypothesis import given
from hypothesis import strategies as st

from littlelb.core.ipam.cluster import ClusterAddresses, follow_nodes, follow_services, index_cluster
from littlelb.core.model import Node, Service
from tests.worlds import ip, node, service

NODES = {
    "n1": node("n1", "198.51.100.11"),
    "n2": node("n2", "198.51.100.12", pod_networks=(ip_network("10.1.7.0/24"),)),
    "n3": node("n3", "198.51.100.13", pod_networks=(ip_network("2001:db8::/64"),)),
}
SERVICES = {"default/web": service("web", cluster_ips=("10.99.0.7",)), "default/x": service("x", cluster_ips=("None",))}


def test_the_cluster_says_whose_an_address_is() -> None:
    """Nodes, pods and Services; an address of nobody is nobody's."""
    cluster = index_cluster(SERVICES, NODES)
    assert cluster.owner(ip("198.51.100.11")) == "node n1's"
    assert cluster.owner(ip("10.1.7.200")) == "in the pod network of node n2"
    assert cluster.owner(ip("2001:db8::9")) == "in the pod network of node n3"
    assert cluster.owner(ip("10.99.0.7")) == "the cluster IP of default/web"
    assert cluster.owner(ip("203.0.113.7")) == ""


def test_a_cluster_ip_of_two_is_the_others_when_one_goes() -> None:
    """A folder may give two Services the same one; what moves is named."""
    double = {**SERVICES, "default/a": service("a", cluster_ips=("10.99.0.7", "junk"))}
    cluster = index_cluster(double, {})
    assert cluster.owner(ip("10.99.0.7")) == "the cluster IP of default/a"
    left, moved = follow_services(cluster, double, SERVICES, ["default/a", "default/web"])
    assert left.owner(ip("10.99.0.7")) == "the cluster IP of default/web"
    assert moved.addresses == {ip("10.99.0.7")}
    assert follow_services(left, SERVICES, SERVICES, SERVICES)[0] is left


def test_a_node_that_goes_takes_its_addresses_and_networks_along() -> None:
    """Who asked for one of them is to be judged again, and nobody else."""
    left, moved = follow_nodes(index_cluster({}, NODES), {"n1": NODES["n1"], "n3": NODES["n3"]})
    assert left.owner(ip("10.1.7.200")) == ""
    assert moved.addresses == {ip("198.51.100.12")}
    assert moved.concerns(ip("10.1.7.1"))
    assert not moved.concerns(ip("10.1.8.1"))
    assert not moved.concerns(ip("2001:db8::9"))


NETS = [ip_network("10.1.0.0/24"), ip_network("10.1.1.0/24"), ip_network("10.1.0.0/16"), ip_network("2001:db8::/64")]
ADDRESSES = [ip("10.1.0.7"), ip("10.1.1.7"), ip("10.1.9.7"), ip("2001:db8::7"), ip("198.51.100.1"), ip("10.99.0.7")]


@st.composite
def clusters(draw: st.DrawFn) -> tuple[dict[str, Service], dict[str, Node]]:
    """Some Services and nodes."""
    texts = st.lists(st.sampled_from(["10.99.0.7", "10.1.0.7", "None"]), unique=True, max_size=2)
    services = {f"default/{name}": service(name, cluster_ips=tuple(draw(texts))) for name in draw(st.sets(NAMES))}
    nets = st.lists(st.sampled_from(NETS), unique=True, max_size=2)
    homes = st.sampled_from(["198.51.100.1", "198.51.100.2"])
    nodes = {name: node(name, draw(homes), pod_networks=tuple(draw(nets))) for name in draw(st.sets(NAMES))}
    return services, nodes


NAMES = st.sampled_from(["a", "b"])


@given(clusters(), clusters())
def test_following_gives_the_same_as_indexing_and_names_all_that_moved(
    old: tuple[dict[str, Service], dict[str, Node]], new: tuple[dict[str, Service], dict[str, Node]]
) -> None:
    """Whatever changes: nobody whose address moved is forgotten."""
    first = index_cluster(*old)
    second, of_services = follow_services(first, old[0], new[0], {*old[0], *new[0]})
    third, of_nodes = follow_nodes(second, new[1])
    fresh = index_cluster(*new)
    assert _owners(third) == _owners(fresh)
    for address in ADDRESSES:
        told = address in of_services.addresses | of_nodes.addresses or of_nodes.concerns(address)
        assert told or first.owner(address) == fresh.owner(address)


def _owners(cluster: ClusterAddresses) -> list[str]:
    return [cluster.owner(address) for address in ADDRESSES]
