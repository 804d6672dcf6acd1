"""`plan`, `check` and `cleanup` on a folder, with and without a daemon, as tables and as JSON."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.lab.box import BACKENDS, BOTH_PLANES, LOADBALANCER, Box, both, endpoints, service

pytestmark = [pytest.mark.lab, pytest.mark.timeout(90)]
WEB = "203.0.113.10"
FRONTEND = f"{WEB}:80/TCP"
POINTS = f"{BACKENDS[0]}:8080, {BACKENDS[1]}:8080"


def tree(folder: Path) -> set[tuple[str, int]]:
    """Every file below a folder, with the time of its last change."""
    return {(str(file), file.lstat().st_mtime_ns) for file in folder.rglob("*")}


def line(phase: str, verb: str, key: str, before: str = "", after: str = "") -> dict[str, str]:
    """One line of a plan, as JSON has it."""
    return {"phase": phase, "verb": verb, "key": key, "before": before, "after": after}


# --- plan ------------------------------------------------------------------------------------------------------------


@BOTH_PLANES
def test_plan_without_a_daemon_says_what_a_run_would_make_and_makes_nothing(box: Box) -> None:
    """Exit 2, listeners and addresses as lines that people can read; no folder, socket, process or address is made."""
    box.write("web.yaml", *both("web", WEB))
    before, running = tree(box.home), box.lan.balancer.pids()
    document = box.json("plan", code=2)
    text = document.pop("nft")
    assert ("table inet littlelb" in text) is (box.plane == "nft")
    assert document == {
        "lines": [
            line("forward", "add", FRONTEND, after=f"{POINTS} (demo/web, {box.plane})"),
            line("address", "add", WEB, after="/32 on eth0"),
        ],
        "refused": [],
        "errors": [],
    }
    table = box.command("plan")
    assert table.returncode == 2
    assert f"+  forward  {FRONTEND}" in table.stdout
    assert f"{POINTS} (demo/web, {box.plane})" in table.stdout
    assert tree(box.home) == before
    assert box.lan.balancer.pids() == running
    assert box.held() == set()
    assert not box.run.exists()
    assert not box.state.exists()


def test_the_text_of_a_plan_is_what_a_run_would_write(box: Box) -> None:
    """Given to nft by hand, it leaves nothing of FORWARD to be done; a change of it is text again."""
    box.write("web.yaml", *both("web", WEB))
    for _ in range(2):
        text = box.json("plan", code=2)["nft"]
        loaded = subprocess.run(box.lan.balancer.command(["nft", "-f", "-"]), input=text, text=True, check=False)
        assert loaded.returncode == 0
        assert box.json("plan", code=2)["lines"] == [line("address", "add", WEB, after="/32 on eth0")]
        box.write("web.yaml", service("web", WEB), endpoints("web", BACKENDS[1]))


@BOTH_PLANES
def test_plan_beside_a_daemon_finds_nothing_to_do(box: Box) -> None:
    """Exit 0 and `no changes`: listeners of the daemon's workers are not taken for somebody else's."""
    box.write("web.yaml", *both("web", WEB), *both("shared", "", 8000))
    box.start()
    box.wait("both are served", lambda: box.ask(WEB) and box.ask("192.0.2.2", 8000))
    assert box.json("plan") == {"lines": [], "refused": [], "errors": [], "nft": ""}
    table = box.command("plan")
    assert (table.stdout, table.stderr) == ("no changes\n", "")
    assert box.answers(WEB) == {"n1", "n2"}


@BOTH_PLANES
def test_plan_after_a_kill_says_what_the_next_start_changes(box: Box) -> None:
    """Changed backends, a Service that is gone and a new one; workers go on undisturbed, and so do stale sockets."""
    box.write("web.yaml", *both("web", WEB))
    box.write("gone.yaml", *both("gone", "203.0.113.11"))
    box.start()
    box.wait("both are served", lambda: box.ask(WEB) and box.ask("203.0.113.11"))
    box.stop(signal.SIGKILL)
    (box.manifests / "gone.yaml").unlink()
    box.write("web.yaml", service("web", WEB), endpoints("web", BACKENDS[1]))
    box.write("new.yaml", *both("new", "203.0.113.12"))
    before = tree(box.run)
    document = box.json("plan", code=2)
    # The kernel does not know whose its elements are.
    web, gone = ("(nft)", "(nft)") if box.plane == "nft" else ("(demo/web, pipe)", "(demo/gone, pipe)")
    assert document["lines"] == [
        line("forward", "change", FRONTEND, f"{POINTS} {web}", f"{BACKENDS[1]}:8080 (demo/web, {box.plane})"),
        line("forward", "remove", "203.0.113.11:80/TCP", f"{POINTS} {gone}"),
        line("forward", "add", "203.0.113.12:80/TCP", after=f"{POINTS} (demo/new, {box.plane})"),
        line("address", "remove", "203.0.113.11", "/32 on eth0"),
        line("address", "add", "203.0.113.12", after="/32 on eth0"),
    ]
    assert tree(box.run) == before
    assert box.ask(WEB)
    assert box.ask("203.0.113.11")
    box.start()
    box.wait("the plan has come true", lambda: box.command("plan").returncode == 0)


def test_a_refused_service_is_shown_and_is_no_error_of_the_plan(box: Box) -> None:
    """It says who is refused and why, and exits with 2 or 0 by what would change."""
    box.write("web.yaml", *both("web", WEB))
    box.write("z-rival.yaml", *both("rival", WEB))
    (refused,) = box.json("plan", code=2)["refused"]
    assert refused.startswith("demo/rival: AddressInUse: ")
    assert "demo/web" in refused
    box.start()
    box.wait("web is served", lambda: box.ask(WEB))
    assert len(box.json("plan")["refused"]) == 1
    assert "not served: demo/rival: AddressInUse: " in box.command("plan").stdout


def test_a_folder_error_is_an_error_of_the_plan(box: Box) -> None:
    """Exit 1, with file, document, line and reason; what is sound is planned all the same."""
    box.write("web.yaml", *both("web", WEB))
    box.write_text("broken.yaml", "kind: [")
    document = box.json("plan", code=1)
    (error,) = document["errors"]
    assert error.startswith("broken.yaml, document 1, line ")
    assert [entry["key"] for entry in document["lines"]] == [FRONTEND, WEB]


# --- check -----------------------------------------------------------------------------------------------------------


def findings(box: Box, code: int = 0) -> dict[str, dict[str, Any]]:
    """What `check -o json` finds, by subject."""
    return {entry["subject"]: entry for entry in box.json("check", code=code)}


def test_check_finds_nothing_wrong_in_a_good_place(box: Box) -> None:
    """Exit 0; what was looked at is named, and nothing is made."""
    box.write("web.yaml", *both("web", WEB))
    before = tree(box.home)
    found = findings(box)
    of_the_machine = ("open files", "kernel", "firewall (iptables-legacy)")
    here = [entry for subject, entry in found.items() if not subject.startswith(of_the_machine)]
    assert {entry["level"] for entry in here} == {"ok"}, here
    assert found["device eth0"]["message"] == "up; default address 192.0.2.2"
    assert "none runs" in found["daemon"]["message"]
    assert {"capabilities", "firewall (nft)", f"folder {box.manifests}", f"--run-dir {box.run}"} <= set(found)
    assert tree(box.home) == before
    assert "WHAT TO DO" in box.command("check").stdout


def test_check_names_what_stands_in_the_way(box: Box) -> None:
    """A chain that drops, a sysctl that hides addresses, a broken file, a selector without nodes: with remedies."""
    box.write_text("broken.yaml", "kind: [")
    box.lan.balancer.run(["nft", "add table inet wall"])
    rule = "add chain inet wall guard { type filter hook input priority 0; policy drop; }"
    box.lan.balancer.run(["nft", rule])
    box.lan.balancer.sysctl("net.ipv4.conf.eth0.arp_ignore", "2")
    done = box.command("check", "--node-selector", "tier=edge")
    assert done.returncode == 1
    found = findings(box, code=1)
    wall = found["firewall, chain inet wall guard"]
    assert wall["level"] == "warn"
    assert "nft list chain inet wall guard" in wall["remedy"]
    assert found["net/ipv4/conf/eth0/arp_ignore = 2"]["level"] == "error"
    assert found[f"folder {box.manifests}"]["message"].startswith("broken.yaml, document 1")
    assert all(entry["remedy"] for entry in found.values() if entry["level"] != "ok")
    assert "nodes (tier=edge)" in done.stdout


def test_check_names_a_running_daemon_and_a_missing_device(box: Box) -> None:
    """A daemon that runs is named by pid and start; a device that is not there is an error."""
    box.start()
    assert box.daemon is not None
    assert f"(pid {box.daemon.pid}, since " in findings(box)["daemon"]["message"]
    done = box.command("check", "--linkdevice", "eth9")
    assert done.returncode == 1
    assert "device eth9" in done.stdout


# --- cleanup ---------------------------------------------------------------------------------------------------------


def test_cleanup_refuses_while_a_daemon_runs(box: Box) -> None:
    """It names the daemon by pid, exits with 1 and removes nothing."""
    box.write("web.yaml", *both("web", WEB))
    box.start()
    box.wait("web is served", lambda: box.ask(WEB))
    assert box.daemon is not None
    done = box.command("cleanup")
    assert done.returncode == 1
    assert f"(pid {box.daemon.pid}, since " in done.stderr
    assert box.ask(WEB)


@BOTH_PLANES
def test_cleanup_removes_what_a_crash_left_and_nothing_else(box: Box) -> None:
    """Workers, listeners, addresses, state file and socket go; what somebody else made stays."""
    box.write("web.yaml", *both("web", WEB))
    box.start()
    box.wait("web is served", lambda: box.ask(WEB))
    box.wait("the state is saved", (box.state / "world.msgpack").exists)
    box.stop(signal.SIGKILL)
    box.lan.balancer.ip("addr", "add", "203.0.113.77/32", "dev", "eth0")
    (box.state / "notes.txt").write_text("mine")
    listed = box.json("cleanup", "--dry-run")
    assert box.ask(WEB)
    assert f"address {WEB}/32 on eth0" in listed
    if box.plane == "nft":
        assert "nftables table inet littlelb" in listed
        assert "setting net/ipv4/conf/eth0/forwarding = 0" in listed
    else:
        assert f"listener {FRONTEND}" in listed
    assert len([entry for entry in listed if entry.startswith("worker process ")]) == 2
    done = box.command("cleanup")
    assert done.returncode == 0
    assert sorted(done.stdout.splitlines()) == sorted(f"removed: {entry}" for entry in listed)
    assert box.lan.balancer.run(["nft", "list", "tables"]).stdout == ""
    assert box.lan.balancer.sysctl("net.ipv4.conf.eth0.forwarding") == "0"
    assert box.held() == {"203.0.113.77"}
    box.wait("no worker runs", lambda: box.lan.balancer.pids() == frozenset())
    assert box.listening() == set()
    assert not box.run.exists()
    assert [file.name for file in box.state.iterdir()] == ["notes.txt"]
    assert box.command("cleanup").stdout == "nothing here bears our mark\n"


def test_status_says_so_where_no_daemon_runs(box: Box) -> None:
    """Exit 1 and how to start one."""
    done = box.command("status")
    assert done.returncode == 1
    assert "no daemon answers" in done.stderr
    assert "sudo loadbalancer run" in done.stderr


@BOTH_PLANES
def test_status_shows_each_service_as_a_table_and_as_json(box: Box) -> None:
    """Address, ports, backends, connections; a refused one with its reason; one Service by its name."""
    box.write("web.yaml", *both("web", WEB, 80, 8081))
    box.write("z-rival.yaml", *both("rival", WEB))
    box.start()
    box.wait("web is served", lambda: box.ask(WEB))
    box.wait_serving("demo/web")
    found = box.status("demo/web")
    assert found is not None
    assert (found.addresses, found.backends_up, found.plane) == ((WEB,), 2, box.plane)
    box.wait("connections are counted", lambda: counted(box)["connections_accepted"] > 0)
    assert sum(one["connections"] for one in counted(box)["backends"]) > 0
    box.write("empty.yaml", service("a-empty", "203.0.113.12"))
    box.wait("nobody is behind it", lambda: box.report().services[0].state == "no-backends")
    table = " ".join(box.command("status").stdout.split())
    assert "demo/web serving" in table
    assert "demo/a-empty no-backends 203.0.113.12 80/TCP!" in table
    assert "80/TCP, 8081/TCP" in table
    assert "demo/rival: AddressInUse: " in table
    assert box.command("status", "demo/rival").stdout.count("demo/web") == 1


def counted(box: Box) -> Any:
    """What `status -o json` says of demo/web."""
    (found,) = box.json("status", "demo/web")["services"]
    return found


@BOTH_PLANES
def test_trace_with_and_without_a_daemon(box: Box) -> None:
    """Both say the same of a packet; a closed port is refused in the kernel plane, and left to the host by the pipe."""
    box.write("web.yaml", *both("web", WEB))
    before = box.json("trace", "192.0.2.10:40000", f"{WEB}:80")
    box.start()
    box.wait_serving("demo/web")
    assert box.json("trace", "192.0.2.10:40000", f"{WEB}:80") == before
    assert (before["outcome"], before["service"], before["plane"]) == ("forwarded", "demo/web", box.plane)
    assert [one["address"] for one in before["backends"]] == list(BACKENDS)
    other = box.json("trace", "192.0.2.10", f"{WEB}:81")
    assert other["outcome"] == ("refused" if box.plane == "nft" else "host")
    table = box.command("trace", "192.0.2.10", f"{WEB}:80").stdout
    assert "forwarded (demo/web, plane" in table
    assert box.command("trace", "192.0.2.10", WEB).returncode == 2


def without_net_admin(box: Box, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run a command as a user that is root but for the right to change the network."""
    argv = ["setpriv", "--bounding-set=-net_admin", str(LOADBALANCER), *words]
    return box.lan.balancer.run(argv, check=False, env=box.environment)


