"""A Service's address, ports and NodePorts are followed while it lives; an address stays while somebody uses it."""

import pytest

from tests.controlplane.admin import Object
from tests.controlplane.objects import service
from tests.e2e.rig import DEFAULT, Rig

pytestmark = pytest.mark.e2e

VIP, OTHER = "203.0.113.10", "203.0.113.11"


def ports(*numbers: int, **more: int) -> tuple[Object, ...]:
    """Write ports of a Service; `more` goes into each."""
    return tuple({"name": f"p{number}", "port": number, "protocol": "TCP", **more} for number in numbers)


def serve(rig: Rig, name: str, number: int, **spec: object) -> None:
    """Make a Service with backend `number`, and wait until it is published."""
    rig.apply(name, **spec)
    rig.serve_service(name, number)
    rig.wait(f"{name} is published", lambda: rig.ingress(name))


# --- loadBalancerIP --------------------------------------------------------------------------------------------------


def test_an_address_that_is_asked_for_later_is_held_then(rig: Rig) -> None:
    """The Service had the default address; with `loadBalancerIP` it goes to its own, and leaves the default one."""
    rig.start()
    serve(rig, "web", 1)
    assert rig.ask(DEFAULT) == "n1"
    rig.apply("web", loadBalancerIP=VIP)
    rig.wait("moved", lambda: rig.ingress("web") == [VIP] and rig.ask(DEFAULT) == "")
    assert rig.held() == {VIP}
    assert rig.ask(VIP) == "n1"


def test_a_changed_address_is_moved_to(rig: Rig) -> None:
    """The new one answers, the old one is gone; the Service tells from where to where."""
    rig.start()
    serve(rig, "web", 1, loadBalancerIP=VIP)
    rig.apply("web", loadBalancerIP=OTHER)
    rig.wait("moved", lambda: rig.ingress("web") == [OTHER] and rig.held() == {OTHER})
    assert rig.ask(OTHER) == "n1"
    assert rig.ask(VIP) == ""
    note = f"serving on {OTHER} instead of {VIP}"
    rig.wait("told", lambda: ("Normal", "UpdatedLoadBalancer", note) in rig.events("web"))


def test_the_old_address_is_served_until_the_new_one_is_granted(rig: Rig) -> None:
    """A client that asks the whole time, the old address and then the published one, is never refused."""
    rig.start()
    serve(rig, "web", 1, loadBalancerIP=VIP)
    for address in (OTHER, VIP, OTHER):
        rig.apply("web", loadBalancerIP=address)
        old = ({VIP, OTHER} - {address}).pop()
        while rig.ingress("web") != [address]:
            # Both change hands while we look: one of the two answers at every moment.
            assert rig.ask(old) or rig.ask(address), rig.log_tail()
        assert rig.ask(address) == "n1"


def test_a_refused_move_stays_with_a_condition(rig: Rig) -> None:
    """The old address is served on and published; the condition, an Event and the log say why, and name the winner."""
    rig.start()
    serve(rig, "winner", 2, loadBalancerIP=OTHER)
    serve(rig, "web", 1, loadBalancerIP=VIP)
    rig.apply("web", loadBalancerIP=OTHER)
    rig.wait("refused", lambda: rig.condition("web").get("status") == "False")
    condition = rig.condition("web")
    assert condition["reason"] == "AddressInUse"
    assert condition["message"].startswith(f"served on {VIP}, but ")
    assert f"{rig.namespace}/winner" in condition["message"]
    assert rig.ingress("web") == [VIP]
    assert (rig.ask(VIP), rig.ask(OTHER)) == ("n1", "n2")
    told = ("Warning", "SyncLoadBalancerFailed", condition["message"])
    rig.wait("told", lambda: told in rig.events("web"))
    assert rig.log_events("service.event")[-1]["level"] == "error"

    rig.delete("winner")
    rig.wait("moved after all", lambda: rig.ingress("web") == [OTHER] and rig.held() == {OTHER})
    assert rig.ask(OTHER) == "n1"
    assert rig.condition("web").get("status") == "True"


