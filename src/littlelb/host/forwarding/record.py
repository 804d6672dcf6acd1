"""Remembers in a file which settings of devices we changed, so that exactly these are put back, by whatever process.

The file is written before the setting, so that a crash in between costs nothing: what is not as we set it stays.
"""

import os
from pathlib import Path

import msgspec
import structlog

log = structlog.get_logger(__name__)


class Change(msgspec.Struct, frozen=True, gc=False):
    """One setting of one device."""

    device: str
    index: int
    """Of the device: one that was made again has settings of its own."""
    key: str
    """As sysctl(8) takes it: `net/ipv4/conf/eth0/forwarding`."""
    before: int
    after: int


class Record:
    """The changes that are in force, in a JSON file."""

    def __init__(self, path: Path) -> None:
        """Read nothing yet; the folder is made when there is something to write."""
        self._path = path

    def read(self) -> tuple[Change, ...]:
        """Return the changes; none where there is no file. One that cannot be understood is left alone, and logged."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=tuple[Change, ...])
        except FileNotFoundError:
            return ()
        except msgspec.DecodeError as error:
            log.warning("forwarding.record_unreadable", path=str(self._path), error=str(error))
            return ()

    def add(self, change: Change) -> None:
        """Remember one more; of several for one setting, the value before the first counts. Raises OSError."""
        known = self.read()
        if not any((one.index, one.key) == (change.index, change.key) for one in known):
            self.write((*known, change))

    def write(self, changes: tuple[Change, ...]) -> None:
        """Replace the file as a whole; without changes there is none. Raises OSError."""
        if not changes:
            self._path.unlink(missing_ok=True)
            return
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = self._path.with_suffix(".new")
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(changes), indent=2))
        os.replace(draft, self._path)  # noqa: PTH105  (the one word for an atomic replacement)
