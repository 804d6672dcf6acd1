"""Which plane carries a Service: the machine's first, or the one that its annotation names."""

from collections.abc import Mapping
from typing import Final

from littlelb.core.model import Plane, Protocol, Service
from littlelb.core.state import Settings

PLANE_ANNOTATION: Final = "littlelb.io/plane"
FORWARDED: Final[Mapping[Plane, frozenset[Protocol]]] = {
    Plane.NFT: frozenset({Protocol.TCP, Protocol.UDP}),
    Plane.PIPE: frozenset({Protocol.TCP}),
}
"""What each plane can carry."""


def choose_plane(service: Service, settings: Settings) -> Plane:
    """Take the plane that the Service asks for if it works here, else the first that does."""
    asked = service.annotations.get(PLANE_ANNOTATION, "")
    return next((plane for plane in settings.planes if plane == asked), settings.planes[0])
