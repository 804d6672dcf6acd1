"""`plan`, `status`, `check` and `cleanup` against the real API server, with the shipped role."""

import json
import signal
from collections.abc import Mapping
from typing import Any

import pytest

from tests.controlplane.accounts import limited_kubeconfig, rules_without, shipped_rules
from tests.controlplane.admin import MERGE, Object, path_of_object
from tests.controlplane.objects import service
from tests.e2e.rig import FINALIZER, Rig

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

VIP = "203.0.113.10"
OTHER = "203.0.113.40"
NOTHING: Mapping[str, Any] = {"lines": [], "refused": [], "errors": [], "nft": ""}


def ask(rig: Rig, *words: str, code: int = 0) -> Any:
    """Run a command with `-o json`; AssertionError when its exit code is another one."""
    done = rig.command(*words, "-o", "json", check=False)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return json.loads(done.stdout)


def served(rig: Rig) -> None:
    """A Service with an address of its own, answered by n1 and published."""
    rig.apply("web", loadBalancerIP=VIP)
    rig.serve_service("web", 1, 2)
    rig.wait("published", lambda: rig.ingress("web") == [VIP] and rig.ask(VIP))


def write_as(rig: Rig, name: str, manager: str, change: Object, subresource: str = "") -> None:
    """Change a Service as another field manager."""
    path = path_of_object(service(name, rig.namespace)) + (f"/{subresource}" if subresource else "")
    rig.plane.admin.request("PATCH", f"{path}?fieldManager={manager}", change, MERGE)


def foreign(rig: Rig, **spec: object) -> Object:
    """Make a Service that another balancer has put its finalizer on, and published; return it as it is then."""
    rig.apply("other", **spec)
    write_as(rig, "other", "cloud-balancer", {"metadata": {"finalizers": [FINALIZER]}})
    ingress = {"status": {"loadBalancer": {"ingress": [{"ip": OTHER, "ipMode": "VIP"}]}}}
    write_as(rig, "other", "cloud-balancer", ingress, "status")
    return rig.get("other")


def keys(document: Any) -> list[tuple[str, str, str]]:
    """Phase, verb and key of each line of a plan."""
    return [(line["phase"], line["verb"], line["key"]) for line in document["lines"]]


def test_plan_says_what_a_run_would_write_and_writes_nothing(rig: Rig) -> None:
    """Exit 2 before the first run: finalizer, listener, address, status; the API server's objects stay as they are."""
    rig.apply("web", loadBalancerIP=VIP)
    untouched = foreign(rig, loadBalancerClass="example.com/cloud")
    before = rig.get("web")
    document = ask(rig, "plan", code=2)
    key = f"{rig.namespace}/web"
    assert keys(document) == [
        ("claim", "add", key),
        ("forward", "add", f"{VIP}:80/TCP"),
        ("address", "add", VIP),
        ("publish", "add", key),
    ]
    (port,) = rig.node_ports("web")
    forward, publish = document["lines"][1], document["lines"][3]
    assert forward["after"].startswith("198.51.100.1")
    assert {word.partition(":")[2] for word in forward["after"].partition(" (")[0].split(", ")} == {str(port)}
    assert publish["after"].startswith(f"{VIP} (VIP); littlelb.io/Served=True")
    assert (document["refused"], document["errors"]) == ([], [])
    assert rig.get("web") == before
    assert rig.get("other") == untouched
    assert rig.events("web") == []
    assert rig.held() == set()
    assert not rig.run_dir.exists()
    table = rig.command("plan", check=False)
    assert table.returncode == 2
    assert f"+  publish  {key}" in table.stdout


def test_plan_beside_a_daemon_finds_nothing_to_do(rig: Rig) -> None:
    """Exit 0 while the daemon serves; a Service of another class with another's finalizer and status is no change."""
    foreign(rig, loadBalancerClass="example.com/cloud")
    rig.start()
    served(rig)
    rig.wait("the plan is empty", lambda: ask(rig, "plan") == NOTHING)
    assert rig.command("plan").stdout == "no changes\n"


def test_plan_after_a_kill_says_what_the_next_start_clears(rig: Rig) -> None:
    """A Service that was retyped while no daemon ran: its listener, address, finalizer and conditions would go."""
    rig.start()
    served(rig)
    rig.stop(signal.SIGKILL)
    write_as(rig, "web", "user", {"spec": {"type": "NodePort", "loadBalancerIP": None}})
    key = f"{rig.namespace}/web"
    before = rig.get("web")
    assert sorted(keys(ask(rig, "plan", code=2))) == [
        ("address", "remove", VIP),
        ("claim", "remove", key),
        ("forward", "remove", f"{VIP}:80/TCP"),
        ("publish", "remove", key),
    ]
    assert rig.get("web") == before
    rig.start()
    rig.wait("the plan has come true", lambda: ask(rig, "plan") == NOTHING)
    assert FINALIZER not in rig.get("web")["metadata"].get("finalizers", [])


def test_status_shows_services_of_the_cluster(rig: Rig) -> None:
    """As a table and as JSON: state, address, port, backends; a refused one with its reason."""
    rig.start()
    served(rig)
    rig.apply("rival", loadBalancerIP=VIP)
    rig.wait("the rival is refused", lambda: any(s.state == "refused" for s in rig.report().services))
    found = rig.status("web")
    assert (found.state, found.addresses, found.backends_up) == ("serving", (VIP,), 2)
    table = rig.command("status").stdout
    assert table.splitlines()[1].endswith(": connected")
    assert f"{rig.namespace}/rival: AddressInUse: " in table
    assert f"{rig.namespace}/web" in rig.command("status", f"{rig.namespace}/web").stdout


