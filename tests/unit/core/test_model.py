"""The nouns."""

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
