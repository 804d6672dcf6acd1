"""The daemon's life: lock, build, run until a signal, then withdraw or leave everything for the next start.

start ─► adopt workers ─► sources heard (or the state file after 5 s) ─► loop … ─► signal ─► withdraw | keep ─► 0
"""

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

import structlog

from littlelb import __version__
from littlelb.app.clock import SystemClock
from littlelb.app.faults import FaultLog
from littlelb.app.parts import Parts, build_parts
from littlelb.app.reports import Reporter
from littlelb.app.signals import Stop, StopSignals
from littlelb.config import Config, OnExit
from littlelb.core.errors import ConfigError, WorldError
from littlelb.core.interfaces import Clock
from littlelb.core.model import Plane
from littlelb.host.instance import InstanceLock
from littlelb.host.netlink import Netlink
from littlelb.web.metrics import Metrics
from littlelb.web.routes import Views, build_private_app, build_public_app
from littlelb.web.server import serve_tcp, serve_unix

PATIENCE_SECONDS = 5.0
"""How long the API server may take to list everything before the state file is used."""
SETTLE_PASS_SECONDS = 2.0
"""What a pass that is under way may still take."""
WITHDRAW_SECONDS = 7.0
"""What a withdrawal may take beside the drain."""
WITHDRAW_WRITES_PER_SECOND = 200
"""Withdrawing writes two or three times on each Service, and somebody waits for the exit."""
SAVE_SECONDS = 0.5
"""A crash while the API server is away costs the memory of so much."""
SAVE_PAUSES = 20
"""Saving takes at most a twentieth of the time, however much changes."""
COUNT_SECONDS = 4.0
SWITCH_SECONDS = 0.001
"""How long a thread that computes (a report, metrics) may keep the loop from an event; by default 5 ms."""
YOUNG_OBJECTS = 20_000
"""So many new objects before the garbage collector looks at them; by default 700, which is a Service or two."""
PROGRESS_SECONDS = 2.0
CONFIG_SECONDS = 2.0
STUCK_SECONDS = 120.0
log = structlog.get_logger(__name__)


async def run(config: Config) -> int:
    """Be the daemon until a signal says otherwise; the exit code. Raises `ConfigError`, `Permanent`, `Transient`."""
    tune_interpreter()
    clock = SystemClock()
    with InstanceLock(clock.now):
        async with Netlink() as netlink:
            signals = StopSignals(asyncio.get_running_loop())
            parts = await build_parts(config, clock, netlink)
            log.info("daemon.started", version=__version__, pid=os.getpid(), device=config.linkdevice)
            daemon = Daemon(config, parts, clock)
            try:
                stop = await daemon.run(signals)
            finally:
                await parts.close()
            log.info("daemon.ended", by=stop.value)
            return 0


