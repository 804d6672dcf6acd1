"""Ingress, conditions and externalIPs, on the fake API server."""

from typing import Any

import pytest

from littlelb.core.model import Condition, Ingress, PortError, Protocol, Publication, Service
from littlelb.core.plan import Changes, Severity, diff
from littlelb.core.state import DesiredState
from littlelb.kube.status import TRUCE_SECONDS, PublishTarget
from littlelb.kube.writes.patches import EXTERNAL_IPS_ANNOTATION
from littlelb.testing.fake_api_faults import Fault
from littlelb.testing.fake_api_store import Name

from .conftest import World

KEY = "default/web"
SERVED = Condition("littlelb.io/Served", "True", "Served", "served on 203.0.113.1")
REFUSED = Condition("littlelb.io/Served", "False", "PortInUse", "port 81 is taken")
PORTS = Condition("LoadBalancerPortsError", "True", "PortInUse", "port 81 is taken")
ONE = (Ingress("203.0.113.1", ip_mode="VIP"),)


def shown(service: Service, **fields: Any) -> Publication:
    """What should be read on this Service."""
    return Publication(**({"uid": service.uid, "ingress": ONE, "conditions": (SERVED,)} | fields))


def adding(publication: Publication) -> Changes[str, Publication]:
    """Publish it."""
    return Changes(add={KEY: publication})


def removing(service: Service) -> Changes[str, Publication]:
    """Clear it."""
    return Changes(remove={KEY: shown(service)})


@pytest.fixture
def target(world: World) -> PublishTarget:
    """Our target."""
    return PublishTarget(world.writer, world.clock)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"ingress": (*ONE, Ingress("2001:db8::1", ip_mode="Proxy"))},
        {"ingress": (), "conditions": (REFUSED,)},
        {"conditions": (REFUSED, PORTS), "ingress": (Ingress("203.0.113.1", ip_mode="VIP", ports=(
            PortError(80, Protocol.TCP), PortError(81, Protocol.TCP, "littlelb.io/PortInUse"))),)},
        {"external_ips": ("203.0.113.1",)},
    ],
)  # fmt: skip
async def test_after_a_write_the_next_diff_is_empty(
    fields: dict[str, Any], world: World, target: PublishTarget
) -> None:
    """Every kind of publication is read back as it was wanted."""
    wanted = target.wanted(DesiredState(publications={KEY: shown(world.create(), **fields)}))
    assert await target.apply(diff(wanted, await target.observe(None))) == {}
    assert not diff(wanted, await target.observe(None))
    world.sync()
    assert not diff(wanted, await target.observe(frozenset({KEY})))


async def test_a_moved_address_replaces_the_old_one_and_conditions_go(world: World, target: PublishTarget) -> None:
    """Ingress is replaced as a whole; a condition that is no longer wanted is deleted; others' conditions stay."""
    service = world.create()
    world.patch({"status": {"conditions": [{"type": "example.com/Theirs", "status": "True"}]}}, "theirs", "status")
    await target.apply(adding(shown(service, conditions=(REFUSED, PORTS))))
    await target.apply(adding(shown(service, ingress=(Ingress("203.0.113.2", ip_mode="VIP"),))))
    status = world.raw()["status"]
    assert status["loadBalancer"] == {"ingress": [{"ip": "203.0.113.2", "ipMode": "VIP"}]}
    assert [c["type"] for c in status["conditions"]] == ["example.com/Theirs", "littlelb.io/Served"]


async def test_the_transition_time_moves_with_the_status_only(world: World, target: PublishTarget) -> None:
    """A new message is no transition."""
    service = world.create()
    world.clock.elapsed = 60.0

    async def published(condition: Condition) -> dict[str, Any]:
        await target.apply(adding(shown(service, conditions=(condition,))))
        stored: dict[str, Any] = world.raw()["status"]["conditions"][0]
        return stored

    assert (await published(SERVED))["lastTransitionTime"] == "2026-01-01T00:01:00Z"
    world.clock.elapsed = 120.0
    again = await published(Condition(SERVED.type, "True", "Served", "served on others"))
    assert (again["message"], again["lastTransitionTime"]) == ("served on others", "2026-01-01T00:01:00Z")
    assert (await published(REFUSED))["lastTransitionTime"] == "2026-01-01T00:02:00Z"


