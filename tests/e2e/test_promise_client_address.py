"""Policy Local, weights and planes on a real API server: who serves, and what the owner of the Service reads."""

from typing import Any

import pytest

from tests.controlplane.admin import Object
from tests.controlplane.objects import create_pod
from tests.e2e.rig import Rig

pytestmark = pytest.mark.e2e

VIP = "203.0.113.10"
KEPT = "littlelb.io/ClientAddressKept"


def conditions(rig: Rig) -> dict[str, tuple[str, str]]:
    """Our conditions of the Service: type → status and reason."""
    found = rig.get("web").get("status", {}).get("conditions") or []
    return {one["type"]: (one["status"], one["reason"]) for one in found}


def warned(rig: Rig, reason: str) -> bool:
    """Is there a Warning Event with this reason?"""
    return any((kind, what) == ("Warning", reason) for kind, what, _ in rig.events("web"))


def wait_for(rig: Rig, *names: str) -> None:
    """Wait until exactly these backends answer new connections."""
    rig.wait(f"exactly {', '.join(names)} answers", lambda: rig.answers(VIP) == set(names or ("",)))


def change(rig: Rig, spec: Object) -> None:
    """Patch the Service's spec."""
    web = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": rig.namespace}}
    rig.plane.admin.patch(web, {"spec": spec})


@pytest.mark.parametrize("plane", ["nft", "pipe"])
def test_under_policy_local_nodes_with_endpoints_serve_and_the_lost_address_is_said(rig: Rig, plane: str) -> None:
    """A condition and a Warning as long as the policy asks for the client's address; with Cluster both nodes serve."""
    rig.start("--plane", plane)
    rig.apply("web", loadBalancerIP=VIP, externalTrafficPolicy="Local")
    rig.serve_service("web", 1, 2)
    create_pod(rig.plane.admin, "web-2", "n2", "10.1.0.12", "web", rig.namespace)
    wait_for(rig, "n2")
    assert rig.ask(VIP, path="/peer").removeprefix("::ffff:").startswith("198.51.100.")
    rig.wait("a condition", lambda: conditions(rig).get(KEPT) == ("False", "ClientAddressLost"))
    assert conditions(rig)["littlelb.io/Served"] == ("True", "Served")
    rig.wait("a Warning", lambda: warned(rig, "ClientAddressLost"))
    change(rig, {"externalTrafficPolicy": "Cluster"})
    wait_for(rig, "n1", "n2")
    rig.wait("the condition to go", lambda: KEPT not in conditions(rig))


def test_where_the_way_back_is_declared_the_address_is_kept(rig: Rig) -> None:
    """The backends' network is routed through the balancer: no Warning, and a condition that says so."""
    rig.start("--routed-networks", "198.51.100.0/24", "--local-policy", "strict")
    rig.apply("web", loadBalancerIP=VIP, externalTrafficPolicy="Local")
    rig.serve_service("web", 1, 2)
    create_pod(rig.plane.admin, "web-1", "n1", "10.1.0.11", "web", rig.namespace)
    wait_for(rig, "n1")
    assert rig.ask(VIP, path="/peer").removeprefix("::ffff:").startswith("192.0.2.")
    rig.wait("a condition", lambda: conditions(rig).get(KEPT) == ("True", "Kept"))
    assert not warned(rig, "ClientAddressLost")
    (why,) = rig.status("web").reasons
    assert (why.reason, why.warning) == ("SourceAddress", False)


def test_a_strict_local_policy_refuses_what_would_lose_the_address(rig: Rig) -> None:
    """Nothing is held or published; without the policy the Service is served at once."""
    rig.start("--plane", "pipe", "--local-policy", "strict")
    rig.apply("web", loadBalancerIP=VIP, externalTrafficPolicy="Local")
    rig.serve_service("web", 1)
    rig.wait("a refusal", lambda: conditions(rig).get("littlelb.io/Served") == ("False", "ClientAddressLost"))
    assert conditions(rig)[KEPT] == ("False", "ClientAddressLost")
    assert rig.ingress("web") == []
    assert VIP not in rig.held()
    rig.wait("a Warning", lambda: warned(rig, "AllocationFailed"))
    change(rig, {"externalTrafficPolicy": "Cluster"})
    rig.wait("an address", lambda: rig.ingress("web") == [VIP])
    assert "n1" in rig.answers(VIP)


def weighed(rig: Rig, number: int, weight: str | None) -> Object:
    """Build the EndpointSlice `web-NUMBER` of one endpoint, with this weight."""
    metadata: dict[str, Any] = {
        "name": f"web-{number}",
        "namespace": rig.namespace,
        "labels": {"kubernetes.io/service-name": "web"},
        "annotations": {} if weight is None else {"littlelb.io/weight": weight},
    }
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": metadata,
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [f"198.51.100.{10 + number}"]}],
    }


@pytest.mark.parametrize("plane", ["nft", "pipe"])
def test_weights_of_slices_are_followed(rig: Rig, plane: str) -> None:
    """A canary at 0 gets nothing, at 1 its share; what is no number is said, and counts as 1."""
    for number in (1, 2):
        rig.serve(number, 8080)
        rig.plane.admin.apply(weighed(rig, number, "0" if number == 2 else "3"))
    rig.start("--plane", plane, "--backends", "pods")
    rig.apply("web", loadBalancerIP=VIP, selector=None)
    wait_for(rig, "n1")
    rig.plane.admin.apply(weighed(rig, 2, "1"))
    wait_for(rig, "n1", "n2")
    rig.plane.admin.apply(weighed(rig, 1, "0"))
    wait_for(rig, "n2")
    rig.plane.admin.apply(weighed(rig, 1, "a lot"))
    wait_for(rig, "n1", "n2")
    rig.wait("a Warning", lambda: warned(rig, "InvalidAnnotation"))
