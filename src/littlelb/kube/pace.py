"""Keeps a failing reflector from hurrying: decorrelated-jitter backoff, and one shared sign of life of the server.

The backoff is the decorrelated jitter of the field (each pause is drawn from the shortest to three times the one
before) with a rising floor, so that the number of attempts in the first seconds of an outage has an upper bound and
not only an expected value: attempts at 0, 0.4, 1.2, 2.4 and 4.0 s at the worst, five in five seconds.
"""

import asyncio
from collections.abc import Awaitable, Callable
from math import inf
from random import Random

from littlelb.core.interfaces import Clock

SHORTEST_SECONDS = 0.4
LONGEST_SECONDS = 5.0
LONGEST_WISH_SECONDS = 30.0
"""More than that is not granted to a Retry-After."""


class Backoff:
    """Pauses between attempts."""

    def __init__(self, random: Random) -> None:
        """Start afresh."""
        self._random = random
        self._last = SHORTEST_SECONDS
        self._count = 0

    def reset(self) -> None:
        """Things went well: the next pause is a short one."""
        self._last = SHORTEST_SECONDS
        self._count = 0

    def next(self, wish: float | None = None) -> float:
        """Seconds to pause now; `wish` is the server's Retry-After."""
        self._count += 1
        drawn = self._random.uniform(SHORTEST_SECONDS, 3 * self._last)
        self._last = min(LONGEST_SECONDS, max(drawn, SHORTEST_SECONDS * self._count))
        return max(self._last, min(wish or 0.0, LONGEST_WISH_SECONDS))


class SharedProbe:
    """One question to the server for all who ask at about the same time; all get the same answer."""

    def __init__(self, ask: Callable[[], Awaitable[None]], clock: Clock, fresh_seconds: float = 2.0) -> None:
        """`ask` raises `Transient` or `Permanent` when the server does not answer."""
        self._ask = ask
        self._clock = clock
        self._fresh_seconds = fresh_seconds
        self._asking: asyncio.Task[None] | None = None
        self._answered_at = -inf

    async def __call__(self) -> None:
        """Return if the server answers, or has just answered."""
        if self._clock.monotonic() - self._answered_at < self._fresh_seconds:
            return
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_once(), name="kube.probe")
            self._asking.add_done_callback(self._done)
        await asyncio.shield(self._asking)  # one who gives up does not take the answer from the others

    async def _ask_once(self) -> None:
        await self._ask()
        self._answered_at = self._clock.monotonic()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._asking = None
        if not task.cancelled():
            task.exception()  # seen, even where everybody who asked is gone
