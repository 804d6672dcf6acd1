"""Keeps a slow API server from holding up the kernel: writes that may wait go to a queue, the others get a deadline.

PUBLISH ─► DeferredTarget: queue ─► run: batches, removals first ─► failed? ─► remembered, and the loop told
CLAIM   ─► BoundedTarget:  as many as there is time for; the rest counts as failed, and is tried again
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import structlog

from littlelb.core.errors import WorldError
from littlelb.core.interfaces import Clock, Phase, Target
from littlelb.core.model import Key
from littlelb.core.plan import Changes, Failure, Severity
from littlelb.core.reasons import Reason
from littlelb.core.state import DesiredState
from littlelb.kube.writes.service_writer import failure_from

V = TypeVar("V")
BATCH_KEYS = 40
CHUNK_KEYS = 8
_log = structlog.get_logger(__name__)


class _Around(Generic[V]):
    """What is the same, whoever applies the changes."""

    def __init__(self, inner: Target[Key, V]) -> None:
        self._inner = inner

    @property
    def phase(self) -> Phase:
        """Stand where the other one stands."""
        return self._inner.phase

    def wanted(self, state: DesiredState) -> Mapping[Key, V]:
        """Select what the other one wants."""
        return self._inner.wanted(state)

    async def observe(self, keys: frozenset[Key] | None) -> Mapping[Key, V]:
        """Answer as the other one does."""
        return await self._inner.observe(keys)


class DeferredTarget(_Around[V]):
    """Another target whose changes are applied by a task of their own."""

    def __init__(self, inner: Target[Key, V], on_outcome: Callable[[bool], None]) -> None:
        """`on_outcome(failed)` is called when a batch failed (True), or when what had failed was made good (False)."""
        super().__init__(inner)
        self._on_outcome = on_outcome
        self._removals: dict[Key, V] = {}
        self._writes: dict[Key, V] = {}
        self._failed: dict[Key, Failure] = {}
        self._woken = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()

    async def apply(self, changes: Changes[Key, V]) -> Mapping[Key, Failure]:
        """Take the changes; return what is known to have failed before and is tried again now."""
        for key, value in changes.remove.items():
            self._writes.pop(key, None)
            self._removals[key] = value
        for key, value in (*changes.add.items(), *changes.change.items()):
            self._removals.pop(key, None)
            self._writes[key] = value
        if changes:
            self._idle.clear()
            self._woken.set()
        asked = {*changes.add, *changes.change, *changes.remove}
        return {key: failure for key, failure in self._failed.items() if key in asked}

    async def run(self) -> None:
        """Write what is queued, for ever."""
        while True:
            await self._woken.wait()
            while batch := self._take():
                await self._write(batch)
            self._woken.clear()
            self._idle.set()

    async def flush(self, seconds: float) -> bool:
        """Wait until nothing is queued, at most so long; False: something is left. `run` has to be running."""
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("status.unwritten", left=len(self._removals) + len(self._writes))
            return False
        return True

    def _take(self) -> Changes[Key, V] | None:
        """Take the next batch off the queue; what goes comes first."""
        removals = {key: self._removals.pop(key) for key in list(self._removals)[:BATCH_KEYS]}
        writes = {key: self._writes.pop(key) for key in list(self._writes)[: BATCH_KEYS - len(removals)]}
        return Changes(writes, {}, removals) if removals or writes else None

    async def _write(self, batch: Changes[Key, V]) -> None:
        failed = await self._inner.apply(batch)
        mended = [key for key in (*batch.add, *batch.remove) if key not in failed and key in self._failed]
        for key in mended:
            del self._failed[key]
            _log.info("status.written_again", service=key)
        for key in failed.keys() - self._failed.keys():
            say = _log.error if failed[key].severity is Severity.PERMANENT else _log.warning
            say("status.failed", service=key, reason=failed[key].reason, error=failed[key].message)
        self._failed.update(failed)
        if failed or mended:
            self._on_outcome(bool(failed))


class BoundedTarget(_Around[V]):
    """Another target whose changes have to be made before anything else goes on, but not at any price."""

    def __init__(self, inner: Target[Key, V], clock: Clock, seconds: float = 2.0) -> None:
        """Give each `apply` about so many seconds."""
        super().__init__(inner)
        self._clock, self._seconds = clock, seconds

    async def apply(self, changes: Changes[Key, V]) -> Mapping[Key, Failure]:
        """Make as many changes as there is time for."""
        deadline = self._clock.monotonic() + self._seconds
        failures: dict[Key, Failure] = {}
        entries = [("add", key, value) for key, value in (*changes.add.items(), *changes.change.items())]
        entries += [("remove", key, value) for key, value in changes.remove.items()]
        for start in range(0, len(entries), CHUNK_KEYS):
            chunk = entries[start : start + CHUNK_KEYS]
            failures.update(await self._within(chunk, deadline - self._clock.monotonic()))
        return failures

    async def _within(self, chunk: list[tuple[str, Key, V]], seconds: float) -> Mapping[Key, Failure]:
        add = {key: value for verb, key, value in chunk if verb == "add"}
        remove = {key: value for verb, key, value in chunk if verb == "remove"}
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                return await self._inner.apply(Changes(add, {}, remove))
        except TimeoutError:
            late = Failure(Reason.PENDING, "the API server has not taken our finalizer yet; it is asked again")
            return dict.fromkeys((*add, *remove), late)
        except WorldError as error:
            return dict.fromkeys((*add, *remove), failure_from(error))
