"""Events say what happened, once."""

from dataclasses import replace
from typing import Any

from msgspec import structs

from littlelb.core.desired import compute
from littlelb.core.model import Ingress, Plane, Publication, Service
from littlelb.core.plan import Failure, Severity
from littlelb.core.publication import withhold
from littlelb.core.reasons import Reason
from littlelb.core.state import DesiredState, Snapshot
from littlelb.core.story import EventType, Happening, changed_keys, tell
from tests.worlds import STAND_ALONE, dirty, frontend, grant, ip, piece, service, snapshot

VIP, OTHER = "203.0.113.7", "203.0.113.8"
EMPTY = compute(snapshot())


def _world(*objects: Service, **fields: Any) -> Snapshot:
    return snapshot(*objects, *(piece(one.name) for one in objects), **fields)


def _tell(before: DesiredState, after: DesiredState) -> list[Happening]:
    return list(tell(before, after, changed_keys(before, after)))


def replace_ingress(publication: Publication, address: str) -> Publication:
    """Show another address."""
    return structs.replace(publication, ingress=(Ingress(ip=address),))


def test_a_new_service_is_allocated_and_ensured() -> None:
    """Two Events, in that order, with the address."""
    first, second = _tell(EMPTY, compute(_world(service("web", VIP))))
    assert (first.reason, first.note, first.type) == ("IPAllocated", f"assigned {VIP}", EventType.NORMAL)
    assert (second.reason, second.note) == ("EnsuredLoadBalancer", f"serving on {VIP}")
    assert first.service == "default/web"


def test_what_a_service_shows_since_before_a_restart_is_no_news() -> None:
    """The first pass of a new daemon tells what has changed meanwhile, and again what is wrong."""
    after = compute(_world(service("web", VIP), service("moved", OTHER), service("wrong", "junk")))
    since = {key: after.publications[key] for key in ("default/web", "default/wrong")}
    since["default/moved"] = replace_ingress(after.publications["default/moved"], "203.0.113.9")
    told = list(tell(EMPTY, after, changed_keys(EMPTY, after), since.get))
    assert [(event.service, event.reason) for event in told] == [
        ("default/moved", "IPAllocated"),
        ("default/moved", "UpdatedLoadBalancer"),
        ("default/wrong", "AllocationFailed"),
    ]
    assert told[1].note == f"serving on {OTHER} instead of 203.0.113.9"


def test_what_nobody_has_to_act_upon_is_no_event() -> None:
    """Whose address backends see is shown by `status`; it warns of nothing."""
    after = compute(_world(service("web", VIP), settings=replace(STAND_ALONE, planes=(Plane.NFT,))))
    assert [notice.reason for notice in after.decisions["default/web"].notices] == [Reason.SOURCE_ADDRESS]
    assert [event.reason for event in _tell(EMPTY, after)] == ["IPAllocated", "EnsuredLoadBalancer"]


def test_nothing_new_is_not_told() -> None:
    """An equal state is silence."""
    world = _world(service("web", VIP))
    state = compute(world)
    assert _tell(state, compute(world)) == []
    assert list(changed_keys(state, state)) == []


def test_a_refusal_is_told_once_and_its_end_too() -> None:
    """The message is the condition's; when it's over, the Service is ensured."""
    both = compute(_world(service("a", VIP), service("b", VIP)))
    told = [event for event in _tell(EMPTY, both) if event.service == "default/b"]
    assert [(event.reason, event.type) for event in told] == [("AllocationFailed", EventType.WARNING)]
    assert "held by default/a" in told[0].note
    alone = compute(_world(service("b", VIP)))
    assert [(e.service, e.reason) for e in _tell(both, alone)] == [
        ("default/b", "IPAllocated"),
        ("default/b", "EnsuredLoadBalancer"),
        ("default/a", "DeletedLoadBalancer"),
    ]


def test_what_is_not_served_as_asked_is_a_failure_and_a_warning_is_not() -> None:
    """The log has the one as an error, the other as a warning."""
    grants = {"default/web": grant(frontend(VIP))}
    before = compute(_world(service("web", VIP)))
    (moved,) = _tell(before, compute(_world(service("web", "junk"), grants=grants)))
    (refused,) = _tell(EMPTY, compute(_world(service("web", "junk"))))
    assert (moved.failed, refused.failed) == (True, True)
    warned = [event for event in _tell(EMPTY, compute(snapshot(service("web", VIP)))) if event.type == "Warning"]
    assert [event.failed for event in warned] == [False]


