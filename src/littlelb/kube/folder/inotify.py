"""Tells when something in one of a few directories changes, by inotify(7), straight from libc.

Only the name of the directory matters to the caller, and that it should look again: events are hints, never facts, so
a lost event or an overflow of the queue is one more hint.
"""

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

IN_ATTRIB = 0x4
IN_CLOSE_WRITE = 0x8
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_Q_OVERFLOW = 0x4000
IN_IGNORED = 0x8000
IN_ONLYDIR = 0x1000000
# Not IN_MODIFY: a file that is being written is looked at when it is closed.
_MASK = IN_ATTRIB | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF
_HEADER = struct.Struct("iIII")
_READ_BYTES = 65_536
_MAX_READS = 16
"""In one go, so that a storm of events cannot keep the event loop."""


class Inotify:
    """One inotify instance. Raises OSError where the kernel or its limits do not allow it."""

    def __init__(self) -> None:
        """Open the descriptor (fs.inotify.max_user_instances limits how many a user may have)."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = _checked(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify_init1")
        self._watches: dict[int, tuple[Path, frozenset[str]]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def watch(self, places: Iterable[tuple[Path, frozenset[str]]]) -> None:
        """Watch exactly these directories, each for these names (empty: for all); raises OSError for one it cannot."""
        wanted: dict[int, tuple[Path, frozenset[str]]] = {}
        for directory, names in places:
            number = self._libc.inotify_add_watch(self._fd, os.fsencode(directory), _MASK | IN_ONLYDIR)
            watch = _checked(number, str(directory))
            # Two paths of one directory share a watch.
            known = wanted.get(watch)
            both = known is not None and known[1] and names
            wanted[watch] = (directory, known[1] | names if known and both else names if known is None else frozenset())
        for number in self._watches.keys() - wanted.keys():
            self._libc.inotify_rm_watch(self._fd, number)
        self._watches = wanted

    def start(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        """Call `wake` whenever something happened in a watched place."""
        self._loop = loop
        loop.add_reader(self._fd, lambda: wake() if self._drain() else None)

    def close(self) -> None:
        """Give the descriptor back."""
        if self._loop is not None:
            self._loop.remove_reader(self._fd)
            self._loop = None
        os.close(self._fd)

    def _drain(self) -> bool:
        """Read what is waiting; did any of it matter?"""
        matters = False
        for _ in range(_MAX_READS):
            try:
                text = os.read(self._fd, _READ_BYTES)
            except BlockingIOError:
                break
            matters = any([matters, *(self._matters(*event) for event in parse_events(text))])
        return matters

    def _matters(self, watch: int, mask: int, name: str) -> bool:
        if mask & (IN_Q_OVERFLOW | IN_IGNORED | IN_DELETE_SELF | IN_MOVE_SELF):
            return True
        known = self._watches.get(watch)
        return known is not None and (not known[1] or name in known[1])


def parse_events(text: bytes) -> Iterator[tuple[int, int, str]]:
    """Split what the kernel wrote into (watch, mask, name); the name is padded with NULs (struct inotify_event)."""
    position = 0
    while position + _HEADER.size <= len(text):
        watch, mask, _, length = _HEADER.unpack_from(text, position)
        start = position + _HEADER.size
        yield watch, mask, os.fsdecode(text[start : start + length].rstrip(b"\0"))
        position = start + length


def _checked(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
    return result
