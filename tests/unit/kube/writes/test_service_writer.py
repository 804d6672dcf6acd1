"""Writing again after a conflict, telling the cache, and eight at a time."""

import asyncio

import msgspec
import pytest

from littlelb.core.errors import Permanent, Transient
from littlelb.core.model import Service
from littlelb.core.plan import Failure, Severity
from littlelb.kube.writes.patches import Patch, render_claim
from littlelb.kube.writes.service_writer import AT_A_TIME, Cache, Current, ServiceWriter, write_each
from littlelb.testing.fake_api_faults import Fault
from littlelb.testing.fake_api_store import Name
from tests.unit.kube.conftest import World


def compose(current: Current) -> Patch:
    """Ask for the finalizer, whatever there is."""
    return render_claim(current.service)


async def test_the_cache_is_told_only_what_is_newer(world: World) -> None:
    """The watch may be faster than the answer to a patch; then the answer is old news."""
    service = world.create()
    await world.writer.write("default/web", service.uid, compose)
    assert world.told == ["default/web"]
    newest = world.sync()
    await world.writer.write("default/web", service.uid, compose)
    assert world.told == ["default/web"]
    assert world.services["default/web"] == newest
    del world.services["default/web"]
    world.patch({"metadata": {"labels": {"a": "b"}}}, "kubectl")
    await world.writer.write("default/web", service.uid, compose)
    assert world.services == {}


async def test_a_leaving_service_is_left_to_the_watch(world: World) -> None:
    """With its last finalizer it is gone, and no answer to a patch may bring it back into the cache."""
    service = world.create()
    world.patch({"metadata": {"finalizers": ["example.com/theirs"]}}, "theirs")
    world.server.cluster.delete(Name("/services", "default", "web"))
    world.sync()
    status = {"metadata": {"uid": service.uid}, "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}}
    await world.writer.write("default/web", service.uid, lambda _: Patch(status))
    assert world.raw()["status"]["loadBalancer"]["ingress"]
    assert world.told == []


async def test_a_write_that_needs_the_owners_begins_with_a_get(world: World) -> None:
    """What comes from the cache has no owners."""
    service, seen = world.create(), list[Current]()

    def look(current: Current) -> None:
        seen.append(current)

    await world.writer.write("default/web", service.uid, look)
    await world.writer.write("default/web", service.uid, look, fresh=True)
    assert [current.owned is None for current in seen] == [True, False]
    assert len(world.requests("GET")) == 1


@pytest.mark.parametrize(("status", "kind"), [(409, Transient), (422, Permanent)])
async def test_three_refusals_are_enough(status: int, kind: type[Exception], world: World) -> None:
    """A conflict may pass at the next pass; a text that is refused will not."""
    service = world.create()
    world.server.faults.add(Fault(method="PATCH", status=status))
    with pytest.raises(kind):
        await world.writer.write("default/web", service.uid, compose)
    assert len(world.requests("PATCH")) == 3


async def test_an_answer_that_is_no_object_may_pass(world: World) -> None:
    """A proxy's page with status 200 costs one attempt, not the program."""
    service = world.create()

    def decode(_text: bytes) -> Service:
        raise msgspec.DecodeError("JSON is malformed: expected 'null'")

    writer = ServiceWriter(world.api, world.budget, decode, Cache(lambda: world.services, lambda _: None))
    for fresh in (False, True):
        with pytest.raises(Transient, match="cannot be read"):
            await writer.write("default/web", service.uid, compose, fresh=fresh)


async def test_writes_keep_to_the_budget(world: World) -> None:
    """50 Services: 40 patches at once, the others at 20 a second."""
    services = [world.create(f"s{number}") for number in range(50)]

    async def write(key: str) -> None:
        await world.writer.write(key, world.services[key].uid, compose)

    assert await write_each([service.key for service in services], write) == {}
    assert world.clock.elapsed >= 0.5
    assert len(world.requests("PATCH")) == 50


async def test_at_most_eight_are_under_way_and_each_is_done_once() -> None:
    """A failure of one stands at its key."""
    running, most, done = 0, 0, list[str]()

    async def write(key: str) -> Failure | None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        done.append(key)
        if key == "7":
            raise Permanent("no")
        return Failure("Failed", "said") if key == "8" else None

    failures = await write_each([str(number) for number in range(30)], write)
    assert sorted(done, key=int) == [str(number) for number in range(30)]
    assert most == AT_A_TIME
    assert {key: f.severity for key, f in failures.items()} == {"7": Severity.PERMANENT, "8": Severity.TRANSIENT}
