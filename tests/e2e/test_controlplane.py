"""The control plane that the other end-to-end tests stand on: what it claims to be, it is."""

import socket

import pytest

from littlelb.testing.netns import Network
from tests.controlplane.accounts import ACCOUNT, NAMESPACE, daemon_kubeconfig
from tests.controlplane.admin import Admin, ApiError, Object, path_of
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.objects import create_node, create_pod, service

pytestmark = pytest.mark.e2e


def slices_of(admin: Admin, namespace: str, name: str) -> list[Object]:
    """List the EndpointSlices of one Service."""
    return admin.items("discovery.k8s.io/v1", "EndpointSlice", namespace, f"kubernetes.io/service-name={name}")


def test_the_server_is_the_pinned_release_and_kubectl_talks_to_it(controlplane: ControlPlane) -> None:
    """The version is stamped, so that kubectl can parse it."""
    assert controlplane.admin.request("GET", "/version")["gitVersion"] == "v1.37.2"
    assert "Server Version: v1.37.2" in controlplane.admin.kubectl("version")


def test_the_daemons_account_has_the_shipped_role_and_no_more(controlplane: ControlPlane) -> None:
    """RBAC is on: Services of all namespaces may be listed with the daemon's token, Secrets may not."""
    daemon_kubeconfig(controlplane)
    daemon = controlplane.as_token(controlplane.token(NAMESPACE, ACCOUNT))
    assert any(item["metadata"]["name"] == "kubernetes" for item in daemon.items("v1", "Service"))
    with pytest.raises(ApiError) as refused:
        daemon.items("v1", "Secret")
    assert refused.value.status == 403
    with pytest.raises(ApiError) as refused:
        daemon.delete(service("kubernetes"))
    assert refused.value.status == 403


def test_a_token_that_nobody_issued_is_unauthorized(controlplane: ControlPlane) -> None:
    """Tokens are checked, not only mapped to rights."""
    with pytest.raises(ApiError) as refused:
        controlplane.as_token("made-up").items("v1", "Service")
    assert refused.value.status == 401


def test_a_ready_pod_becomes_an_endpoint_of_a_load_balancer_service(
    controlplane: ControlPlane, cluster_namespace: str
) -> None:
    """The controller manager makes the slice; the pod leaves it as terminating, still serving, when it is deleted."""
    admin = controlplane.admin
    created = admin.create(service("echo", cluster_namespace))
    assert created["spec"]["ports"][0]["nodePort"] >= 30000
    node = create_node(admin, f"node-{cluster_namespace}", ["198.51.100.11"])
    try:
        pod = create_pod(admin, "echo-0", node["metadata"]["name"], "10.1.0.7", "echo", cluster_namespace)
        admin.wait(
            {"apiVersion": "v1", "kind": "Service", "metadata": created["metadata"]},
            lambda _: any(item["endpoints"] for item in slices_of(admin, cluster_namespace, "echo")),
        )
        (endpoint,) = slices_of(admin, cluster_namespace, "echo")[0]["endpoints"]
        assert (endpoint["addresses"], endpoint["nodeName"]) == (["10.1.0.7"], node["metadata"]["name"])
        assert endpoint["conditions"] == {"ready": True, "serving": True, "terminating": False}
        admin.delete(pod, grace_seconds=30)
        admin.wait(pod, lambda _: _conditions(admin, cluster_namespace) == (False, True, True))
        admin.delete(pod, grace_seconds=0)
    finally:
        admin.delete(node)


def _conditions(admin: Admin, namespace: str) -> tuple[bool, bool, bool]:
    (endpoint,) = slices_of(admin, namespace, "echo")[0]["endpoints"]
    conditions = endpoint["conditions"]
    return conditions["ready"], conditions["serving"], conditions["terminating"]


def test_a_node_stays_as_the_test_made_it(controlplane: ControlPlane) -> None:
    """Nobody renews the node, and nobody taints it or turns it NotReady for that."""
    node = create_node(controlplane.admin, "still", ["198.51.100.12"], {"node-role.kubernetes.io/worker": ""})
    try:
        found = controlplane.admin.get("v1", "Node", "still")
        assert found["status"]["addresses"] == [{"type": "InternalIP", "address": "198.51.100.12"}]
        assert {entry["type"]: entry["status"] for entry in found["status"]["conditions"]} == {"Ready": "True"}
        assert not found["spec"].get("taints")
    finally:
        controlplane.admin.delete(node)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_the_api_server_comes_back_with_its_objects(
    controlplane: ControlPlane, cluster_namespace: str, how: str
) -> None:
    """Stopped in order or killed, it answers nobody; started again, it has what it had."""
    before = controlplane.admin.create(service("kept", cluster_namespace))
    getattr(controlplane.api, how)()
    with pytest.raises(OSError, match="refused"):
        controlplane.admin.request("GET", "/readyz")
    controlplane.api.start()
    after = controlplane.admin.get("v1", "Service", "kept", cluster_namespace)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]


