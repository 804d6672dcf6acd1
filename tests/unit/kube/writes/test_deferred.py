"""Writes that wait in a queue, and writes that get a deadline."""

import asyncio
from collections.abc import Mapping

import structlog.testing

from littlelb.core.errors import Permanent, Transient, WorldError
from littlelb.core.interfaces import Phase
from littlelb.core.model import Claim, Key
from littlelb.core.plan import Changes, Failure, Severity
from littlelb.core.reasons import Reason
from littlelb.core.state import DesiredState
from littlelb.kube.writes.deferred import BATCH_KEYS, CHUNK_KEYS, BoundedTarget, DeferredTarget
from littlelb.testing.clock import LoopClock, run_virtual

ONE, TWO = Claim("1"), Claim("2")
NO = Failure(Reason.FAILED, "no")


class Inner:
    """A target that writes down what it is asked, and is as slow, or as unwilling, as the test wants."""

    phase = Phase.CLAIM

    def __init__(self) -> None:
        """All is well."""
        self.asked: list[Changes[Key, Claim]] = []
        self.failing: dict[Key, Failure] = {}
        self.seconds = 0.0
        self.raises: WorldError | None = None

    def wanted(self, state: DesiredState) -> Mapping[Key, Claim]:
        """Select the claims."""
        return state.claims

    async def observe(self, keys: frozenset[Key] | None) -> Mapping[Key, Claim]:
        """See one claim."""
        return {"seen": ONE} if keys is None else {}

    async def apply(self, changes: Changes[Key, Claim]) -> Mapping[Key, Failure]:
        """Write down, wait, fail."""
        if self.raises is not None:
            raise self.raises
        await asyncio.sleep(self.seconds)
        self.asked.append(changes)
        asked = {*changes.add, *changes.change, *changes.remove}
        return {key: failure for key, failure in self.failing.items() if key in asked}


class Deferred:
    """A deferred target with its task."""

    def __init__(self) -> None:
        """Nothing is queued."""
        self.inner = Inner()
        self.outcomes: list[bool] = []
        self.target: DeferredTarget[Claim] = DeferredTarget(self.inner, self.outcomes.append)

    async def write(self, *several: Changes[Key, Claim]) -> list[Mapping[Key, Failure]]:
        """Take changes, then write them all."""
        answers = [await self.target.apply(changes) for changes in several]
        task = asyncio.create_task(self.target.run(), name="deferred")
        assert await self.target.flush(60.0)
        task.cancel()
        return answers


async def test_both_stand_where_the_other_one_stands() -> None:
    """Phase, wanted and observed are the inner target's."""
    for target in (DeferredTarget(Inner(), lambda _: None), BoundedTarget(Inner(), LoopClock())):
        assert target.phase is Phase.CLAIM
        assert target.wanted(DesiredState(claims={"a": ONE})) == {"a": ONE}
        assert await target.observe(None) == {"seen": ONE}
        assert await target.observe(frozenset()) == {}


async def test_only_the_last_word_about_a_key_is_written() -> None:
    """A pass that comes while the queue waits replaces what the one before wanted."""
    it = Deferred()
    answers = await it.write(
        Changes(add={"a": ONE, "b": ONE}), Changes(change={"a": TWO}, remove={"b": ONE}), Changes(remove={"c": ONE})
    )
    assert answers == [{}, {}, {}]
    assert it.inner.asked == [Changes(add={"a": TWO}, remove={"b": ONE, "c": ONE})]
    assert it.outcomes == []


async def test_what_goes_comes_first_and_batches_are_small() -> None:
    """An address that is no longer served must not stay published behind a thousand new ones."""
    it = Deferred()
    coming = {f"n{number}": ONE for number in range(BATCH_KEYS)}
    await it.write(Changes(add=coming), Changes(remove={"old": ONE}))
    assert [len(batch.add) + len(batch.remove) for batch in it.inner.asked] == [BATCH_KEYS, 1]
    assert it.inner.asked[0].remove == {"old": ONE}


async def test_a_failure_is_told_and_shown_until_it_is_made_good() -> None:
    """The loop hears of it, asks again, and hears when it is over."""
    it = Deferred()
    it.inner.failing = {"a": NO}
    await it.write(Changes(add={"a": ONE, "b": ONE}))
    assert it.outcomes == [True]
    it.inner.failing = {}
    assert await it.write(Changes(add={"a": ONE}), Changes(add={"b": ONE})) == [{"a": NO}, {}]
    assert it.outcomes == [True, False]
    assert await it.write(Changes(remove={"a": ONE})) == [{}]


async def test_a_failure_and_its_end_are_logged_once() -> None:
    """What stays wrong is not said again each time that it is tried; what does not pass by itself is an error."""
    it = Deferred()
    with structlog.testing.capture_logs() as logs:
        it.inner.failing = {"a": Failure(Reason.NOT_PERMITTED, "apply the overlay", Severity.PERMANENT), "b": NO}
        await it.write(Changes(add={"a": ONE, "b": ONE}))
        await it.write(Changes(add={"a": ONE, "b": ONE}))
        it.inner.failing = {}
        await it.write(Changes(add={"a": ONE}))
    lines = {(line["event"], line["service"], line["log_level"], line.get("error", "")) for line in logs}
    assert lines == {
        ("status.failed", "a", "error", "apply the overlay"),
        ("status.failed", "b", "warning", "no"),
        ("status.written_again", "a", "info", ""),
    }
    assert len(logs) == 3


def test_a_flush_does_not_wait_for_ever() -> None:
    """What is left after its time is said."""

    async def scenario() -> None:
        it = Deferred()
        it.inner.seconds = 100.0
        await it.target.apply(Changes(add={"a": ONE}))
        task = asyncio.create_task(it.target.run(), name="deferred")
        assert not await it.target.flush(5.0)
        assert await it.target.flush(100.0)
        task.cancel()

    run_virtual(scenario())


def test_a_slow_server_gets_a_deadline_and_the_rest_is_asked_again() -> None:
    """What was done in time is done; what was not counts as failed, and may pass."""

    async def scenario() -> None:
        inner = Inner()
        inner.seconds = 0.9
        target = BoundedTarget(inner, LoopClock(), 2.0)
        wanted = {f"n{number}": ONE for number in range(3 * CHUNK_KEYS)}
        failures = await target.apply(Changes(add=wanted))
        assert len(inner.asked) == 2
        assert set(failures) == {f"n{number}" for number in range(2 * CHUNK_KEYS, 3 * CHUNK_KEYS)}
        assert {failure.severity for failure in failures.values()} == {Severity.TRANSIENT}
        assert LoopClock().monotonic() <= 2.1

    run_virtual(scenario())


async def test_changes_of_all_kinds_reach_the_other_one() -> None:
    """A changed claim is put on like a new one."""
    inner = Inner()
    assert await BoundedTarget(inner, LoopClock()).apply(Changes({"a": ONE}, {"b": TWO}, {"c": ONE})) == {}
    assert inner.asked == [Changes({"a": ONE, "b": TWO}, {}, {"c": ONE})]


async def test_a_server_that_says_no_to_all_is_a_failure_of_each() -> None:
    """With the severity of what it said."""
    inner = Inner()
    for error, severity in ((Transient("later"), Severity.TRANSIENT), (Permanent("never"), Severity.PERMANENT)):
        inner.raises = error
        failures = await BoundedTarget(inner, LoopClock()).apply(Changes(add={"a": ONE}, remove={"b": ONE}))
        assert {key: (f.message, f.severity) for key, f in failures.items()} == {
            "a": (str(error), severity),
            "b": (str(error), severity),
        }
