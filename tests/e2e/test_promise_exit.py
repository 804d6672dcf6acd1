"""How a daemon goes and how the next one comes: withdrawal, drain, upgrades, crashes, a second one, the supervisor."""

import http.client
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from littlelb.core.shown.status import decode_report
from tests.controlplane.objects import service
from tests.e2e.load import Load
from tests.e2e.rig import TOP, Rig

pytestmark = pytest.mark.e2e

VIP, OTHER = "203.0.113.10", "203.0.113.11"
FOREIGN = "203.0.113.99"
"""An address that an administrator put on the device."""
DRAIN_SECONDS = 6


class Line:
    """A connection from the client that stays open, for one request after the other."""

    def __init__(self, rig: Rig, address: str = VIP) -> None:
        """Connect and ask once."""
        self._connection = http.client.HTTPConnection(address, 80, timeout=5)
        rig.lan.client.call(self._connection.connect)  # its socket belongs to the client's namespace from now on
        assert self.ask().startswith("n")

    def ask(self) -> str:
        """Ask once more over the same connection. Raises OSError or HTTPException when it is gone."""
        assert self._connection.sock is not None
        self._connection.request("GET", "/")
        return self._connection.getresponse().read().decode().strip()

    def is_open(self) -> bool:
        """Does it still answer?"""
        try:
            return self.ask().startswith("n")
        except (OSError, http.client.HTTPException):
            return False

    def was_reset(self) -> bool:
        """Was the client told that it is over, and not left waiting?"""
        sock = self._connection.sock
        assert sock is not None
        try:
            return sock.recv(1) == b""
        except ConnectionResetError:
            return True
        except TimeoutError:
            return False

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


@contextmanager
def line(rig: Rig, address: str = VIP) -> Iterator[Line]:
    """An open connection, closed afterwards."""
    made = Line(rig, address)
    try:
        yield made
    finally:
        made.close()


def served(rig: Rig, name: str = "web", address: str = VIP, drain_seconds: int | None = None) -> None:
    """A Service that answers on an address of its own."""
    ports = [{"name": "http", "port": 80, "protocol": "TCP"}]
    item = service(name, rig.namespace, ports, loadBalancerIP=address)
    if drain_seconds is not None:
        item["metadata"]["annotations"] = {"littlelb.io/drain-seconds": str(drain_seconds)}
    rig.plane.admin.apply(item)
    rig.serve_service(name, 1, 2)
    rig.wait("published", lambda: rig.ingress(name) == [address])
    rig.wait("served", lambda: rig.ask(address))


