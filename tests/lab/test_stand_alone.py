"""The daemon on a folder of manifests: how the folder is followed, and what becomes of what is wrong in it."""

import hashlib
import signal
import stat
from pathlib import Path

import pytest

from tests.lab.box import BACKENDS, BACKENDS_V6, BOTH_PLANES, Box, both, endpoints, render, service

pytestmark = [pytest.mark.lab, pytest.mark.timeout(90)]
WEB = "203.0.113.10"


def digests(folder: Path) -> dict[str, tuple[str, int]]:
    """Content and time of every file in a folder."""
    return {
        file.name: (hashlib.sha256(file.read_bytes()).hexdigest(), file.lstat().st_mtime_ns)
        for file in folder.iterdir()
        if file.is_file()
    }


@BOTH_PLANES
def test_a_folder_is_followed_through_rename_and_replace(box: Box) -> None:
    """A file that is replaced by another is read anew; one that is removed takes its Services along."""
    box.write("web.yaml", *both("web", WEB))
    box.start()
    box.wait("both backends answer", lambda: box.answers(WEB) == {"n1", "n2"})
    box.write("web.yaml", service("web", WEB, 80, 8081), endpoints("web", ports=(80, 8081)))
    box.wait("the new port answers", lambda: box.ask(WEB, 8081))
    box.write("web.yaml", service("web", "203.0.113.11"), endpoints("web", BACKENDS[1]))
    box.wait("the new address answers", lambda: box.answers("203.0.113.11") == {"n2"})
    box.wait("the old address is gone", lambda: box.held() == {"203.0.113.11"})
    (box.manifests / "web.yaml").unlink()
    box.wait("nothing is held", lambda: box.held() == set() and box.listening() == set())
    assert box.report().services == ()


def test_a_folder_is_followed_through_symlink_swaps(box: Box) -> None:
    """A mounted ConfigMap changes by a swap of the link `..data` to another folder: both its changes are followed."""
    for name, address in (("..v1", "203.0.113.20"), ("..v2", "203.0.113.21")):
        (box.manifests / name).mkdir()
        (box.manifests / name / "web.yaml").write_text(render(*both("web", address)))
    (box.manifests / "..data").symlink_to("..v1")
    (box.manifests / "web.yaml").symlink_to("..data/web.yaml")
    box.start()
    box.wait("the first version is served", lambda: box.ask("203.0.113.20"))
    for version, address in (("..v2", "203.0.113.21"), ("..v1", "203.0.113.20")):
        (box.manifests / "..tmp").symlink_to(version)
        (box.manifests / "..tmp").rename(box.manifests / "..data")
        box.wait(f"{version} is served", lambda address=address: box.ask(address))  # type: ignore[misc]
        box.wait("nothing else is held", lambda address=address: box.held() == {address})  # type: ignore[misc]


def test_a_file_with_an_error_keeps_its_last_good_objects(box: Box) -> None:
    """It says file, document, line and reason, in the log and in the status; its neighbours and itself go on."""
    box.write("web.yaml", *both("web", WEB))
    box.write("other.yaml", *both("other", "203.0.113.11"))
    box.start()
    box.wait("both are served", lambda: box.ask(WEB) and box.ask("203.0.113.11"))
    box.write_text("web.yaml", render(service("web", "203.0.113.12"), {"kind": "Service", "apiVersion": "v1"}))
    box.wait("the error is shown", lambda: box.report().daemon.folder_errors)
    (shown,) = box.report().daemon.folder_errors
    assert shown.startswith("web.yaml, document 2, line "), shown
    (logged,) = box.log_events("manifests.error")
    assert (logged["file"], logged["document"]) == ("web.yaml", 2)
    assert logged["line"] > 1
    assert logged["reason"]
    assert logged["reason"] in shown
    assert shown in box.command("status").stdout
    assert box.ask(WEB)
    assert box.ask("203.0.113.11")
    assert box.held() == {WEB, "203.0.113.11"}
    box.write("web.yaml", *both("web", "203.0.113.12"))
    box.wait("the corrected file counts", lambda: box.ask("203.0.113.12"))
    box.wait("nothing is wrong any more", lambda: not box.report().daemon.folder_errors)
    assert [entry["file"] for entry in box.log_events("manifests.recovered")] == ["web.yaml"]


def test_the_users_files_are_never_written(box: Box) -> None:
    """Content, times and names in the folder stay as they are, whatever the daemon does with its Services."""
    box.write("web.yaml", *both("web", WEB))
    box.write("z-rival.yaml", *both("rival", WEB))
    box.write_text("broken.yaml", "kind: [")
    before = digests(box.manifests)
    box.start()
    box.wait("web is served", lambda: box.ask(WEB))
    box.wait("the rival is refused", lambda: box.reasons("demo/rival"))
    for command in ("plan", "check", "status"):
        box.command(command)
    assert box.stop() == 0
    box.command("cleanup")
    assert digests(box.manifests) == before


