"""What allocation takes over from one run to the next."""

from littlelb.core.ipam.cases import ClusterAddresses
from tests.worlds import ip

CLUSTER = ClusterAddresses(
    nodes={ip("198.51.100.11"): "n1"},
    pods={(4, 24): {int(ip("10.1.7.0")) >> 8: "n2"}, (6, 64): {int(ip("2001:db8::")) >> 64: "n3"}},
    cluster_ips={"10.99.0.7": "default/web"},
)


def test_the_cluster_says_whose_an_address_is() -> None:
    """Nodes, pods and Services; an address of nobody is nobody's."""
    assert CLUSTER.owner(ip("198.51.100.11")) == "node n1's"
    assert CLUSTER.owner(ip("10.1.7.200")) == "in the pod network of node n2"
    assert CLUSTER.owner(ip("2001:db8::9")) == "in the pod network of node n3"
    assert CLUSTER.owner(ip("10.99.0.7")) == "the cluster IP of default/web"
    assert CLUSTER.owner(ip("203.0.113.7")) == ""
