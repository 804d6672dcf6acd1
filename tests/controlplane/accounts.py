"""ServiceAccounts for the daemon under test: with exactly the role that we ship, or with a rule taken from it."""

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.controlplane.admin import Object, read_manifests
from tests.controlplane.cluster import ControlPlane

MANIFESTS = Path(__file__).resolve().parents[2] / "deploy" / "manifests"
NAMESPACE = "littlelb-system"
ACCOUNT = "loadbalancer"

Right = tuple[str, str, str]
"""API group, resource (with subresource), verb."""


def shipped_rules() -> list[Object]:
    """Return the rules of the ClusterRole in deploy/manifests."""
    items = read_manifests((MANIFESTS / "rbac.yaml").read_text())
    rules: list[Object] = next(item for item in items if item["kind"] == "ClusterRole")["rules"]
    return rules


def rights(rules: Sequence[Object]) -> Iterator[Right]:
    """Spell rules out, one right at a time."""
    for rule in rules:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                yield from ((group, resource, verb) for verb in rule["verbs"])


def rules_without(rules: Sequence[Object], taken: Right) -> list[Object]:
    """Copy the rules, leaving one right out."""
    group, resource, verb = taken
    kept = copy.deepcopy(list(rules))
    for rule in kept:
        if group in rule["apiGroups"] and resource in rule["resources"]:
            rule["verbs"] = [other for other in rule["verbs"] if other != verb]
    return [rule for rule in kept if rule["verbs"]]


def daemon_kubeconfig(plane: ControlPlane, server: str | None = None) -> Path:
    """Apply the shipped account and role; write a kubeconfig with a token of that account."""
    for file in ("namespace.yaml", "rbac.yaml"):
        for item in read_manifests((MANIFESTS / file).read_text()):
            plane.admin.apply(item)
    return plane.kubeconfig("daemon", {"token": plane.token(NAMESPACE, ACCOUNT)}, server)


def limited_token(plane: ControlPlane, name: str, rules: Sequence[Object]) -> str:
    """Make a ServiceAccount NAME in `default` with exactly these rules in the cluster; return a token of it."""
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name}
    subject = {"kind": "ServiceAccount", "name": name, "namespace": "default"}
    version = "rbac.authorization.k8s.io/v1"
    plane.admin.apply({"apiVersion": "v1", "kind": "ServiceAccount"} | _named(name))
    plane.admin.apply({"apiVersion": version, "kind": "ClusterRole", "rules": list(rules)} | _named(name))
    binding = {"apiVersion": version, "kind": "ClusterRoleBinding", "roleRef": role, "subjects": [subject]}
    plane.admin.apply(binding | _named(name))
    return plane.token("default", name)


def limited_kubeconfig(plane: ControlPlane, name: str, rules: Sequence[Object], server: str | None = None) -> Path:
    """Write a kubeconfig for an account with exactly these rules, for a daemon that should fail visibly."""
    return plane.kubeconfig(name, {"token": limited_token(plane, name, rules)}, server)


def _named(name: str) -> Object:
    return {"metadata": {"name": name}}
