"""Backoff and the shared probe."""

import asyncio
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from littlelb.core.errors import Transient
from littlelb.kube.pace import LONGEST_SECONDS, SHORTEST_SECONDS, Backoff, SharedProbe
from littlelb.testing.clock import LoopClock, run_virtual


@given(seed=st.integers())
def test_at_most_five_attempts_in_five_seconds(seed: int) -> None:
    """Whatever is drawn, the fifth pause ends more than 5 s after the first attempt."""
    backoff = Backoff(Random(seed))  # noqa: S311  # the jitter under test
    pauses = [backoff.next() for _ in range(20)]
    assert sum(pauses[:5]) > 5
    assert all(SHORTEST_SECONDS <= pause <= LONGEST_SECONDS for pause in pauses)


def test_a_reset_starts_again_with_a_short_pause() -> None:
    """After a reset the next pause is at most three times the shortest."""
    backoff = Backoff(Random(1))  # noqa: S311  # the jitter under test
    for _ in range(10):
        backoff.next()
    backoff.reset()
    assert backoff.next() <= 3 * SHORTEST_SECONDS


@pytest.mark.parametrize(("wish", "expected"), [(7.0, 7.0), (3_600.0, 30.0)])
def test_the_wish_of_the_server_is_obeyed(wish: float, expected: float) -> None:
    """A Retry-After makes the pause as long, up to 30 s."""
    assert Backoff(Random(1)).next(wish) == expected  # noqa: S311  # the jitter under test


def test_one_question_for_all() -> None:
    """Three who ask at once, and one who asks soon after, cost one request; one who asks later costs another."""
    asked: list[float] = []

    async def ask() -> None:
        asked.append(LoopClock().monotonic())
        await asyncio.sleep(1)

    async def scenario() -> None:
        probe = SharedProbe(ask, LoopClock())
        await asyncio.gather(probe(), probe(), probe())
        await probe()
        assert len(asked) == 1
        await asyncio.sleep(10)
        await probe()
        assert len(asked) == 2

    run_virtual(scenario())


def test_all_hear_of_a_failure_at_the_same_time() -> None:
    """A server that does not answer costs everybody one time-out, not one after the other; the next one asks anew."""

    async def ask() -> None:
        await asyncio.sleep(10)
        raise Transient("no answer")

    async def scenario() -> None:
        probe = SharedProbe(ask, LoopClock())
        results = await asyncio.gather(probe(), probe(), probe(), return_exceptions=True)
        assert [type(result) for result in results] == [Transient] * 3
        assert LoopClock().monotonic() == pytest.approx(10, abs=0.1)
        with pytest.raises(Transient):
            await probe()

    run_virtual(scenario())


def test_giving_up_leaves_the_answer_to_others() -> None:
    """Cancelling one who waits does not cancel the question."""

    async def ask() -> None:
        await asyncio.sleep(5)

    async def scenario() -> None:
        probe = SharedProbe(ask, LoopClock())
        impatient, patient = asyncio.create_task(probe()), asyncio.create_task(probe())
        await asyncio.sleep(1)
        impatient.cancel()
        await patient
        assert impatient.cancelled()

    run_virtual(scenario())
