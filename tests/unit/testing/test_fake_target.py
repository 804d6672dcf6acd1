"""The double of a target."""

import asyncio

import pytest

from littlelb.core.interfaces import Phase
from littlelb.core.plan import Changes, Failure
from littlelb.testing.fake_target import FakeTarget


def _target() -> FakeTarget[str, int]:
    return FakeTarget(Phase.FORWARD, lambda _state: {})


def test_it_does_what_it_is_told_and_writes_it_down() -> None:
    """Add, change and remove reach the world; observing some keys shows only those."""

    async def scenario() -> None:
        target = _target()
        await target.apply(Changes({"a": 1, "b": 2}))
        await target.apply(Changes({}, {"a": 3}, {"b": 2}))
        assert await target.observe(None) == {"a": 3}
        assert await target.observe(frozenset({"b"})) == {}
        assert target.transcript == ["add FORWARD a", "add FORWARD b", "remove FORWARD b", "change FORWARD a"]

    asyncio.run(scenario())


def test_it_fails_where_it_is_told_to() -> None:
    """One key fails alone; a poisoned batch is left undone as a whole; blindness is raised."""

    async def scenario() -> None:
        target = _target()
        target.fails["a"] = Failure("Failed", "no")
        assert await target.apply(Changes({"a": 1, "b": 2})) == {"a": Failure("Failed", "no")}
        target.poison["c"] = ValueError("boom")
        with pytest.raises(ValueError, match="boom"):
            await target.apply(Changes({"c": 1, "d": 2}))
        assert target.world == {"b": 2}
        target.blind = OSError("gone")
        with pytest.raises(OSError, match="gone"):
            await target.observe(None)

    asyncio.run(scenario())
