"""Follows a folder of manifests and tells the store what is in it: a file's last sound content counts, always.

    inotify, or a look every 2 s ─→ wait until it is quiet ─→ read what changed (in a thread) ─→ merge ─→ sinks

A file with an error keeps the objects of its last sound version, all of them, and takes no other; as long as it has had
no sound version, its sound documents count. A file that is gone takes its objects along. A folder that cannot be listed
leaves everything as it is.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from littlelb.core.interfaces import Sink
from littlelb.core.model import EndpointSlice, Node, Service
from littlelb.kube.folder.documents import ManifestError, parse_file, printable
from littlelb.kube.folder.files import MAX_FILES, Stamp, list_names, places, read_file
from littlelb.kube.folder.inotify import Inotify
from littlelb.kube.folder.objects import Manifest, Thing, read_manifest

T = TypeVar("T", bound=Thing)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Pace:
    """How changes are noticed."""

    open_inotify: Callable[[], Inotify] = Inotify
    quiet_seconds: float = 0.05
    """A change is read when nothing more happened for so long, at the latest after ten times as long."""
    poll_seconds: float = 2.0
    """Between looks while inotify cannot tell of changes."""
    resync_seconds: float = 30.0
    """Between looks while it can: network file systems change without a word."""
    max_files: int = MAX_FILES


_PACE = Pace()


@dataclass(frozen=True, slots=True)
class _File:
    """What is known of one file."""

    stamp: Stamp | None = None
    digest: bytes = b""
    errors: tuple[ManifestError, ...] = ()
    manifest: Manifest = field(default_factory=Manifest)
    """The version in force."""
    sound: bool = False
    """Has it ever been without an error?"""


@dataclass(frozen=True, slots=True)
class _Merged:
    """What all files together say."""

    things: Mapping[tuple[str, str], Thing]
    errors: tuple[ManifestError, ...]


class _Feed(Generic[T]):
    """Tells one sink of what is new, what changed and what is gone."""

    def __init__(self, kind: str, sink: Sink[T]) -> None:
        self._kind = kind
        self._sink = sink
        self._told: dict[str, T] = {}

    def tell(self, things: Mapping[tuple[str, str], Thing]) -> None:
        found: dict[str, T] = {key: thing for (kind, key), thing in things.items() if kind == self._kind}  # type: ignore[misc]
        for key, thing in found.items():
            if self._told.get(key) != thing:
                self._sink.upsert(thing)
        self._sink.retain(frozenset(found))
        self._told = found


class FolderSource:
    """The folder as a source of Services, EndpointSlices and Nodes. Only top-level *.yaml, *.yml and *.json count."""

    def __init__(
        self,
        directory: Path,
        services: Sink[Service],
        slices: Sink[EndpointSlice],
        nodes: Sink[Node],
        on_error: Callable[[tuple[ManifestError, ...]], None] | None = None,
        pace: Pace = _PACE,
    ) -> None:
        """Read nothing yet. `on_error` gets all errors whenever they change, and an empty tuple when all is well."""
        self._directory = directory
        self._services = _Feed[Service]("Service", services)
        self._slices = _Feed[EndpointSlice]("EndpointSlice", slices)
        self._nodes = _Feed[Node]("Node", nodes)
        self._on_error = on_error
        self._pace = pace
        self._files: dict[str, _File] = {}
        self._errors: tuple[ManifestError, ...] = ()
        self._ignored: frozenset[tuple[str, str]] = frozenset()
        self._polling = ""

    @property
    def errors(self) -> tuple[ManifestError, ...]:
        """What is wrong in the folder now."""
        return self._errors

    def load_once(self) -> None:
        """Read the folder now and tell the sinks; blocks for as long as the disk takes."""
        self._take(self._read())

    async def run(self) -> None:
        """Follow the folder until cancelled."""
        wake = asyncio.Event()
        inotify = self._open_inotify()
        try:
            if inotify is not None:
                inotify.start(asyncio.get_running_loop(), wake.set)
            while True:
                followed = await asyncio.to_thread(self._watch, inotify)
                # Watched first, read after: a change between the two is seen twice, never missed.
                self._take(await asyncio.to_thread(self._read))
                await self._quiet(wake, self._pace.resync_seconds if followed else self._pace.poll_seconds)
        finally:
            if inotify is not None:
                inotify.close()

    # --- reading -----------------------------------------------------------------------------------------------------

    def _read(self) -> dict[str, _File] | ManifestError:
        """Read what changed since the last time; touches no state, so that it may run in a thread."""
        try:
            names = list_names(self._directory)
        except OSError as why:
            return ManifestError(str(self._directory), 0, 0, f"the folder cannot be listed: {why.strerror}")
        if len(names) > self._pace.max_files:
            return ManifestError(
                str(self._directory), 0, 0, f"more than {self._pace.max_files} manifests in the folder"
            )
        found = ((name, self._read_file(name, self._files.get(name, _File()))) for name in names)
        return {name: file for name, file in found if file is not None}

    def _read_file(self, name: str, before: _File) -> _File | None:
        read = read_file(self._directory / name, before.stamp)
        if read is None:
            return None
        if read.error:
            error = ManifestError(printable(name), 0, 0, read.error)
            return _File(read.stamp, b"", (error,), before.manifest, before.sound)
        if read.text is None:
            return before
        digest = sha256(read.text).digest()
        if digest == before.digest:
            return _File(read.stamp, digest, before.errors, before.manifest, before.sound)
        manifest = read_manifest(printable(name), parse_file(printable(name), read.text))
        errors = tuple(manifest.errors)
        if errors and before.sound:
            return _File(read.stamp, digest, errors, before.manifest, sound=True)
        if errors:
            manifest.things = {**before.manifest.things, **manifest.things}
        return _File(read.stamp, digest, errors, manifest, sound=not errors)

    # --- telling -----------------------------------------------------------------------------------------------------

    def _take(self, read: dict[str, _File] | ManifestError) -> None:
        """Make what was read the state, and tell the sinks and whoever wants to know of errors."""
        if isinstance(read, ManifestError):
            self._report((read, *_merge(self._files).errors))
            return
        self._files = read
        merged = _merge(read)
        for feed in (self._services, self._slices, self._nodes):
            feed.tell(merged.things)
        self._report(merged.errors)
        ignored = frozenset((name, kind) for name, file in read.items() for kind in file.manifest.ignored)
        for name, kind in sorted(ignored - self._ignored):
            _log.info("manifests.ignored", file=name, kind=kind)
        self._ignored = ignored

    def _report(self, errors: tuple[ManifestError, ...]) -> None:
        """Log each error once, and its recovery once."""
        for error in errors:
            if error not in self._errors:
                _log.error(
                    "manifests.error", file=error.file, document=error.document, line=error.line, reason=error.reason
                )
        for file in sorted({error.file for error in self._errors} - {error.file for error in errors}):
            _log.info("manifests.recovered", file=file)
        changed = errors != self._errors
        self._errors = errors
        if changed and self._on_error is not None:
            self._on_error(errors)

    # --- following ---------------------------------------------------------------------------------------------------

    def _open_inotify(self) -> Inotify | None:
        try:
            return self._pace.open_inotify()
        except OSError as why:
            self._say_polling(f"inotify: {why.strerror}")
            return None

    def _watch(self, inotify: Inotify | None) -> bool:
        """Watch all places where a change would show; False where only looking again and again will do."""
        if inotify is None:
            return False
        try:
            inotify.watch(places(self._directory).items())
        except OSError as why:
            self._say_polling(f"{why.filename or 'inotify'}: {why.strerror}")
            return False
        self._say_polling("")
        return True

    async def _quiet(self, wake: asyncio.Event, seconds: float) -> None:
        """Wait until something happened and then was quiet for a moment, or for so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await wake.wait()
        except TimeoutError:
            return
        for _ in range(10):
            wake.clear()
            await asyncio.sleep(self._pace.quiet_seconds)
            if not wake.is_set():
                return

    def _say_polling(self, reason: str) -> None:
        if reason != self._polling:
            event = "manifests.polling" if reason else "manifests.following"
            _log.warning(event, reason=reason, seconds=self._pace.poll_seconds if reason else self._pace.resync_seconds)
        self._polling = reason


def _merge(files: Mapping[str, _File]) -> _Merged:
    """Join the files in order of their names; an object that two of them define belongs to the first."""
    things: dict[tuple[str, str], tuple[Thing, ManifestError]] = {}
    errors: list[ManifestError] = []
    for name in sorted(files):
        file = files[name]
        errors += file.errors
        for (kind, key), (thing, place) in file.manifest.things.items():
            known = things.setdefault((kind, key), (thing, place))
            if known[0] is not thing:
                first = known[1]
                reason = f"{kind} {key} is already defined in {first.file}, document {first.document}"
                errors.append(ManifestError(place.file, place.document, place.line, reason))
    return _Merged({at: thing for at, (thing, _) in things.items()}, tuple(errors))
