"""Hints from the kernel that something changed."""

import asyncio
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from littlelb.kube.folder.inotify import IN_CREATE, Inotify, parse_events


@pytest.fixture
def inotify() -> Iterator[Inotify]:
    """Open an instance, and close it in the end."""
    instance = Inotify()
    yield instance
    instance.close()


async def woken(inotify: Inotify, change: object) -> bool:
    """Make a change, and say whether a hint came."""
    wake = asyncio.Event()
    inotify.start(asyncio.get_running_loop(), wake.set)
    assert callable(change)
    change()
    # The kernel queues the event before the system call returns: it is readable in the next turn of the loop.
    for _ in range(3):
        await asyncio.sleep(0)
    return wake.is_set()


def test_events_are_split_and_names_freed_of_their_padding() -> None:
    """Several events in one read, with and without a name."""
    text = struct.pack("iIII", 1, IN_CREATE, 0, 16) + b"a.yaml".ljust(16, b"\0") + struct.pack("iIII", 2, 0x8000, 0, 0)
    assert list(parse_events(text)) == [(1, IN_CREATE, "a.yaml"), (2, 0x8000, "")]
    assert list(parse_events(b"")) == []


async def test_a_change_in_a_watched_directory_wakes(tmp_path: Path, inotify: Inotify) -> None:
    """A file that is written and closed."""
    inotify.watch([(tmp_path, frozenset())])
    assert await woken(inotify, lambda: (tmp_path / "a.yaml").write_text("a: 1"))


async def test_a_file_that_is_renamed_over_another_wakes(tmp_path: Path, inotify: Inotify) -> None:
    """Editors replace, they do not write."""
    (tmp_path / "new").write_text("a: 2")
    inotify.watch([(tmp_path, frozenset({"a.yaml"}))])
    assert await woken(inotify, lambda: (tmp_path / "new").rename(tmp_path / "a.yaml"))


async def test_other_names_and_places_do_not_wake(tmp_path: Path, inotify: Inotify) -> None:
    """Only the names asked for, only the directories still watched."""
    (tmp_path / "left").mkdir()
    inotify.watch([(tmp_path / "left", frozenset())])
    inotify.watch([(tmp_path, frozenset({"a.yaml"}))])
    await woken(inotify, lambda: None)  # the end of the first watch is a hint of its own
    assert not await woken(inotify, lambda: (tmp_path / "left" / "a.yaml").write_text("a: 1"))
    assert not await woken(inotify, lambda: (tmp_path / "b.yaml").write_text("a: 1"))


async def test_two_wishes_for_one_directory_are_joined(tmp_path: Path, inotify: Inotify) -> None:
    """Names add up, and «all» wins."""
    inotify.watch([(tmp_path, frozenset({"a"})), (tmp_path, frozenset({"b"}))])
    assert await woken(inotify, (tmp_path / "a").touch)
    assert await woken(inotify, (tmp_path / "b").touch)
    inotify.watch([(tmp_path, frozenset({"a"})), (tmp_path, frozenset())])
    assert await woken(inotify, (tmp_path / "c").touch)


async def test_a_directory_that_goes_wakes(tmp_path: Path, inotify: Inotify) -> None:
    """Its watch ends, and that is a hint."""
    (tmp_path / "d").mkdir()
    inotify.watch([(tmp_path / "d", frozenset({"a.yaml"}))])
    assert await woken(inotify, (tmp_path / "d").rmdir)


def test_what_cannot_be_watched_is_an_error(tmp_path: Path, inotify: Inotify) -> None:
    """The caller falls back to looking."""
    with pytest.raises(FileNotFoundError):
        inotify.watch([(tmp_path / "missing", frozenset())])
