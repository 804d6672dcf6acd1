"""Keeps a Sink equal to one resource of the API server: list by pages, then watch, for ever.

    ┌──► LIST ──retain──► WATCH ──end, error──► pause ──┬──► WATCH again, from the last resourceVersion
    │                                                   │
    └──────── 410, broken stream, two dead watches ◄────┘

The list is taken in place, page by page; what it no longer holds is removed at its end, so a deletion that was missed
is made good. Until then the old state stays. Silence is normal on a watch: after 15 s without a byte a cheap request
decides whether the server is frozen; a watch that stays silent on a live server is opened again, and if it is silent
once more, the list is read again (a watch from a resourceVersion of the future, after a restored backup, says nothing).
An error event other than 410 counts as a dead watch too. Names and rules are those of client-go's Reflector.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from math import inf
from random import Random
from typing import Generic, TypeVar, assert_never

import msgspec
import structlog

from littlelb.core.errors import Permanent, Transient, WorldError
from littlelb.core.interfaces import Clock, Keyed, Sink
from littlelb.kube.client import Api, ApiStatus, EventType, Gone, Invalid, Page, Selection, Watch, WatchEvent
from littlelb.kube.pace import Backoff

log = structlog.get_logger(__name__)

SLICE_ITEMS = 64
"""So many objects are taken before other tasks get their turn."""
SILENCE_SECONDS = 15.0
TELL_SECONDS = 5.0
"""A list that takes longer says so often how far it is."""
DEAD_SECONDS = 150.0
"""A real server sends a bookmark about once a minute; 75 s without one were seen."""
SETTLED_SECONDS = 3.0
"""After a failure, a watch that lives so long counts as a recovery."""
HEALTHY_SECONDS = 10.0
"""A watch that lived so long ends the backoff; a list older than this may be followed by another at once."""


K = TypeVar("K", bound=Keyed)


@dataclass(frozen=True, slots=True)
class Kind(Generic[K]):
    """What to reflect, and how it is read."""

    selection: Selection
    decode_page: Callable[[bytes], Page[K]]
    decode_event: Callable[[bytes], WatchEvent[K]]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the list is."""

    items: int = 0
    remaining: int | None = None
    """None: unknown."""


class _Stale(Transient):
    """What we know cannot be brought up to date by watching: list again."""


