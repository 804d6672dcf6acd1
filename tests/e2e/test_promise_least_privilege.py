"""The shipped role is minimal for the daemon itself: with any one right taken away it says which, and what to do."""

import http.client
from collections.abc import Callable, Mapping

import pytest

from tests.controlplane.accounts import Right, limited_kubeconfig, rights, rules_without, shipped_rules
from tests.e2e.rig import FINALIZER, Rig

pytestmark = pytest.mark.e2e

SHIPPED = sorted(rights(shipped_rules()))
VIP = "203.0.113.10"
READS = {"list", "watch"}


def start_without(rig: Rig, taken: Right) -> str:
    """Start the daemon as an account that lacks one right; return what it has to say about that."""
    group, resource, verb = taken
    name = f"daemon-lacks-{resource.replace('/', '-')}-{verb}"
    rig.kubeconfig = limited_kubeconfig(rig.plane, name, rules_without(shipped_rules(), taken), rig.server)
    rig.start(wait=False)
    return f"the role lacks the verb {verb} on {resource} of API group {group or 'core'!r}: apply the role"


def says(rig: Rig, event: str, words: str) -> list[str]:
    """Find the entries of the log with this event name that say these words; return their levels."""
    return [str(entry["level"]) for entry in rig.log_events(event) if words in "; ".join(map(str, entry.values()))]


def unready(rig: Rig) -> str:
    """Why /readyz says no; empty while nobody answers."""

    def ask() -> str:
        connection = http.client.HTTPConnection("127.0.0.1", 7480, timeout=1)
        try:
            connection.request("GET", "/readyz")
            answer = connection.getresponse()
            return answer.read().decode() if answer.status == 503 else ""
        except OSError:
            return ""
        finally:
            connection.close()

    return rig.lan.balancer.call(ask)


def cannot_read(rig: Rig, taken: Right) -> None:
    """Once for the resource, as an error; not ready; nothing is served from half a picture."""
    words = start_without(rig, taken)
    rig.apply("web", loadBalancerIP=VIP)
    rig.wait("said", lambda: says(rig, "reflector.failed", words) == ["error"])
    rig.wait("not ready", lambda: words in unready(rig))
    if taken[2] == "list":
        assert rig.held() == set()
        assert not rig.condition("web")


def cannot_publish(rig: Rig, taken: Right) -> None:
    """Without its finalizer on the Service nothing is served; an Event can still be written, and says why."""
    words = start_without(rig, taken)
    rig.apply("web", loadBalancerIP=VIP)
    rig.wait("told", lambda: any(kind == "Warning" and words in note for kind, _, note in rig.events("web")))
    rig.wait("not ready", lambda: words in unready(rig))
    assert says(rig, "service.event", words) == ["error"]
    assert rig.held() == set()


def cannot_look_whose_it_is(rig: Rig, taken: Right) -> None:
    """What is ours on a Service only its managedFields tell: a deleted one hangs until the right is there again."""
    words = start_without(rig, taken)
    rig.apply("web", loadBalancerIP=VIP)
    rig.wait("published", lambda: rig.ingress("web"))
    rig.plane.admin.delete(rig.get("web"))
    rig.wait("said", lambda: says(rig, "pass.failed", words) == ["error"])
    rig.wait("not ready", lambda: words in unready(rig))
    assert rig.held() == set()
    assert rig.get("web")["metadata"]["finalizers"] == [FINALIZER]


def cannot_tell(rig: Rig, taken: Right) -> None:
    """Events are lost, with a line in the log for each; the Service is served all the same."""
    words = start_without(rig, taken)
    rig.apply("web", loadBalancerIP=VIP)
    rig.wait("said", lambda: "warning" in says(rig, "events.dropped", words))
    rig.wait("published", lambda: rig.ingress("web"))
    assert rig.events("web") == []


def cannot_count(rig: Rig, taken: Right) -> None:
    """A repeated Event cannot be counted: that is said, and the first one stays."""
    words = start_without(rig, taken)
    for address in (VIP, "nonsense") * 2:
        rig.apply("web", loadBalancerIP=address)
        status = str(address == VIP)
        rig.wait("decided", lambda s=status: rig.condition("web").get("status") == s)  # type: ignore[misc]
    rig.wait("said", lambda: "warning" in says(rig, "events.dropped", words))
    assert [reason for _, reason, _ in rig.events("web")].count("SyncLoadBalancerFailed") == 1


WITHOUT: Mapping[Right, Callable[[Rig, Right], None]] = {
    **{right: cannot_read for right in SHIPPED if right[2] in READS},
    ("", "services", "get"): cannot_look_whose_it_is,
    ("", "services/status", "patch"): cannot_publish,
    ("events.k8s.io", "events", "create"): cannot_tell,
    ("events.k8s.io", "events", "patch"): cannot_count,
}


def test_every_shipped_right_is_taken_away_once() -> None:
    """A right that nobody misses here is not shipped."""
    assert set(WITHOUT) == set(SHIPPED)


@pytest.mark.parametrize("right", SHIPPED, ids="-".join)
def test_without_this_right_the_daemon_says_what_is_missing(rig: Rig, right: Right) -> None:
    """It goes on with what it can do, and names verb, resource and remedy where an operator looks."""
    WITHOUT[right](rig, right)


def test_a_right_that_is_granted_later_is_taken_up_without_a_restart(rig: Rig) -> None:
    """The operator applies the role, and the daemon goes on by itself."""
    taken = ("", "services/status", "patch")
    words = start_without(rig, taken)
    rig.apply("web", loadBalancerIP=VIP)
    rig.wait("not ready", lambda: words in unready(rig))
    limited_kubeconfig(rig.plane, "daemon-lacks-services-status-patch", shipped_rules(), rig.server)
    rig.wait("published", lambda: rig.ingress("web") == [VIP], 40)
    rig.wait("ready", rig.ready)


def test_with_the_shipped_role_nothing_is_refused(rig: Rig) -> None:
    """The other half: a Service's whole life without one refusal."""
    rig.start()
    for address in (VIP, "nonsense", "203.0.113.11", "nonsense"):
        rig.apply("web", loadBalancerIP=address)
        status = str(address != "nonsense")
        rig.wait("decided", lambda s=status: rig.condition("web").get("status") == s)  # type: ignore[misc]
    rig.delete("web")
    assert rig.stop() == 0
    assert "lacks the verb" not in rig.log.read_text()