async def test_clearing_takes_away_what_is_ours_and_nothing_else(world: World, target: PublishTarget) -> None:
    """Our ingress, conditions and externalIPs go; the user's externalIPs and others' conditions stay."""
    world.create(externalIPs=["192.0.2.9"])
    world.patch({"status": {"conditions": [{"type": "example.com/Theirs", "status": "True"}]}}, "theirs", "status")
    service = world.sync()
    await target.apply(adding(shown(service, conditions=(REFUSED, PORTS), external_ips=("203.0.113.1",))))
    assert world.raw()["spec"]["externalIPs"] == ["192.0.2.9", "203.0.113.1"]
    assert await target.apply(removing(service)) == {}
    raw = world.raw()
    assert raw["status"]["loadBalancer"] == {}
    assert [c["type"] for c in raw["status"]["conditions"]] == ["example.com/Theirs"]
    assert raw["spec"]["externalIPs"] == ["192.0.2.9"]
    assert EXTERNAL_IPS_ANNOTATION not in raw["metadata"].get("annotations", {})
    assert await target.observe(None) == {}


async def test_what_a_restart_finds_is_still_known_as_ours(world: World, target: PublishTarget) -> None:
    """Ownership is read from the object, not from memory."""
    service = world.create(externalIPs=["203.0.113.1"])
    await target.apply(adding(shown(service, external_ips=("203.0.113.1", "203.0.113.2"))))
    successor = PublishTarget(world.writer, world.clock)
    observed = await successor.observe(None)
    assert observed[KEY].external_ips == ("203.0.113.2",)
    assert await successor.apply(Changes(remove=observed)) == {}
    assert world.raw()["status"]["loadBalancer"] == {}
    assert world.raw()["spec"]["externalIPs"] == ["203.0.113.1"]


async def test_an_address_that_the_user_entered_too_needs_no_second_write(world: World, target: PublishTarget) -> None:
    """It stays the user's, and the next diff is empty all the same; without it there is something to do again."""
    service = world.create(externalIPs=["203.0.113.1"])
    wanted = {KEY: shown(service, external_ips=("203.0.113.1",))}
    await target.apply(diff(wanted, await target.observe(None)))
    before = len(world.requests("PATCH"))
    assert not diff(wanted, await target.observe(None))
    await PublishTarget(world.writer, world.clock).apply(Changes(add=wanted))
    assert len(world.requests("PATCH")) == before
    world.patch({"spec": {"externalIPs": None}}, "kubectl")
    world.sync()
    await target.apply(Changes(add={KEY: shown(service, external_ips=("203.0.113.1",))}))
    assert world.raw()["spec"]["externalIPs"] == ["203.0.113.1"]
    assert not diff(wanted, await target.observe(None))


async def test_somebody_elses_status_is_left_and_not_asked_about_again(world: World, target: PublishTarget) -> None:
    """A Service of a cloud's balancer is offered once, fetched once, and left; when it changes it is looked at anew."""
    world.create()
    world.foreign_ingress("198.51.100.7")
    service = world.sync()
    observed = await target.observe(None)
    assert KEY in observed
    assert await target.apply(Changes(remove=observed)) == {}
    assert world.raw()["status"]["loadBalancer"]["ingress"][0]["ip"] == "198.51.100.7"
    assert world.requests("PATCH") == []
    assert await target.observe(None) == {}
    world.foreign_ingress("198.51.100.8")
    world.sync()
    assert KEY in await target.observe(None)
    assert service.uid == world.sync().uid


async def test_after_the_type_was_changed_conditions_are_still_cleared(world: World, target: PublishTarget) -> None:
    """The API server clears ingress itself; writing it on another type would be refused."""
    service = world.create()
    await target.apply(adding(shown(service, external_ips=("203.0.113.1",))))
    world.patch({"spec": {"type": "ClusterIP"}}, "kubectl")
    assert await target.apply(removing(service)) == {}
    raw = world.raw()
    assert not raw["status"].get("conditions")
    assert not raw["spec"].get("externalIPs")


async def test_a_service_that_is_gone_or_another_one_is_cleared_already(world: World, target: PublishTarget) -> None:
    """404 and another uid are success."""
    service = world.create()
    world.server.cluster.delete(Name("/services", "default", "web"))
    assert await target.apply(removing(service)) == {}
    assert await target.apply(adding(shown(service))) == {}
    world.create()
    assert await target.apply(adding(shown(service))) == {}
    assert world.raw()["status"]["loadBalancer"] == {}


