"""What we ship is not only admitted but works: the examples are served, the daemon runs as the Deployment has it."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.controlplane.accounts import ACCOUNT, MANIFESTS, NAMESPACE
from tests.controlplane.admin import ApiError, Object, read_manifests
from tests.e2e import pod
from tests.e2e.pod import in_a_container, write_account_folder
from tests.e2e.rig import DEFAULT, Rig, fetch

pytestmark = pytest.mark.e2e

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
DASHBOARD = "kubernetes-dashboard"
SUPERVISOR = [sys.executable, "-m", "littlelb.supervisor"]
"""What /opt/sbin/loadbalancer of the image runs."""


def ingress(rig: Rig, name: str, namespace: str = "default") -> list[str]:
    """Published addresses of a Service; none where there is no such Service."""
    try:
        found = rig.plane.admin.get("v1", "Service", name, namespace)
    except ApiError as error:
        if error.status != 404:
            raise
        return []
    return [entry["ip"] for entry in found["status"].get("loadBalancer", {}).get("ingress") or []]


def node_port(rig: Rig, name: str, namespace: str = "default") -> int:
    """NodePort of the only port of a Service."""
    (port,) = rig.plane.admin.get("v1", "Service", name, namespace)["spec"]["ports"]
    number: int = port["nodePort"]
    return number


@pytest.fixture
def home(rig: Rig) -> Rig:
    """A LAN as the examples have it, 192.168.0.0/24, beside the one of the other tests."""
    rig.lan.balancer.ip("addr", "add", "192.168.0.2/24", "dev", "eth0")
    rig.lan.client.ip("addr", "add", "192.168.0.10/24", "dev", "eth0")
    return rig


@pytest.fixture
def dashboard_namespace(rig: Rig) -> Iterator[None]:
    """The namespace that the dashboard's chart makes; the next one who wants it may find it going."""
    item: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": DASHBOARD}}
    rig.plane.admin.wait(item, lambda found: found is None or found["status"]["phase"] == "Active", 40)
    rig.plane.admin.apply(item)
    yield
    rig.plane.admin.delete(item)


def apply(rig: Rig, name: str) -> None:
    """Do what the newcomer is told to do."""
    rig.plane.admin.kubectl("apply", "-f", str(EXAMPLES / name))


def remove(rig: Rig, name: str) -> None:
    """Delete it again; returns when it is gone, finalizers and all."""
    rig.plane.admin.kubectl("delete", "--wait=true", "--timeout=30s", "-f", str(EXAMPLES / name))


def test_the_newcomers_way_through_the_examples(home: Rig) -> None:
    """Unreachable as ClusterIP, then on the default address, beside it another one on its own; and all the way back."""
    rig = home
    rig.start()
    apply(rig, "echo.yaml")
    apply(rig, "service.yaml")
    apply(rig, "service-lb-new-addr.yaml")
    rig.serve(2, node_port(rig, "echo5"))
    rig.wait("echo5 is served", lambda: rig.ask("192.168.0.228", 8888) == "n2")
    assert not ingress(rig, "echo")
    apply(rig, "service-lb.yaml")
    rig.serve(1, node_port(rig, "echo"))
    rig.wait("echo is served", lambda: ingress(rig, "echo") == [DEFAULT] and rig.ask(DEFAULT, 8888) == "n1")
    apply(rig, "service.yaml")
    rig.wait("echo is closed", lambda: rig.ask(DEFAULT, 8888) == "")
    assert rig.ask("192.168.0.228", 8888) == "n2"
    for name in ("service-lb-new-addr.yaml", "service.yaml", "echo.yaml"):
        remove(rig, name)
    assert "192.168.0.228" not in rig.held()


@pytest.mark.usefixtures("dashboard_namespace")
def test_the_dashboard_is_for_its_source_ranges_only(home: Rig) -> None:
    """A client of 192.168.0.0/24 reaches it; one of another network is turned away, until its network is let in."""
    rig = home
    rig.start()
    apply(rig, "kubernetes-dashboard-lb.yaml")
    rig.serve(1, node_port(rig, "kubernetes-dashboard-lb", DASHBOARD))
    rig.wait("served", lambda: rig.ask("192.168.0.251", 443) == "n1")
    stranger = rig.lan.add_client()
    stranger.ip("route", "add", "192.168.0.0/24", "dev", "eth0")
    assert stranger.call(lambda: fetch("192.168.0.251", 443)) == ""
    assert rig.ask("192.168.0.251", 443) == "n1"
    dashboard = rig.plane.admin.get("v1", "Service", "kubernetes-dashboard-lb", DASHBOARD)
    rig.plane.admin.patch(dashboard, {"spec": {"loadBalancerSourceRanges": ["192.0.2.0/24"]}})
    rig.wait("let in", lambda: stranger.call(lambda: fetch("192.168.0.251", 443)) == "n1")
    remove(rig, "kubernetes-dashboard-lb.yaml")


def deployment() -> Object:
    """Read the container of the Deployment."""
    (item,) = read_manifests((MANIFESTS / "deployment.yaml").read_text())
    (container,) = item["spec"]["template"]["spec"]["containers"]
    found: Object = container
    return found


def test_the_daemon_works_as_its_deployment_runs_it(rig: Rig) -> None:
    """Its arguments, account and supervisor, three capabilities, no way to more, nothing to write but its folders."""
    program, *flags = deployment()["args"]
    assert program == "/opt/sbin/loadbalancer"
    folder = write_account_folder(rig, rig.plane.token(NAMESPACE, ACCOUNT))
    container = in_a_container(rig, folder, deployment()["securityContext"])
    rig.launch([*container, *SUPERVISOR, *flags, "--backends=nodes"], pod.environment(rig))
    rig.wait("ready", rig.ready)
    rig.apply("web", loadBalancerIP="203.0.113.10")
    rig.serve_service("web", 1)
    rig.wait("served", lambda: rig.ingress("web") and rig.ask("203.0.113.10") == "n1")
    capabilities = Path(f"/proc/{rig.report().daemon.pid}/status").read_text()
    assert "CapEff:\t0000000000003400" in capabilities, "NET_BIND_SERVICE (10), NET_ADMIN (12), NET_RAW (13)"
    assert "NoNewPrivs:\t1" in capabilities
    rig.delete("web")
    rig.wait("gone", lambda: rig.held() == set())
    assert rig.stop() == 0
    assert '"level": "warning"' not in rig.log.read_text()
