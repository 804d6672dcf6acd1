"""Sends many frames without flooding the LAN and without holding up the event loop: in short bursts, at a bounded rate.

Frames of ARP and neighbour discovery go to everybody on the LAN, and each machine there has to look at each of them.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from itertools import islice
from typing import Protocol

from littlelb.announce.packets import Frame

BURST = 64
"""So many frames go out at once; then others have their turn."""
FRAMES_PER_SECOND = 32_000
"""Of 84 bytes on the wire each: 22 Mbit/s, for as long as it lasts."""


class Sender(Protocol):
    """What of `announce.port.Port` is used here."""

    async def send(self, frames: Iterable[Frame]) -> None:
        """Send in order."""
        ...


class Pace:
    """So many frames a second, however many send at the same time."""

    def __init__(
        self,
        frames_per_second: float = FRAMES_PER_SECOND,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """The defaults are the real world; tests give their own time."""
        self._rate, self._sleep, self._monotonic = frames_per_second, sleep, monotonic
        self._free_at = 0.0

    async def send(self, port: Sender, frames: Iterable[Frame]) -> None:
        """Send them in order. Raises OSError, e.g. ENETDOWN."""
        rest = iter(frames)
        while burst := list(islice(rest, BURST)):
            now = self._monotonic()
            start = max(now, self._free_at)
            self._free_at = start + len(burst) / self._rate
            await self._sleep(start - now)
            await port.send(burst)
