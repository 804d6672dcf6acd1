"""Writes Events on Services (events.k8s.io/v1, KEP-383) for `kubectl describe`, without ever holding up the loop.

    record ─► same text within 10 min? ─ yes ─► count it ──► queue ─► run: create, or patch `series`
                     └─ no: a new Event ─► object's bucket empty, or queue full? ─ yes ─► dropped and counted

A repeat whose object has no token is only counted; the next one that has a token writes the sum.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any

import msgspec
import structlog

from littlelb.core.errors import Transient, WorldError
from littlelb.core.interfaces import Clock
from littlelb.core.model import Service
from littlelb.kube.client import EVENTS, Api, Conflict, Invalid, NotFound, PatchType, Reference
from littlelb.kube.writes.budget import TokenBucket

REPORTING_CONTROLLER = "littlelb.io/littlelb"
QUEUE_LENGTH = 1_000
SERIES_SECONDS = 600.0
OBJECT_BURST = 25
OBJECT_RATE_PER_SECOND = 1 / 300
PAUSES_SECONDS = (1.0, 2.0, 4.0, 8.0)
"""Between the attempts to write one Event."""
LONGEST_WISH_SECONDS = 30.0
NOTE_BYTES = 1_024
"""The API counts bytes, though it says characters."""
WORD_LENGTH = 128

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Event:
    """One Event object, and how often its text was recorded."""

    reference: Reference
    body: dict[str, Any]
    seen_at: float
    """Monotonic seconds of the last time."""
    count: int = 1
    written: int = 0
    """The count that the API server knows; 0: there is no object yet."""
    queued: bool = False


@dataclass(slots=True)
class Tally:
    """What became of everything that was recorded, for metrics and tests."""

    recorded: int = 0
    written: int = 0
    """Requests that succeeded: creations and series."""
    dropped: int = 0
    """New Events that found no token or no place in the queue, or were given up."""


@dataclass(frozen=True, slots=True)
class Desk:
    """What the recorder works with."""

    api: Api
    budget: TokenBucket
    """Shared with the other writers."""
    clock: Clock
    random: Random
    """For the names of Events."""
    instance: str
    """`reportingInstance`: this process, at most 128 characters, e.g. the host's name."""


@dataclass(slots=True)
class _Memory:
    """What was said lately, and how much each object may still say."""

    events: dict[tuple[str, ...], _Event] = field(default_factory=dict)
    """By uid, type, reason, action and note."""
    buckets: dict[str, TokenBucket] = field(default_factory=dict)
    pruned_at: float = 0.0


