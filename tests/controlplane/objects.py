"""Objects that tests put into the API where a kubelet would: nodes, ready pods; and Services in short form."""

from collections.abc import Mapping, Sequence

from tests.controlplane.admin import Admin, Object

PORTS = ({"name": "echo", "port": 8888, "protocol": "TCP"},)


def service(name: str, namespace: str = "default", ports: Sequence[Object] = PORTS, **spec: object) -> Object:
    """Make a Service of type LoadBalancer that selects `app: NAME`; `spec` overrides or adds fields."""
    fields = {"type": "LoadBalancer", "selector": {"app": name}, "ports": [dict(port) for port in ports], **spec}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {key: value for key, value in fields.items() if value is not None},
    }


def create_node(
    admin: Admin, name: str, addresses: Sequence[str], labels: Mapping[str, str] | None = None, *, ready: bool = True
) -> Object:
    """Create a Node with these InternalIPs and that readiness, without the taint that new nodes are born with."""
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": dict(labels or {})}}
    admin.create(node)
    # Admission adds node.kubernetes.io/not-ready, and no node-lifecycle controller takes it off here.
    admin.patch(node, {"spec": {"taints": None}})
    status = {
        "addresses": [{"type": "InternalIP", "address": address} for address in addresses],
        "conditions": [{"type": "Ready", "status": str(ready), "reason": "Tests", "message": "as the test says"}],
    }
    return admin.patch(node, {"status": status}, "status")


def create_pod(admin: Admin, name: str, node: str, address: str, app: str, namespace: str = "default") -> Object:
    """Create a pod that runs on a node, has an address and is ready: the slice controller makes it an endpoint."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": app}},
        "spec": {
            "nodeName": node,
            "automountServiceAccountToken": False,
            "containers": [{"name": app, "image": "none.invalid/none", "ports": [{"containerPort": 8888}]}],
        },
    }
    # The admission plugin wants the namespace's default account, which a controller makes a moment after the namespace.
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": namespace}}
    admin.wait(account, lambda found: found is not None)
    admin.create(pod)
    status = {
        "phase": "Running",
        "podIP": address,
        "podIPs": [{"ip": address}],
        "conditions": [{"type": kind, "status": "True"} for kind in ("Ready", "ContainersReady")],
    }
    return admin.patch(pod, {"status": status}, "status")
