"""The life of a Service on the real API server with real packets: it becomes a LoadBalancer, and ceases to be ours.

What else the ancestor's README promises is in the files `test_promise_*.py` beside this one, a file for each theme.
"""

import signal
from collections.abc import Callable

import pytest

from tests.controlplane.objects import service
from tests.e2e.rig import DEFAULT, FINALIZER, Rig

pytestmark = pytest.mark.e2e

VIP = "203.0.113.10"
OURS = "littlelb.io/littlelb"
THEIRS = "example.org/theirs"


def serve(rig: Rig, **spec: object) -> None:
    """Make Service `web` and wait until it answers."""
    rig.apply("web", **{"loadBalancerIP": VIP} | spec)
    rig.serve_service("web", 1)
    rig.wait("published", lambda: rig.ingress("web") == [VIP])
    assert rig.ask(VIP) == "n1"


def marks(rig: Rig) -> list[object]:
    """What on Service `web` is ours to clear; empty too when there is no such Service."""
    for found in rig.plane.admin.items("v1", "Service", rig.namespace):
        if found["metadata"]["name"] == "web":
            status = found["status"]
            marks = found["metadata"].get("finalizers"), status.get("conditions"), status.get("loadBalancer")
            return [mark for mark in marks if mark]
    return []


def is_withdrawn(rig: Rig) -> bool:
    """Is nothing of ours left, on the device or on the Service, if there is one?"""
    return not rig.held() and not marks(rig)


PLANES = pytest.mark.parametrize("plane", ["nft", "pipe"])


@PLANES
def test_a_service_of_type_loadbalancer_answers_on_its_address_and_port(rig: Rig, plane: str) -> None:
    """`loadBalancerIP` goes onto the link device; requests reach the nodes' NodePorts; the status says where."""
    rig.start("--plane", plane)
    rig.apply("web", loadBalancerIP=VIP)
    rig.serve_service("web", 1, 2)
    rig.wait("published", lambda: rig.ingress("web") == [VIP])
    assert rig.held() == {VIP}
    assert rig.answers(VIP) == {"n1", "n2"}
    assert rig.get("web")["metadata"]["finalizers"] == [FINALIZER]
    rig.delete("web")
    rig.wait("gone", lambda: rig.held() == set())
    assert rig.ask(VIP) == ""
    assert rig.ask(DEFAULT) == ""


def test_a_service_that_becomes_a_loadbalancer_answers(rig: Rig) -> None:
    """As a NodePort Service it is none of our business; with the type changed it is served."""
    rig.start()
    rig.apply("web", type="NodePort", loadBalancerIP=VIP)
    rig.apply("other", loadBalancerIP="203.0.113.11")
    rig.wait("the other one is published", lambda: rig.ingress("other"))
    assert rig.held() == {"203.0.113.11"}
    assert "finalizers" not in rig.get("web")["metadata"]
    serve(rig)


def retype(rig: Rig) -> None:
    """Change the type."""
    rig.apply("web", type="ClusterIP")


def remove(rig: Rig) -> None:
    """Delete the Service; the finalizer holds it until we have cleaned up."""
    rig.plane.admin.delete(service("web", rig.namespace))


def give_to_another_class(rig: Rig) -> None:
    """The class of a LoadBalancer cannot be changed: it takes two steps, which a watch may see as one."""
    rig.apply("web", type="ClusterIP")
    rig.apply("web", loadBalancerIP=VIP, loadBalancerClass=THEIRS)


WAYS = pytest.mark.parametrize("way", [retype, remove, give_to_another_class], ids=lambda way: str(way.__name__))
Way = Callable[[Rig], None]


@WAYS
@PLANES
def test_a_service_that_is_no_longer_ours_is_closed(rig: Rig, way: Way, plane: str) -> None:
    """Its port is closed, its address gone; status, conditions and finalizer are cleared; an Event says so."""
    rig.start("--plane", plane)
    serve(rig)
    way(rig)
    rig.wait("withdrawn", lambda: is_withdrawn(rig))
    assert rig.ask(VIP) == ""
    rig.wait("told", lambda: ("Normal", "DeletedLoadBalancer", f"withdrawn from {VIP}") in rig.events("web"))
    assert not rig.report().services


