"""Who touched our table: notifications of a kernel that the test plays."""

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from littlelb.dataplane.netfilter.batch import Kind
from littlelb.dataplane.netfilter.events import Change, Commit, Event, Lost
from littlelb.dataplane.netfilter.wire import Malformed
from littlelb.dataplane.nft.watch import Watch, is_touch

OURS = Change(Kind.DELSETELEM, 1, "littlelb", "services4", 4711)


class Played:
    """Events that wait."""

    def __init__(self) -> None:
        self._waiting: list[Event] = []
        self.broken = False
        """What is read next is no message."""
        self._read, self._write = os.pipe()

    def say(self, *events: Event) -> None:
        """Let them come."""
        self._waiting += events
        os.write(self._write, b"x")

    def fileno(self) -> int:
        """Readable when something waits."""
        return self._read

    def receive(self) -> list[Event]:
        """All that waits."""
        found, self._waiting = self._waiting, []
        if self.broken:
            self.broken = False
            os.read(self._read, 100)
            raise Malformed("cut short")
        if found:
            os.read(self._read, 100)
        return found

    def close(self) -> None:
        """Close it."""
        os.close(self._read)
        os.close(self._write)


async def turn() -> None:
    """Let the loop look at its readers: what is readable now has been read afterwards."""
    for _ in range(3):
        await asyncio.sleep(0)


@pytest.fixture
async def stage() -> AsyncIterator[tuple[Played, Watch, list[str]]]:
    """A watch that listens, and what it called for."""
    events, calls = Played(), list[str]()
    watch = Watch(events, lambda: calls.append("pass"))
    watch.start()
    yield events, watch, calls
    watch.close()


@pytest.mark.parametrize(
    ("event", "touched"),
    [
        (OURS, True),
        (Change(Kind.DELTABLE, 1, "littlelb", None, 4711), True),
        (Change(Kind.DELSETELEM, 1, "kube-proxy", "services4", 4711), False),
        (Change(Kind.DELSETELEM, 2, "littlelb", "services4", 4711), False),
        (Change(Kind.NEWRULE, 1, "littlelb", "remember-60", 99), False),
        (Commit(7, 4711, "nft", 4711), False),
        (Lost(), True),
    ],
    ids=["element", "table", "another table", "another family", "our own", "end of a transaction", "lost"],
)
def test_what_is_a_touch(event: Event, *, touched: bool) -> None:
    """Somebody else, and our table; or nobody knows."""
    assert is_touch(event, {99}) == touched


async def test_one_call_until_somebody_looks(stage: tuple[Played, Watch, list[str]]) -> None:
    """A flush is thousands of notifications; after the pass has begun the next one calls again."""
    events, watch, calls = stage
    events.say(OURS, OURS)
    await turn()
    events.say(OURS)
    await turn()
    assert calls == ["pass"]
    watch.rearm()
    events.say(OURS)
    await turn()
    assert calls == ["pass", "pass"]


async def test_what_cannot_be_read_may_have_been_anything(stage: tuple[Played, Watch, list[str]]) -> None:
    """It is gone, so the whole table has to be looked at."""
    events, _, calls = stage
    events.broken = True
    events.say()
    await turn()
    assert calls == ["pass"]


async def test_what_nft_did_for_us_is_told_by_its_process_id(stage: tuple[Played, Watch, list[str]]) -> None:
    """Notifications wait until it is known; what others did meanwhile is not missed."""
    events, watch, calls = stage
    watch.pause()
    events.say(Change(Kind.NEWRULE, 1, "littlelb", "remember-60", 99))
    await turn()
    watch.resume(99)
    assert calls == []
    watch.pause()
    events.say(Change(Kind.NEWRULE, 1, "littlelb", "remember-90", 100), OURS)
    watch.resume(100)
    assert calls == ["pass"]
