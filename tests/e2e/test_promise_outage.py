"""The API server away, under load: nothing is lost, and what changed meanwhile is made good soon after its return.

    outage: stopped, killed, frozen; its store frozen; the wire to it cut; a watch that says nothing for long

Each outage lasts LITTLELB_TEST_OUTAGE_SECONDS, 15 by default.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from littlelb.control.state_file import decode_world
from tests.controlplane.objects import service
from tests.e2e.load import Load
from tests.e2e.rig import Rig

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

VIP, LATER, LEAVING = "203.0.113.10", "203.0.113.11", "203.0.113.12"
OUTAGE_SECONDS = float(os.environ.get("LITTLELB_TEST_OUTAGE_SECONDS", "15"))
SOON_SECONDS = 10.0
"""After the API server's return, everything that changed meanwhile has been done."""


def served(rig: Rig, name: str = "web", address: str = VIP) -> None:
    """A Service that answers on an address of its own."""
    rig.apply(name, loadBalancerIP=address)
    rig.serve_service(name, 1, 2)
    rig.wait("published", lambda: rig.ingress(name) == [address])
    rig.wait("served", lambda: rig.ask(address))


def sleep_until(moment: float) -> None:
    """Let an outage last."""
    time.sleep(max(0.0, moment - time.monotonic()))


@contextmanager
def under_load(rig: Rig) -> Iterator[None]:
    """A client connects every 10 ms: none may be lost."""
    load = Load(rig.lan.client, VIP, seconds=OUTAGE_SECONDS + 120)
    yield
    outcome = load.finish()
    assert outcome.failed == ()
    assert outcome.answered > OUTAGE_SECONDS * 20


def stopped(rig: Rig) -> Callable[[], None]:
    """An orderly stop."""
    rig.plane.api.stop()
    return rig.plane.api.start


def killed(rig: Rig) -> Callable[[], None]:
    """A crash."""
    rig.plane.api.kill()
    return rig.plane.api.start


def frozen(rig: Rig) -> Callable[[], None]:
    """It hangs: connections stay, nothing is answered."""
    rig.plane.api.freeze()
    return rig.plane.api.thaw


def without_store(rig: Rig) -> Callable[[], None]:
    """It answers, but its etcd does not."""
    rig.plane.etcd.freeze()
    return rig.plane.etcd.thaw


@pytest.mark.parametrize("begin", [stopped, killed, frozen, without_store])
def test_an_outage_loses_nothing(rig: Rig, begin: Callable[[Rig], Callable[[], None]]) -> None:
    """No connection is lost; a machine that came to harm meanwhile is repaired; changes right after it are followed."""
    rig.start()
    served(rig)
    served(rig, "leaving", LEAVING)
    with under_load(rig):
        end = begin(rig)
        over = time.monotonic() + OUTAGE_SECONDS
        rig.lan.balancer.ip("addr", "del", f"{LEAVING}/32", "dev", "eth0")
        rig.wait("put back without the API server", lambda: LEAVING in rig.held(), 5)
        sleep_until(over)
        end()
        rig.plane.api.wait_ready()
        rig.plane.admin.delete(service("leaving", rig.namespace))
        rig.apply("later", loadBalancerIP=LATER)
        rig.serve_service("later", 1)
        rig.wait("followed", lambda: rig.ask(LATER) and rig.ingress("later") == [LATER], SOON_SECONDS)
        rig.wait("the deleted one is gone", lambda: rig.held() == {VIP, LATER}, SOON_SECONDS)
    rig.wait("heard again", lambda: rig.report().daemon.connected)
    assert rig.ready()


def test_what_changed_while_the_wire_was_cut_is_followed_soon_after(rig: Rig) -> None:
    """Others could write meanwhile: a new Service, a deleted one, a lost node; no connection is lost, all is done."""
    rig.start()
    served(rig)
    served(rig, "leaving", LEAVING)
    with under_load(rig):
        rig.lan.balancer.ip("link", "set", "api", "down")
        over = time.monotonic() + OUTAGE_SECONDS
        rig.plane.admin.delete(service("leaving", rig.namespace))
        rig.apply("later", loadBalancerIP=LATER)
        rig.serve_service("later", 1)
        rig.remove_node("n2")
        sleep_until(over)
        assert LATER not in rig.held()
        rig.lan.balancer.ip("link", "set", "api", "up")
        rig.wait("followed", lambda: rig.ask(LATER) and rig.ingress("later") == [LATER], SOON_SECONDS)
        rig.wait("the deleted one is gone", lambda: rig.held() == {VIP, LATER}, SOON_SECONDS)
        rig.wait("the node is gone", lambda: rig.answers(VIP) == {"n1"}, SOON_SECONDS)
    assert rig.ready()


