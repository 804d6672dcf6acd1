"""What the fake API server fills in, keeps and refuses, kind by kind: only what our writes and our tests meet.

Read in Kubernetes 1.37 (pkg/apis/core/validation, pkg/registry/core/service, pkg/apis/discovery, pkg/apis/events); held
to the real server by tests/contract.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address

from littlelb.testing.fake_api_store import Json

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(rf"{_LABEL.pattern}(\.{_LABEL.pattern})*")
_SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_QUALIFIED = re.compile(
    r"([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
)


class Refused(Exception):
    """The server says no: HTTP code, reason and message of a Status."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        """Keep all three."""
        super().__init__(message)
        self.code, self.reason, self.message = code, reason, message


def invalid(kind: str, name: str, problem: str) -> Refused:
    """A 422."""
    return Refused(422, "Invalid", f'{kind} "{name}" is invalid: {problem}')


@dataclass(frozen=True, slots=True)
class Rules:
    """One kind."""

    kind: str
    api_version: str
    namespaced: bool = True
    has_status: bool = False
    unconditional_update: bool = True
    has_generation: bool = False
    name: re.Pattern[str] = _SUBDOMAIN
    complete: Callable[[Json, Json | None], Json] = lambda new, _: new
    """Fill in defaults, and what follows from a change: (new, old) → new."""
    check: Callable[[Json, Json | None], str | None] = lambda _new, _old: None
    """Say what is wrong."""


# --- Service ---------------------------------------------------------------------------------------------------------


def _complete_service(new: Json, old: Json | None) -> Json:
    spec = dict(new.get("spec") or {})
    kind = spec.setdefault("type", "ClusterIP")
    before = (old or {}).get("spec", {})
    spec.setdefault("sessionAffinity", "None")
    spec.setdefault("internalTrafficPolicy", "Cluster")
    for name in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
        if name in before:
            spec.setdefault(name, before[name])
    spec.setdefault("clusterIP", "10.99.0.2")
    spec.setdefault("clusterIPs", [spec["clusterIP"]])
    spec.setdefault("ipFamilies", ["IPv4"])
    spec.setdefault("ipFamilyPolicy", "SingleStack")
    if kind == "LoadBalancer":
        spec.setdefault("allocateLoadBalancerNodePorts", True)
    elif before.get("type") == "LoadBalancer":
        for name in ("allocateLoadBalancerNodePorts", "loadBalancerClass"):
            spec.pop(name, None)
    if kind == "ClusterIP":
        spec.pop("externalTrafficPolicy", None)
    else:
        spec.setdefault("externalTrafficPolicy", "Cluster")
    spec["ports"] = [_complete_port(port, spec, before) for port in spec.get("ports") or []]
    left = before.get("type") == "LoadBalancer" and kind != "LoadBalancer"
    return new | {"spec": spec, "status": _complete_status(new.get("status") or {}, kind, left=left)}


def _complete_port(port: Json, spec: Json, before: Json) -> Json:
    port = {"protocol": "TCP", "targetPort": port["port"], **port}
    if spec["type"] == "ClusterIP":
        if before.get("type", "ClusterIP") != "ClusterIP":
            port.pop("nodePort", None)
    elif spec["type"] == "NodePort" or spec.get("allocateLoadBalancerNodePorts", True):
        port.setdefault("nodePort", 30_000 + port["port"] % 2_768)
    return port


def _complete_status(status: Json, kind: str, *, left: bool) -> Json:
    balancer = {} if left else dict(status.get("loadBalancer") or {})
    if kind == "LoadBalancer" and "ingress" in balancer:
        balancer["ingress"] = [
            ({"ipMode": "VIP"} | entry) if entry.get("ip") else entry for entry in balancer["ingress"] or []
        ]
    return status | {"loadBalancer": balancer}


def _check_service(new: Json, old: Json | None) -> str | None:
    spec, before = new["spec"], (old or {}).get("spec", {})
    if not spec["ports"]:
        return "spec.ports: Required value"
    if spec.get("loadBalancerClass") and spec["type"] != "LoadBalancer":
        return "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'"
    if before.get("type") == spec["type"] == "LoadBalancer" and (
        before.get("loadBalancerClass") != spec.get("loadBalancerClass")
    ):
        return "spec.loadBalancerClass: Invalid value: may not change once set"
    for address in spec.get("externalIPs") or []:
        if not _canonical(address):
            return f"spec.externalIPs[0]: Invalid value: {address!r}: must be a valid IP address"
    ingress = new["status"]["loadBalancer"].get("ingress") or []
    if ingress and spec["type"] != "LoadBalancer":
        return "status.loadBalancer.ingress: Forbidden: may only be used when `spec.type` is LoadBalancer"
    return _check_ingress(ingress)


def _check_ingress(entries: list[Json]) -> str | None:
    for at, entry in enumerate(entries):
        where = f"status.loadBalancer.ingress[{at}]"
        if entry.get("ip") and not _canonical(entry["ip"]):
            return f"{where}.ip: Invalid value: {entry['ip']!r}: must be a valid IP address in canonical form"
        if entry.get("ipMode") not in {None, "VIP", "Proxy"}:
            return f"{where}.ipMode: Unsupported value: {entry['ipMode']!r}"
        if entry.get("ipMode") and not entry.get("ip"):
            return f"{where}.ipMode: Forbidden: may not be specified when `ip` is not set"
    return None


def _canonical(text: str) -> bool:
    try:
        address = ip_address(text)
    except ValueError:
        return False
    return str(address) == text and getattr(address, "ipv4_mapped", None) is None


# --- others ----------------------------------------------------------------------------------------------------------

_EVENT_LIMITS = {"reportingController": 10_000, "reportingInstance": 128, "action": 128, "reason": 128}
_EVENT_FIXED = (
    "eventTime",
    "reportingController",
    "reportingInstance",
    "action",
    "reason",
    "note",
    "type",
    "regarding",
)
_MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[-+]\d\d:\d\d)")


def _check_event(new: Json, old: Json | None) -> str | None:
    if old is not None:
        changed = [name for name in _EVENT_FIXED if old.get(name) != new.get(name)]
        return f"{changed[0]}: Invalid value: field is immutable" if changed else None
    return next(_event_problems(new), None)


def _event_problems(new: Json) -> Iterator[str]:
    if not _MICRO_TIME.fullmatch(str(new.get("eventTime"))):
        yield "eventTime: Required value"
    yield from _limit_problems(new)
    if not _QUALIFIED.fullmatch(new.get("reportingController", "")):
        yield "reportingController: Invalid value: must be a qualified name"
    if len(new.get("note", "")) > 1_024:
        yield "message: Invalid value: can have at most 1024 characters"
    if new.get("type") not in {"Normal", "Warning"}:
        yield f"type: Invalid value: {new.get('type')!r}"


def _limit_problems(new: Json) -> Iterator[str]:
    for name, limit in _EVENT_LIMITS.items():
        if not new.get(name):
            yield f"{name}: Required value"
        elif len(new[name]) > limit:
            yield f"{name}: Invalid value: can have at most {limit} characters"


def _check_lease(new: Json, _old: Json | None) -> str | None:
    spec = new.get("spec") or {}
    if spec.get("leaseDurationSeconds", 1) <= 0:
        return "spec.leaseDurationSeconds: Invalid value: must be greater than 0"
    if spec.get("leaseTransitions", 0) < 0:
        return "spec.leaseTransitions: Invalid value: must be greater than or equal to 0"
    return None


def _complete_slice(new: Json, _old: Json | None) -> Json:
    ports = [{"name": "", "protocol": "TCP", **port} for port in new.get("ports") or []]
    return new | {"endpoints": new.get("endpoints"), "ports": ports or None}


def _check_slice(new: Json, old: Json | None) -> str | None:
    if new.get("addressType") not in {"IPv4", "IPv6", "FQDN"}:
        return "addressType: Required value"
    if old is not None and old["addressType"] != new["addressType"]:
        return "addressType: Invalid value: field is immutable"
    return None


RULES: Mapping[str, Rules] = {
    "/services": Rules(
        "Service", "v1", has_status=True, name=_SERVICE_NAME, complete=_complete_service, check=_check_service
    ),
    "/nodes": Rules("Node", "v1", namespaced=False, has_status=True),
    "/namespaces": Rules("Namespace", "v1", namespaced=False, has_status=True, name=_LABEL),
    "discovery.k8s.io/endpointslices": Rules(
        "EndpointSlice", "discovery.k8s.io/v1", has_generation=True, complete=_complete_slice, check=_check_slice
    ),
    "events.k8s.io/events": Rules("Event", "events.k8s.io/v1", check=_check_event),
    "coordination.k8s.io/leases": Rules(
        "Lease", "coordination.k8s.io/v1", unconditional_update=False, check=_check_lease
    ),
}
"""By `group/plural`."""


def separate(rules: Rules, new: Json, old: Json, subresource: str) -> Json:
    """Keep what the path does not write: /status leaves the spec alone, and the object's own path the status."""
    if subresource == "status":
        return {**new, "spec": old.get("spec")} if "spec" in old else {k: v for k, v in new.items() if k != "spec"}
    if rules.has_status:
        return {**new, "status": old.get("status", {})}
    return new


def check_name(rules: Rules, name: str) -> None:
    """Refuse a name that the kind does not allow."""
    if not name:
        raise invalid(rules.kind, name, "metadata.name: Required value: name or generateName is required")
    if len(name) > 253 or not rules.name.fullmatch(name):
        raise invalid(rules.kind, name, f"metadata.name: Invalid value: {name!r}: a DNS name must consist of …")
