"""Signals: the first one says how to go, the second one goes at once."""

import asyncio
import os
import signal
from collections.abc import Callable
from enum import StrEnum


class Stop(StrEnum):
    """How the daemon was asked to go."""

    TERMINATE = "SIGTERM"
    INTERRUPT = "SIGINT"
    KEEP = "SIGUSR2"
    """Leave everything in place for the next start: upgrades."""


AT_ONCE = 3
"""Exit code of a second signal: the kernel's state stays as it is."""


class StopSignals:
    """Hears SIGTERM, SIGINT and SIGUSR2."""

    def __init__(self, loop: asyncio.AbstractEventLoop, leave: Callable[[int], object] = os._exit) -> None:
        """Listen from now on; `leave` ends the process with an exit code, whatever it is doing."""
        self._leave = leave
        self._first: asyncio.Future[Stop] = loop.create_future()
        for number, stop in (
            (signal.SIGTERM, Stop.TERMINATE),
            (signal.SIGINT, Stop.INTERRUPT),
            (signal.SIGUSR2, Stop.KEEP),
        ):
            loop.add_signal_handler(number, self._hear, stop)
        # Until somebody follows the settings: a reload in the middle of a start must not end the process.
        loop.add_signal_handler(signal.SIGHUP, lambda: None)

    async def wait(self) -> Stop:
        """Wait for the first signal."""
        return await asyncio.shield(self._first)

    def _hear(self, stop: Stop) -> None:
        if self._first.done():
            self._leave(AT_ONCE)
            return
        self._first.set_result(stop)
