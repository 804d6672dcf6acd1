"""The files that a daemon leaves behind: found by name in our own folders, and removed when nobody uses them."""

import os
import socket
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from littlelb.config import Config
from littlelb.control.state_file import FILE_NAME, NEW_SUFFIX
from littlelb.core.errors import Permanent
from littlelb.web import SOCKET_NAME


def find_files(config: Config) -> list[Path]:
    """Return the state file, half of one that a crash left, and a socket that nobody listens on."""
    state = config.state_dir / FILE_NAME
    # os.path, because a folder that may not be looked into has nothing that we could remove.
    found = [path for path in (state, state.with_suffix(NEW_SUFFIX)) if os.path.isfile(path)]  # noqa: PTH113
    status = config.run_dir / SOCKET_NAME
    return [*found, status] if is_dead_socket(status) else found


def is_dead_socket(path: Path) -> bool:
    """Is it a socket that nobody listens on?"""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return False
    except OSError:  # not there, or not ours to see
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # noqa: FBT003  (the standard library's signature)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return True
        except OSError:  # busy, or not permitted: somebody may be there
            return False
    return False


def remove_files(paths: Iterable[Path]) -> None:
    """Remove them; one that has gone meanwhile is no error. Raises `Permanent`."""
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise Permanent(f"{path} cannot be removed: {error.strerror}") from error


def remove_empty_folders(config: Config) -> None:
    """Remove our folders where nothing is left in them; another daemon's files, or a mount, keep them."""
    for folder in (config.run_dir / "pipe", config.run_dir, config.state_dir):
        with suppress(OSError):  # not empty, a mount point, not there: it stays as it is
            folder.rmdir()