class Reflector(Generic[K]):
    """One resource; `run` is a task that ends only by being cancelled."""

    def __init__(
        self,
        api: Api,
        kind: Kind[K],
        sink: Sink[K],
        clock: Clock,
        random: Random,
        probe: Callable[[], Awaitable[None]],
    ) -> None:
        """`probe` raises when the server does not answer a cheap request; reflectors share one (`pace.SharedProbe`)."""
        self._api = api
        self._kind = kind
        self._sink = sink
        self._clock = clock
        self._random = random
        self._probe = probe
        self._log = log.bind(resource=kind.selection.resource.plural)
        self._backoff = Backoff(random)
        self._version: str | None = None
        self._listed_at = self._told_at = -inf
        self._watched_at = -inf
        self._dead_watches = 0
        self._failing = False
        self._refused = ""
        self._synced = False
        self._connected = False
        self._progress = Progress()

    @property
    def synced(self) -> bool:
        """Has been listed completely at least once."""
        return self._synced

    @property
    def connected(self) -> bool:
        """A watch is open, and nothing speaks against it."""
        return self._connected

    @property
    def refused(self) -> str:
        """Why the server will not let us read, and will not by itself (401, 403 …); empty: it does, or is away."""
        return self._refused

    @property
    def progress(self) -> Progress:
        """Of the current, or the last, list."""
        return self._progress

    async def run(self) -> None:
        """List and watch until cancelled."""
        while True:
            try:
                await self._reflect()
                pause = self._after_end()
            except WorldError as error:
                pause = self._after_failure(error)
            await self._clock.sleep(pause)

    async def _reflect(self) -> None:
        if self._version is None:
            self._version = await self._list()
        await self._watch(self._version)

    # --- what follows from an end ---

    def _after_end(self) -> float:
        """The server ended the watch in order: go on at once, unless it does so all the time."""
        if self._lived() >= HEALTHY_SECONDS:
            self._backoff.reset()
            return 0.0  # and still `connected`: this happens every few minutes
        self._connected = False
        return self._backoff.next()

    def _after_failure(self, error: WorldError) -> float:
        self._connected = False
        self._report(error)
        relist = isinstance(error, (Gone, Invalid, _Stale))
        if relist:
            self._version = None
        if self._lived() >= HEALTHY_SECONDS:
            self._backoff.reset()
        self._watched_at = inf  # this watch has been counted
        if relist and self._clock.monotonic() - self._listed_at > HEALTHY_SECONDS:
            return 0.0
        return self._backoff.next(error.retry_after_seconds if isinstance(error, Transient) else None)

    def _lived(self) -> float:
        return self._clock.monotonic() - self._watched_at

    def _report(self, error: WorldError) -> None:
        refused = isinstance(error, Permanent)
        if not self._failing or (refused and not self._refused):
            say = self._log.error if refused else self._log.warning
            say("reflector.failed", error=str(error), kind=type(error).__name__)
        self._failing = True
        if refused:
            self._refused = str(error)

    def _recovered(self) -> None:
        self._connected = True
        if self._failing:
            self._log.info("reflector.recovered")
        self._failing, self._refused = False, ""

    # --- LIST ---

    async def _list(self) -> str:
        self._listed_at = self._told_at = self._clock.monotonic()
        self._watched_at = inf
        self._progress = Progress()
        keys: set[str] = set()
        page = await self._page("")
        await self._take_page(page, keys)
        while page.continue_:
            page = await self._page(page.continue_)
            await self._take_page(page, keys)
        self._sink.retain(frozenset(keys))
        if not self._synced:
            self._log.info("reflector.synced", items=len(keys))
        self._synced = True
        return page.resource_version

    async def _page(self, continue_: str) -> Page[K]:
        try:
            return await self._api.list_page(self._kind.selection, self._kind.decode_page, continue_)
        except msgspec.MsgspecError as error:
            raise _Stale(f"a page of the list cannot be read: {error}") from error

    async def _take_page(self, page: Page[K], keys: set[str]) -> None:
        for start in range(0, len(page.items), SLICE_ITEMS):
            for item in page.items[start : start + SLICE_ITEMS]:
                keys.add(item.key)
                self._sink.upsert(item)
            await asyncio.sleep(0)
        self._progress = Progress(self._progress.items + len(page.items), page.remaining if page.continue_ else 0)
        if page.continue_ and self._clock.monotonic() - self._told_at >= TELL_SECONDS:
            self._told_at = self._clock.monotonic()
            self._log.info("reflector.listing", items=self._progress.items, remaining=self._progress.remaining)

    # --- WATCH ---

    async def _watch(self, version: str) -> None:
        self._watched_at = inf
        seconds = self._random.randint(300, 600)
        async with self._api.watch(self._kind.selection, version, seconds) as watch:
            self._watched_at = self._clock.monotonic()
            if not self._failing:
                self._recovered()
            while (lines := await self._read(watch)) is not None:
                for start in range(0, len(lines), SLICE_ITEMS):
                    for line in lines[start : start + SLICE_ITEMS]:
                        self._take(self._decode(line))
                    await asyncio.sleep(0)

    async def _read(self, watch: Watch) -> list[bytes] | None:
        """Wait for bytes; ask for a sign of life when there are none."""
        since = self._clock.monotonic()
        while True:
            try:
                async with asyncio.timeout(SETTLED_SECONDS if self._failing else SILENCE_SECONDS):
                    lines = await watch.read()
            except TimeoutError:
                await self._silent(self._clock.monotonic() - since)
                continue
            return lines

    async def _silent(self, seconds: float) -> None:
        if self._failing:
            self._recovered()
            return
        await self._probe()
        if seconds >= DEAD_SECONDS:
            raise self._dead(f"the watch said nothing for {DEAD_SECONDS:.0f} s")

    def _dead(self, text: str) -> Transient:
        """Open the watch again; the second time in a row, list again."""
        self._dead_watches += 1
        if self._dead_watches < 2:
            return Transient(f"{text}: opening it again")
        self._dead_watches = 0
        return _Stale(f"{text}, as did the one before: listing again")

    def _decode(self, line: bytes) -> WatchEvent[K]:
        try:
            return self._kind.decode_event(line)
        except msgspec.MsgspecError as error:
            raise _Stale(f"a line of the watch cannot be read: {error}") from error

    def _take(self, event: WatchEvent[K]) -> None:
        match event.type:
            case EventType.ADDED | EventType.MODIFIED:
                self._sink.upsert(_object(event))
            case EventType.DELETED:
                self._sink.remove(_object(event).key)
            case EventType.BOOKMARK:
                pass  # its resourceVersion is all it says
            case EventType.ERROR:
                raise self._parse_error(event)
            case _:
                assert_never(event.type)
        self._version = event.resource_version or self._version
        self._dead_watches = 0
        self._recovered()

    def _parse_error(self, event: WatchEvent[K]) -> Transient:
        status = event.object if isinstance(event.object, ApiStatus) else ApiStatus()
        text = f"the watch ended with an error: {status.message or status.reason or 'no reason given'}"
        return Gone(text) if status.code == 410 else self._dead(text)


def _object(event: WatchEvent[K]) -> K:
    if event.object is None or isinstance(event.object, ApiStatus):
        raise _Stale(f"a {event.type} event without an object")
    return event.object