def findings(rig: Rig, *flags: str, code: int = 0) -> dict[str, list[Any]]:
    """What `check -o json` finds, by subject."""
    found: dict[str, list[Any]] = {}
    for entry in ask(rig, "check", *flags, code=code):
        found.setdefault(entry["subject"], []).append(entry)
    return found


def test_check_with_the_shipped_role_finds_all_rights(rig: Rig) -> None:
    """Exit 0: the API server answers and grants every right; the nodes are counted."""
    found = findings(rig)
    (rights,) = found["API rights"]
    assert rights["level"] == "ok"
    assert any(subject.startswith("API server ") for subject in found)
    assert found["nodes"][0]["message"] == "2 of 2 may serve"
    assert found["other balancers"][0]["level"] == "ok"
    assert "WHAT TO DO" in rig.command("check").stdout


@pytest.mark.parametrize("right", [("", "services/status", "patch"), ("discovery.k8s.io", "endpointslices", "list")])
def test_check_names_a_right_that_is_missing(rig: Rig, right: tuple[str, str, str]) -> None:
    """A role that lacks one right is an error that names it, with the remedy."""
    rig.kubeconfig = limited_kubeconfig(rig.plane, "checked", rules_without(shipped_rules(), right), rig.server)
    (missing,) = findings(rig, code=1)["API rights"]
    group, resource, verb = right
    name, _, subresource = resource.partition("/")
    full = "/".join(part for part in (f"{name}.{group}" if group else name, subresource) if part)
    assert missing["level"] == "error"
    assert missing["message"] == f"not permitted: {verb} {full}"
    assert "rbac.yaml" in missing["remedy"]


def test_check_names_another_balancer_and_a_selector_that_no_node_has(rig: Rig) -> None:
    """Who else writes the status of a class-less Service is named; so is a selector that leaves no node."""
    foreign(rig)
    found = findings(rig, "--node-selector", "tier=edge")
    (other,) = found["other balancers"]
    assert other["level"] == "warn"
    assert other["message"].startswith("cloud-balancer ")
    assert f"{rig.namespace}/other" in other["message"]
    assert "--no-class-less" in other["remedy"]
    (nodes,) = found["nodes (tier=edge)"]
    assert (nodes["level"], nodes["message"]) == ("warn", "none of the 2 nodes may serve")


def test_check_and_plan_say_that_credentials_are_refused(rig: Rig) -> None:
    """A token that the server does not know: `check` finds it, `plan` fails, both with exit 1 and what to do."""
    rig.kubeconfig = rig.plane.kubeconfig("nobody", {"token": "not-a-token"}, rig.server)
    found = findings(rig, code=1)
    (said,) = [entries[0] for subject, entries in found.items() if subject.startswith("API server ")]
    assert said["level"] == "error"
    assert said["remedy"]
    done = rig.command("plan", check=False)
    assert done.returncode == 1
    assert "401" in done.stderr or "credential" in done.stderr


def test_cleanup_clears_ours_and_leaves_anothers(rig: Rig) -> None:
    """After a crash: our status, conditions, finalizers, addresses and workers go; another balancer's stay."""
    rig.start("--no-class-less", "--load-balancer-class", "littlelb.io/mine")
    untouched = foreign(rig)
    rig.apply("web", loadBalancerIP=VIP, loadBalancerClass="littlelb.io/mine")
    rig.serve_service("web", 1)
    rig.wait("published", lambda: rig.ingress("web") == [VIP] and rig.ask(VIP))
    refused = rig.command("cleanup", check=False)
    assert refused.returncode == 1
    assert rig.daemon is not None
    assert f"(pid {rig.daemon.pid}, since " in refused.stderr
    rig.stop(signal.SIGKILL)
    before = rig.get("web")
    listed = ask(rig, "cleanup", "--dry-run")
    assert rig.get("web") == before
    assert rig.ask(VIP)
    key = f"{rig.namespace}/web"
    assert f"status {VIP}; conditions littlelb.io/Served of Service {key}" in listed
    assert f"finalizer of Service {key}" in listed
    assert f"address {VIP}/32 on eth0" in listed
    assert not any("other" in entry for entry in listed)
    done = rig.command("cleanup")
    assert sorted(done.stdout.splitlines()) == sorted(f"removed: {entry}" for entry in listed)
    after = rig.get("web")
    assert FINALIZER not in after["metadata"].get("finalizers", [])
    assert after["status"] == {"loadBalancer": {}}
    assert rig.get("other") == untouched
    assert rig.held() == set()
    assert not rig.run_dir.exists()
    assert rig.command("cleanup").stdout == "nothing here bears our mark\n"


def test_cleanup_without_the_api_server_cleans_the_machine_and_says_what_is_left(rig: Rig) -> None:
    """Exit 1, because the Services keep our marks; addresses and workers are gone, and named."""
    rig.start()
    served(rig)
    rig.stop(signal.SIGKILL)
    good, rig.kubeconfig = rig.kubeconfig, rig.plane.kubeconfig("away", {"token": "none"}, "https://192.0.2.99:6443")
    rig.lan.balancer.ip("route", "add", "unreachable", "192.0.2.99")
    done = rig.command("cleanup", check=False)
    assert done.returncode == 1
    assert "keep our marks" in done.stderr
    assert f"address {VIP}/32 on eth0" in done.stderr
    assert rig.held() == set()
    rig.kubeconfig = good
    assert f"removed: finalizer of Service {rig.namespace}/web" in rig.command("cleanup").stdout
