"""What we ship is admitted by the real API server: the examples, the manifests and the overlays, applied for real."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.controlplane.admin import Object, path_of_object, read_manifests
from tests.controlplane.cluster import ControlPlane

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
INSTALLS = ["deploy/manifests", "deploy/overlays/external-ips", "deploy/overlays/no-class-less"]


@pytest.fixture(scope="module")
def dashboard_namespace(controlplane: ControlPlane) -> Iterator[None]:
    """The namespace that the dashboard's chart makes."""
    item: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kubernetes-dashboard"}}
    controlplane.admin.create(item)
    yield
    controlplane.admin.delete(item)


def test_there_are_examples() -> None:
    """The ones that a newcomer is told to apply are there."""
    names = {path.name for path in EXAMPLES}
    assert names >= {"echo.yaml", "service.yaml", "service-lb.yaml", "service-lb-new-addr.yaml"}
    assert "kubernetes-dashboard-lb.yaml" in names


@pytest.mark.usefixtures("dashboard_namespace")
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_admitted_without_a_warning(controlplane: ControlPlane, path: Path) -> None:
    """Strict validation finds no unknown field, and each object is there afterwards."""
    admin = controlplane.admin
    admin.kubectl("apply", "--validate=strict", "--warnings-as-errors", "-f", str(path))
    try:
        for item in read_manifests(path.read_text()):
            assert admin.request("GET", path_of_object(item))["metadata"]["uid"]
    finally:
        admin.kubectl("delete", "--wait=false", "-f", str(path))


def test_a_service_becomes_a_load_balancer_and_back_by_applying_the_examples(controlplane: ControlPlane) -> None:
    """service-lb.yaml changes the type of the Service of service.yaml; service.yaml changes it back."""
    admin = controlplane.admin
    types = []
    for name in ("service.yaml", "service-lb.yaml", "service.yaml"):
        admin.kubectl("apply", "-f", str(ROOT / "examples" / name))
        types.append(admin.get("v1", "Service", "echo", "default")["spec"]["type"])
    admin.kubectl("delete", "-f", str(ROOT / "examples" / "service.yaml"))
    assert types == ["ClusterIP", "LoadBalancer", "ClusterIP"]


@pytest.mark.parametrize("folder", INSTALLS)
def test_an_install_is_admitted_down_to_its_pod(controlplane: ControlPlane, folder: str) -> None:
    """The Deployment's pod passes admission (security context, host network, priority), not only its template."""
    admin = controlplane.admin
    deployment: Object = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"namespace": "littlelb-system", "name": "loadbalancer"},
    }
    admin.kubectl("apply", "--validate=strict", "--warnings-as-errors", "-k", str(ROOT / folder))
    try:
        admin.wait(deployment, lambda _: len(admin.items("v1", "Pod", "littlelb-system")) == 1)
        (pod,) = admin.items("v1", "Pod", "littlelb-system")
        assert pod["spec"]["hostNetwork"] is True
        assert pod["spec"]["priority"] == 2000000000
        (container,) = pod["spec"]["containers"]
        assert container["args"][0] == "/opt/sbin/loadbalancer"
        assert "command" not in container
    finally:
        # The namespace stays for the next one: a new one of the same name would have to wait for the old one's end.
        admin.delete(deployment)
        for item in admin.items("v1", "Pod", "littlelb-system"):
            admin.delete({"apiVersion": "v1", "kind": "Pod", "metadata": item["metadata"]}, grace_seconds=0)


def test_the_external_ips_overlay_alone_may_change_services(controlplane: ControlPlane) -> None:
    """The right to patch Services comes with the flag that needs it, and only there."""
    rules: dict[str, list[Object]] = {}
    for folder in INSTALLS:
        items = read_manifests(controlplane.admin.kubectl("kustomize", str(ROOT / folder)))
        rules[folder] = next(item for item in items if item["kind"] == "ClusterRole")["rules"]
    extra = {"apiGroups": [""], "resources": ["services"], "verbs": ["patch"]}
    assert rules["deploy/overlays/external-ips"] == [*rules["deploy/manifests"], extra]
    assert rules["deploy/overlays/no-class-less"] == rules["deploy/manifests"]