def test_a_move_is_told_and_a_refused_move_too() -> None:
    """UpdatedLoadBalancer; SyncLoadBalancerFailed while it still serves elsewhere."""
    grants = {"default/web": grant(frontend(VIP))}
    before = compute(_world(service("web", VIP)))
    moved = _tell(before, compute(_world(service("web", OTHER), grants=grants)))
    assert [event.reason for event in moved] == ["IPAllocated", "UpdatedLoadBalancer"]
    refused = _tell(before, compute(_world(service("web", "junk"), grants=grants)))
    assert [event.reason for event in refused] == ["SyncLoadBalancerFailed"]


def test_a_refused_service_that_goes_leaves_no_event() -> None:
    """There was nothing to withdraw."""
    refused = compute(_world(service("web", "junk")))
    assert _tell(refused, EMPTY) == []


def test_a_notice_is_told_when_it_is_new() -> None:
    """No backends: a Warning, once."""
    bare = compute(snapshot(service("web", VIP)))
    assert [event.reason for event in _tell(EMPTY, bare)][-1] == "NoBackends"
    assert _tell(bare, compute(snapshot(service("web", VIP)))) == []


def test_of_several_notices_only_the_new_one_is_told() -> None:
    """And equal publications are compared by value."""
    before = compute(snapshot(service("web", VIP)))
    after = compute(snapshot(service("web", VIP, annotations={"littlelb.io/weight": "1"})))
    assert [event.reason for event in _tell(before, after)] == ["InvalidAnnotation"]
    assert list(tell(before, after, ["default/unknown"])) == []


def test_a_shrunken_list_of_addresses_is_an_update() -> None:
    """Nothing new was allocated."""
    both = {"littlelb.io/addresses": f"{VIP},{OTHER}"}
    before = compute(_world(service("web", annotations=both)))
    after = compute(_world(service("web", VIP), grants={"default/web": grant(frontend(VIP))}))
    assert [(e.reason, e.note) for e in _tell(before, after)] == [
        ("UpdatedLoadBalancer", f"serving on {VIP} instead of {VIP}, {OTHER}")
    ]


def test_services_that_were_not_decided_again_are_passed_over() -> None:
    """At ten thousand Services only the touched ones are compared."""
    world = _world(service("web", VIP), service("api", OTHER))
    before = compute(world)
    after = compute(dirty(world, endpoints=["default/web"]), before)
    assert list(changed_keys(before, after)) == ["default/web"]


def test_a_failure_that_ends_is_told_though_nothing_was_decided_again() -> None:
    """What `withhold` changed counts as changed, in both states."""
    world = _world(service("web", VIP), service("api", OTHER))
    state = compute(world)
    failed = withhold(state, {frontend(VIP): Failure("PortInUse", "port taken by nginx (pid 5)")})
    after = compute(dirty(world, endpoints=["default/api"]), state)
    assert list(changed_keys(failed, after)) == ["default/api", "default/web"]
    assert [happening.reason for happening in _tell(failed, after)] == ["IPAllocated", "EnsuredLoadBalancer"]


def test_a_change_that_the_owner_did_not_ask_about_is_no_event() -> None:
    """Another ipMode at the same address."""
    before = compute(_world(service("web", VIP)))
    settings = replace(STAND_ALONE, in_cluster=True)
    after = compute(_world(service("web", VIP), settings=settings))
    assert before.publications != after.publications
    assert _tell(before, after) == []


def test_waiting_for_the_api_server_is_no_failure() -> None:
    """Of a thousand new Services the last one is told that it is being worked on, not that it failed."""
    state = compute(_world(service("web", VIP)))
    waiting = withhold(state, {"default/web": Failure(Reason.PENDING, "the API server has not taken it yet")})
    (event,) = _tell(EMPTY, waiting)
    assert (event.type, event.reason, event.failed) == (EventType.NORMAL, "EnsuringLoadBalancer", False)
    assert [e.reason for e in _tell(waiting, state)] == ["IPAllocated", "EnsuredLoadBalancer"]


def test_waiting_for_the_lan_is_nothing_to_tell() -> None:
    """Neither when it begins, also of a Service that showed an address before this daemon began, nor as a recovery."""
    state = compute(_world(service("web", VIP)))
    probing = Failure(Reason.PENDING, f"asking the LAN whether {VIP} is free", Severity.WAITING)
    waiting = withhold(state, {ip(VIP): probing})
    assert _tell(EMPTY, waiting) == []
    assert list(tell(EMPTY, waiting, ["default/web"], lambda _key: state.publications["default/web"])) == []
    assert [happening.reason for happening in _tell(waiting, state)] == ["IPAllocated", "EnsuredLoadBalancer"]
