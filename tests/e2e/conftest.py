"""Fixtures of the end-to-end tests: the real control plane of tests/controlplane."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Load the control plane's fixtures; a conftest below the top may not list them in `pytest_plugins`."""
    config.pluginmanager.import_plugin("tests.controlplane.plugin")
