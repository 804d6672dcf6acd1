"""Times what the kernel plane takes to carry out the changes of one pass, for the metrics."""

from collections.abc import Callable, Mapping

from littlelb.core.interfaces import Clock
from littlelb.core.model import Forward, Frontend
from littlelb.core.plan import Changes, Failure
from littlelb.dataplane.switch import Carrier


class Stopwatch:
    """A carrier as before, and `on_write` hears the seconds of each apply that had something to do."""

    def __init__(self, carrier: Carrier, clock: Clock) -> None:
        """Nobody listens yet."""
        self._carrier, self._clock = carrier, clock
        self.on_write: Callable[[float], None] = lambda _seconds: None

    async def observe(self, keys: frozenset[Frontend] | None) -> Mapping[Frontend, Forward]:
        """Return what it carries."""
        return await self._carrier.observe(keys)

    async def apply(self, changes: Changes[Frontend, Forward]) -> Mapping[Frontend, Failure]:
        """Make the changes; one that raises counts too, for it took its time."""
        if not changes:
            return await self._carrier.apply(changes)
        began = self._clock.monotonic()
        try:
            return await self._carrier.apply(changes)
        finally:
            self.on_write(self._clock.monotonic() - began)
