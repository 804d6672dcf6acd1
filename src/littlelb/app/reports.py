"""What the status page, the metrics and the command line are told of the running daemon."""

import asyncio
import os

import msgspec

from littlelb import __version__
from littlelb.app.clock import SystemClock
from littlelb.app.commands.trace import follow
from littlelb.app.parts import Parts
from littlelb.config import Config
from littlelb.control.reconciler import PassResult
from littlelb.core.counters import ServiceCounters
from littlelb.core.errors import Transient
from littlelb.core.model import Frontend
from littlelb.core.serving.planes import order_planes
from littlelb.core.shown.report import Observed, compute_report
from littlelb.core.shown.status import DaemonStatus, StatusReport, TableUse
from littlelb.core.trace.packet import Packet, Trace
from littlelb.dataplane.netfilter.conntrack.limits import read_pressure
from littlelb.host.netlink import Netlink


class Reporter:
    """Keeps what a report is made of; made when somebody asks, and made anew only after a pass or a count.

    With ten thousand Services it costs a fifth of a second, and probes ask all the time: it is made in a thread, from
    values that do not change.
    """

    def __init__(self, config: Config, parts: Parts, clock: SystemClock) -> None:
        """Nothing has happened yet."""
        self._config, self._parts, self._clock = config, parts, clock
        self._started = clock.now()
        self._last: PassResult | None = None
        self._counters: dict[Frontend, ServiceCounters] = {}
        self._made: dict[bool, StatusReport] = {}
        self._making = asyncio.Lock()

    def take(self, result: PassResult) -> None:
        """Remember the last pass."""
        self._last, self._made = result, {}

    async def count(self) -> None:
        """Ask the workers for their counters; while they cannot be asked, the last ones stay."""
        try:
            fresh = dict(await self._parts.planes.counters())
        except Transient:
            return
        if fresh != self._counters:
            self._counters, self._made = fresh, {}

    async def report(self, *, with_backends: bool = False) -> StatusReport:
        """Everything that `status` shows; its list of backends only where somebody wants it."""
        async with self._making:
            latest = self._made  # another one by the time it is made, if there was a pass meanwhile
            made = latest.get(with_backends)
            if made is None:
                made = latest[with_backends] = await self._make(with_backends=with_backends)
        return msgspec.structs.replace(made, daemon=self._status())

    async def trace(self, packet: Packet) -> Trace:
        """Follow a packet through what the last pass decided. Raises `Transient`, `Permanent`."""
        failures = self._last.report.known if self._last is not None else {}
        async with Netlink() as netlink:
            return await follow(self._parts, netlink, packet, self._parts.reconciler.state, failures)

    async def _make(self, *, with_backends: bool) -> StatusReport:
        last = self._last.report if self._last is not None else None
        return await asyncio.to_thread(
            compute_report,
            self._status(),
            self._parts.store.peek(),
            self._parts.reconciler.state,
            Observed(last, self._counters),
            with_backends=with_backends,
        )

    def _status(self) -> DaemonStatus:
        source, speech = self._parts.source, self._parts.speech
        pressure = read_pressure()
        planes, no_nft = order_planes(self._parts.config.plane, self._parts.planes.no_nft)
        return DaemonStatus(
            version=__version__,
            pid=os.getpid(),
            started=self._started,
            source=source.name,
            plane=", ".join(planes),
            no_nft=no_nft,
            holder=os.uname().nodename,
            synced=source.synced,
            connected=source.connected,
            from_state_file=self._parts.from_state_file,
            progress=source.progress,
            folder_errors=source.errors,
            refused=source.refused,
            events_dropped=speech.recorder.tally.dropped if speech is not None else 0,
            conntrack=TableUse(pressure.flows, pressure.limit) if pressure is not None else None,
        )
