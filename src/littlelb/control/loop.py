"""When a pass is made: soon after something changed, sooner or later after a failure, and at every resync.

wake ──→ pass ──→ pause ──→ failed? ── backoff ──→ full pass
hint ──→ full pass ──→ pause
resync ──→ look at the world ──→ full pass ──→ pause
              └─ cut off by a wake ──→ pass, and the resync once more a little later

A pause is as long as the pass before it was, within limits: a lone event waits for nobody, and a storm of them is taken
in gulps that leave half of the time to everybody else.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import structlog

from littlelb.control.reconciler import Look, PassResult, Reconciler
from littlelb.control.store import Store
from littlelb.core.interfaces import Clock
from littlelb.core.model import Frontend, Ip
from littlelb.core.plan import PassReport
from littlelb.core.reasons import Reason

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Timings:
    """Intervals of the loop, in seconds."""

    min_pause: float = 0.001
    max_pause: float = 0.02
    resync_interval: float = 60.0
    first_retry: float = 1.0
    last_retry: float = 30.0
    cut_retry: float = 1.0
    """After a resync that was cut off by an event."""
    cuts: int = 10
    """So many in a row; the next one is not cut off."""
    conflict_retry: float = 30.0


class Loop:
    """Decides when, and lets the reconciler do."""

    def __init__(
        self,
        store: Store,
        reconciler: Reconciler,
        clock: Clock,
        on_pass: Callable[[PassResult], None],
        timings: Timings | None = None,
    ) -> None:
        """`on_pass` gets what each pass did; it must not block."""
        self._store, self._reconciler, self._clock, self._on_pass = store, reconciler, clock, on_pass
        self._timings = timings or Timings()
        self._woken = asyncio.Event()
        self._full = True
        self._resync = False
        self._retrying = False
        self._cuts = 0
        self._next_full = 0.0
        self._retry_seconds = self._timings.first_retry
        self._conflicts: dict[Ip, float] = {}
        self._busy_since: float | None = None
        self._settled = asyncio.Event()
        self._settled.set()
        self.last: PassResult | None = None

    def wake(self) -> None:
        """Something changed."""
        self._woken.set()

    def hint(self) -> None:
        """Somebody may have touched what is ours: look at the world, not at belief."""
        self._full = True
        self._woken.set()

    def look_again(self, addresses: Iterable[Ip]) -> None:
        """Try these addresses again, and nothing else: what they waited for beside the passes has happened."""
        self._reconciler.look_again(addresses)
        self._woken.set()

    def heard_outcome(self, failed: bool) -> None:
        """Something that was done beside the passes failed, and is to be tried again later; or was made good."""
        if not failed:
            self.hint()
            return
        self._retry_later()
        self._woken.set()

    def stuck_for(self) -> float:
        """Seconds since the running pass began; 0 between passes."""
        return 0.0 if self._busy_since is None else self._clock.monotonic() - self._busy_since

    async def settle(self, seconds: float) -> None:
        """Wait until no pass is under way, at most so long: who stops then leaves nothing half done."""
        try:
            async with asyncio.timeout(seconds):
                await self._settled.wait()
        except TimeoutError:
            log.warning("loop.cut", stuck_seconds=round(self.stuck_for(), 1))

    async def run(self) -> None:
        """Make passes for ever."""
        while True:
            await self._wait()
            if self._store.ready:
                await self._clock.sleep(await self._one_pass())

    async def withdraw(self, drain: Callable[[float], Awaitable[int]]) -> None:
        """Take everything away, and wait for flows that may still end; the caller bounds the time.

        `drain(seconds)` waits until no flow is left, at most so long, and returns how many are.
        """
        result = await self._reconciler.withdraw()
        self._on_pass(result)
        while (deadline := self._reconciler.next_deadline) is not None:
            if not await drain(max(0.0, deadline - self._clock.monotonic()) + 0.01):
                self._reconciler.end_drains()
            result = await self._reconciler.withdraw()
            self._on_pass(result)
        self.last = result

    async def _wait(self) -> None:
        """Sleep until something changed, or a timer is due; before everything was listed, timers mean nothing."""
        if not self._store.ready:
            await self._woken.wait()
            self._woken.clear()
            return
        deadlines = [self._next_full, *self._conflicts.values()]
        if self._reconciler.next_deadline is not None:
            deadlines.append(self._reconciler.next_deadline)
        try:
            async with asyncio.timeout(max(0.0, min(deadlines) - self._clock.monotonic())):
                await self._woken.wait()
        except TimeoutError:
            self._timers_due()
        self._woken.clear()

    def _timers_due(self) -> None:
        """Do what the timers are for."""
        now = self._clock.monotonic()
        for address in [address for address, due in self._conflicts.items() if due <= now]:
            del self._conflicts[address]
            self._store.forget_conflict(address)
        lingering = self._reconciler.next_deadline
        if lingering is not None and lingering <= now:
            self._full = True
        elif self._next_full <= now:
            self._full, self._resync = self._retrying, not self._retrying

    async def _one_pass(self) -> float:
        """Make a pass; the seconds to pause after it."""
        self._busy_since = began = self._clock.monotonic()
        try:
            seen = await self._look_unless_woken()
            full, self._full, self._resync = self._full or seen is not None, False, False
            self._settled.clear()
            result = await self._reconciler.run_pass(full=full, seen=seen)
        finally:
            self._busy_since = None
            self._settled.set()
        self.last = result
        report = result.report
        log.debug(
            "loop.pass",
            number=report.number,
            full=full,
            changes=report.changes,
            failures=len(report.failures) + len(report.unread),
            milliseconds=round(report.duration_seconds * 1000, 1),
        )
        self._plan_next(report, full=full)
        self._on_pass(result)
        took = self._clock.monotonic() - began
        return min(max(took, self._timings.min_pause), self._timings.max_pause)

    async def _look_unless_woken(self) -> Look | None:
        """At a resync, read the world without keeping an event waiting; None: this is none, or something happened."""
        if self._full or not self._resync:
            return None
        if self._cuts >= self._timings.cuts:
            self._full = True
            return None
        looking = asyncio.create_task(self._reconciler.look(), name="look at the world")
        waking = asyncio.create_task(self._woken.wait(), name="wait for an event")
        try:
            await asyncio.wait((looking, waking), return_when=asyncio.FIRST_COMPLETED)
        finally:
            looking.cancel()
            waking.cancel()
            await asyncio.gather(looking, waking, return_exceptions=True)
        if not self._woken.is_set():
            return looking.result()
        self._woken.clear()
        self._cuts += 1
        self._next_full = self._clock.monotonic() + self._timings.cut_retry
        return None

    def _plan_next(self, report: PassReport, *, full: bool) -> None:
        """A failure shortens the way to the next full pass; each one in a row makes it longer again."""
        now = self._clock.monotonic()
        for subject, failure in report.failures.items():
            if failure.reason == Reason.ADDRESS_CONFLICT and not isinstance(subject, str | Frontend):
                self._conflicts[subject] = now + self._timings.conflict_retry
        if report.failed:
            if report.changes:
                self._retry_seconds = self._timings.first_retry
            self._retry_later()
        elif full:
            self._cuts, self._retrying = 0, False
            self._next_full = now + self._timings.resync_interval
            self._retry_seconds = self._timings.first_retry

    def _retry_later(self) -> None:
        self._retrying = True
        self._next_full = self._clock.monotonic() + self._retry_seconds
        self._retry_seconds = min(self._timings.last_retry, self._retry_seconds * 2)
