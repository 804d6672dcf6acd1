"""The nouns."""

from dataclasses import replace
from ipaddress import ip_network

from littlelb.core.model import HostFacts
from tests.worlds import frontend, grant, ip, node, piece, service


def test_objects_are_named_as_kubernetes_names_them() -> None:
    """Keys are namespace/name, of nodes the name."""
    assert service("web").key == "default/web"
    assert piece("web").key == "default/web-1"
    assert piece("web").service_key == "default/web"
    assert node("n1", "198.51.100.11").key == "n1"


def test_frontend_is_written_for_people() -> None:
    """Messages name address, port and protocol."""
    assert str(frontend("203.0.113.7", 443)) == "203.0.113.7 port 443/TCP"


def test_grant_knows_its_addresses() -> None:
    """Two ports of one address are one address."""
    held = grant(frontend("203.0.113.7", 80), frontend("203.0.113.7", 443))
    assert held.addresses == {ip("203.0.113.7")}


def test_a_host_reaches_what_it_has_a_route_to_or_on_its_link() -> None:
    """In each family by itself; also when the facts were changed."""
    host = HostFacts("eth0", on_link=(ip_network("192.0.2.0/24"),), routed=(ip_network("2001:db8::/64"),))
    assert host.reaches(ip("192.0.2.255"))
    assert host.reaches(ip("2001:db8::1"))
    assert not host.reaches(ip("192.0.3.0"))
    assert not host.reaches(ip("2001:db8:1::"))
    assert replace(host, routed=(ip_network("192.0.3.0/32"),)).reaches(ip("192.0.3.0"))