class Recorder:
    """Takes Events at once, writes them by and by."""

    def __init__(self, desk: Desk) -> None:
        """Nothing is written before `run`."""
        self._desk = desk
        self._queue: deque[_Event] = deque()
        self._filled = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._memory = _Memory()
        self.tally = Tally()

    def record(self, service: Service, event_type: str, reason: str, action: str, note: str) -> None:
        """Note that something happened to a Service; never blocks, never raises.

        `event_type` is Normal or Warning; `reason` and `action` are CamelCase words.
        """
        self.tally.recorded += 1
        now = self._desk.clock.monotonic()
        self._prune(now)
        key = (service.uid, event_type, reason, action, note)
        event = self._memory.events.get(key)
        if event is not None and now - event.seen_at < SERIES_SECONDS:
            event.count += 1
            event.seen_at = now
            if not event.queued and self._may_write(service.uid):
                self._enqueue(event)
            return
        if not self._may_write(service.uid) or len(self._queue) >= QUEUE_LENGTH:
            self.tally.dropped += 1
            return
        event = self._new(service, event_type, reason, action, note)
        self._memory.events[key] = event
        self._enqueue(event)

    async def run(self) -> None:
        """Write what is recorded, for ever."""
        while True:
            await self._filled.wait()
            while self._queue:
                event = self._queue.popleft()
                event.queued = False
                await self._write(event)
            self._filled.clear()
            self._idle.set()

    async def flush(self, timeout: float) -> None:
        """Wait until all is written, but not longer than `timeout` seconds; `run` has to be running."""
        try:
            async with asyncio.timeout(timeout):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("events.unwritten", left=len(self._queue))

    # --- what is said ---

    def _new(self, service: Service, event_type: str, reason: str, action: str, note: str) -> _Event:
        name = f"{service.name}.{self._desk.random.getrandbits(64):016x}"
        body = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"namespace": service.namespace, "name": name},
            "eventTime": render_micro_time(self._desk.clock.now()),
            "reportingController": REPORTING_CONTROLLER,
            "reportingInstance": self._desk.instance[:WORD_LENGTH],
            "action": action[:WORD_LENGTH],
            "reason": reason[:WORD_LENGTH],
            "type": event_type,
            "note": render_note(note),
            "regarding": {
                "apiVersion": "v1",
                "kind": "Service",
                "namespace": service.namespace,
                "name": service.name,
                "uid": service.uid,
            },
        }
        return _Event(Reference(EVENTS, service.namespace, name), body, self._desk.clock.monotonic())

    def _may_write(self, uid: str) -> bool:
        bucket = self._memory.buckets.get(uid)
        if bucket is None:
            bucket = TokenBucket(OBJECT_RATE_PER_SECOND, OBJECT_BURST, self._desk.clock)
            self._memory.buckets[uid] = bucket
        return bucket.try_take()

    def _enqueue(self, event: _Event) -> None:
        if len(self._queue) >= QUEUE_LENGTH:
            return  # a repeat: its count is kept, and goes with the next one
        event.queued = True
        self._queue.append(event)
        self._filled.set()
        self._idle.clear()

    def _prune(self, now: float) -> None:
        """Forget what is over, once a minute."""
        memory = self._memory
        if now - memory.pruned_at < 60:
            return
        memory.pruned_at = now
        memory.events = {k: e for k, e in memory.events.items() if e.queued or now - e.seen_at < SERIES_SECONDS}
        memory.buckets = {uid: bucket for uid, bucket in memory.buckets.items() if not bucket.full}

    # --- how it is written ---

    async def _write(self, event: _Event) -> None:
        """Try a bounded number of times; one line in the log when it is given up."""
        for pause in (*PAUSES_SECONDS, None):
            await self._desk.budget.take()
            try:
                await self._send(event)
            except WorldError as error:
                if pause is None or not _may_pass(error):
                    self._give_up(event, error)
                    return
                await self._desk.clock.sleep(max(pause, _wish(error)))
            else:
                self.tally.written += 1
                return

    def _give_up(self, event: _Event, error: WorldError) -> None:
        self.tally.dropped += 1
        event.seen_at = float("-inf")  # a repeat begins a new Event
        say = _log.info if isinstance(error, NotFound) else _log.warning  # an object's end is no fault of anybody's
        regarding = f"{event.reference.namespace}/{event.body['regarding']['name']}"
        say("events.dropped", service=regarding, reason=event.body["reason"], error=str(error))

    async def _send(self, event: _Event) -> None:
        count = event.count
        if event.written:
            await self._patch_series(event, count)
        else:
            await self._create(event, count)
        event.written = count

    async def _create(self, event: _Event, count: int) -> None:
        body = event.body | ({"series": self._series(count)} if count > 1 else {})
        try:
            await self._desk.api.create(Reference(EVENTS, event.reference.namespace), msgspec.json.encode(body))
        except Conflict:
            return  # an attempt before this one was taken, though its answer was lost

    async def _patch_series(self, event: _Event, count: int) -> None:
        patch = msgspec.json.encode({"series": self._series(count)})
        try:
            await self._desk.api.patch(event.reference, patch, PatchType.MERGE)
        except NotFound:  # the API server keeps Events for an hour only
            await self._create(event, count)

    def _series(self, count: int) -> dict[str, object]:
        return {"count": count, "lastObservedTime": render_micro_time(self._desk.clock.now())}


def _may_pass(error: WorldError) -> bool:
    """404 on creation is a namespace that is gone, 422 a text that will not become better."""
    return isinstance(error, Transient) and not isinstance(error, NotFound | Invalid)


def _wish(error: WorldError) -> float:
    """Retry-After, within reason."""
    return min(getattr(error, "retry_after_seconds", None) or 0.0, LONGEST_WISH_SECONDS)


def render_micro_time(now: float) -> str:
    """meta/v1 MicroTime: RFC 3339 with microseconds, UTC."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def render_note(text: str) -> str:
    """Escape control characters, and cut to 1,024 bytes with an ellipsis."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)
    encoded = shown.encode("utf-8", "replace")
    if len(encoded) <= NOTE_BYTES:
        return encoded.decode()
    return encoded[: NOTE_BYTES - 3].decode(errors="ignore") + "…"
