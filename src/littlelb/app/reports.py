"""What the status page, the metrics and the command line are told of the running daemon."""

import os

from littlelb import __version__
from littlelb.app.clock import SystemClock
from littlelb.app.parts import Parts
from littlelb.config import Config
from littlelb.control.reconciler import PassResult
from littlelb.core.errors import Transient
from littlelb.core.model import Frontend
from littlelb.core.report import Counters, DaemonStatus, StatusReport, compute_report


class Reporter:
    """Keeps what a report is made of; a report is made when somebody asks."""

    def __init__(self, config: Config, parts: Parts, clock: SystemClock) -> None:
        """Nothing has happened yet."""
        self._config, self._parts, self._clock = config, parts, clock
        self._started = clock.now()
        self._last: PassResult | None = None
        self._counters: dict[Frontend, Counters] = {}

    def take(self, result: PassResult) -> None:
        """Remember the last pass."""
        self._last = result

    async def count(self) -> None:
        """Ask the workers for their counters; while they cannot be asked, the last ones stay."""
        try:
            counted = await self._parts.plane.counters()
        except Transient:
            return
        self._counters = {frontend: Counters(one.active, one.accepted) for frontend, one in counted.items()}

    def report(self) -> StatusReport:
        """Everything that `status` shows."""
        parts = self._parts
        return compute_report(
            self._status(),
            parts.store.peek(),
            parts.reconciler.state,
            self._last.report if self._last is not None else None,
            self._counters,
        )

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
