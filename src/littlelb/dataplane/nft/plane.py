"""FORWARD's target of the kernel plane: one static table of ours, whose elements are the Services.

    start ─► skeleton (if it is not there) ─► observe ─► apply: one transaction of elements for each pass
                                                 ▲
    somebody else touches our table ─► watch ────┘ on_change: a full pass

After a crash or `stop(keep=True)` the table goes on by itself; the next `start` leaves it as it is, and the first pass
writes what differs. A skeleton of another layout is replaced together with all elements, in one transaction.
"""

import asyncio
import errno
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Final

import structlog

from littlelb.core.counters import ServiceCounters
from littlelb.core.errors import Transient, WorldError
from littlelb.core.interfaces import Phase
from littlelb.core.model import Forward, Frontend
from littlelb.core.plan import Changes, Failure
from littlelb.core.state import DesiredState
from littlelb.dataplane.netfilter.anchor import Anchor
from littlelb.dataplane.netfilter.errors import KernelRefusal
from littlelb.dataplane.netfilter.event_socket import open_events
from littlelb.dataplane.netfilter.socket import NfSocket
from littlelb.dataplane.nft.elements.affinity import Purge, compute_purges
from littlelb.dataplane.nft.elements.census import Census, digest
from littlelb.dataplane.nft.elements.layout import judge, render_rules
from littlelb.dataplane.nft.elements.ledger import Ledger, Plan
from littlelb.dataplane.nft.elements.text import render_transaction
from littlelb.dataplane.nft.elements.transaction import compute_transaction
from littlelb.dataplane.nft.elements.transitions import guess_forward
from littlelb.dataplane.nft.flows.accounting import Meter
from littlelb.dataplane.nft.flows.endings import Endings
from littlelb.dataplane.nft.flows.flows import Flows, Sockets, World, forget_all
from littlelb.dataplane.nft.kernel import Kernel
from littlelb.dataplane.nft.ruleset import render_skeleton
from littlelb.dataplane.nft.watch import Watch

_log = structlog.get_logger(__name__)
_LARGE: Final = 500
"""Frontends of one transaction."""
_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class NftSettings:
    """What the plane needs to know of the configuration."""

    link_device: str
    accounting: bool = False
    """Turn conntrack's accounting on, so that packets and bytes are counted."""
    accounting_record: Path | None = None
    """The file that remembers whether it was on before us."""


