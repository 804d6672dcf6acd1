"""From a thing to the keys of all that have to do with it: from an address to the Services that want it, say."""

from collections.abc import Hashable, Iterable
from typing import TypeAlias, TypeVar

from littlelb.core.immutable.layered import Layered

T = TypeVar("T", bound=Hashable)
Index: TypeAlias = Layered[T, tuple[str, ...]]
"""Thing → keys without repeats; a thing that nobody has to do with is not in it."""


def reindex(index: Index[T], gone: Iterable[tuple[T, str]], come: Iterable[tuple[T, str]]) -> Index[T]:
    """Take pairs of thing and key out of an index, then put others in."""
    fresh: dict[T, dict[str, None]] = {}
    for thing, key in gone:
        _keys(fresh, thing, index).pop(key, None)
    for thing, key in come:
        _keys(fresh, thing, index)[key] = None
    put = {thing: tuple(keys) for thing, keys in fresh.items() if keys}
    return index.changed(put, [thing for thing, keys in fresh.items() if not keys])


def _keys(fresh: dict[T, dict[str, None]], thing: T, index: Index[T]) -> dict[str, None]:
    """Find the keys of a thing, as they are so far."""
    keys = fresh.get(thing)
    if keys is None:
        keys = fresh[thing] = dict.fromkeys(index.get(thing, ()))
    return keys