def workers(rig: Rig) -> frozenset[int]:
    """Ids of the processes that carry connections in the balancer's namespace."""

    def name(pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/comm").read_text().strip()
        except FileNotFoundError:
            return ""

    return frozenset(pid for pid in rig.lan.balancer.pids() if name(pid) == "littlelb-pipe")


def listening(rig: Rig) -> set[str]:
    """Local addresses of all TCP sockets that listen in the balancer's namespace."""
    lines = rig.lan.balancer.run(["ss", "-Htln"]).stdout.splitlines()
    return {words.split()[3] for words in lines}


def traces(rig: Rig, name: str = "web") -> dict[str, object]:
    """What is left of us, in the API and on the machine; empty: nothing."""
    found = rig.get(name)
    status = found.get("status", {})
    left = {
        "finalizers": found["metadata"].get("finalizers"),
        "ingress": status.get("loadBalancer", {}).get("ingress"),
        "conditions": status.get("conditions"),
        "addresses": rig.held() - {FOREIGN},
        "workers": workers(rig),
        "tables": rig.lan.balancer.run(["nft", "list", "tables"]).stdout.split(),
        "forwarding": [
            device
            for device in ("eth0", "eth1")
            if rig.lan.balancer.sysctl(f"net.ipv4.conf.{device}.forwarding") != "0"
        ],
        "listening": listening(rig),
        "sockets": sorted(path.name for path in rig.run_dir.rglob("*.sock")),
    }
    return {what: trace for what, trace in left.items() if trace}


# --- withdrawal ------------------------------------------------------------------------------------------------------


BOTH_PLANES = pytest.mark.parametrize("plane", ["nft", "pipe"])


def is_over(established: Line, plane: str) -> bool:
    """Is the connection at its end? A worker tells a client that only listens; the kernel tells who says something."""
    return established.was_reset() if plane == "pipe" else not established.is_open()


@BOTH_PLANES
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_withdraws_everything_and_exits_with_0(rig: Rig, number: signal.Signals, plane: str) -> None:
    """Addresses, rules, workers, sockets, status, finalizers are gone when the process is; what others made stays."""
    rig.lan.balancer.ip("addr", "add", f"{FOREIGN}/32", "dev", "eth0")
    rig.start("--plane", plane)
    served(rig)
    served(rig, "shop", OTHER)
    with line(rig) as established:
        assert rig.stop(number, timeout=10) == 0
        assert is_over(established, plane)
    assert traces(rig) == traces(rig, "shop") == {}
    assert rig.held() == {FOREIGN}
    assert rig.ask(VIP) == rig.ask(OTHER) == ""
    assert [entry["by"] for entry in rig.log_events("daemon.ended")] == [number.name]


@BOTH_PLANES
def test_a_withdrawal_drains(rig: Rig, plane: str) -> None:
    """New connections are refused at once, an established one is answered; the exit comes within drain plus 10 s."""
    rig.start("--plane", plane)
    served(rig, drain_seconds=DRAIN_SECONDS)
    with line(rig) as established:
        assert rig.daemon is not None
        told = time.monotonic()
        rig.daemon.send_signal(signal.SIGTERM)
        rig.wait("refused", lambda: rig.ask(VIP) == "", 5)
        rig.wait("not published", lambda: rig.ingress("web") == [], 5)
        while time.monotonic() < told + DRAIN_SECONDS / 2:
            assert established.is_open()
            time.sleep(0.1)
        assert rig.ask(VIP) == ""
        assert rig.held() == {VIP}
        assert rig.daemon.wait(DRAIN_SECONDS / 2 + 10) == 0
        assert is_over(established, plane)
    assert traces(rig) == {}


def test_a_drain_ends_with_the_last_connection(rig: Rig) -> None:
    """Nobody waits for the rest of it; a daemon that has only just adopted the Service knows of its drain too."""
    rig.start()
    served(rig, drain_seconds=600)
    assert rig.stop(signal.SIGUSR2) == 0
    with line(rig) as established:
        rig.start()
        assert rig.daemon is not None
        rig.daemon.send_signal(signal.SIGTERM)
        rig.wait("refused", lambda: rig.ask(VIP) == "", 5)
        assert established.is_open()
    assert rig.daemon.wait(10) == 0
    assert traces(rig) == {}
    assert [entry["drain_seconds"] for entry in rig.log_events("daemon.withdraws")] == [600]


def test_a_second_signal_exits_at_once(rig: Rig) -> None:
    """Who does not want to wait for the drain says so; what is left is the next start's to adopt or remove."""
    rig.start()
    served(rig, drain_seconds=600)
    with line(rig) as established:
        assert rig.daemon is not None
        rig.daemon.send_signal(signal.SIGTERM)
        rig.wait("it withdraws", lambda: rig.log_events("daemon.withdraws"))
        assert rig.stop(signal.SIGTERM, timeout=2) == 3
        assert established.is_open()
    rig.plane.admin.patch(rig.get("web"), {"spec": {"type": "ClusterIP"}})
    rig.start()
    rig.wait("tidied up", lambda: rig.held() == set() and not rig.get("web")["metadata"].get("finalizers"))


# --- upgrades and crashes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["SIGUSR2", "SIGTERM with --on-exit keep", "SIGKILL"])
def test_a_restart_loses_no_connection(rig: Rig, way: str) -> None:
    """Who connects every 10 ms is always answered, established connections go on, and all is adopted."""
    flags = ("--on-exit", "keep") if "keep" in way else ()
    rig.start(*flags)
    served(rig)
    before = workers(rig)
    with line(rig) as established:
        load = Load(rig.lan.client, VIP)
        for _ in range(2):
            code = rig.stop(signal.Signals[way.split(maxsplit=1)[0]])
            assert code == (-signal.SIGKILL if way == "SIGKILL" else 0)
            assert rig.held() == {VIP}
            assert established.is_open()
            rig.start(*flags)
            assert established.is_open()
        outcome = load.finish()
        assert outcome.failed == ()
        assert outcome.answered > 50
        assert established.is_open()
    assert workers(rig) == before
    assert rig.ingress("web") == [VIP]
    assert rig.stop(signal.SIGINT) == 0
    assert traces(rig) == {}


def test_an_upgrade_to_another_version_loses_no_connection(rig: Rig, tmp_path: Path) -> None:
    """Workers of the old version hand their listeners over and stay for the connections that they have."""
    newer = tmp_path / "newer"
    shutil.copytree(TOP / "src" / "littlelb", newer / "littlelb", ignore=shutil.ignore_patterns("__pycache__"))
    init = newer / "littlelb" / "__init__.py"
    init.write_text(re.sub(r'__version__ = ".*"', '__version__ = "99.0.0"', init.read_text()))
    rig.start()
    served(rig)
    before = workers(rig)
    with line(rig) as established:
        load = Load(rig.lan.client, VIP)
        assert rig.stop(signal.SIGUSR2) == 0
        start = f"import sys; sys.path.insert(0, {str(newer)!r}); from littlelb.cli import main; sys.exit(main())"
        rig.launch([sys.executable, "-c", start, "run", "--kubeconfig", str(rig.kubeconfig), "--linkdevice", "eth0"])
        rig.wait("the new version runs", lambda: rig.ready() and rig.report().daemon.version == "99.0.0")
        rig.wait("the old workers retire", lambda: len(rig.log_events("pipe.worker_retires")) == len(before))
        assert established.is_open()
        outcome = load.finish()
        assert outcome.failed == ()
        assert outcome.answered > 50
        assert established.is_open()
    rig.wait("the old workers have gone", lambda: not before & workers(rig))
    assert rig.answers(VIP) == {"n1", "n2"}
    assert rig.stop() == 0
    assert traces(rig) == {}


def test_after_a_crash_orphans_go_and_nobody_elses_address_is_touched(rig: Rig) -> None:
    """A Service deleted and one retyped meanwhile leave nothing; a Service that stayed never stopped."""
    rig.lan.balancer.ip("addr", "add", f"{FOREIGN}/32", "dev", "eth0")
    rig.start()
    for number, name in enumerate(("web", "deleted", "retyped", "vanished")):
        served(rig, name, f"203.0.113.{10 + number}")
    with line(rig) as established:
        assert rig.stop(signal.SIGKILL) == -signal.SIGKILL
        admin = rig.plane.admin
        admin.patch(rig.get("retyped"), {"spec": {"type": "ClusterIP"}})
        admin.delete(rig.get("deleted"))
        admin.delete(rig.get("vanished"))
        admin.patch(rig.get("vanished"), {"metadata": {"finalizers": None}})
        rig.start()
        rig.wait("orphans are gone", lambda: rig.held() == {VIP, FOREIGN})
        admin.wait(rig_service(rig, "deleted"), lambda found: found is None)
        rig.wait("its finalizer and status are gone", lambda: not service_marks(rig, "retyped"))
        assert established.is_open()
    assert rig.answers(VIP) == {"n1", "n2"}
    assert {rig.ask(f"203.0.113.{number}") for number in (11, 12, 13)} == {""}


def rig_service(rig: Rig, name: str) -> dict[str, object]:
    """What names a Service of the test."""
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": rig.namespace}}


def service_marks(rig: Rig, name: str) -> object:
    """Our marks on a Service; nothing: None or empty."""
    found = rig.get(name)
    status = found.get("status", {})
    return found["metadata"].get("finalizers") or status.get("loadBalancer") or status.get("conditions")


def test_who_held_an_address_before_a_crash_keeps_it(rig: Rig) -> None:
    """Right after the grant, before any file was written: an older Service that asks for it too does not get it.

    Workers know whom they serve; rules in the kernel do not, so there it takes the state file.
    """
    rig.apply("older")
    rig.start("--plane", "pipe")
    rig.wait("older is served", lambda: rig.ingress("older"))
    served(rig)
    assert rig.stop(signal.SIGKILL) == -signal.SIGKILL
    shutil.rmtree(rig.state_dir, ignore_errors=True)
    rig.plane.admin.patch(rig.get("older"), {"spec": {"loadBalancerIP": VIP}})
    rig.start("--plane", "pipe")
    rig.wait("refused", lambda: rig.condition("older").get("reason") == "AddressInUse")
    assert f"{rig.namespace}/web" in rig.condition("older")["message"]
    assert rig.ingress("web") == [VIP]
    assert rig.answers(VIP) == {"n1", "n2"}


# --- one at a time ---------------------------------------------------------------------------------------------------


def test_a_second_daemon_is_refused_and_the_first_goes_on(rig: Rig) -> None:
    """Exit code 1 and one line that names pid and start of the one that runs; it is not disturbed."""
    rig.start()
    served(rig)
    assert rig.daemon is not None
    started = time.localtime(rig.report().daemon.started)
    with line(rig) as established:
        refused = rig.command("run", "--listen", "", check=False)
        assert refused.returncode == 1
        (said,) = (refused.stdout + refused.stderr).splitlines()
        assert f"pid {rig.daemon.pid}" in said
        assert re.search(rf"since {time.strftime('%H:%M', started)}:\d\d", said) or started.tm_sec > 58
        assert established.is_open()
    assert rig.answers(VIP) == {"n1", "n2"}
    assert rig.daemon.poll() is None
    assert rig.report().daemon.pid == rig.daemon.pid


# --- the image's pid 1 -----------------------------------------------------------------------------------------------


def test_the_supervisor_restarts_a_killed_daemon_and_passes_sigterm_on(rig: Rig) -> None:
    """As in the image: connections survive the daemon's death, `kill -USR2` upgrades, SIGTERM withdraws and exits 0."""
    argv = [sys.executable, "-m", "littlelb.supervisor", "--kubeconfig", str(rig.kubeconfig), "--linkdevice", "eth0"]
    rig.launch(argv)
    rig.wait("the daemon is ready", rig.ready)
    served(rig)
    with line(rig) as established:
        load = Load(rig.lan.client, VIP)
        first = rig.report().daemon.pid
        os.kill(first, signal.SIGKILL)
        rig.wait("another one runs", lambda: daemon_pid(rig) not in {0, first})
        rig.wait("it is ready", rig.ready)
        second = daemon_pid(rig)
        assert rig.daemon is not None
        rig.daemon.send_signal(signal.SIGUSR2)
        rig.wait("yet another one runs", lambda: daemon_pid(rig) not in {0, second})
        rig.wait("it is ready", rig.ready)
        outcome = load.finish()
        assert outcome.failed == ()
        assert outcome.answered > 50
        assert established.is_open()
    assert rig.stop(timeout=10) == 0
    assert traces(rig) == {}


def daemon_pid(rig: Rig) -> int:
    """Process id of the daemon that answers; 0: none does."""
    told = rig.command("status", "-o", "json", check=False)
    return decode_report(told.stdout.encode()).daemon.pid if told.returncode == 0 else 0
