"""Where connections are forwarded to: nodes by their NodePorts, or pods by their EndpointSlices, as both change."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tests.controlplane.accounts import ACCOUNT, NAMESPACE
from tests.controlplane.admin import Object
from tests.controlplane.objects import create_pod
from tests.e2e.pod import launch_in_pod, write_account_folder
from tests.e2e.rig import Rig

pytestmark = pytest.mark.e2e

VIP = "203.0.113.10"
WORKER = "node-role.kubernetes.io/worker"
EXCLUDE = "node.kubernetes.io/exclude-from-external-load-balancers"
LEAVING = "ToBeDeletedByClusterAutoscaler"
HOLD = "tests.invalid/hold"
"""A finalizer that keeps a deleted Node in the API for a while."""


# --- nodes -----------------------------------------------------------------------------------------------------------


def node(name: str) -> Object:
    """Name a Node."""
    return {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}


def label(rig: Rig, name: str, key: str, value: str | None) -> None:
    """Set a label of a Node; None: take it off."""
    rig.plane.admin.patch(node(name), {"metadata": {"labels": {key: value}}})


def taint(rig: Rig, name: str, *keys: str) -> None:
    """Give a Node exactly these taints."""
    taints = [{"key": key, "value": "now", "effect": "NoSchedule"} for key in keys]
    rig.plane.admin.patch(node(name), {"spec": {"taints": taints or None}})


def set_ready(rig: Rig, name: str, *, ready: bool) -> None:
    """Let a Node's kubelet say whether it is ready."""
    condition = {"type": "Ready", "status": str(ready), "reason": "Tests", "message": "as the test says"}
    rig.plane.admin.patch(node(name), {"status": {"conditions": [condition]}}, "status")


def wait_for(rig: Rig, *names: str, port: int = 80) -> None:
    """Wait until exactly these backends answer new connections."""
    rig.wait(f"exactly {', '.join(names) or 'nobody'} answers", lambda: rig.answers(VIP, port) == set(names or ("",)))


def warned(rig: Rig, reason: str) -> Callable[[], bool]:
    """Is there a Warning Event with this reason on the Service?"""
    return lambda: any((kind, what) == ("Warning", reason) for kind, what, _ in rig.events("web"))


@pytest.fixture
def served(rig: Rig) -> Rig:
    """A daemon and a Service that both nodes answer."""
    rig.start()
    rig.apply("web", loadBalancerIP=VIP)
    rig.serve_service("web", 1, 2)
    wait_for(rig, "n1", "n2")
    return rig


def test_the_taint_of_the_autoscaler_takes_a_node_out(served: Rig) -> None:
    """New connections avoid a node that is about to be removed, whatever the taint's effect; another taint does not."""
    taint(served, "n1", LEAVING)
    wait_for(served, "n2")
    taint(served, "n1", "node-role.kubernetes.io/control-plane")
    wait_for(served, "n1", "n2")


def test_a_label_excludes_a_node_from_external_load_balancers(served: Rig) -> None:
    """`exclude-from-external-load-balancers` is a boolean: "false" keeps the node, an empty value excludes it."""
    label(served, "n1", EXCLUDE, "")
    wait_for(served, "n2")
    label(served, "n1", EXCLUDE, "false")
    wait_for(served, "n1", "n2")


def test_a_node_that_is_deleted_is_left(served: Rig) -> None:
    """As soon as its deletion is asked for, while finalizers still hold it, and after it has gone."""
    admin = served.plane.admin
    admin.patch(node("n1"), {"metadata": {"finalizers": [HOLD]}})
    admin.delete(node("n1"))
    wait_for(served, "n2")
    admin.patch(node("n1"), {"metadata": {"finalizers": None}})
    admin.wait(node("n1"), lambda found: found is None)
    assert served.answers(VIP) == {"n2"}
    served.remove_node("n1")
    served.add_node(1)
    wait_for(served, "n1", "n2")


def test_ready_nodes_are_preferred_and_without_any_all_are_used(served: Rig) -> None:
    """After an outage of the API server all nodes may turn NotReady at once: that must not stop what works."""
    set_ready(served, "n1", ready=False)
    wait_for(served, "n2")
    set_ready(served, "n2", ready=False)
    wait_for(served, "n1", "n2")
    set_ready(served, "n1", ready=True)
    wait_for(served, "n1")