def test_a_restart_during_the_outage_serves_the_last_known_world(rig: Rig) -> None:
    """It withdrew and is back before the API server: it serves what the state file knows, says so, and catches up."""
    rig.start()
    served(rig)
    served(rig, "leaving", LEAVING)
    assert rig.stop() == 0
    assert rig.held() == set()
    rig.plane.admin.delete(service("leaving", rig.namespace))
    rig.plane.api.stop()
    rig.start(wait=False)
    rig.wait("served from the file", lambda: rig.held() == {VIP, LEAVING}, 20)
    assert rig.answers(VIP) == {"n1", "n2"}
    (said,) = rig.log_events("source.silent")
    assert (said["level"], said["effect"]) == ("warning", "serving the last known world from the state file")
    daemon = rig.report().daemon
    assert (daemon.from_state_file, daemon.synced, daemon.connected) == (True, False, False)
    assert "last known world" in rig.command("status").stdout
    assert not rig.ready()
    rig.plane.api.start()
    rig.wait("caught up", lambda: rig.held() == {VIP}, SOON_SECONDS)
    rig.wait("published", lambda: rig.ingress("web") == [VIP], SOON_SECONDS)
    rig.wait("ready", rig.ready)
    assert not rig.report().daemon.from_state_file
    assert rig.answers(VIP) == {"n1", "n2"}


def test_a_crash_and_a_restart_during_the_outage_lose_nothing(rig: Rig) -> None:
    """Workers go on, and the next daemon adopts them by the state file alone; also when the API server returns."""
    rig.start()
    served(rig)
    rig.wait("the state is on disk", lambda: knows(rig, "web"))
    with under_load(rig):
        rig.plane.api.stop()
        for number in (signal.SIGKILL, signal.SIGUSR2):
            rig.stop(number)
            rig.start(wait=False)
            rig.wait("it serves", lambda: serving_from_file(rig), 20)
            assert rig.held() == {VIP}
        rig.plane.api.start()
        rig.wait("ready", rig.ready)
        assert not rig.report().daemon.from_state_file
    assert rig.stop() == 0
    assert rig.held() == set()


def test_an_old_state_file_takes_nothing_away(rig: Rig) -> None:
    """A Service that it does not know is served on by the workers; one that went is removed when the API says so."""
    rig.start()
    served(rig)
    rig.wait("the state is on disk", lambda: knows(rig, "web"))
    old = (rig.state_dir / "world.msgpack").read_bytes()
    served(rig, "later", LATER)
    served(rig, "leaving", LEAVING)
    rig.stop(signal.SIGKILL)
    rig.plane.admin.delete(service("leaving", rig.namespace))
    rig.plane.api.stop()
    (rig.state_dir / "world.msgpack").write_bytes(old)
    rig.start(wait=False)
    rig.wait("it serves", lambda: serving_from_file(rig), 20)
    assert rig.held() == {VIP, LATER, LEAVING}
    assert rig.answers(VIP) == rig.answers(LATER) == {"n1", "n2"}
    rig.plane.api.start()
    rig.wait("caught up", lambda: rig.held() == {VIP, LATER}, SOON_SECONDS)
    assert rig.answers(VIP) == rig.answers(LATER) == {"n1", "n2"}


def knows(rig: Rig, name: str) -> bool:
    """Is a Service of the test, with what it was granted, in the state file?"""
    path = rig.state_dir / "world.msgpack"
    return path.exists() and f"{rig.namespace}/{name}" in decode_world(path.read_bytes()).grants


def serving_from_file(rig: Rig) -> bool:
    """Does a daemon say that it serves what the file knew?"""
    told = rig.command("status", check=False)
    return told.returncode == 0 and "last known world" in told.stdout


def test_without_api_server_and_state_file_it_waits_and_says_so(rig: Rig) -> None:
    """Nothing is made up: it serves as soon as the API server answers."""
    rig.apply("web", loadBalancerIP=VIP)
    rig.serve_service("web", 1)
    rig.plane.api.stop()
    rig.start(wait=False)
    rig.wait("it says so", lambda: rig.log_events("source.silent"))
    assert rig.held() == set()
    rig.plane.api.start()
    rig.wait("served", lambda: rig.ask(VIP) == "n1", SOON_SECONDS)


def test_a_withdrawal_during_the_outage_is_bounded_and_made_good_by_the_next_start(rig: Rig) -> None:
    """The machine is clean and the exit in time; what stands in the API is taken off when both are back."""
    rig.start()
    served(rig)
    rig.plane.api.stop()
    began = time.monotonic()
    assert rig.stop(timeout=30) == 0
    assert time.monotonic() - began < 10 + 5  # a busy machine
    assert rig.held() == set()
    rig.plane.api.start()
    assert rig.ingress("web") == [VIP]
    rig.plane.admin.patch(rig.get("web"), {"spec": {"type": "ClusterIP"}})
    rig.start()
    rig.wait("tidied up", lambda: not rig.get("web")["metadata"].get("finalizers"))
    assert rig.ingress("web") == []
    assert rig.condition("web") == {}


def test_a_silent_watch_is_normal(rig: Rig) -> None:
    """Nothing happens for longer than the patience with a silent server: nothing is listed again, events still come."""
    rig.start()
    served(rig)
    with under_load(rig):
        time.sleep(max(OUTAGE_SECONDS, 16))
        assert rig.log_events("reflector.failed") == []
        rig.apply("later", loadBalancerIP=LATER)
        rig.wait("followed", lambda: rig.ingress("later") == [LATER], 5)
    assert rig.report().daemon.connected
