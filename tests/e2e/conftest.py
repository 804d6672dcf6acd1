"""Fixtures of the end-to-end tests: the real control plane of tests/controlplane."""

from collections.abc import Iterator

import pytest

from tests.controlplane.cluster import ControlPlane
from tests.e2e.rig import Rig


def pytest_configure(config: pytest.Config) -> None:
    """Load the control plane's fixtures; a conftest below the top may not list them in `pytest_plugins`."""
    config.pluginmanager.import_plugin("tests.controlplane.plugin")


@pytest.fixture
def rig(controlplane: ControlPlane, cluster_namespace: str) -> Iterator[Rig]:
    """A LAN with two nodes in the API, wired to the control plane; the daemon is not started yet."""
    with Rig(controlplane, cluster_namespace) as made:
        made.add_node(1)
        made.add_node(2)
        yield made
