"""Which files are a daemon's, and which of them are removed."""

import socket
from pathlib import Path

import pytest

from littlelb.app.commands.files import find_files, is_dead_socket, remove_empty_folders, remove_files
from littlelb.config import Config, load_config
from littlelb.core.errors import Permanent


@pytest.fixture
def config(home: Path) -> Config:
    """Settings with folders of their own, which exist."""
    for name in ("state", "run"):
        (home / name).mkdir()
    flags = {"state-dir": str(home / "state"), "run-dir": str(home / "run")}
    return load_config(flags, {}, device_required=False)


def test_where_no_daemon_was_there_is_nothing(config: Config) -> None:
    """No file is found; empty folders of ours go, and so they may be missing the next time."""
    assert find_files(config) == []
    remove_empty_folders(config)
    remove_empty_folders(config)
    assert not config.state_dir.exists()
    assert not config.run_dir.exists()


def test_only_our_names_are_found(config: Config) -> None:
    """The state file and half of one are ours; what else lies there is not, and keeps its folder."""
    for name in ("world.msgpack", "world.new", "notes.txt"):
        (config.state_dir / name).write_text("x")
    found = find_files(config)
    assert [path.name for path in found] == ["world.msgpack", "world.new"]
    remove_files([*found, config.state_dir / "gone"])
    remove_empty_folders(config)
    assert [path.name for path in config.state_dir.iterdir()] == ["notes.txt"]


def test_a_socket_is_ours_once_nobody_listens_on_it(config: Config) -> None:
    """A living one may be a daemon's of another network namespace."""
    path = config.run_dir / "littlelb.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        assert not is_dead_socket(path)
        assert find_files(config) == []
    assert is_dead_socket(path)
    assert find_files(config) == [path]


def test_a_file_in_the_place_of_the_socket_stays(config: Config) -> None:
    """It is not ours."""
    (config.run_dir / "littlelb.sock").write_text("x")
    assert find_files(config) == []


def test_what_cannot_be_removed_is_said(home: Path) -> None:
    """A folder in the place of a file is no file of ours to remove."""
    (home / "folder").mkdir()
    with pytest.raises(Permanent, match="cannot be removed"):
        remove_files([home / "folder"])
