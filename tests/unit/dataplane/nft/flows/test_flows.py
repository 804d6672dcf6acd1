"""What becomes of flows after a transaction, in virtual time, on a double of conntrack and of our table."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from structlog.testing import capture_logs

from littlelb.core.model import Forward, Frontend
from littlelb.dataplane.nft.flows.drains import ENDING_SECONDS
from littlelb.dataplane.nft.flows.endings import Endings
from littlelb.dataplane.nft.flows.flows import FAREWELL_SECONDS, Flows, forget_all
from littlelb.testing.clock import run_virtual
from tests.unit.dataplane.nft.flows.double import FakeWorld
from tests.unit.dataplane.nft.flows.test_connections import slots
from tests.unit.dataplane.nft.flows.test_courses import course, flow, step
from tests.unit.dataplane.nft.flows.test_endings import Table
from tests.unit.dataplane.nft.rules import DNS, WEB, backends, forward


class Stage:
    """Flows at work, and the world around them."""

    def __init__(self, table: Table | None = None) -> None:
        self.world = FakeWorld()
        self.table = table or Table()
        self.served = {WEB, DNS}
        self.flows = Flows(Endings(self.table, asyncio.Lock()), self.world, lambda one: one in self.served)

    def change(self, frontend: Frontend, before: Forward | None, after: Forward | None) -> None:
        """A transaction."""
        self.flows.take([step(frontend, before, after)])

    @property
    def ending(self) -> bool:
        """Is something being reset?"""
        return bool(self.table.chains)


def play(script: Callable[[Stage], Awaitable[None]], make: Callable[[], Stage] = Stage) -> None:
    """Play a script beside the running flows."""

    async def main() -> None:
        stage = make()
        task = asyncio.create_task(stage.flows.run())
        try:
            await script(stage)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    run_virtual(main())


def now() -> float:
    """Virtual seconds."""
    return asyncio.get_running_loop().time()


def test_datagrams_are_cut_at_once_and_all_of_a_pass_together() -> None:
    """Those of removed backends, and those from before the frontend; others stay."""

    async def script(stage: Stage) -> None:
        kept = flow(course(DNS, 2))
        stage.world.conntrack.table = [flow(course(DNS, 1)), kept, flow(course(DNS, 9), mark=0)]
        stage.change(DNS, None, forward(*backends(1, 2)))
        stage.change(DNS, forward(*backends(1, 2)), forward(*backends(2)))
        await asyncio.sleep(0.01)
        assert stage.world.conntrack.table == [kept]
        assert [count for _, count in stage.world.conntrack.deletions] == [2]
        assert not stage.ending

    play(script)


def test_connections_drain_are_reset_and_at_last_cut() -> None:
    """Each at its time."""

    async def script(stage: Stage) -> None:
        gone = flow(course(WEB, 1))
        stage.world.conntrack.table = [gone]
        stage.change(WEB, forward(*backends(1)), forward(*backends(2), drain_seconds=30))
        await asyncio.sleep(29)
        assert (stage.world.conntrack.table, stage.ending) == ([gone], False)
        await asyncio.sleep(1.01)
        assert (stage.world.conntrack.table, stage.ending) == ([gone], True)
        await asyncio.sleep(ENDING_SECONDS)
        assert (stage.world.conntrack.table, stage.ending) == ([], False)

    play(script)


def test_where_nothing_flows_nothing_is_reset() -> None:
    """No chain comes for a backend without connections."""

    async def script(stage: Stage) -> None:
        stage.change(WEB, forward(*backends(1)), None)
        await asyncio.sleep(1)
        assert (stage.table.texts, stage.table.writes, stage.world.conntrack.deletions) == ([], 0, [])

    play(script)


def test_the_resets_end_with_the_last_flow() -> None:
    """Nobody waits for the minute to be over."""

    async def script(stage: Stage) -> None:
        stage.world.conntrack.table = [flow(course(WEB, 1))]
        stage.change(WEB, forward(*backends(1)), None)
        await asyncio.sleep(0.1)
        assert stage.ending
        stage.world.conntrack.table = []
        await stage.flows.count()
        await asyncio.sleep(0.1)
        assert not stage.ending

    play(script)


def test_transactions_are_read_in_their_order() -> None:
    """What one takes away the next may bring back, and the one after it take away again."""

    async def script(stage: Stage) -> None:
        one, two = forward(*backends(1), drain_seconds=0), forward(*backends(2), drain_seconds=0)
        stage.world.conntrack.table = [flow(course(WEB, 1)), flow(course(WEB, 2))]
        stage.change(WEB, one, two)
        stage.change(WEB, two, one)
        stage.change(WEB, one, None)
        await asyncio.sleep(0.1)
        assert len(stage.table.sets["ending4"]) == 2

    play(script)


def test_a_pass_does_not_wait_for_a_slow_deletion() -> None:
    """It only leaves word."""

    async def script(stage: Stage) -> None:
        stage.world.conntrack.delay = 5.0
        stage.change(DNS, forward(*backends(1)), None)
        await asyncio.sleep(0.01)
        began = now()
        stage.change(DNS, None, forward(*backends(1)))
        assert now() == began
        await asyncio.sleep(11)
        assert [when for when, _ in stage.world.conntrack.deletions] == [5.0, 10.0]

    play(script)


def test_what_the_kernel_refuses_is_tried_again() -> None:
    """Until it is done; said once, and once more when it is well again."""

    async def script(stage: Stage) -> None:
        stage.world.conntrack.table = [flow(course(DNS, 1))]
        stage.world.conntrack.broken = True
        stage.change(DNS, forward(*backends(1)), forward(*backends(2)))
        with capture_logs() as logs:
            await asyncio.sleep(3.5)
            assert len(stage.world.conntrack.table) == 1
            stage.world.conntrack.broken = False
            await asyncio.sleep(1.1)
        assert stage.world.conntrack.table == []
        told = [entry["event"] for entry in logs if entry["event"].startswith("flows.") and "settled" in entry["event"]]
        assert told == ["flows.not_settled", "flows.settled"]

    play(script)


def test_what_was_being_ended_is_ended_by_the_next() -> None:
    """Found in the table at the start: another minute, then cut."""

    async def script(stage: Stage) -> None:
        stage.world.conntrack.table = [flow(course(WEB, 1))]
        await asyncio.sleep(1)
        assert stage.ending
        await asyncio.sleep(ENDING_SECONDS)
        assert (stage.world.conntrack.table, stage.ending) == ([], False)

    play(script, lambda: Stage(Table([course(WEB, 1)])))


def test_flows_that_nobody_knows_of_are_found() -> None:
    """Of a served frontend they drain; of one that is not they end; datagrams to no backend are cut."""

    async def script(stage: Stage) -> None:
        other = Frontend(WEB.address, WEB.protocol, 81)
        stage.world.sets.slots = {"slots4": slots(WEB, (1, 0))}
        stage.world.conntrack.table = [
            flow(one) for one in (course(WEB, 1), course(WEB, 2), course(other, 3), course(DNS, 4))
        ]
        await stage.flows.count()
        await stage.flows.count()
        await asyncio.sleep(0.1)
        assert stage.world.conntrack.table == [flow(one) for one in (course(WEB, 1), course(WEB, 2), course(other, 3))]
        assert len(stage.table.sets["ending4"]) == 1
        assert stage.flows.counters[WEB].backends[course(WEB, 2)[1]].active == 1

    play(script)


def test_a_drain_waits_for_the_last_flow() -> None:
    """At most so long; and says how many are left."""

    async def script(stage: Stage) -> None:
        stage.world.conntrack.table = [flow(course(WEB, 1)), flow(course(WEB, 9), mark=0)]
        asyncio.get_running_loop().call_later(3, stage.world.conntrack.table.clear)
        assert (await stage.flows.drain(1), now()) == (1, 1.0)
        assert await stage.flows.drain(10) == 0
        assert 3 <= now() < 4
        stage.world.conntrack.broken = True
        assert await stage.flows.drain(0) == 1

    play(script)


async def test_without_a_plane_everything_of_ours_is_cut() -> None:
    """As for a clean-up: others' flows stay, and the sockets are closed."""
    world, theirs = FakeWorld(), flow(course(WEB, 9), mark=0)
    world.conntrack.table = [flow(course(WEB, 1)), theirs]
    await forget_all(lambda: world)
    assert world.conntrack.table == [theirs]
    assert world.closed


def test_at_the_end_everything_of_ours_is_cut() -> None:
    """After a second in which who speaks is reset; others' flows stay."""

    async def script(stage: Stage) -> None:
        theirs = flow(course(WEB, 9), mark=0)
        stage.world.conntrack.table = [flow(course(WEB, 1)), theirs]
        stage.change(WEB, forward(*backends(1), withdraw_seconds=300), None)
        await asyncio.sleep(1)
        began = now()
        await stage.flows.finish()
        assert FAREWELL_SECONDS <= now() - began < 2 * FAREWELL_SECONDS
        assert stage.ending
        assert stage.world.conntrack.table == [theirs]
        stage.flows.close()
        assert stage.world.closed

    play(script)
