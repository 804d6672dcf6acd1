"""Paces writes: a token bucket (burst at once, then so many a second), as client-go's flow control does it."""

import asyncio

from littlelb.core.interfaces import Clock

WRITES_PER_SECOND = 20.0
WRITE_BURST = 40
CLAIMS_PER_SECOND = 100.0
CLAIM_BURST = 200


class TokenBucket:
    """Tokens that come back with time; time is the clock's monotonic one."""

    def __init__(self, rate_per_second: float, burst: int, clock: Clock) -> None:
        """Start full."""
        self._rate = rate_per_second
        self._burst = float(burst)
        self._clock = clock
        self._tokens = float(burst)
        self._filled_at = clock.monotonic()

    @property
    def full(self) -> bool:
        """Has it had time enough to forget all that was taken?"""
        self._fill()
        return self._tokens >= self._burst

    def try_take(self) -> bool:
        """Take a token if there is one."""
        self._fill()
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    async def take(self) -> None:
        """Take a token, waiting for it in turn."""
        self._fill()
        self._tokens -= 1
        if self._tokens >= 0:
            return
        try:
            await self._clock.sleep(-self._tokens / self._rate)
        except asyncio.CancelledError:
            self._tokens += 1  # who gave up waiting has written nothing
            raise

    def set_pace(self, rate_per_second: float, burst: int) -> None:
        """Change the pace, and start full: at the end everything has to be cleared within seconds."""
        self._fill()
        self._rate, self._burst, self._tokens = rate_per_second, float(burst), float(burst)

    def _fill(self) -> None:
        now = self._clock.monotonic()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now


def make_write_budget(clock: Clock) -> TokenBucket:
    """Make the bucket that status and Events share: 20 writes a second, 40 at once."""
    return TokenBucket(WRITES_PER_SECOND, WRITE_BURST, clock)


def make_claim_budget(clock: Clock) -> TokenBucket:
    """Make the bucket of finalizers: the loop waits for them, so they do not queue behind status and Events.

    100 a second, 200 at once, is more than an API server creates Services.
    """
    return TokenBucket(CLAIMS_PER_SECOND, CLAIM_BURST, clock)
