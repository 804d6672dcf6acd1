"""When and how the plane counts: both lists, twice before something is odd, and never for more than its share."""

import time
from collections.abc import Collection, Iterator

import pytest

from littlelb.core.errors import Transient
from littlelb.core.model import Frontend
from littlelb.dataplane.netfilter.sets import Element, SetName
from littlelb.dataplane.nft.flows.counting import COUNT_SECONDS, SHARE, Counting
from littlelb.dataplane.nft.ruleset import MARK_OURS
from tests.unit.dataplane.nft.flows.double import FakeSets, FakeWorld
from tests.unit.dataplane.nft.flows.test_connections import slots
from tests.unit.dataplane.nft.flows.test_courses import course, flow
from tests.unit.dataplane.nft.rules import DNS, RANGE, WEB, WEB6


def served(_frontend: Frontend) -> bool:
    """Every frontend is."""
    return True


@pytest.fixture
def world() -> FakeWorld:
    """Flows and slots."""
    return FakeWorld()


def counting(world: FakeWorld) -> Counting:
    """What counts there."""
    return Counting(world.sets, world.conntrack, octets=True)


async def test_all_maps_and_all_flows_of_ours_are_counted(world: FakeWorld) -> None:
    """One port and ranges, both families; others' flows are not."""
    world.sets.slots = {
        "slots4": [*slots(WEB, (1, 5)), *slots(DNS, (1, 2))],
        "slots6": slots(WEB6, (1, 3)),
        "range_slots4": slots(RANGE, (1, 7)),
    }
    world.conntrack.table = [flow(course(WEB)), flow(course(RANGE), port=5500), flow(course(WEB6), mark=0)]
    counts = counting(world)
    assert await counts.look(served) == frozenset()
    totals = {frontend: (one.total.connections, one.total.active) for frontend, one in counts.counters.items()}
    assert totals == {WEB: (5, 1), DNS: (2, 0), WEB6: (3, 0), RANGE: (7, 1)}
    assert counts.live == {course(WEB): 1, course(RANGE): 1}


async def test_a_flow_is_odd_when_it_was_seen_twice_without_a_slot(world: FakeWorld) -> None:
    """Between two lists a backend may have gone, or come."""
    world.sets.slots = {"slots4": slots(WEB, (1, 1))}
    world.conntrack.table = [flow(course(WEB)), flow(course(WEB, 2)), flow(course(WEB, 3), mark=MARK_OURS)]
    counts = counting(world)
    assert await counts.look(served) == frozenset()
    world.sets.slots = {"slots4": slots(WEB, (1, 1), (3, 0))}
    assert await counts.look(served) == {course(WEB, 2)}


async def test_slots_are_read_before_they_are_deleted(world: FakeWorld) -> None:
    """Those of maps of slots, and of very many none: a pass does not wait for them."""
    counts = counting(world)
    world.sets.slots = {"slots4": slots(WEB, (1, 5), (2, 6))}
    leaving = world.sets.slots["slots4"]
    counts.note({"slots4": leaving, "services4": leaving})
    world.sets.slots = {}
    await counts.look(served)
    assert counts.counters[WEB].total.connections == 11
    counts.note({"slots4": leaving * 300})
    assert world.sets.asked == [2]


async def test_slots_that_cannot_be_read_stop_nobody(world: FakeWorld) -> None:
    """The transaction that follows will tell."""
    world.sets.error = Transient("gone")
    counting(world).note({"slots4": slots(WEB, (1, 5))})
    assert world.sets.asked == [1]


class SlowSets(FakeSets):
    """Sets that take 0.6 s of a CPU to list."""

    def skim_elements(self, where: SetName) -> Iterator[Collection[Element]]:
        if where.name == "slots4":
            began = time.thread_time()
            while time.thread_time() - began < 0.6:
                pass
        return super().skim_elements(where)


async def test_counting_takes_its_share_and_no_more(world: FakeWorld) -> None:
    """The pause grows with what a look took of the CPU."""
    quick, slow = counting(world), Counting(SlowSets(), world.conntrack, octets=True)
    await quick.look(served)
    assert quick.pause == COUNT_SECONDS
    await slow.look(served)
    assert slow.pause >= 0.6 / SHARE
