"""Small questions to the choice of backends, for the tests of its parts."""

from dataclasses import replace

from littlelb.core.model import EndpointSlice, Family, Node, Plane, Service, ServicePort
from littlelb.core.reasons import Reason
from littlelb.core.serving.backends import choose_backends
from littlelb.core.serving.choice import Choice, Wanted
from littlelb.core.serving.nodes import index_nodes
from littlelb.core.serving.sources import choose_source
from littlelb.core.state import Settings, World
from tests.worlds import HOST, node, service

OUTSIDE, INSIDE = Settings(), Settings(in_cluster=True)
NODES = (node("n1", "198.51.100.11"), node("n2", "198.51.100.12"))
NODE_PORT = ServicePort(80, node_port=30080)
POD_PORT = ServicePort(80)


def choose(
    port: ServicePort,
    *slices: EndpointSlice,
    settings: Settings = OUTSIDE,
    of: Service | None = None,
    nodes: tuple[Node, ...] = NODES,
    plane: Plane = Plane.NFT,
    last_port: int = 0,
    **fields: object,
) -> Choice:
    """Ask for IPv4 backends of one port; `fields` are of the World."""
    world = replace(World(settings, HOST, nodes, index_nodes(nodes), stale_nodes=False, vips=frozenset()), **fields)  # type: ignore[arg-type]
    asked = of or service(ports=[port])
    source, _ = choose_source(asked, plane, settings)
    return choose_backends(Wanted(asked, port, Family.IPV4, slices, source, last_port), world)


def addresses_of(choice: Choice) -> list[str]:
    """Addresses and ports of what was chosen."""
    return [f"{backend.address}:{backend.port}" for backend in choice.backends]


def reasons_of(choice: Choice) -> list[Reason]:
    """Why there are notices."""
    return [notice.reason for notice in choice.notices]


def weights_of(choice: Choice) -> dict[str, int]:
    """Address → weight."""
    return {str(backend.address): backend.weight for backend in choice.backends}