def test_when_no_node_is_left_the_last_ones_stay_with_a_warning(served: Rig) -> None:
    """Refusing everybody would help nobody: the owner is warned instead; with a node back it is used alone."""
    taint(served, "n1", LEAVING)
    wait_for(served, "n2")
    taint(served, "n2", LEAVING)
    served.wait("a Warning", warned(served, "StaleNodes"))
    assert served.answers(VIP) == {"n2"}
    taint(served, "n1")
    wait_for(served, "n1")


def test_the_node_selector_chooses_nodes_by_label(rig: Rig) -> None:
    """`--node-selector node-role.kubernetes.io/worker`: labels are followed; before there is one, nobody answers."""
    rig.start("--node-selector", WORKER)
    rig.apply("web", loadBalancerIP=VIP)
    rig.serve_service("web", 1, 2)
    rig.wait("a Warning", warned(rig, "NoBackends"))
    wait_for(rig)
    label(rig, "n1", WORKER, "")
    wait_for(rig, "n1")
    label(rig, "n2", WORKER, "")
    wait_for(rig, "n1", "n2")
    label(rig, "n1", WORKER, None)
    wait_for(rig, "n2")


def test_max_nodes_limits_the_nodes_of_a_service(rig: Rig) -> None:
    """`--max-nodes 1`: one of the two serves, always the same; when it goes the other takes over."""
    rig.start("--max-nodes", "1")
    rig.apply("web", loadBalancerIP=VIP)
    rig.serve_service("web", 1, 2)
    rig.wait("served", lambda: rig.ask(VIP))
    (chosen,) = rig.answers(VIP, times=16)
    other = {"n1": "n2", "n2": "n1"}[chosen]
    taint(rig, chosen, LEAVING)
    wait_for(rig, other)
    taint(rig, chosen)
    wait_for(rig, chosen)


# --- pods ------------------------------------------------------------------------------------------------------------


def give_pod_address(rig: Rig, number: int, *, route: bool = True) -> str:
    """Let backend `number` have a pod's address, and this machine a route to it; return it."""
    address = f"10.1.0.{10 + number}"
    rig.lan.backends[number - 1].ip("addr", "add", f"{address}/32", "dev", "eth0")
    if route:
        add_pod_route(rig, number)
    return address


def add_pod_route(rig: Rig, number: int) -> None:
    """Lead the balancer to the pod of backend `number`."""
    rig.lan.balancer.ip("route", "add", f"10.1.0.{10 + number}/32", "via", f"198.51.100.{10 + number}")


def apply_slice(rig: Rig, number: int, ports: dict[str, int], conditions: Sequence[dict[str, bool]] = ({},)) -> None:
    """Create or change the EndpointSlice `web-NUMBER`: port names → numbers; one endpoint, in such a condition."""
    rig.plane.admin.apply(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"web-{number}",
                "namespace": rig.namespace,
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "addressType": "IPv4",
            "ports": [{"name": name, "port": port, "protocol": "TCP"} for name, port in ports.items()],
            "endpoints": [{"addresses": [f"10.1.0.{10 + number}"], "conditions": one} for one in conditions],
        }
    )


def apply_web(rig: Rig, **spec: Any) -> None:
    """Apply a Service without a selector: its EndpointSlices are the test's."""
    rig.apply("web", loadBalancerIP=VIP, selector=None, **spec)


def test_without_a_node_port_the_pods_of_endpoint_slices_serve(rig: Rig) -> None:
    """`allocateLoadBalancerNodePorts: false` and real pods: they are followed as they come and go."""
    admin = rig.plane.admin
    addresses = [give_pod_address(rig, number) for number in (1, 2)]
    ports = [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}]
    for number in (1, 2):
        rig.serve(number, 8080)
    rig.start()
    rig.apply("web", loadBalancerIP=VIP, allocateLoadBalancerNodePorts=False, ports=ports)
    create_pod(admin, "web-1", "n1", addresses[0], "web", rig.namespace)
    wait_for(rig, "n1")
    second = create_pod(admin, "web-2", "n2", addresses[1], "web", rig.namespace)
    wait_for(rig, "n1", "n2")
    admin.delete(second, grace_seconds=0)
    wait_for(rig, "n1")
    assert "nodePort" not in rig.get("web")["spec"]["ports"][0]


