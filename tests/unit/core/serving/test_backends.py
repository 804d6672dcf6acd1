"""Pods or nodes."""

from dataclasses import replace
from ipaddress import ip_network

import pytest

from littlelb.core.model import Endpoint, Plane, Protocol, ServicePort
from littlelb.core.state import BackendsMode, Settings
from tests.choices import INSIDE, NODE_PORT, OUTSIDE, POD_PORT, addresses_of, choose
from tests.worlds import STAND_ALONE, ip, piece


def test_outside_of_the_cluster_nodes_serve_by_their_node_port() -> None:
    """Even if there are slices."""
    assert addresses_of(choose(NODE_PORT, piece())) == ["198.51.100.11:30080", "198.51.100.12:30080"]


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
    assert addresses_of(choose(port, piece(), settings=settings))[0] == expected


def test_from_a_folder_nodes_serve_when_there_is_no_slice() -> None:
    """And pods when there is one."""
    assert addresses_of(choose(NODE_PORT, settings=STAND_ALONE))[0] == "198.51.100.11:30080"


def test_backends_keep_the_clients_address_as_the_source_mode_says() -> None:
    """Pods of this node and of routed networks; nodes only by their network."""
    here = replace(INSIDE, node_name="n1", routed_networks=(ip_network("10.2.0.0/16"), ip_network("2001:db8::/32")))
    mixed = piece(addresses=[Endpoint(ip("10.1.0.1"), node="n1"), Endpoint(ip("10.1.0.2"), node="n2"), "10.2.0.1"])
    assert [b.keeps_source for b in choose(POD_PORT, mixed, settings=here).backends] == [True, False, True]
    assert not any(b.keeps_source for b in choose(POD_PORT, mixed, settings=here, plane=Plane.PIPE).backends)
    outside = replace(OUTSIDE, node_name="n1", routed_networks=(ip_network("198.51.100.12/32"),))
    assert [b.keeps_source for b in choose(NODE_PORT, settings=outside).backends] == [False, True]


def test_a_range_goes_to_the_same_port_of_every_pod() -> None:
    """Whatever ports the slices name; nodes have no NodePorts for it."""
    slices = (piece(name="a"), piece(name="b", addresses=["10.1.0.12"], port=None, ports=()))
    media = ServicePort(5000, Protocol.UDP)
    assert addresses_of(choose(media, *slices, last_port=5999)) == ["10.1.0.11:0", "10.1.0.12:0"]
    nodes = choose(media, *slices, last_port=5999, settings=replace(OUTSIDE, backends=BackendsMode.NODES))
    assert nodes.refusal is not None
    assert nodes.refusal.message == "ports 5000-5999: ranges are forwarded to pods only, and --backends is nodes"
    nobody = choose(media, last_port=5999, settings=INSIDE)
    assert nobody.notices[0].message == "ports 5000-5999: no IPv4 endpoint is ready: refused"