def test_ties_are_broken_by_age_then_sight_then_name(box: Box) -> None:
    """Where two want one address: the older by creationTimestamp, else the first seen, else the first by name."""
    old, young = {"creationTimestamp": "2020-01-01T00:00:00Z"}, {"creationTimestamp": "2021-01-01T00:00:00Z"}
    box.write("a.yaml", *both("young", "203.0.113.30", **young), *both("old", "203.0.113.30", **old))
    box.write("b.yaml", *both("b", "203.0.113.31", namespace="x"), *both("a", "203.0.113.31", namespace="y"))
    box.write("c.yaml", *both("zebra", "203.0.113.32"))
    box.start()
    box.wait_serving("demo/old")
    box.wait_serving("x/b")
    box.wait_serving("demo/zebra")
    assert "held by demo/old" in box.reasons("demo/young")
    assert "held by x/b" in box.reasons("y/a")
    box.write("d.yaml", *both("ape", "203.0.113.32"))
    box.wait("the newcomer is refused", lambda: "held by demo/zebra" in box.reasons("demo/ape"))
    (box.manifests / "c.yaml").unlink()
    box.wait_serving("demo/ape")


def test_v1_endpoints_are_understood(box: Box) -> None:
    """The older kind Endpoints says the same as an EndpointSlice."""
    older = {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": "web", "namespace": "demo"},
        "subsets": [
            {
                "addresses": [{"ip": BACKENDS[0]}],
                "notReadyAddresses": [{"ip": BACKENDS[1]}],
                "ports": [{"name": "p80", "port": 8080}],
            }
        ],
    }
    box.write("web.yaml", service("web", WEB), older)
    box.start()
    box.wait("the ready one answers", lambda: box.answers(WEB) == {"n1"})


def test_the_status_socket_is_for_its_user_only(box: Box) -> None:
    """The daemon's socket has mode 0600, and so have those of its workers; their folder has 0700."""
    box.start()
    box.wait("status answers", lambda: box.command("status").returncode == 0)
    assert stat.S_IMODE((box.run / "littlelb.sock").stat().st_mode) == 0o600
    sockets = list((box.run / "pipe").glob("*.sock"))
    assert len(sockets) == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in sockets} == {0o600}
    assert stat.S_IMODE((box.run / "pipe").stat().st_mode) == 0o700


@pytest.mark.parametrize("box", ["pipe"], indirect=True)
def test_a_kill_and_a_lost_state_file_change_nothing_for_clients(box: Box) -> None:
    """What workers serve is held by whom they serve it for: the next daemon adopts it, though no file says so."""
    box.write("web.yaml", *both("web", WEB), *both("shared", "", 8000))
    box.start()
    box.wait("both are served", lambda: box.ask(WEB) and box.ask("192.0.2.2", 8000))
    assert box.stop(signal.SIGKILL) == -signal.SIGKILL
    for file in box.state.glob("*"):
        file.unlink()
    box.write("older.yaml", *both("older", WEB, creationTimestamp="2001-01-01T00:00:00Z"))
    assert box.ask(WEB)
    box.start()
    box.wait_serving("demo/web")
    box.wait_serving("demo/shared")
    assert "held by demo/web" in box.reasons("demo/older")
    assert "pipe.worker_started" not in box.log_text().rpartition("daemon.started")[2]
    assert box.ask(WEB)


@BOTH_PLANES
def test_ipv6_addresses_are_served_by_ipv6_backends(box: Box) -> None:
    """Both families beside each other: each address is answered by endpoints of its own family, and goes with them."""
    six = "2001:db8:0:113::a"
    dual = service("dual", annotations={"littlelb.io/addresses": f"{WEB},{six}"})
    box.write("dual.yaml", dual, endpoints("dual", BACKENDS[0]), endpoints("dual", BACKENDS_V6[1]))
    box.write("six.yaml", service("six", "2001:db8:0:113::b"), endpoints("six", *BACKENDS_V6))
    box.start()
    box.wait("IPv6 is answered by both", lambda: box.answers("2001:db8:0:113::b") == {"n1", "n2"})
    box.wait("both families answer", lambda: (box.answers(WEB), box.answers(six)) == ({"n1"}, {"n2"}))
    assert box.held() == {WEB, six, "2001:db8:0:113::b"}
    assert box.json("plan") == {"lines": [], "refused": [], "errors": [], "nft": ""}
    box.write("dual.yaml", service("dual", WEB), endpoints("dual"))
    box.wait("the IPv6 address is gone", lambda: box.held() == {WEB, "2001:db8:0:113::b"})
    box.wait("IPv4 is answered by both", lambda: box.answers(WEB) == {"n1", "n2"})
    assert box.ask(six) == ""
