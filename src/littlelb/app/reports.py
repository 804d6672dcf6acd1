"""What the status page, the metrics and the command line are told of the running daemon."""

import os

import msgspec

from littlelb import __version__
from littlelb.app.clock import SystemClock
from littlelb.app.parts import Parts
from littlelb.config import Config
from littlelb.control.reconciler import PassResult
from littlelb.core.errors import Transient
from littlelb.core.model import Frontend
from littlelb.core.report import Counters, DaemonStatus, StatusReport, compute_report


class Reporter:
    """Keeps what a report is made of; made when somebody asks, and made anew only after a pass or a count.

    With ten thousand Services it costs a third of a second, and probes ask all the time.
    """

    def __init__(self, config: Config, parts: Parts, clock: SystemClock) -> None:
        """Nothing has happened yet."""
        self._config, self._parts, self._clock = config, parts, clock
        self._started = clock.now()
        self._last: PassResult | None = None
        self._counters: dict[Frontend, Counters] = {}
        self._made: StatusReport | None = None

    def take(self, result: PassResult) -> None:
        """Remember the last pass."""
        self._last, self._made = result, None

    async def count(self) -> None:
        """Ask the workers for their counters; while they cannot be asked, the last ones stay."""
        try:
            counted = await self._parts.plane.counters()
        except Transient:
            return
        fresh = {frontend: Counters(one.active, one.accepted) for frontend, one in counted.items()}
        if fresh != self._counters:
            self._counters, self._made = fresh, None

    def report(self) -> StatusReport:
        """Everything that `status` shows."""
        parts = self._parts
        if self._made is None:
            self._made = compute_report(
                self._status(),
                parts.store.peek(),
                parts.reconciler.state,
                self._last.report if self._last is not None else None,
                self._counters,
            )
        return msgspec.structs.replace(self._made, daemon=self._status())

    def _status(self) -> DaemonStatus:
        source, speech = self._parts.source, self._parts.speech
        return DaemonStatus(
            version=__version__,
            pid=os.getpid(),
            started=self._started,
            source=source.name,
            plane="pipe",
            holder=os.uname().nodename,
            synced=source.synced,
            connected=source.connected,
            from_state_file=self._parts.from_state_file,
            progress=source.progress,
            folder_errors=source.errors,
            refused=source.refused,
            events_dropped=speech.recorder.tally.dropped if speech is not None else 0,
        )
