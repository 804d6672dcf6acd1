"""The choice of a plane."""

import pytest

from littlelb.core.model import Plane
from littlelb.core.serving.planes import choose_plane
from littlelb.core.state import Settings
from tests.worlds import service


@pytest.mark.parametrize(
    ("asked", "planes", "chosen"),
    [
        ("", (Plane.NFT, Plane.PIPE), Plane.NFT),
        ("pipe", (Plane.NFT, Plane.PIPE), Plane.PIPE),
        ("nft", (Plane.PIPE,), Plane.PIPE),
        ("ebpf", (Plane.NFT, Plane.PIPE), Plane.NFT),
    ],
)
def test_the_machine_decides_unless_the_service_asks_for_what_works(
    asked: str, planes: tuple[Plane, ...], chosen: Plane
) -> None:
    """A plane that does not work here, or that nobody knows, is not taken."""
    asking = service("web", annotations={"littlelb.io/plane": asked})
    assert choose_plane(asking, Settings(planes=planes)) is chosen