class Daemon:
    """The tasks, and what becomes of them."""

    def __init__(self, config: Config, parts: Parts, clock: SystemClock) -> None:
        """Start nothing yet."""
        self._config, self._parts, self._clock = config, parts, clock
        self._reporter = Reporter(config, parts, clock)
        self._metrics = Metrics()
        parts.on_pass.append(self._reporter.take)
        parts.on_pass.append(FaultLog().take)
        parts.on_pass.append(lambda result: self._metrics.observe_pass(result.report))
        parts.on_write.append(lambda seconds: self._metrics.observe_write(Plane.NFT, seconds))

    async def run(self, signals: StopSignals) -> Stop:
        """Work until a signal, then go in order."""
        parts = self._parts
        await parts.planes.start()
        parts.take_settings(parts.config)
        parts.recognise(await parts.planes.pipe.observe(None))
        await parts.see_listeners()
        outer: dict[str, Coroutine[Any, Any, None]] = {"planes": parts.planes.run(), **self._writers()}
        inner = self._workers()
        async with asyncio.TaskGroup() as writers:
            writing = [writers.create_task(_forever(name, work), name=name) for name, work in outer.items()]
            async with asyncio.TaskGroup() as group:
                working = [group.create_task(_forever(name, work), name=name) for name, work in inner.items()]
                stop = await signals.wait()
                await parts.loop.settle(SETTLE_PASS_SECONDS)
                _cancel(working)
            await self._leave(stop)
            _cancel(writing)
        return stop

    def _workers(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """Everything that ends before the withdrawal."""
        parts, config = self._parts, self._config
        views = Views(
            report=self._reporter.report,
            details=lambda: self._reporter.report(with_backends=True),
            metrics=self._metrics.render,
            stuck=self._stuck,
            trace=self._reporter.trace,
        )
        tasks = {
            **parts.source.tasks(),
            "host facts": parts.monitor.run(),
            "questions to the LAN": parts.address.run(),
            "announcements": parts.announce.run(),
            "loop": parts.loop.run(),
            "first sync": self._await_source(),
            "state file": self._save(),
            "counters": self._count(),
            "settings": self._follow_settings(),
            "status socket": serve_unix(build_private_app(views), config.run_dir, self._clock),
        }
        if config.listen is not None:
            names = frozenset({os.uname().nodename})
            public = build_public_app(views, names)
            tasks["status page"] = serve_tcp(public, config.listen.host, config.listen.port, self._clock)
        return tasks

    def _writers(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """Everything that is still needed while the withdrawal runs."""
        speech = self._parts.speech
        if speech is None:
            return {}
        return {"events": speech.recorder.run(), "status writer": speech.publish.run()}

    def _stuck(self) -> str:
        seconds = self._parts.loop.stuck_for()
        return f"the loop has been in one pass for {seconds:.0f} s" if seconds > STUCK_SECONDS else ""

    async def _leave(self, stop: Stop) -> None:
        """Withdraw everything, or leave everything as it is."""
        parts = self._parts
        keep = stop is Stop.KEEP or (self._config.on_exit is OnExit.KEEP and stop is Stop.TERMINATE)
        parts.save()
        if keep:
            log.info("daemon.keeps", effect="addresses, listeners and connections stay for the next start")
            await parts.planes.stop(keep=True)
            return
        drain = await self._drain_seconds()
        log.info("daemon.withdraws", drain_seconds=drain)
        if parts.speech is not None:
            for budget in parts.speech.budgets:
                budget.set_pace(WITHDRAW_WRITES_PER_SECOND, 2 * WITHDRAW_WRITES_PER_SECOND)
        try:
            async with asyncio.timeout(drain + WITHDRAW_SECONDS):
                await parts.loop.withdraw(parts.planes.drain)
                if parts.speech is not None:
                    await parts.speech.publish.flush(WITHDRAW_SECONDS / 2)
                    await parts.loop.withdraw(parts.planes.drain)
                    await parts.speech.recorder.flush(1.0)
        except TimeoutError:
            log.warning("daemon.withdrawal_cut", remedy="what is left is removed by the next start, or by cleanup")
        await parts.planes.stop(keep=False)
        parts.save()

    async def _drain_seconds(self) -> int:
        """Ask the planes, which may serve what an earlier daemon told them and this one has not looked at yet."""
        known = list(self._parts.reconciler.state.forwards.values())
        with suppress(WorldError):  # then what we know ourselves has to do
            known += (await self._parts.planes.switch.observe(None)).values()
        return max((forward.withdraw_seconds for forward in known), default=0)

    # --- tasks -------------------------------------------------------------------------------------------------------

    async def _await_source(self) -> None:
        """Show the progress of the first sync; after a while serve what the state file knows."""
        parts = self._parts
        started = shown = self._clock.monotonic()
        patient = True
        while not parts.source.synced:
            await self._clock.sleep(0.05)
            now = self._clock.monotonic()
            if patient and now - started > PATIENCE_SECONDS:
                patient = False
                parts.recall_world()
            if now - shown > PROGRESS_SECONDS:
                shown = now
                counts = {progress.kind: progress.objects for progress in parts.source.progress}
                log.info("source.syncing", source=parts.source.name, **counts)
        log.info("source.synced", source=parts.source.name, seconds=round(self._clock.monotonic() - started, 2))
        parts.source_answered()
        await spare_collector(lambda: parts.loop.last is not None, self._clock)
        await asyncio.Event().wait()

    async def _save(self) -> None:
        """Write the state file soon after the world has changed; the larger it is, the later."""
        pause = SAVE_SECONDS
        while True:
            await self._clock.sleep(pause)
            if self._parts.source.synced and self._parts.changed_since_save():
                began = self._clock.monotonic()
                pieces = []
                for piece in self._parts.encode_state(self._clock.now()):
                    pieces.append(piece)
                    await asyncio.sleep(0)  # an event that came meanwhile does not wait for the rest
                await asyncio.to_thread(self._parts.state_file.write, b"".join(pieces))
                pause = max(SAVE_SECONDS, SAVE_PAUSES * (self._clock.monotonic() - began))

    async def _count(self) -> None:
        """Ask the workers how many connections there are."""
        while True:
            await self._reporter.count()
            await self._clock.sleep(COUNT_SECONDS)

    async def _follow_settings(self) -> None:
        """Take a changed configuration file, or SIGHUP; a bad one leaves the old one in force."""
        path, config = self._config.config, self._config
        hangup = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hangup.set)
        stamp = _stamp(path)
        while True:
            try:
                async with asyncio.timeout(CONFIG_SECONDS):
                    await hangup.wait()
            except TimeoutError:
                if _stamp(path) == stamp:
                    continue
            hangup.clear()
            stamp = _stamp(path)
            config = self._reload(config)

    def _reload(self, old: Config) -> Config:
        try:
            new = old.reload()
        except ConfigError as error:
            log.error("config.refused", errors=list(error.errors), effect="the settings before stay in force")
            return old
        log.info("config.reloaded", effect="what decisions depend on is in force; other settings need a restart")
        self._parts.take_settings(new)
        return new


def _stamp(path: os.PathLike[str] | None) -> tuple[int, int] | None:
    """When a file was last written; None where there is none."""
    if path is None:
        return None
    try:
        found = os.stat(path)  # noqa: PTH116  (a PathLike)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()


def tune_interpreter() -> None:
    """Set the interpreter up for a loop that events wait for, with large worlds of values that hold no cycles."""
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])


async def spare_collector(decided: Callable[[], bool], clock: Clock) -> None:
    """Take the first world out of the garbage collector's sight: each of its walks over it would hold up the loop.

    At 10,000 Services a walk takes 0.1 to 0.2 s (bench/decide.py). What is replaced later is freed by its references as
    ever; the values hold no cycles.
    """
    while not decided():
        await clock.sleep(0.05)
    gc.collect()
    gc.freeze()
    log.debug("collector.spared", objects=gc.get_freeze_count())


async def _forever(name: str, work: Coroutine[Any, Any, None]) -> None:
    """A task that should run for ever and ends fails the process: the kernel's state stays."""
    await work
    raise RuntimeError(f"task {name} ended by itself")
