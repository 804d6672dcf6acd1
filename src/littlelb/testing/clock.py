"""Virtual time for asyncio: where everybody waits, the clock jumps to the next timer instead of waiting.

    result = run_virtual(scenario())

Everything that asks the loop for time follows: `asyncio.sleep`, `asyncio.timeout`, aiohttp's time-outs. Sockets on
loopback work, because what one end sent is there for the other end at once; work in threads is waited for in real time.
"""

import asyncio
import selectors
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar

R = TypeVar("R")

GRACE_SECONDS = 0.001
"""Real time that bytes on their way through loopback get before the clock jumps."""
STUCK_SECONDS = 10.0
"""Real time without a timer and without a byte after which a scenario is stuck."""
EPOCH = 1_767_225_600.0
"""What `now` says at virtual time 0: 2026-01-01 00:00 UTC."""


class _JumpingSelector(selectors.DefaultSelector):
    """Waits for sockets, or makes time pass."""

    now = 0.0
    busy = 0
    """Jobs in threads."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return super().select(0)
        if self.busy:
            return super().select(GRACE_SECONDS)
        if timeout is None:
            return self._select_or_say_so()
        ready = super().select(GRACE_SECONDS)
        if not ready:
            self.now += timeout
        return ready

    def _select_or_say_so(self) -> list[tuple[selectors.SelectorKey, int]]:
        started = time.monotonic()
        ready = super().select(STUCK_SECONDS)
        if not ready and time.monotonic() - started >= STUCK_SECONDS:
            raise RuntimeError("no timer is set and nothing arrives: the scenario is stuck")
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when nobody has anything to do."""

    def __init__(self) -> None:
        """Start at virtual time 0."""
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._jumping.now

    def run_in_executor(  # type: ignore[override]  # typeshed wants TypeVarTuple, which says nothing more here
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run in a thread, and let no time pass meanwhile."""
        future: asyncio.Future[Any] = super().run_in_executor(executor, func, *args)
        self._jumping.busy += 1
        future.add_done_callback(self._idle)
        return future

    def _idle(self, _: asyncio.Future[Any]) -> None:
        self._jumping.busy -= 1


def run_virtual(scenario: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine on a loop of its own, from virtual time 0 to its end."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(scenario)


class LoopClock:
    """`core.interfaces.Clock` on the time of the running loop: virtual on a VirtualLoop, else real."""

    def now(self) -> float:
        """Seconds since the epoch; virtual time starts with the year 2026."""
        return EPOCH + self.monotonic()

    def monotonic(self) -> float:
        """Time of the running loop, in seconds."""
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        """Wait on the loop."""
        await asyncio.sleep(seconds)
