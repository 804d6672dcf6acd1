"""The finalizer, on the fake API server."""

from littlelb.core.model import Claim, Service
from littlelb.core.plan import Changes, Severity, diff
from littlelb.core.state import DesiredState
from littlelb.kube.claim import ClaimTarget
from littlelb.kube.ownership import FINALIZER
from littlelb.testing.fake_api_faults import Fault
from littlelb.testing.fake_api_store import Name

from .conftest import World

KEY = "default/web"


def adding(service: Service) -> Changes[str, Claim]:
    """Claim one Service."""
    return Changes(add={service.key: Claim(service.uid)})


def removing(service: Service) -> Changes[str, Claim]:
    """Release one Service."""
    return Changes(remove={service.key: Claim(service.uid)})


async def test_a_claim_is_put_on_and_a_matching_world_has_nothing_to_do(world: World) -> None:
    """After the pass the next diff is empty: the cache learned the answer to the patch."""
    target, service = ClaimTarget(world.writer), world.create()
    wanted = target.wanted(DesiredState(claims={KEY: Claim(service.uid)}))
    assert await target.apply(diff(wanted, await target.observe(None))) == {}
    assert world.raw()["metadata"]["finalizers"] == [FINALIZER]
    assert world.told == [KEY]
    assert not diff(wanted, await target.observe(None))
    assert not diff(wanted, await target.observe(frozenset({KEY})))


async def test_finalizers_of_others_stay(world: World) -> None:
    """The list is merged: ours is added and taken away beside theirs."""
    service = world.create()
    world.patch({"metadata": {"finalizers": ["example.com/theirs"]}}, "theirs")
    target = ClaimTarget(world.writer)
    assert await target.apply(adding(service)) == {}
    assert sorted(world.raw()["metadata"]["finalizers"]) == ["example.com/theirs", FINALIZER]
    assert await target.apply(removing(service)) == {}
    assert world.raw()["metadata"]["finalizers"] == ["example.com/theirs"]


async def test_a_stale_cache_costs_one_more_attempt(world: World) -> None:
    """409: the object is read again."""
    service = world.create()
    world.patch({"metadata": {"labels": {"a": "b"}}}, "kubectl")
    assert await ClaimTarget(world.writer).apply(adding(service)) == {}
    assert world.raw()["metadata"]["finalizers"] == [FINALIZER]
    assert len(world.requests("PATCH")) == 2


async def test_our_finalizer_goes_and_a_leaving_service_is_not_brought_back(world: World) -> None:
    """With the last finalizer a deleted Service vanishes; the cache is not told of the answer."""
    target, service = ClaimTarget(world.writer), world.create()
    await target.apply(adding(service))
    world.server.cluster.delete(Name("/services", "default", "web"))
    world.sync()
    world.told.clear()
    assert await target.apply(removing(service)) == {}
    assert world.server.cluster.store.get(Name("/services", "default", "web")) is None
    assert world.told == []


async def test_somebody_elses_finalizer_is_left_and_not_asked_about_again(world: World) -> None:
    """ManagedFields tell whose it is; a Service that we claim later is ours to judge anew."""
    service = world.create()
    world.patch({"metadata": {"finalizers": [FINALIZER]}}, "cloud-controller-manager")
    world.sync()
    target = ClaimTarget(world.writer)
    assert await target.observe(None) == {KEY: Claim(service.uid)}
    assert await target.apply(removing(service)) == {}
    assert world.raw()["metadata"]["finalizers"] == [FINALIZER]
    assert await target.observe(None) == {}
    assert world.requests("PATCH") == []
    assert await target.apply(adding(service)) == {}
    assert await target.observe(None) == {KEY: Claim(service.uid)}


async def test_a_service_that_is_gone_or_another_one_needs_no_release(world: World) -> None:
    """404 and another uid are success: whatever was claimed is no more."""
    service = world.create()
    target = ClaimTarget(world.writer)
    world.server.cluster.delete(Name("/services", "default", "web"))
    assert await target.apply(removing(service)) == {}
    assert await target.apply(adding(service)) == {}
    again = world.create()
    await target.apply(adding(again))
    assert again.uid != service.uid
    assert await target.apply(removing(service)) == {}
    assert world.raw()["metadata"]["finalizers"] == [FINALIZER]


async def test_a_service_that_leaves_is_not_claimed(world: World) -> None:
    """The API refuses new finalizers on a Service that is being deleted, so none is tried."""
    world.create()
    world.patch({"metadata": {"finalizers": ["example.com/theirs"]}}, "theirs")
    world.server.cluster.delete(Name("/services", "default", "web"))
    assert await ClaimTarget(world.writer).apply(adding(world.sync())) == {}
    assert world.requests("PATCH") == []


async def test_one_that_fails_does_not_keep_the_others_from_being_claimed(world: World) -> None:
    """403 is permanent and names the role, 503 may pass; each stands at its key."""
    services = [world.create(name) for name in ("a", "b", "c", "d")]
    world.server.faults.add(Fault(method="PATCH", path=".*/b/status", status=403))
    world.server.faults.add(Fault(method="PATCH", path=".*/c/status", status=503))
    failures = await ClaimTarget(world.writer).apply(Changes(add={s.key: Claim(s.uid) for s in services}))
    assert {key: failure.severity for key, failure in failures.items()} == {
        "default/b": Severity.PERMANENT,
        "default/c": Severity.TRANSIENT,
    }
    assert "role" in failures["default/b"].message
    assert world.raw("d")["metadata"]["finalizers"] == [FINALIZER]


async def test_an_object_that_never_stands_still_is_left_for_the_next_pass(world: World) -> None:
    """Three attempts, then a failure that may pass."""
    service = world.create()
    world.server.faults.add(Fault(method="PATCH", status=409))
    failures = await ClaimTarget(world.writer).apply(adding(service))
    assert failures[KEY].severity is Severity.TRANSIENT
    assert len(world.requests("PATCH")) == 3
