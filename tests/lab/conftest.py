"""What lab tests share: a loud skip where namespaces cannot be made, and a LAN for each test."""

from collections.abc import Iterator

import pytest

from littlelb.testing.lan import Lan
from littlelb.testing.netns import unavailable
from tests.lab.box import Box

_reason: list[str | None] = []


@pytest.fixture(scope="session", autouse=True)
def namespaces() -> None:
    """Skip every lab test, with the reason and the remedy, where this process may not make network namespaces."""
    if not _reason:
        _reason.append(unavailable())
    if _reason[0] is not None:
        pytest.skip(f"lab: {_reason[0]}")


@pytest.fixture
def lan() -> Iterator[Lan]:
    """One client, the balancer (192.0.2.2 on eth0), two backends; removed after the test."""
    with Lan() as built:
        yield built


@pytest.fixture
def box(request: pytest.FixtureRequest) -> Iterator[Box]:
    """One box with two web servers beside it and an empty folder of manifests; the daemon is not started yet.

    Parametrised indirectly, the parameter is the plane: `box.BOTH_PLANES`.
    """
    with Box(getattr(request, "param", "auto")) as made:
        yield made
