"""The target boundary."""

import asyncio
from typing import Any

import pytest
import structlog.testing

from littlelb.control.apply import Outcome, apply_changes, failure_from, observe
from littlelb.core.errors import Permanent, Transient
from littlelb.core.interfaces import Phase
from littlelb.core.plan import Changes, Failure, Severity
from littlelb.testing.fake_target import FakeTarget


def _target() -> FakeTarget[Any, int]:
    return FakeTarget(Phase.PUBLISH, lambda _state: {})


@pytest.mark.parametrize("poisoned", [[0], [7], [3, 4], [0, 9], list(range(10))])
def test_a_refused_batch_is_halved_until_the_key_at_fault_stands_alone(poisoned: list[int]) -> None:
    """It gets the error; all others are applied."""

    async def scenario() -> None:
        target = _target()
        target.world = {f"default/{n}": n for n in range(6, 10)}
        target.poison = {f"default/{n}": Transient("the kernel said no") for n in poisoned}
        changes = Changes(
            {f"default/{n}": n for n in range(3)},
            {f"default/{n}": n for n in range(3, 6)},
            {f"default/{n}": n for n in range(6, 10)},
        )
        outcome = Outcome()
        failed = await apply_changes(target, changes, outcome)
        assert failed.keys() == {f"default/{n}" for n in poisoned} == outcome.failures.keys()
        assert outcome.changes == 10 - len(poisoned)
        expected = {n for n in range(6) if n not in poisoned} | {n for n in range(6, 10) if n in poisoned}
        assert set(target.world.values()) == expected

    asyncio.run(scenario())


def test_nothing_to_do_asks_nobody() -> None:
    """An empty batch does not reach the target."""

    async def scenario() -> None:
        target = _target()
        target.poison = {"x": ValueError("never")}
        assert await apply_changes(target, Changes(), Outcome()) == {}
        assert target.transcript == []

    asyncio.run(scenario())


def test_a_target_that_cannot_be_read_sits_out() -> None:
    """With its reason in the outcome."""

    async def scenario() -> None:
        target, outcome = _target(), Outcome()
        target.blind = Permanent("EPERM: run as root")
        assert await observe(target, None, outcome) is None
        assert outcome.unread == {"PUBLISH": Failure("NotPermitted", "EPERM: run as root", Severity.PERMANENT)}

    asyncio.run(scenario())


def test_what_was_raised_becomes_a_value() -> None:
    """Permanent, Transient, a time-out without words, and our own bugs, which are told apart."""
    assert failure_from(Permanent("no")).severity is Severity.PERMANENT
    assert failure_from(Transient("busy")) == Failure("Failed", "busy")
    assert failure_from(TimeoutError()) == Failure("Failed", "timed out")
    assert failure_from(KeyError("x")).message == "internal error: KeyError; see the log"


def test_who_debugs_sees_what_was_applied() -> None:
    """Phase and keys of each batch, the failed ones once more; of very many keys only the first."""

    async def scenario() -> None:
        target = _target()
        target.poison = {"default/1": Transient("no")}
        with structlog.testing.capture_logs() as logs:
            await apply_changes(target, Changes({f"default/{n}": n for n in range(100)}), Outcome())
        (shown,) = [entry for entry in logs if entry["event"] == "target.applied"]
        assert shown["log_level"] == "debug"
        assert shown["phase"] == "PUBLISH"
        assert shown["add"] == [f"default/{n}" for n in range(20)]
        assert shown["failed"] == ["default/1"]
        assert "remove" not in shown

    asyncio.run(scenario())
