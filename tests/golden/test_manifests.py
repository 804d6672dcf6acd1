"""The manifests agree with the program: every flag that a Deployment gives is one that `run` has."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from littlelb.goflags import OPTIONS

ROOT = Path(__file__).resolve().parents[2]
KUBECTL = Path(sys.executable).with_name("kubectl")
SPELLINGS = {f"--{prefix}{option.name}" for option in OPTIONS for prefix in ("", "no-" if option.boolean else "")}
INSTALLS = ["deploy/manifests", "deploy/overlays/external-ips", "deploy/overlays/no-class-less"]


def deployment(folder: str) -> dict[str, Any]:
    """Render a folder as `kubectl apply -k` does, and return its Deployment."""
    text = subprocess.run([str(KUBECTL), "kustomize", str(ROOT / folder)], check=True, capture_output=True, text=True)
    found: dict[str, Any] = next(item for item in yaml.safe_load_all(text.stdout) if item["kind"] == "Deployment")
    return found


@pytest.mark.parametrize("folder", INSTALLS)
def test_every_flag_is_known_to_the_program(folder: str) -> None:
    """A flag that was renamed would keep the pod from starting."""
    (container,) = deployment(folder)["spec"]["template"]["spec"]["containers"]
    program, *flags = container["args"]
    assert program == "/opt/sbin/loadbalancer"
    assert {flag.split("=")[0] for flag in flags} <= SPELLINGS
    assert any(flag.startswith("--linkdevice=") for flag in flags)


def test_the_pod_is_one_at_a_time_unprivileged_and_keeps_its_state_on_the_node() -> None:
    """Two at once would want the same addresses; the last known world must outlive the pod."""
    spec = deployment("deploy/manifests")["spec"]
    assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"})
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    security = container["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW", "NET_BIND_SERVICE"]}
    assert "privileged" not in security
    assert (security["allowPrivilegeEscalation"], security["readOnlyRootFilesystem"]) == (False, True)
    paths = {volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert paths == {"/var/lib/littlelb", "/run/littlelb"} <= mounts


def test_the_daemon_is_told_on_which_node_it_runs() -> None:
    """Pods of this node are known to answer through it; the host's name may differ from the node's."""
    (container,) = deployment("deploy/manifests")["spec"]["template"]["spec"]["containers"]
    assert container["env"] == [{"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}]


def test_it_goes_where_either_spelling_of_the_label_is() -> None:
    """Terms are alternatives; one term with both keys would want both labels."""
    affinity = deployment("deploy/manifests")["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    terms = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    keys = [[expression["key"] for expression in term["matchExpressions"]] for term in terms]
    assert keys == [["node-role.kubernetes.io/loadbalancer"], ["node-role.kubernetes.io/load-balancer"]]
