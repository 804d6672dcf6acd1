"""When a pass is made, in virtual time."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from littlelb.control.loop import Loop, Timings
from littlelb.control.reconciler import PassResult, Reconciler
from littlelb.control.store import Store
from littlelb.core.interfaces import Phase
from littlelb.core.plan import Failure, Severity
from littlelb.testing.clock import LoopClock, run_virtual
from littlelb.testing.fake_target import FakeTarget
from tests.worlds import HOST, STAND_ALONE, frontend, ip, service

VIP, OTHER = "203.0.113.7", "203.0.113.8"


@dataclass
class Engine:
    """A loop on a fake world, and what its passes did."""

    loop: Loop
    store: Store
    forward: FakeTarget[Any, Any]
    address: FakeTarget[Any, Any]
    passes: list[tuple[float, PassResult]] = field(default_factory=list)
    task: asyncio.Task[None] | None = None

    @property
    def times(self) -> list[float]:
        return [round(when, 2) for when, _ in self.passes]

    def slow_down(self, seconds: float) -> None:
        """Let every pass that looks at an address take so long."""
        look = self.address.observe

        async def observe(keys: frozenset[Any] | None) -> Mapping[Any, Any]:
            await asyncio.sleep(seconds)
            return await look(keys)

        self.address.observe = observe  # type: ignore[method-assign]

    def list_all(self) -> None:
        self.store.services.retain(frozenset(self.store.services.items))
        self.store.slices.retain(frozenset())
        self.store.nodes.retain(frozenset())


def _run(scenario: Callable[[Engine], Coroutine[Any, Any, None]], timings: Timings | None = None) -> None:
    async def whole() -> None:
        clock = LoopClock()
        forward = FakeTarget[Any, Any](Phase.FORWARD, lambda state: state.forwards)
        address = FakeTarget[Any, Any](Phase.ADDRESS, lambda state: state.placements)
        store = Store(STAND_ALONE, HOST, lambda: engine.loop.wake())  # noqa: PLW0108  (made below)
        reconciler = Reconciler(store, [forward, address], clock)
        loop = Loop(store, reconciler, clock, lambda done: engine.passes.append((clock.monotonic(), done)), timings)
        engine = Engine(loop, store, forward, address)
        engine.task = asyncio.create_task(loop.run())
        try:
            await scenario(engine)
        finally:
            engine.task.cancel()

    run_virtual(whole())


def test_nothing_happens_before_everything_was_listed() -> None:
    """However long that takes."""

    async def scenario(engine: Engine) -> None:
        engine.store.services.upsert(service("web", VIP))
        await asyncio.sleep(100)
        assert engine.passes == []
        engine.list_all()
        await asyncio.sleep(1)
        assert engine.address.world.keys() == {ip(VIP)}

    _run(scenario)


@pytest.mark.parametrize(("pass_seconds", "passes"), [(0.0, 8), (0.004, 4), (0.05, 4)])
def test_a_burst_of_changes_is_a_few_passes(pass_seconds: float, passes: int) -> None:
    """50 in 5 ms: the first change is taken at once, the others together; the longer a pass, the more of them."""

    async def scenario(engine: Engine) -> None:
        engine.list_all()
        await asyncio.sleep(1)
        done = len(engine.passes)
        engine.slow_down(pass_seconds)
        for number in range(50):
            engine.store.services.upsert(service("web", VIP, [80 + number]))
            await asyncio.sleep(0.0001)
        await asyncio.sleep(5)
        assert 2 <= len(engine.passes) - done <= passes
        assert engine.forward.world.keys() == {frontend(VIP, 129)}

    _run(scenario)


@pytest.mark.parametrize(("pass_seconds", "pause"), [(0.0, 0.001), (0.004, 0.004), (0.05, 0.02)])
def test_a_pause_is_as_long_as_the_pass_within_limits(pass_seconds: float, pause: float) -> None:
    """An event that comes right after a short pass waits for a moment only."""

    async def scenario(engine: Engine) -> None:
        engine.list_all()
        engine.store.services.upsert(service("web", VIP))
        await asyncio.sleep(1)
        engine.slow_down(pass_seconds)
        engine.passes.clear()
        engine.store.services.upsert(service("web", VIP, uid="another"))
        while not engine.passes:
            await asyncio.sleep(pause / 4)
        engine.store.services.upsert(service("web", VIP, uid="a third"))
        while len(engine.passes) < 2:
            await asyncio.sleep(pause / 4)
        first, second = (when for when, _ in engine.passes)
        assert second - first == pytest.approx(pause + pass_seconds, abs=0.0005)

    _run(scenario)


def test_the_world_is_read_again_at_every_resync() -> None:
    """Also when nothing was said."""

    async def scenario(engine: Engine) -> None:
        engine.list_all()
        await asyncio.sleep(1)
        before = engine.address.full_observations
        await asyncio.sleep(601)
        assert engine.address.full_observations - before == pytest.approx(10, abs=1)

    _run(scenario, Timings(resync_interval=60))


def _slow_world(engine: Engine, seconds: float) -> None:
    """Let reading the whole world take so long; what was last applied is known at once."""
    look = engine.address.observe

    async def observe(keys: frozenset[Any] | None) -> Mapping[Any, Any]:
        if keys is None:
            await asyncio.sleep(seconds)
        return await look(keys)

    engine.address.observe = observe  # type: ignore[method-assign]


def test_an_event_does_not_wait_for_a_resync() -> None:
    """It cuts the look at the world off; the resync is made up for a little later, and repairs."""

    async def scenario(engine: Engine) -> None:
        engine.list_all()
        engine.store.services.upsert(service("web", VIP))
        await asyncio.sleep(1)
        _slow_world(engine, 0.5)
        while engine.loop.stuck_for() < 0.1:  # the look of the resync
            await asyncio.sleep(0.01)
        engine.address.world.clear()
        engine.passes.clear()
        engine.store.services.upsert(service("other", OTHER))
        await asyncio.sleep(0.01)
        assert len(engine.passes) == 1
        assert engine.address.world.keys() == {ip(OTHER)}
        await asyncio.sleep(2)
        assert engine.address.world.keys() == {ip(OTHER), ip(VIP)}

    _run(scenario, Timings(resync_interval=5))


def test_events_without_end_do_not_put_a_resync_off_for_ever() -> None:
    """After some cuts in a row they wait."""

    async def scenario(engine: Engine) -> None:
        engine.list_all()
        engine.store.services.upsert(service("web", VIP))
        await asyncio.sleep(1)
        _slow_world(engine, 0.5)
        engine.address.world.clear()
        for number in range(200):
            engine.store.services.upsert(service("other", OTHER, [81 + number]))
            await asyncio.sleep(0.1)
        assert ip(VIP) in engine.address.world

    _run(scenario, Timings(resync_interval=5))


def test_a_retry_after_a_failure_is_not_cut_off() -> None:
    """What failed comes before what is new: nothing is believed any more."""

    async def scenario(engine: Engine) -> None:
        engine.list_all()
        engine.address.fails[ip(VIP)] = Failure("Failed", "no")
        engine.store.services.upsert(service("web", VIP))
        await asyncio.sleep(0.5)
        engine.address.fails.clear()
        _slow_world(engine, 0.5)
        while engine.loop.stuck_for() < 0.1:
            await asyncio.sleep(0.01)
        engine.store.services.upsert(service("other", OTHER))
        await asyncio.sleep(0.45)
        assert ip(VIP) in engine.address.world

    _run(scenario, Timings(resync_interval=5))


def test_a_hint_makes_the_next_pass_a_full_one() -> None:
    """Within moments: an address that somebody removed is back."""

    async def scenario(engine: Engine) -> None:
        engine.list_all()
        engine.store.services.upsert(service("web", VIP))
        await asyncio.sleep(1)
        engine.address.world.clear()
        engine.loop.hint()
        await asyncio.sleep(0.1)
        assert engine.address.world.keys() == {ip(VIP)}

    _run(scenario)


def test_failures_are_tried_again_later_and_later() -> None:
    """1, 2, 4 … up to 30 seconds; a recovery starts afresh."""

    async def scenario(engine: Engine) -> None:
        engine.forward.fails[frontend(VIP)] = Failure("PortInUse", "taken")
        engine.list_all()
        await asyncio.sleep(0.5)
        engine.passes.clear()
        engine.store.services.upsert(service("web", VIP))
        await asyncio.sleep(130)
        gaps = [round(b - a) for a, b in zip(engine.times, engine.times[1:], strict=False)]
        assert gaps[:6] == [1, 2, 4, 8, 16, 30]
        engine.forward.fails.clear()
        await asyncio.sleep(31)
        assert engine.forward.world.keys() == {frontend(VIP)}

    _run(scenario)


def test_what_fails_beside_the_passes_is_tried_again_too() -> None:
    """And its recovery is shown at once."""

    async def scenario(engine: Engine) -> None:
        engine.list_all()
        await asyncio.sleep(1)
        engine.passes.clear()
        engine.loop.heard_outcome(failed=True)
        await asyncio.sleep(0.5)
        full = engine.address.full_observations
        await asyncio.sleep(1)
        assert engine.address.full_observations == full + 1
        engine.loop.heard_outcome(failed=False)
        await asyncio.sleep(0.1)
        assert engine.address.full_observations == full + 2

    _run(scenario)


def test_waiting_is_no_reason_to_try_again_until_it_is_over() -> None:
    """Neither a retry nor a backoff comes of it; the answer wakes the loop at once, without reading the world."""

    async def scenario(engine: Engine) -> None:
        engine.address.fails[ip(VIP)] = Failure("Pending", "asking the LAN", Severity.WAITING)
        engine.list_all()
        engine.store.services.upsert(service("web", VIP))
        await asyncio.sleep(30)
        made, full = len(engine.passes), engine.address.full_observations
        assert made <= 2
        engine.address.fails.clear()
        engine.loop.look_again([ip(VIP)])
        await asyncio.sleep(0.1)
        assert engine.address.world.keys() == {ip(VIP)}
        assert (len(engine.passes), engine.address.full_observations) == (made + 1, full)

    _run(scenario)


def test_an_address_of_another_machine_is_asked_for_again_after_a_while() -> None:
    """And held when that machine has let go."""

    async def scenario(engine: Engine) -> None:
        engine.address.fails[ip(VIP)] = Failure("AddressConflict", "02:00 has it")
        engine.list_all()
        engine.store.services.upsert(service("web", VIP))
        await asyncio.sleep(5)
        assert engine.forward.world == {}
        engine.address.fails.clear()
        await asyncio.sleep(30)
        assert engine.address.world.keys() == {ip(VIP)}

    _run(scenario)


def test_a_drained_address_goes_at_its_deadline() -> None:
    """Without anybody waking the loop."""

    async def scenario(engine: Engine) -> None:
        engine.list_all()
        engine.store.services.upsert(service("web", VIP, annotations={"littlelb.io/drain-seconds": "7"}))
        await asyncio.sleep(1)
        engine.store.services.remove("default/web")
        await asyncio.sleep(6)
        assert engine.address.world.keys() == {ip(VIP)}
        await asyncio.sleep(2)
        assert engine.address.world == {}

    _run(scenario)


@pytest.mark.parametrize(("flowing", "seconds"), [(100, 7), (2, 2), (0, 0)])
def test_withdrawing_waits_for_drains(flowing: float, seconds: float) -> None:
    """Until the last flow has ended, or its time is over: then everything is gone."""

    async def scenario(engine: Engine) -> None:
        engine.list_all()
        engine.store.services.upsert(service("web", VIP, annotations={"littlelb.io/drain-seconds": "7"}))
        await asyncio.sleep(1)
        assert engine.task is not None
        engine.task.cancel()
        started = LoopClock().monotonic()
        await engine.loop.withdraw(drain)
        assert LoopClock().monotonic() - started == pytest.approx(seconds, abs=0.1)
        assert engine.address.world == engine.forward.world == {}

    async def drain(at_most: float) -> int:
        await asyncio.sleep(min(at_most, flowing))
        return int(flowing > at_most)

    _run(scenario)


def test_a_pass_that_hangs_is_noticed() -> None:
    """For the liveness probe."""

    async def scenario(engine: Engine) -> None:
        assert engine.loop.stuck_for() == 0.0
        forever = asyncio.Event()

        async def hang(_keys: object) -> dict[Any, Any]:
            await forever.wait()
            return {}

        engine.address.observe = hang  # type: ignore[method-assign,assignment]
        engine.list_all()
        await asyncio.sleep(42)
        assert engine.loop.stuck_for() == pytest.approx(42, abs=0.1)
        forever.set()
        await asyncio.sleep(0.1)
        assert engine.loop.stuck_for() == 0.0

    _run(scenario)


@pytest.mark.parametrize(("needs", "waited"), [(0.0, 0.0), (0.6, 0.6), (60.0, 2.0)])
def test_who_stops_the_loop_waits_for_the_pass_under_way(needs: float, waited: float) -> None:
    """A write that is cut off may have been done, and nobody would know; but one that hangs holds nobody up."""

    async def scenario(engine: Engine) -> None:
        async def look(_keys: object) -> dict[Any, Any]:
            await asyncio.sleep(needs)
            return {}

        engine.address.observe = look  # type: ignore[method-assign,assignment]
        engine.list_all()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        started = LoopClock().monotonic()
        await engine.loop.settle(2.0)
        assert LoopClock().monotonic() - started == pytest.approx(waited, abs=0.05)

    _run(scenario)
