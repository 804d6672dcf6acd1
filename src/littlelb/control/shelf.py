"""What sources tell of one kind of object, kept so that a snapshot costs as much as what is new in it.

Entries are kept twice: as they are now, and as the last snapshot has them, with the writes between the two.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

from littlelb.core.immutable.layered import Layered
from littlelb.core.interfaces import Keyed

K = TypeVar("K")
V = TypeVar("V")
T = TypeVar("T", bound=Keyed)


class Ledger(Generic[K, V]):
    """A mapping that is written all the time, and shown to snapshots that must not change."""

    def __init__(self) -> None:
        """Nothing is known."""
        self.now: dict[K, V] = {}
        """The entries as they are; only to be looked at."""
        self._shown: Layered[K, V] = Layered()
        self._written: set[K] = set()

    def put(self, key: K, value: V) -> None:
        """Enter a value."""
        self.now[key] = value
        self._written.add(key)

    def drop(self, key: K) -> None:
        """Forget a key, if it is known."""
        self.now.pop(key, None)
        self._written.add(key)

    def share(self) -> Layered[K, V]:
        """Show the entries as they are now, for ever."""
        if self._written:
            put = {key: self.now[key] for key in self._written if key in self.now}
            self._shown = self._shown.changed(put, [key for key in self._written if key not in self.now])
            self._written = set()
        return self._shown


class Shelf(Generic[T]):
    """The objects of one kind: a `core.interfaces.Sink` whose every real change is passed on."""

    def __init__(self, changed: Callable[[T | None, T | None], None], listed: Callable[[], None]) -> None:
        """`changed(old, new)` is called for each object that differs from what was known."""
        self._items: Ledger[str, T] = Ledger()
        self._changed = changed
        self._listed = listed

    @property
    def items(self) -> Mapping[str, T]:
        """The objects as they are now, by key; only to be looked at."""
        return self._items.now

    def share(self) -> Mapping[str, T]:
        """Give the objects to a snapshot."""
        return self._items.share()

    def upsert(self, item: T) -> None:
        """Take an object that is new, or that may have changed."""
        old = self._items.now.get(item.key)
        if old == item:
            return
        self._items.put(item.key, item)
        self._changed(old, item)

    def supplement(self, items: Iterable[T]) -> None:
        """Take objects of an earlier time: one that a source has told already is newer."""
        for item in items:
            if item.key not in self._items.now:
                self.upsert(item)

    def remove(self, key: str) -> None:
        """Forget the object with this key, if it is known."""
        old = self._items.now.get(key)
        if old is not None:
            self._items.drop(key)
            self._changed(old, None)

    def retain(self, keys: frozenset[str]) -> None:
        """End of a complete list."""
        for key in [key for key in self._items.now if key not in keys]:
            self.remove(key)
        self._listed()
