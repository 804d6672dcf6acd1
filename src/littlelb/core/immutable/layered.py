"""An immutable mapping in two layers, so that one change among ten thousand entries costs microseconds.

    base     a dict that many versions share, never written again
    over     what is new since: key → value, or GONE; a square root of the base at most, then both become a new base

Looking up costs one dict more than a dict. Who walks over all of it pays for one merge, and the version keeps it.
"""

from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from math import isqrt
from typing import Any, Final, TypeVar, overload

K = TypeVar("K")
V = TypeVar("V")
D = TypeVar("D")
_GONE: Final = object()
_ABSENT: Final = object()


class Layered(Mapping[K, V]):
    """`Mapping[K, V]`; equal to every mapping with the same entries. Order is that of a dict, roughly."""

    __slots__ = ("_base", "_over", "_size")

    def __init__(self, entries: Mapping[K, V] | Iterable[tuple[K, V]] = ()) -> None:
        """Copy the entries."""
        self._base: dict[K, V] = dict(entries)
        self._over: dict[K, Any] = {}
        self._size = len(self._base)

    def changed(self, put: Mapping[K, V], drop: Iterable[K] = ()) -> "Layered[K, V]":
        """Make the next version: `drop` goes, what is there or not, then `put` comes. Nothing new: the same object."""
        over = dict(self._over)
        size = self._size
        writes = 0
        for key in drop:
            if over.get(key, _ABSENT) is not _GONE and key in self:
                over[key] = _GONE
                size -= 1
                writes += 1
        for key, value in put.items():
            old = over.get(key, _ABSENT)
            if old is _ABSENT:
                old = self._base.get(key, _GONE)
            if old is not value:
                over[key] = value
                size += old is _GONE
                writes += 1
        return self._next(over, size) if writes else self

    def _next(self, over: dict[K, Any], size: int) -> "Layered[K, V]":
        made: Layered[K, V] = Layered.__new__(Layered)
        made._base, made._over, made._size = self._base, over, size
        if len(over) > 16 + isqrt(2 * len(self._base)):
            made._flat()
        return made

    def _flat(self) -> dict[K, V]:
        """Merge the layers; nobody sees a difference but in time. The base is set first: threads may be reading."""
        over = self._over
        if over:
            base = {**self._base, **over}
            for key in [key for key, value in over.items() if value is _GONE]:
                del base[key]
            self._base = base
            self._over = {}
        return self._base

    def __getitem__(self, key: K) -> V:
        """Look one up; raises KeyError."""
        found: Any = self._over.get(key, _ABSENT) if self._over else _ABSENT
        if found is _ABSENT:
            found = self._base[key]
        if found is _GONE:
            raise KeyError(key)
        value: V = found
        return value

    @overload
    def get(self, key: K, /) -> V | None: ...
    @overload
    def get(self, key: K, /, default: V | D) -> V | D: ...
    def get(self, key: K, /, default: Any = None) -> Any:
        """Look one up; absent: the default."""
        found = self._over.get(key, _ABSENT) if self._over else _ABSENT
        if found is _ABSENT:
            return self._base.get(key, default)
        return default if found is _GONE else found

    def __contains__(self, key: object) -> bool:
        """Is there an entry?"""
        if self._over:
            found = self._over.get(key, _ABSENT)  # type: ignore[arg-type]
            if found is not _ABSENT:
                return found is not _GONE
        return key in self._base

    def __len__(self) -> int:
        """Count the entries."""
        return self._size

    def __iter__(self) -> Iterator[K]:
        """Walk over the keys."""
        return iter(self._flat())

    def keys(self) -> KeysView[K]:
        """Show the keys."""
        return self._flat().keys()

    def values(self) -> ValuesView[V]:
        """Show the values."""
        return self._flat().values()

    def items(self) -> ItemsView[K, V]:
        """Show the entries."""
        return self._flat().items()

    def __eq__(self, other: object) -> bool:
        """Compare entries, with whatever kind of mapping."""
        if self is other:
            return True
        if isinstance(other, Layered):
            return self._size == len(other) and bool(self._flat() == other._flat())
        if not isinstance(other, Mapping):
            return NotImplemented
        return bool(self._flat() == (other if isinstance(other, dict) else dict(other)))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Show it as what it is equal to."""
        return repr(self._flat())


def as_layered(entries: Mapping[K, V]) -> Layered[K, V]:
    """Take a mapping that is layered already, or copy one that is not."""
    return entries if isinstance(entries, Layered) else Layered(entries)
