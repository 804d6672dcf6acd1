"""The shipped role is minimal: with any one right taken away, an operation that the daemon needs is refused."""

from collections.abc import Callable, Mapping

import pytest

from tests.controlplane.accounts import Right, limited_token, rights, rules_without, shipped_rules
from tests.controlplane.admin import MERGE, Admin, ApiError, Object, path_of, path_of_object
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.objects import service

pytestmark = pytest.mark.e2e

SHIPPED = sorted(rights(shipped_rules()))
Operation = Callable[[Admin, str], object]


def _watch(api_version: str, kind: str) -> Operation:
    return lambda api, _: api.request("GET", f"{path_of(api_version, kind)}?watch=true&timeoutSeconds=1")


def _list(api_version: str, kind: str) -> Operation:
    return lambda api, _: api.request("GET", f"{path_of(api_version, kind)}?limit=1")


def _publish(api: Admin, namespace: str) -> object:
    status = {"loadBalancer": {"ingress": [{"ip": "203.0.113.5", "ipMode": "VIP"}]}}
    return api.patch(service("web", namespace), {"status": status}, "status")


def _event(namespace: str) -> Object:
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": "web.17f0c3a2b1", "namespace": namespace},
        "eventTime": "2026-01-01T00:00:00.000000Z",
        "type": "Normal",
        "reason": "IPAllocated",
        "action": "Allocate",
        "note": "203.0.113.5",
        "reportingController": "littlelb.io/loadbalancer",
        "reportingInstance": "tests",
        "regarding": {"apiVersion": "v1", "kind": "Service", "namespace": namespace, "name": "web"},
    }


def _repeat(api: Admin, namespace: str) -> object:
    series = {"series": {"count": 2, "lastObservedTime": "2026-01-01T00:01:00.000000Z"}}
    return api.request("PATCH", path_of_object(_event(namespace)), series, MERGE)


OPERATIONS: Mapping[Right, Operation] = {
    ("", "services", "get"): lambda api, namespace: api.get("v1", "Service", "web", namespace),
    ("", "services", "list"): _list("v1", "Service"),
    ("", "services", "watch"): _watch("v1", "Service"),
    ("", "services/status", "patch"): _publish,
    ("", "nodes", "list"): _list("v1", "Node"),
    ("", "nodes", "watch"): _watch("v1", "Node"),
    ("discovery.k8s.io", "endpointslices", "list"): _list("discovery.k8s.io/v1", "EndpointSlice"),
    ("discovery.k8s.io", "endpointslices", "watch"): _watch("discovery.k8s.io/v1", "EndpointSlice"),
    ("events.k8s.io", "events", "create"): lambda api, namespace: api.create(_event(namespace)),
    ("events.k8s.io", "events", "patch"): _repeat,
}
"""Right → what the daemon does with it, as the request that it sends."""


def refusal_without(plane: ControlPlane, namespace: str, taken: Right) -> str:
    """Do what needs this right as an account that lacks just it; return how the refusal reads.

    This is the seam for running the daemon itself: `accounts.limited_kubeconfig(plane, name, rules, server)` gives it
    the same account, and the text is then what it logs.
    """
    name = f"lacks-{'-'.join(taken).replace('/', '-').replace('.', '-').strip('-')}"
    limited = plane.as_token(limited_token(plane, name, rules_without(shipped_rules(), taken)))
    with pytest.raises(ApiError) as refused:
        OPERATIONS[taken](limited, namespace)
    assert refused.value.status == 403
    return str(refused.value)


def test_every_shipped_right_has_an_operation() -> None:
    """A right without a use is not shipped, and a use without a right is not listed."""
    assert set(SHIPPED) == set(OPERATIONS)


@pytest.mark.parametrize("right", SHIPPED, ids="-".join)
def test_without_this_right_an_operation_is_refused(
    controlplane: ControlPlane, cluster_namespace: str, right: Right
) -> None:
    """The refusal names the verb and the resource that is missing, so that an administrator can add it."""
    _, resource, verb = right
    controlplane.admin.create(service("web", cluster_namespace))
    controlplane.admin.create(_event(cluster_namespace))
    refusal = refusal_without(controlplane, cluster_namespace, right)
    assert f'cannot {verb} resource "{resource}"' in refusal


def test_with_the_shipped_role_every_operation_works(controlplane: ControlPlane, cluster_namespace: str) -> None:
    """The other half: nothing that the daemon does needs more than the role."""
    controlplane.admin.create(service("web", cluster_namespace))
    daemon = controlplane.as_token(limited_token(controlplane, "complete", shipped_rules()))
    # An Event has to be there before it can be patched.
    for right in sorted(OPERATIONS, key=lambda right: right[2] == "patch"):
        OPERATIONS[right](daemon, cluster_namespace)