def test_a_frozen_api_server_takes_connections_and_answers_nothing(controlplane: ControlPlane) -> None:
    """Frozen is not stopped: the kernel still completes the handshake."""
    controlplane.api.freeze()
    with pytest.raises(TimeoutError):
        controlplane.admin.request("GET", "/readyz", timeout=0.5)
    controlplane.api.thaw()
    controlplane.api.wait_ready()


def test_a_frozen_etcd_stops_writes_until_it_thaws(controlplane: ControlPlane, cluster_namespace: str) -> None:
    """The API server lives, but what it is asked to store has to wait."""
    controlplane.etcd.freeze()
    with pytest.raises((TimeoutError, ApiError)):
        controlplane.admin.request(
            "POST", path_of("v1", "Service", cluster_namespace), service("late", cluster_namespace), timeout=1
        )
    controlplane.etcd.thaw()
    controlplane.api.wait_ready()
    assert controlplane.admin.apply(service("later", cluster_namespace))["spec"]["type"] == "LoadBalancer"


def test_attached_namespaces_reach_the_server_by_wires_of_their_own(controlplane: ControlPlane) -> None:
    """Each gets an address that the certificate is valid for; two at once do not meet; a LAN address works too."""
    with Network("llb-attach") as network:
        machines = [network.namespace(label) for label in ("one", "two")]
        servers = [controlplane.attach(machine) for machine in machines]
        assert len({*servers, controlplane.server}) == 3
        switch = network.namespace("switch")
        network.bridge(switch, "lan")
        machines.append(network.namespace("three"))
        network.plug(machines[2], "eth0", switch, "lan")
        machines[2].ip("addr", "add", "198.51.100.11/24", "dev", "eth0")
        servers.append(controlplane.join(switch, "lan", "198.51.100.1"))
        for machine, server in zip(machines, servers, strict=True):
            config = controlplane.kubeconfig("attached", server=server)
            inside = Admin(server, controlplane.admin._tls, config)
            assert machine.call(lambda inside=inside: inside.request("GET", "/readyz")) == "ok"  # type: ignore[misc]


def test_kube_proxy_forwards_a_load_balancer_address_on_a_node_namespace(
    controlplane: ControlPlane, cluster_namespace: str
) -> None:
    """In nftables mode, real packets to the published address reach the pod's address."""
    admin = controlplane.admin
    with Network("llb-proxy") as network:
        machine = network.namespace("node")
        proxy = controlplane.kube_proxy(machine, "proxied")
        node = create_node(admin, "proxied", ["198.51.100.13"])
        try:
            _publish_with_one_pod(admin, cluster_namespace)
            machine.batch("addr add 10.1.0.9/32 dev lo", "route add 203.0.113.0/24 dev api")
            proxy.start()
            with machine.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
                listener.bind(("10.1.0.9", 8888))
                listener.listen()
                listener.settimeout(10)
                answer = machine.run(["nft", "list", "table", "ip", "kube-proxy"]).stdout
                assert "203.0.113.9" in answer
                with machine.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
                    client.settimeout(10)
                    client.connect(("203.0.113.9", 8888))
                    listener.accept()[0].close()
        finally:
            proxy.stop()
            admin.delete(node)


def _publish_with_one_pod(admin: Admin, namespace: str) -> None:
    created = admin.create(service("echo", namespace))
    create_pod(admin, "echo-0", "proxied", "10.1.0.9", "echo", namespace)
    status = {"loadBalancer": {"ingress": [{"ip": "203.0.113.9", "ipMode": "VIP"}]}}
    item = {"apiVersion": "v1", "kind": "Service", "metadata": created["metadata"]}
    admin.patch(item, {"status": status}, "status")
    admin.wait(item, lambda _: any(found["endpoints"] for found in slices_of(admin, namespace, "echo")))
