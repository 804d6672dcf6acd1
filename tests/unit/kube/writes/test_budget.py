"""The pace of writes."""

import asyncio

from littlelb.kube.writes.budget import TokenBucket, make_claim_budget, make_write_budget
from tests.unit.kube.conftest import StillClock


async def test_a_burst_goes_at_once_and_the_rest_in_turn(clock: StillClock) -> None:
    """100 writes: 40 at once, 60 at 20 a second."""
    budget = make_write_budget(clock)
    for _ in range(40):
        await budget.take()
    assert clock.elapsed == 0
    for _ in range(60):
        await budget.take()
    assert round(clock.elapsed, 6) == 3.0


async def test_finalizers_have_a_pace_of_their_own(clock: StillClock) -> None:
    """The loop waits for them: however many statuses and Events are queued, 200 go at once."""
    writes, claims = make_write_budget(clock), make_claim_budget(clock)
    while writes.try_take():
        pass
    for _ in range(200):
        await claims.take()
    assert clock.elapsed == 0
    assert not claims.try_take()


def test_an_empty_bucket_gives_nothing_until_time_has_passed(clock: StillClock) -> None:
    """Tokens come back at their rate, never more than the burst."""
    bucket = TokenBucket(1 / 300, 2, clock)
    assert bucket.full
    assert [bucket.try_take() for _ in range(3)] == [True, True, False]
    clock.elapsed = 301.0
    assert [bucket.try_take() for _ in range(2)] == [True, False]
    clock.elapsed = 10_000.0
    assert bucket.full
    assert [bucket.try_take() for _ in range(3)] == [True, True, False]


async def test_the_pace_can_be_raised(clock: StillClock) -> None:
    """At the end there is no time for 20 a second."""
    budget = make_write_budget(clock)
    for _ in range(40):
        await budget.take()
    budget.set_pace(200.0, 100)
    for _ in range(300):
        await budget.take()
    assert round(clock.elapsed, 6) == 1.0


async def test_who_gives_up_waiting_gives_the_token_back(clock: StillClock) -> None:
    """A deadline that cuts many waits short must not slow down those who come later."""

    class Patient(StillClock):
        """A clock whose waits never end."""

        async def sleep(self, seconds: float) -> None:
            await asyncio.sleep(3_600 + seconds)

    budget = TokenBucket(1.0, 1, Patient())
    await budget.take()
    waiting = [asyncio.create_task(budget.take()) for _ in range(5)]
    await asyncio.sleep(0)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert budget._tokens == 0
    assert clock.elapsed == 0