@pytest.mark.parametrize("text", ["203.0.113.300", "192.0.2.10", "2001:db8:0:113::9"], ids=["bad", "taken", "family"])
def test_a_move_to_an_impossible_address_stays_too(rig: Rig, text: str) -> None:
    """A text that is no address, another machine's address, the other family: nothing changes but the condition."""
    rig.start()
    serve(rig, "web", 1, loadBalancerIP=VIP)
    rig.apply("web", loadBalancerIP=text)
    rig.wait("refused", lambda: rig.condition("web").get("status") == "False")
    assert text in rig.condition("web")["message"]
    assert rig.ingress("web") == [VIP]
    assert rig.held() == {VIP}
    assert rig.ask(VIP) == "n1"
    rig.apply("web", loadBalancerIP=OTHER)
    rig.wait("moved", lambda: rig.ingress("web") == [OTHER] and rig.held() == {OTHER})


def test_a_refused_move_that_is_taken_back_leaves_no_trace(rig: Rig) -> None:
    """Asking for the held address again clears the condition; the address was there all the time."""
    rig.start()
    serve(rig, "web", 1, loadBalancerIP=VIP)
    rig.apply("web", loadBalancerIP="nonsense")
    rig.wait("refused", lambda: rig.condition("web").get("status") == "False")
    rig.apply("web", loadBalancerIP=VIP)
    rig.wait("cleared", lambda: rig.condition("web").get("status") == "True")
    assert len([entry for entry in rig.log_events("address.added") if entry["address"] == VIP]) == 1


def test_an_address_that_is_no_longer_asked_for_gives_way_to_the_default_one(rig: Rig) -> None:
    """Without `loadBalancerIP` the Service is served on the device's own address, and its old one is gone."""
    rig.start()
    serve(rig, "web", 1, loadBalancerIP=VIP)
    rig.apply("web")
    rig.wait("moved", lambda: rig.ingress("web") == [DEFAULT] and rig.held() == set())
    assert rig.ask(DEFAULT) == "n1"
    assert rig.ask(VIP) == ""


def test_of_many_changes_the_last_one_counts(rig: Rig) -> None:
    """Types, addresses and ports in haste, faster than they can be followed: in the end it is as if none had been."""
    rig.start()
    rig.serve_any(1)
    for number in range(12):
        rig.apply("web", loadBalancerIP=f"203.0.113.{20 + number}", ports=ports(80 + number % 2))
        if number % 3 == 1:
            rig.apply("web", type="ClusterIP")
        if number % 5 == 4:
            rig.plane.admin.delete(service("web", rig.namespace))
            rig.plane.admin.wait(service("web", rig.namespace), lambda found: found is None)
    rig.apply("web", loadBalancerIP=VIP, ports=ports(80))
    rig.wait("published", lambda: rig.ingress("web") == [VIP])
    rig.wait("settled", lambda: rig.held() == {VIP} and rig.condition("web").get("status") == "True")
    assert (rig.ask(VIP), rig.ask(VIP, 81)) == ("n1", "")
    rig.delete("web")
    rig.wait("gone", lambda: rig.held() == set())


# --- ports -----------------------------------------------------------------------------------------------------------


def test_changed_ports_are_followed(rig: Rig) -> None:
    """A port added, another in its place, one alone: what is in the Service answers, and nothing else."""
    rig.start()
    rig.serve_any(1)
    for numbers in ((80,), (80, 81), (81, 82), (90,)):
        rig.apply("web", loadBalancerIP=VIP, ports=ports(*numbers))
        expected = {number: "n1" if number in numbers else "" for number in (80, 81, 82, 90)}
        rig.wait(f"served: {numbers}", lambda e=expected: {n: rig.ask(VIP, n) for n in e} == e)  # type: ignore[misc]
    assert len(rig.log_events("address.added")) == 1
    assert not rig.log_events("address.removed")