async def test_a_stale_cache_costs_one_more_attempt(world: World, target: PublishTarget) -> None:
    """409: read again, compose again, write."""
    service = world.create()
    world.patch({"metadata": {"labels": {"a": "b"}}}, "kubectl")
    assert await target.apply(adding(shown(service))) == {}
    assert world.raw()["status"]["loadBalancer"]["ingress"] == [{"ip": "203.0.113.1", "ipMode": "VIP"}]


async def test_a_text_that_the_server_refuses_is_a_failure_with_its_words(world: World, target: PublishTarget) -> None:
    """422 again and again will not pass by itself."""
    failures = await target.apply(adding(shown(world.create(), ingress=(Ingress("203.0.113.01"),))))
    assert failures[KEY].severity is Severity.PERMANENT
    assert "203.0.113.01" in failures[KEY].message


async def test_a_role_without_services_patch_is_told_which_overlay_to_apply(
    world: World, target: PublishTarget
) -> None:
    """The status is written all the same."""
    world.server.faults.add(Fault(method="PATCH", path=".*/services/web", status=403))
    failures = await target.apply(adding(shown(world.create(), external_ips=("203.0.113.1",))))
    assert failures[KEY].severity is Severity.PERMANENT
    assert "overlay for --external-ips" in failures[KEY].message
    assert world.raw()["status"]["loadBalancer"]["ingress"]


async def test_another_writer_wins_after_three_flips_and_is_named(world: World, target: PublishTarget) -> None:
    """Two controllers that undo each other would do so for ever; after ten minutes we try once more."""
    service = world.create()
    changes = adding(shown(service))
    for _ in range(3):
        assert await target.apply(changes) == {}
        assert world.raw()["status"]["loadBalancer"]["ingress"][0]["ip"] == "203.0.113.1"
        world.foreign_ingress("198.51.100.7")
        world.sync()
    failures = await target.apply(changes)
    assert (failures[KEY].reason, failures[KEY].severity) == ("ForeignWriter", Severity.PERMANENT)
    assert "other-lb" in failures[KEY].message
    world.clock.elapsed += TRUCE_SECONDS / 2
    assert (await target.apply(changes))[KEY].reason == "ForeignWriter"
    assert world.raw()["status"]["loadBalancer"]["ingress"][0]["ip"] == "198.51.100.7"
    world.clock.elapsed += TRUCE_SECONDS / 2
    assert await target.apply(changes) == {}
    assert world.raw()["status"]["loadBalancer"]["ingress"][0]["ip"] == "203.0.113.1"


async def test_a_status_that_the_api_server_cleared_is_not_a_flip(world: World, target: PublishTarget) -> None:
    """The type changed there and back, perhaps unseen."""
    service = world.create()
    for _ in range(5):
        assert await target.apply(adding(shown(service))) == {}
        world.patch({"spec": {"type": "NodePort"}}, "kubectl")
        world.patch({"spec": {"type": "LoadBalancer"}}, "kubectl")
        assert world.sync().ingress == ()
    assert await target.apply(adding(shown(service))) == {}


async def test_what_was_known_of_a_service_that_is_gone_is_forgotten(world: World, target: PublishTarget) -> None:
    """Memory does not grow with every Service that ever was; a contest about one that is gone is over."""
    service = world.create()
    for _ in range(3):
        await target.apply(adding(shown(service)))
        world.foreign_ingress("198.51.100.7")
        world.sync()
    world.server.cluster.delete(Name("/services", "default", "web"))
    assert await target.apply(adding(shown(service))) == {}
    world.services.clear()
    assert await target.observe(None) == {}
    assert target._written == {}


async def test_a_port_error_that_another_balancer_reports_is_left(world: World, target: PublishTarget) -> None:
    """The standard condition has no prefix: only managedFields tell whose it is."""
    service = world.create()
    theirs = {"type": PORTS.type, "status": "True", "reason": "Theirs", "message": ""}
    world.patch({"status": {"conditions": [theirs]}}, "cloud", "status")
    world.sync()
    assert await target.apply(removing(service)) == {}
    assert [condition["reason"] for condition in world.raw()["status"]["conditions"]] == ["Theirs"]
    assert await target.observe(None) == {}