class NftPlane:
    """Keeps frontends served by the kernel."""

    def __init__(
        self, settings: NftSettings, on_change: Callable[[], None], connect: Callable[[], World] = Sockets
    ) -> None:
        """Do nothing yet; `on_change` asks the loop for a full pass because something changed by itself.

        `connect` opens what flows are seen and cut by.
        """
        self._settings = settings
        self._on_change = on_change
        self._connect = connect
        self._ledger = Ledger()
        self._anchor = Anchor(f"littlelb-anchor-{os.getpid()}")
        self._watch: Watch | None = None
        self._kernel: Kernel | None = None
        self._flows: Flows | None = None
        self._meter = Meter(settings.accounting_record)
        self._looked = False
        self._lock = asyncio.Lock()  # between the loop's pass and who only looks

    @property
    def phase(self) -> Phase:
        """Stand first in bring-up."""
        return Phase.FORWARD

    def wanted(self, state: DesiredState) -> Mapping[Frontend, Forward]:
        """Select the forwards."""
        return state.forwards

    async def start(self) -> None:
        """Load the skeleton if it is not there, drop the anchor, begin to watch. Raises Permanent, Transient."""
        async with self._lock:
            opened = NfSocket()
            try:
                self._drop_anchor()
                ports = [opened.port, *([self._anchor.port] if self._anchor.port else [])]
                watch = Watch(open_events(ports), self._on_change)
            except BaseException:
                opened.close()
                self._anchor.close()
                raise
            self._watch, self._kernel = watch, Kernel(opened, watch)
            watch.start()
            try:
                await self._prepare(self._kernel)
                self._flows = self._begin_flows(self._kernel)
            except BaseException:
                self._close()
                raise

    def _begin_flows(self, kernel: Kernel) -> Flows:
        if self._settings.accounting:
            self._meter.turn_on()
        else:
            self._meter.restore()
        return Flows(Endings(kernel, self._lock), self._connect(), self._serves, octets=self._meter.is_on)

    def _serves(self, frontend: Frontend) -> bool:
        """Do we have this frontend, with backends or without? Before the first look at the kernel, say so of all."""
        return not self._looked or bool(self._ledger.last_applied([frontend]))

    def _drop_anchor(self) -> None:
        try:
            self._anchor.open()
        except WorldError as error:  # before Linux 5.12; all else works without it
            _log.warning("nft.no_anchor", error=str(error))

    async def _prepare(self, kernel: Kernel) -> bool:
        """Make sure that the skeleton is loaded and knows the devices; was it?"""
        intact = kernel.is_intact()
        if not intact:
            await kernel.load()
        await kernel.name_links(self._settings.link_device)
        return intact

    async def run(self) -> None:
        """Look after the flows; runs until it is cancelled."""
        if self._flows is not None:
            await self._flows.run()

    async def observe(self, keys: frozenset[Frontend] | None) -> Mapping[Frontend, Forward]:
        """Return what is in the kernel, or for some keys what was last applied. Raises Transient, Permanent."""
        if keys is not None:
            return self._ledger.last_applied(keys)
        async with self._lock:
            kernel = self._opened()
            census = await self._read(kernel)
            observed = self._ledger.compare(census)
            self._looked = True
            strays = self._ledger.select_strays(census)
            if strays:
                _log.warning("nft.strays_removed", elements=len(strays))
                await kernel.write(compute_transaction([(strays, {})]))
            return observed

    async def _read(self, kernel: Kernel) -> Census:
        """Read everything; what is taken away from under our eyes is put back, and read again."""
        for _ in range(_ATTEMPTS):
            if self._watch is not None:
                self._watch.rearm()
            await self._prepare(kernel)
            try:
                return await kernel.read()
            except KernelRefusal as error:
                if error.code != errno.ENOENT:
                    raise
        raise Transient("somebody takes our table away whenever it is loaded; the log names the process ids")

    def _opened(self) -> Kernel:
        if self._kernel is None:
            raise Transient("the kernel plane is not started")
        return self._kernel

    async def apply(self, changes: Changes[Frontend, Forward]) -> Mapping[Frontend, Failure]:
        """Make the changes in one transaction. Raises Transient, Permanent where the kernel refuses it as a whole.

        What could not be an element is returned as a failure, and the rest is done.
        """
        async with self._lock:
            kernel = self._opened()
            failures: dict[Frontend, Failure] = {}
            wanted: dict[Frontend, Forward | None] = dict.fromkeys(changes.remove)
            for frontend, forward in (*changes.add.items(), *changes.change.items()):
                failure = judge(frontend, forward)
                if failure is None:
                    wanted[frontend] = forward
                else:
                    failures[frontend] = failure
            await self._write(kernel, wanted)
            return failures

    async def _write(self, kernel: Kernel, wanted: Mapping[Frontend, Forward | None]) -> None:
        """Write in one transaction; at a cold start in several, so that the loop breathes and memory stays small."""
        strange = self._ledger.strange(wanted)
        rules = (await kernel.read(strange)).rules if strange else {}
        await kernel.ensure_timeouts({f.affinity_seconds for f in wanted.values() if f and f.affinity_seconds})
        left = iter(wanted.items())
        while some := dict(islice(left, _LARGE)):
            await self._write_some(kernel, self._ledger.plan(some, rules))
            await asyncio.sleep(0)

    async def _write_some(self, kernel: Kernel, plan: Plan) -> None:
        if plan.transaction:
            if self._flows is not None:
                self._flows.note(plan.transaction.delete)
            await kernel.write(plan.transaction)
        self._ledger.settle(plan)
        purges = compute_purges(plan.steps)
        if purges:
            await self._forget(kernel, purges)
        if self._flows is not None:
            self._flows.take(plan.steps)

    @staticmethod
    async def _forget(kernel: Kernel, purges: Sequence[Purge]) -> None:
        try:
            await kernel.forget_clients(purges)
        except WorldError as error:  # what was applied is in the kernel; clients find out by themselves
            _log.warning("nft.clients_not_forgotten", error=str(error))

    async def look(self, wanted: Mapping[Frontend, Forward]) -> Mapping[Frontend, Forward]:
        """Return what is in the kernel, changing nothing: for commands beside a daemon, or without one.

        The kernel does not know to which Service its elements belong: what is as `wanted` is reported as that, all else
        by its backends, as nobody's. Raises Transient, Permanent.
        """
        digests = {f: digest(render_rules(f, forward)) for f, forward in wanted.items() if judge(f, forward) is None}
        with NfSocket() as opened:
            kernel = Kernel(opened)
            census = await kernel.read() if kernel.is_intact() else Census()
            others = [frontend for frontend, number in census.digests.items() if digests.get(frontend) != number]
            found = await kernel.read(others) if others else Census()
        as_wanted = {frontend: wanted[frontend] for frontend in census.digests if frontend not in found.rules}
        return {**as_wanted, **{frontend: guess_forward(rules) for frontend, rules in found.rules.items() if rules}}

    async def render(self, changes: Changes[Frontend, Forward]) -> str:
        """Write as text for `nft -f -` what `apply` would, changing nothing; a missing table comes first.

        Raises Transient, Permanent.
        """
        able = {f: rule for f, rule in {**changes.add, **changes.change}.items() if judge(f, rule) is None}
        wanted: dict[Frontend, Forward | None] = {**able, **dict.fromkeys(changes.remove)}
        ledger = Ledger()
        with NfSocket() as opened:
            kernel = Kernel(opened)
            intact = kernel.is_intact()
            ledger.compare(await kernel.read() if intact else Census())
            strange = ledger.strange(wanted)
            rules = (await kernel.read(strange)).rules if strange else {}
        text = render_transaction(ledger.plan(wanted, rules).transaction)
        return text if intact or not text else render_skeleton() + text

    async def remove(self, *, dry_run: bool = False) -> bool:
        """Take the table away, without a `start`; was there one? Raises Transient, Permanent."""
        with NfSocket() as opened:
            kernel = Kernel(opened)
            there = kernel.remove(dry_run=dry_run)
        if not dry_run:
            self._meter.restore()
        if there and not dry_run:
            await forget_all(self._connect)
        return there

    async def stop(self, *, keep: bool) -> None:
        """Leave table and flows to the next daemon, or end both."""
        if self._flows is not None and not keep:
            await self._finish(self._flows)
        async with self._lock:
            if self._kernel is not None and not keep:
                self._meter.restore()
                self._kernel.remove()
            self._close()

    def counters(self) -> Mapping[Frontend, ServiceCounters]:
        """What was counted since `start`, some seconds old; frontends that nobody asked are not in it."""
        return {} if self._flows is None else self._flows.counters

    async def drain(self, seconds: float) -> int:
        """Wait until no flow is left, at most so long; return how many are."""
        return 0 if self._flows is None else await self._flows.drain(seconds)

    @staticmethod
    async def _finish(flows: Flows) -> None:
        try:
            await flows.finish()
        except WorldError as error:  # the table goes all the same, and nobody waits for a better end
            _log.warning("nft.flows_left", error=str(error))

    def _close(self) -> None:
        if self._flows is not None:
            self._flows.close()
        if self._watch is not None:
            self._watch.close()
        if self._kernel is not None:
            self._kernel.close()
        self._anchor.close()
        self._flows, self._watch, self._kernel, self._ledger = None, None, None, Ledger()
