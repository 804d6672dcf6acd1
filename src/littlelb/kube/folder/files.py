"""Reads the files of a folder within bounds, and names the directories in which a change of them would show.

A manifest may be a symlink, and so may any directory on the way (Kubernetes swaps `..data` of a mounted ConfigMap): a
change shows in the directory of every link on the way, and in that of the file at the end.
"""

import os
import stat
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_FILE_BYTES = 4 * 2**20
MAX_FILES = 10_000
MAX_LINKS = 40
"""As in the kernel (path_resolution(7))."""
ENDINGS = (".yaml", ".yml", ".json")
_RACY_NANOSECONDS = 10**9


@dataclass(frozen=True, slots=True)
class Stamp:
    """What stat tells of a file when it was read."""

    identity: tuple[int, int, int, int, int]
    settled: bool
    """Was the last change so long ago that a later one shows in the time stamps? Clocks of file systems are coarse."""


@dataclass(frozen=True, slots=True)
class FileText:
    """A file's bytes, or why there are none; neither when it is as it was."""

    stamp: Stamp | None
    text: bytes | None = None
    error: str = ""


def list_names(directory: Path) -> list[str]:
    """Names of the manifests in order; hidden files, backups and other endings are none. Raises OSError."""
    with os.scandir(directory) as entries:
        names = [
            entry.name for entry in entries if entry.name.endswith(ENDINGS) and not entry.name.startswith((".", "#"))
        ]
    return sorted(names)


def read_file(path: Path, known: Stamp | None) -> FileText | None:
    """Read one manifest, unless it is as `known` says. None: it is gone."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return FileText(None, error="cannot be read: its symlink leads nowhere") if path.is_symlink() else None
    except OSError as why:
        return FileText(None, error=f"cannot be read: {why.strerror}")
    try:
        return _read_open(descriptor, known)
    except OSError as why:
        return FileText(None, error=f"cannot be read: {why.strerror}")
    finally:
        os.close(descriptor)


def _read_open(descriptor: int, known: Stamp | None) -> FileText:
    facts = os.fstat(descriptor)
    identity = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns)
    if known is not None and known.settled and known.identity == identity:
        return FileText(known)
    if not stat.S_ISREG(facts.st_mode):
        return FileText(None, error="not a regular file")
    stamp = Stamp(identity, time.time_ns() - facts.st_ctime_ns > _RACY_NANOSECONDS)
    with os.fdopen(descriptor, "rb", closefd=False) as file:
        text = file.read(MAX_FILE_BYTES + 1)
    if len(text) > MAX_FILE_BYTES:
        return FileText(stamp, error=f"larger than {MAX_FILE_BYTES // 2**20} MiB")
    return FileText(stamp, text)


def places(directory: Path) -> dict[Path, frozenset[str]]:
    """Directories to watch → the names in them that matter (empty: all)."""
    directory = Path(os.path.abspath(directory))  # noqa: PTH100  (resolve() would follow the links that matter here)
    found: dict[Path, set[str]] = {}
    for place, name in _steps(directory):
        found.setdefault(place, set()).add(name)
    for name in list_names(directory):
        if (directory / name).is_symlink():
            for place, step in _steps(directory / name):
                found.setdefault(place, set()).add(step)
    return {**{place: frozenset(names) for place, names in found.items()}, directory.resolve(): frozenset()}


def _steps(path: Path) -> Iterator[tuple[Path, str]]:
    """Yield (directory, name) of every symlink on the way to `path`, and of the last step."""
    current, left = Path("/"), deque(path.parts[1:])
    links = 0
    while left and links <= MAX_LINKS:
        name = left.popleft()
        step = current / name
        if name == "..":
            current = current.parent
        elif step.is_symlink():
            links += 1
            yield current, name
            target = step.readlink()
            left.extendleft(reversed(target.parts[1:] if target.is_absolute() else target.parts))
            current = Path("/") if target.is_absolute() else current
        else:
            if not left:
                yield current, name
            current = step
