"""`--external-ips` on the real API server: `spec.externalIPs` is written, kept tidy, and cleaned on every way out."""

import copy
import signal
from pathlib import Path

import pytest
import yaml

from tests.controlplane.accounts import limited_kubeconfig, shipped_rules
from tests.controlplane.admin import Object
from tests.e2e.rig import FINALIZER, TOP, Rig

pytestmark = pytest.mark.e2e

VIP = "203.0.113.10"
USERS = "192.0.2.77"
"""An entry that a user made."""


def overlay_rules() -> list[Object]:
    """The rules of the role as deploy/overlays/external-ips leaves them."""
    rules = copy.deepcopy(shipped_rules())
    overlay = yaml.safe_load((TOP / "deploy" / "overlays" / "external-ips" / "kustomization.yaml").read_text())
    for patch in overlay["patches"]:
        if patch["target"]["kind"] == "ClusterRole":
            for step in yaml.safe_load(patch["patch"]):
                assert (step["op"], step["path"]) == ("add", "/rules/-")
                rules.append(step["value"])
    return rules


def allowed(rig: Rig) -> Path:
    """A kubeconfig of an account with the overlay's role."""
    return limited_kubeconfig(rig.plane, "external-ips", overlay_rules(), rig.server)


def external_ips(rig: Rig, name: str = "web") -> list[str]:
    """What `spec.externalIPs` says."""
    found: list[str] = rig.get(name)["spec"].get("externalIPs") or []
    return found


def started(rig: Rig, **spec: object) -> None:
    """A daemon with the flag and the right, and a Service with an address of its own that it serves."""
    rig.kubeconfig = allowed(rig)
    rig.start("--external-ips")
    rig.apply("web", loadBalancerIP=VIP, **spec)
    rig.serve_service("web", 1)
    rig.wait("published", lambda: rig.ingress("web") == [VIP] and VIP in external_ips(rig))
    assert rig.ask(VIP) == "n1"


def left_over(rig: Rig) -> Object:
    """All traces of ours on the Service; empty: none."""
    found = rig.get("web")
    metadata, status = found["metadata"], found.get("status", {})
    traces = {
        "finalizers": [one for one in metadata.get("finalizers", []) if one == FINALIZER],
        "annotations": [one for one in metadata.get("annotations", {}) if one.startswith("littlelb.io/")],
        "ingress": status.get("loadBalancer", {}).get("ingress"),
        "conditions": status.get("conditions"),
    }
    return {name: trace for name, trace in traces.items() if trace}


def test_without_the_flag_external_ips_are_not_touched(rig: Rig) -> None:
    """The field is deprecated: it is written by who asked for that only, whatever the role allows."""
    rig.kubeconfig = allowed(rig)
    rig.start()
    rig.apply("web", loadBalancerIP=VIP, externalIPs=[USERS])
    rig.wait("published", lambda: rig.ingress("web") == [VIP])
    assert external_ips(rig) == [USERS]


def test_the_address_is_written_beside_the_users_and_removed_on_release(rig: Rig) -> None:
    """Ours comes after the user's, follows a move, and goes when the type changes; the user's stays throughout."""
    started(rig, externalIPs=[USERS])
    assert external_ips(rig) == [USERS, VIP]
    rig.plane.admin.patch(rig.get("web"), {"spec": {"loadBalancerIP": "203.0.113.11"}})
    rig.wait("followed", lambda: external_ips(rig) == [USERS, "203.0.113.11"])
    rig.plane.admin.patch(rig.get("web"), {"spec": {"type": "ClusterIP"}})
    rig.wait("released", lambda: external_ips(rig) == [USERS] and not left_over(rig))
    assert rig.held() == set()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_they_are_removed_when_the_daemon_is_told_to_go(rig: Rig, number: signal.Signals) -> None:
    """Both signals withdraw: the user's entry is all that is left."""
    started(rig, externalIPs=[USERS])
    assert rig.stop(number) == 0
    assert external_ips(rig) == [USERS]
    assert left_over(rig) == {}
    assert rig.held() == set()


def test_an_entry_that_the_user_made_with_our_address_stays(rig: Rig) -> None:
    """What was the user's before us is the user's after us, though it is the very address that we serve."""
    started(rig, externalIPs=[VIP])
    assert rig.stop() == 0
    assert external_ips(rig) == [VIP]
    assert left_over(rig) == {}


def test_entries_are_kept_by_a_kept_daemon_and_removed_by_a_later_one(rig: Rig) -> None:
    """What is ours is known from the Service itself: a daemon that was killed leaves it to the next one."""
    started(rig, externalIPs=[USERS])
    rig.stop(signal.SIGKILL)
    assert external_ips(rig) == [USERS, VIP]
    rig.plane.admin.patch(rig.get("web"), {"spec": {"type": "ClusterIP"}})
    rig.start("--external-ips")
    rig.wait("released", lambda: external_ips(rig) == [USERS] and not left_over(rig))


def test_without_the_overlays_right_it_says_so_and_serves_all_the_same(rig: Rig) -> None:
    """The status is written, requests are answered; the report names the overlay, as a failure that does not pass."""
    rig.start("--external-ips", wait=False)
    rig.apply("web", loadBalancerIP=VIP)
    rig.serve_service("web", 1, 2)
    rig.wait("published", lambda: rig.ingress("web") == [VIP])
    rig.wait("the failure is told", lambda: [one for one in rig.status("web").reasons if "overlay" in one.message])
    assert rig.answers(VIP) == {"n1", "n2"}
    assert rig.status("web").state == "partial"
    assert external_ips(rig) == []
    last = rig.report().last_pass
    assert last is not None
    assert [(line.reason, line.permanent) for line in last.failures] == [("NotPermitted", True)]
    assert "services: patch" in last.failures[0].message
    assert [line["level"] for line in rig.log_events("status.failed")] == ["error"]
    assert rig.stop() == 0
    assert left_over(rig) == {}
