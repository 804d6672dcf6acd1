"""What the tests of credentials share: a certificate authority, a kubeconfig on disk."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.controlplane.certificates import Authority


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A CA with two client certificates, `anna` and `bert`."""
    made = Authority(tmp_path_factory.mktemp("pki"))
    made.issue("anna", "anna")
    made.issue("bert", "bert")
    return made


WriteConfig = Callable[..., Path]


def render_config(cluster: dict[str, Any], user: dict[str, Any], name: str = "lab") -> dict[str, Any]:
    """One cluster, one user, one context, all with the same name."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": name,
        "preferences": {},
        "clusters": [{"name": name, "cluster": cluster}],
        "users": [{"name": name, "user": user}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
    }


@pytest.fixture
def write_config(tmp_path: Path) -> WriteConfig:
    """Write a kubeconfig of one context and return its path."""

    def write(cluster: dict[str, Any], user: dict[str, Any], name: str = "lab", file: str = "config") -> Path:
        path = tmp_path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.yaml.encode(render_config(cluster, user, name)))
        return path

    return write