@WAYS
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGUSR2], ids=lambda end: str(end.name))
def test_a_service_that_left_while_we_were_down_is_closed_at_the_start(rig: Rig, way: Way, end: signal.Signals) -> None:
    """Until then it is served on; afterwards nothing of it is left, whether or not there was time to note anything."""
    rig.start()
    serve(rig)
    rig.apply("stays", loadBalancerIP="203.0.113.11", ports=({"port": 81},))
    rig.serve_service("stays", 2)
    rig.wait("published", lambda: rig.ingress("stays"))
    rig.stop(end)
    way(rig)
    assert rig.held() == {VIP, "203.0.113.11"}
    assert rig.ask(VIP) == "n1"
    rig.start()
    rig.wait("withdrawn", lambda: rig.held() == {"203.0.113.11"})
    rig.wait("cleared", lambda: not marks(rig))
    assert rig.ask(VIP) == ""
    assert rig.ask("203.0.113.11", 81) == "n2"
    told = [entry["reason"] for entry in rig.log_events("service.event") if entry["service"].endswith("/stays")]
    assert told == ["IPAllocated", "EnsuredLoadBalancer"], "a restart is no news"
    rig.delete("stays")
    rig.wait("withdrawn", lambda: is_withdrawn(rig))


def test_a_service_that_was_deleted_and_made_again_while_we_were_down_is_served_anew(rig: Rig) -> None:
    """Another uid under the same name: what was held for the old one goes over to the new one."""
    rig.start()
    serve(rig)
    rig.stop(signal.SIGKILL)
    rig.plane.admin.patch(service("web", rig.namespace), {"metadata": {"finalizers": None}})
    rig.plane.admin.delete(service("web", rig.namespace))
    rig.apply("web", loadBalancerIP="203.0.113.12")
    rig.serve_service("web", 2)
    rig.start()
    rig.wait("published", lambda: rig.ingress("web") == ["203.0.113.12"])
    rig.wait("moved", lambda: rig.held() == {"203.0.113.12"})
    assert rig.ask("203.0.113.12") == "n2"
    assert rig.get("web")["metadata"]["finalizers"] == [FINALIZER]


def test_a_service_of_another_class_is_left_alone(rig: Rig) -> None:
    """Nothing is held for it, nothing written on it; retyped into our class it is served, and without one too."""
    rig.start()
    rig.apply("web", loadBalancerIP=VIP, loadBalancerClass=THEIRS)
    rig.apply("other", loadBalancerIP="203.0.113.11")
    rig.wait("the other one is published", lambda: rig.ingress("other"))
    assert rig.held() == {"203.0.113.11"}
    assert not rig.condition("web")
    assert "finalizers" not in rig.get("web")["metadata"]
    rig.apply("web", type="ClusterIP")
    serve(rig, loadBalancerClass=OURS)


def test_a_class_that_is_no_longer_ours_at_a_restart_is_closed(rig: Rig) -> None:
    """`--load-balancer-class` says at the start who we are; Services of the name that we had before are let go."""
    rig.start()
    serve(rig, loadBalancerClass=OURS)
    rig.apply("new", loadBalancerIP="203.0.113.11", loadBalancerClass=THEIRS)
    rig.stop(signal.SIGUSR2)
    rig.start(f"--load-balancer-class={THEIRS}", "--no-class-less")
    rig.wait("the new class is served", lambda: rig.ingress("new") == ["203.0.113.11"])
    rig.wait("the old class is closed", lambda: rig.held() == {"203.0.113.11"})
    rig.wait("cleared", lambda: not marks(rig))
    assert rig.ask(VIP) == ""


def test_what_another_balancer_wrote_on_its_service_stays(rig: Rig) -> None:
    """A Service of another class with status and finalizer of its own balancer keeps both, also over our restart."""
    ingress = {"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.77"}]}}}
    web = rig.apply("web", loadBalancerClass=THEIRS)
    rig.plane.admin.patch(web, {"metadata": {"finalizers": [FINALIZER]}})
    rig.plane.admin.patch(web, ingress, "status")
    for end in (signal.SIGUSR2, signal.SIGTERM):
        rig.start()
        rig.apply("other", loadBalancerIP=VIP)
        rig.wait("the other one is published", lambda: rig.ingress("other"))
        rig.stop(end)
        assert rig.ingress("web") == ["198.51.100.77"]
        assert rig.get("web")["metadata"]["finalizers"] == [FINALIZER]