def test_a_changed_node_port_is_followed(rig: Rig) -> None:
    """The same port, forwarded to another NodePort from now on; the address knows nothing of it."""
    rig.start()
    rig.serve(1, 30050)
    rig.serve(2, 30060)
    rig.apply("web", loadBalancerIP=VIP, ports=ports(80, nodePort=30050))
    # Published: the daemon writes no more, which a NodePort asked for by number does not survive (see `Rig.serve_any`).
    rig.wait("served", lambda: rig.condition("web").get("status") == "True" and "n1" in rig.answers(VIP))
    rig.apply("web", loadBalancerIP=VIP, ports=ports(80, nodePort=30060))
    rig.wait("followed", lambda: rig.answers(VIP) == {"n2"})
    assert not rig.log_events("address.removed")


# --- users of an address ---------------------------------------------------------------------------------------------


def test_the_default_address_outlives_all_its_services(rig: Rig) -> None:
    """It is the host's: Services come, share it port by port and go, and it stays as it was."""
    before = rig.lan.balancer.ip("addr", "show", "dev", "eth0")
    rig.start()
    rig.serve_any(1)
    rig.apply("first", ports=ports(80))
    rig.apply("second", loadBalancerIP=DEFAULT, ports=ports(81))
    rig.wait("both are served", lambda: (rig.ask(DEFAULT), rig.ask(DEFAULT, 81)) == ("n1", "n1"))
    rig.delete("first")
    rig.wait("one is closed", lambda: rig.ask(DEFAULT) == "")
    assert rig.ask(DEFAULT, 81) == "n1"
    rig.delete("second")
    rig.wait("both are closed", lambda: rig.ask(DEFAULT, 81) == "")
    assert rig.lan.balancer.ip("addr", "show", "dev", "eth0") == before


def test_an_address_stays_while_one_of_its_ports_is_used(rig: Rig) -> None:
    """With the last port, the Service, it goes."""
    rig.start()
    rig.serve_any(1)
    rig.apply("web", loadBalancerIP=VIP, ports=ports(80, 81))
    rig.wait("both are served", lambda: (rig.ask(VIP), rig.ask(VIP, 81)) == ("n1", "n1"))
    rig.apply("web", loadBalancerIP=VIP, ports=ports(81))
    rig.wait("one is closed", lambda: rig.ask(VIP) == "")
    assert rig.ask(VIP, 81) == "n1"
    assert rig.held() == {VIP}
    rig.delete("web")
    rig.wait("gone", lambda: rig.held() == set())


def test_an_address_goes_over_to_the_service_that_waits_for_it(rig: Rig) -> None:
    """The winner goes: the address is not taken off the device in between, and the loser answers on it."""
    rig.start()
    serve(rig, "winner", 1, loadBalancerIP=VIP)
    rig.apply("loser", loadBalancerIP=VIP)
    rig.serve_service("loser", 2)
    rig.wait("refused", lambda: rig.condition("loser").get("reason") == "AddressInUse")
    rig.delete("winner")
    rig.wait("served", lambda: rig.ingress("loser") == [VIP] and rig.ask(VIP) == "n2")
    assert len(rig.log_events("address.added")) == 1
    assert not rig.log_events("address.removed")
    rig.delete("loser")
    rig.wait("gone", lambda: rig.held() == set())


def test_an_address_that_the_administrator_put_there_stays_when_its_user_goes(rig: Rig) -> None:
    """203.0.113.2 is on the device without us: it may be asked for, and is never removed."""
    rig.start()
    before = rig.lan.balancer.ip("addr", "show", "dev", "eth0")
    serve(rig, "web", 1, loadBalancerIP="203.0.113.2")
    assert rig.ask("203.0.113.2") == "n1"
    rig.delete("web")
    rig.wait("closed", lambda: rig.ask("203.0.113.2") == "")
    assert rig.lan.balancer.ip("addr", "show", "dev", "eth0") == before