def test_what_a_missing_capability_costs_is_said(box: Box) -> None:
    """`check` names it, `plan` does without it, `cleanup` says what it could not remove, and both tell the remedy."""
    box.write("web.yaml", *both("web", WEB))
    box.start()
    box.wait("web is served", lambda: box.ask(WEB))
    box.stop(signal.SIGKILL)
    done = without_net_admin(box, "check", "-o", "json")
    assert done.returncode == 1
    (said,) = [entry for entry in json.loads(done.stdout) if entry["subject"] == "capabilities"]
    assert (said["level"], said["message"].partition(" ")[0]) == ("error", "CAP_NET_ADMIN")
    done = without_net_admin(box, "plan")
    assert done.returncode == 1
    assert "the kernel plane cannot be looked at without CAP_NET_ADMIN" in done.stdout
    done = without_net_admin(box, "cleanup")
    assert done.returncode == 1
    assert "addresses cannot be removed: Operation not permitted" in done.stderr
    assert "the nftables table cannot be removed: " in done.stderr
    assert "removed: worker process " in done.stderr
    assert box.held() == {WEB}
    left = box.command("cleanup").stdout
    assert f"removed: address {WEB}/32 on eth0\nremoved: nftables table inet littlelb\n" in left
    assert "worker process" not in left
