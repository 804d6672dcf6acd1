"""What is behind the fake API server: every version of every object, one counter for all, and a bounded history.

Theory: etcd's multi-version store as the API server shows it. Each write makes one new resourceVersion; a list at a
version sees exactly what was there then; a watch from a version hears every change after it, or `Expired` when the
history was compacted past it. Stored objects are never changed in place.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

Json: TypeAlias = dict[str, Any]


class Expired(Exception):
    """The version asked for has been compacted away."""


class Name(NamedTuple):
    """Names one object; sorts as the keys in etcd do."""

    resource: str
    """`group/plural`, `/plural` for core."""
    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Change:
    """One write."""

    version: int
    name: Name
    before: Json | None
    after: Json | None
    """None: deleted."""


class Store:
    """All objects of one cluster."""

    def __init__(self, history: int = 10_000, first_version: int = 1_000) -> None:
        """Keep at most `history` changes."""
        self.version = first_version
        self._history = history
        self._compacted = first_version
        self._changes: list[Change] = []
        self._objects: dict[Name, Json] = {}
        self._waiting: set[asyncio.Event] = set()

    def get(self, name: Name) -> Json | None:
        """Return the object as it is now."""
        return self._objects.get(name)

    def next_version(self) -> int:
        """Return the version that the next write gets."""
        return self.version + 1

    def write(self, name: Name, after: Json | None) -> None:
        """Store an object, or delete it; wakes every watch."""
        before = self._objects.get(name)
        self.version += 1
        self._changes.append(Change(self.version, name, before, after))
        if after is None:
            del self._objects[name]
        else:
            self._objects[name] = after
        if len(self._changes) > self._history:
            self.compact(self._changes[len(self._changes) // 2].version)
        self._wake()

    def compact(self, version: int | None = None) -> None:
        """Forget changes up to and including this version; None: all of them."""
        self._compacted = self.version if version is None else version
        self._changes = [change for change in self._changes if change.version > self._compacted]
        self._wake()

    def reset(self, version: int) -> None:
        """Go on counting from here, as after a restored backup; the history is lost."""
        self.version = self._compacted = version
        self._changes = []
        self._objects = {
            name: thing | {"metadata": thing["metadata"] | {"resourceVersion": str(version)}}
            for name, thing in self._objects.items()
        }
        self._wake()

    def list_at(self, resource: str, namespace: str, version: int | None = None) -> list[tuple[Name, Json]]:
        """Return what was there at this version, in order; None: now. Raises Expired."""
        objects = dict(self._objects)
        for change in reversed(self.changes_after(self.version if version is None else version)):
            if change.before is None:
                objects.pop(change.name, None)
            else:
                objects[change.name] = change.before
        return sorted(
            (item for item in objects.items() if item[0].resource == resource and namespace in {"", item[0].namespace}),
            key=lambda item: item[0],
        )

    def changes_after(self, version: int) -> list[Change]:
        """Return every change after this version, in order; none for a version of the future. Raises Expired."""
        if version < self._compacted:
            raise Expired
        return self._changes[bisect_right(self._changes, version, key=lambda change: change.version) :]

    def watcher(self) -> "Waker":
        """Return something to wait on for the next write."""
        return Waker(self._waiting)

    def _wake(self) -> None:
        for event in self._waiting:
            event.set()

    def __iter__(self) -> Iterator[tuple[Name, Json]]:
        return iter(sorted(self._objects.items(), key=lambda item: item[0]))


class Waker:
    """Remembers that something was written since it was last asked."""

    def __init__(self, waiting: set[asyncio.Event]) -> None:
        """Join those who are woken."""
        self._waiting = waiting
        self._event = asyncio.Event()
        self._waiting.add(self._event)

    async def wait(self, seconds: float) -> bool:
        """Wait for a write, so long at most; False when there was none."""
        try:
            async with asyncio.timeout(seconds):
                await self._event.wait()
        except TimeoutError:
            return False
        self._event.clear()
        return True

    def close(self) -> None:
        """Leave."""
        self._waiting.discard(self._event)