def test_pods_without_a_route_are_refused_until_there_is_one(rig: Rig) -> None:
    """The default route does not count: the message says what to do, and a route that is added is followed."""
    give_pod_address(rig, 1, route=False)
    rig.serve(1, 8080)
    rig.start()
    apply_web(rig, allocateLoadBalancerNodePorts=False)
    apply_slice(rig, 1, {"http": 8080})
    rig.wait("refused", lambda: rig.condition("web").get("reason") == "UnreachablePods")
    message = rig.condition("web")["message"]
    assert "no route to pod address 10.1.0.11 but the default one" in message
    assert "allocateLoadBalancerNodePorts: true" in message
    rig.wait("an Event", warned(rig, "AllocationFailed"))
    assert rig.ingress("web") == []
    add_pod_route(rig, 1)
    wait_for(rig, "n1")
    rig.wait("published", lambda: rig.ingress("web") == [VIP])


def test_each_slice_maps_the_names_of_ports_to_numbers_of_its_own(rig: Rig) -> None:
    """As named target ports do whose pods differ; a slice that lacks a port's name does not serve that port."""
    ports = [{"name": "http", "port": 80}, {"name": "admin", "port": 81}]
    for number in (1, 2):
        give_pod_address(rig, number)
    rig.serve(1, 8080, 9090)
    rig.serve(2, 8081)
    rig.start()
    apply_web(rig, allocateLoadBalancerNodePorts=False, ports=[{**port, "protocol": "TCP"} for port in ports])
    apply_slice(rig, 1, {"http": 8080, "admin": 9090})
    apply_slice(rig, 2, {"http": 8081})
    wait_for(rig, "n1", "n2")
    assert rig.answers(VIP, 81) == {"n1"}
    apply_slice(rig, 2, {"admin": 8081})
    wait_for(rig, "n1")
    wait_for(rig, "n1", "n2", port=81)


def test_ready_endpoints_serve_and_ending_ones_only_when_there_is_no_other(rig: Rig) -> None:
    """Ready, else serving and terminating, else nobody: then connections are refused and the owner is warned."""
    for number in (1, 2):
        give_pod_address(rig, number)
        rig.serve(number, 8080)
    rig.start()
    apply_web(rig, allocateLoadBalancerNodePorts=False)
    apply_slice(rig, 1, {"http": 8080}, [{"ready": True}])
    apply_slice(rig, 2, {"http": 8080}, [{"ready": False, "serving": True, "terminating": True}])
    wait_for(rig, "n1")
    apply_slice(rig, 1, {"http": 8080}, [{"ready": False}])
    wait_for(rig, "n2")
    apply_slice(rig, 2, {"http": 8080}, [{"ready": False, "serving": False, "terminating": True}])
    wait_for(rig)
    rig.wait("a Warning", warned(rig, "NoBackends"))


def test_backends_pods_prefers_pods_to_node_ports(rig: Rig) -> None:
    """`--backends pods`: although NodePorts were allocated and answer, connections go to the pods."""
    give_pod_address(rig, 1)
    rig.start("--backends", "pods")
    apply_web(rig)
    rig.serve(1, 8080)
    rig.serve_service("web", 2)
    apply_slice(rig, 1, {"http": 8080})
    wait_for(rig, "n1")


def test_outside_of_the_cluster_node_ports_come_first(rig: Rig) -> None:
    """With `auto` a Service that has NodePorts uses them, although a route leads to its pods."""
    give_pod_address(rig, 1)
    rig.serve(1, 8080)
    rig.start()
    apply_web(rig)
    rig.serve_service("web", 2)
    rig.remove_node("n1")
    apply_slice(rig, 1, {"http": 8080})
    wait_for(rig, "n2")


def test_in_the_cluster_pods_serve_although_there_are_node_ports(rig: Rig) -> None:
    """With a pod's own credentials `auto` means pods.

    The status leaves the nodes' and pods' own connections to kube-proxy, except where the pipe carries the Service.
    """
    give_pod_address(rig, 1)
    launch_in_pod(rig, write_account_folder(rig, rig.plane.token(NAMESPACE, ACCOUNT)))
    rig.wait("the daemon is ready", rig.ready)
    apply_web(rig)
    rig.serve(1, 8080)
    rig.serve_service("web", 2)
    apply_slice(rig, 1, {"http": 8080})
    wait_for(rig, "n1")
    rig.wait("published", lambda: rig.ingress("web") == [VIP])

    def mode() -> str:
        return str(rig.get("web")["status"]["loadBalancer"]["ingress"][0]["ipMode"])

    assert mode() == "VIP"
    web = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": rig.namespace}}
    rig.plane.admin.patch(web, {"metadata": {"annotations": {"littlelb.io/plane": "pipe"}}})
    rig.wait("the mode of the pipe", lambda: mode() == "Proxy")
    wait_for(rig, "n1")
