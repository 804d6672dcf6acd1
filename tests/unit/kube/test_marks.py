"""What on Services is ours, told by managedFields and by our own prefix, on the fake API server."""

from littlelb.core.model import Claim, Condition, Ingress, Publication
from littlelb.core.plan import Changes
from littlelb.kube.claim import ClaimTarget
from littlelb.kube.marks import Marks, read_marks, shows_something, would_change
from littlelb.kube.ownership import FINALIZER
from littlelb.kube.status import PublishTarget

from .conftest import World

KEY = "default/web"
SERVED = Condition("littlelb.io/Served", "True", "Served", "served on 203.0.113.1")
THEIRS = {"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.9"}]}}}


async def test_what_we_wrote_is_ours(world: World) -> None:
    """Finalizer, ingress, conditions and noted externalIPs are found; clearing them leaves no mark."""
    service = world.create()
    assert not shows_something(service)
    claims, publish = ClaimTarget(world.writer), PublishTarget(world.writer, world.clock)
    shown = Publication(
        uid=service.uid,
        ingress=(Ingress("203.0.113.1", ip_mode="VIP"),),
        conditions=(SERVED,),
        external_ips=("203.0.113.1",),
    )
    await claims.apply(Changes({KEY: Claim(service.uid)}))
    await publish.apply(Changes({KEY: shown}))
    assert shows_something(world.sync())
    (marks,) = (await read_marks(world.writer, [KEY])).values()
    assert marks == Marks(
        finalizer=True, ingress=("203.0.113.1",), conditions=(SERVED.type,), external_ips=("203.0.113.1",)
    )
    assert marks.shown
    assert not would_change(world.sync(), shown)
    await publish.apply(Changes(remove={KEY: Publication(uid=service.uid)}))
    await claims.apply(Changes(remove={KEY: Claim(service.uid)}))
    assert await read_marks(world.writer, [KEY]) == {KEY: Marks()}
    assert not Marks(finalizer=True).shown


async def test_what_others_wrote_is_not(world: World) -> None:
    """The shared finalizer, a status and conditions of another balancer bear no mark of ours."""
    world.create()
    world.patch({"metadata": {"finalizers": [FINALIZER]}}, "cloud")
    world.patch(THEIRS, "cloud", "status")
    assert shows_something(world.sync())
    assert await read_marks(world.writer, [KEY]) == {KEY: Marks()}


async def test_a_service_that_is_gone_has_no_marks(world: World) -> None:
    """It may have been deleted since it was listed."""
    assert await read_marks(world.writer, ["default/gone"]) == {"default/gone": Marks()}


async def test_an_address_that_its_owner_entered_too_is_no_change(world: World) -> None:
    """Publishing compares what would be written, not what is shown."""
    service = world.create(externalIPs=["203.0.113.1"])
    assert not would_change(service, Publication(uid=service.uid, external_ips=("203.0.113.1",)))
    assert would_change(service, Publication(uid=service.uid, external_ips=("203.0.113.2",)))
    assert would_change(service, Publication(uid=service.uid, conditions=(SERVED,)))
