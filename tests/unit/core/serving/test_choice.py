"""What pods and nodes have in common as backends."""

import pytest

from littlelb.core.model import Family, Plane
from littlelb.core.serving.backends import choose_backends
from littlelb.core.serving.choice import Wanted, never_a_backend
from littlelb.core.serving.nodes import index_nodes
from littlelb.core.serving.sources import choose_source
from littlelb.core.state import World
from tests.choices import INSIDE, NODES, POD_PORT
from tests.worlds import HOST, ip, piece, service


def test_ipv6_endpoints_of_special_addresses_are_not_used_either() -> None:
    """Loopback, link-local, unspecified, multicast; a plain one is."""
    found = piece("web", ["::1", "fe80::1", "::", "ff02::1", "2001:db8:1::7"], family=Family.IPV6)
    world = World(INSIDE, HOST, NODES, index_nodes(NODES), stale_nodes=False, vips=frozenset())
    source, _ = choose_source(service(), Plane.PIPE, INSIDE)
    choice = choose_backends(Wanted(service(), POD_PORT, Family.IPV6, (found,), source), world)
    assert [str(backend.address) for backend in choice.backends] == ["2001:db8:1::7"]


@pytest.mark.parametrize(
    ("text", "never"),
    [
        ("10.1.0.1", False),
        ("127.8.8.8", True),
        ("169.254.0.1", True),
        ("224.0.0.1", True),
        ("239.255.255.255", True),
        ("240.0.0.1", False),
        ("2001:db8::1", False),
        ("::1", True),
    ],
)
def test_addresses_that_lead_nowhere_or_to_ourselves(text: str, never: bool) -> None:
    """In both families."""
    assert never_a_backend(ip(text)) is never


def test_what_is_wanted_has_a_name() -> None:
    """For messages: one port, or a range."""
    source, _ = choose_source(service(), Plane.NFT, INSIDE)
    assert str(Wanted(service(), POD_PORT, Family.IPV4, (), source)) == "port 80"
    assert str(Wanted(service(), POD_PORT, Family.IPV4, (), source, 90)) == "ports 80-90"
