"""Files of a folder within bounds, and the places where a change of them would show."""

import os
import time
from pathlib import Path

import pytest

from littlelb.kube.folder.files import MAX_FILE_BYTES, Stamp, list_names, places, read_file


def old(path: Path) -> Stamp:
    """Read a file as if long after its last change, and return its stamp."""
    found = read_file(path, None)
    assert found is not None
    assert found.stamp is not None
    return Stamp(found.stamp.identity, settled=True)


def test_manifests_are_listed_by_their_ending_in_order(tmp_path: Path) -> None:
    """Backups, editors' temporary files and hidden ones are no manifests."""
    for name in (
        "b.yml",
        "a.yaml",
        "c.json",
        "a.yaml~",
        ".a.yaml.swp",
        ".a.yaml",
        "#a.yaml#",
        "#a.yaml",
        "README",
        "4913",
    ):
        (tmp_path / name).write_text("a: 1")
    assert list_names(tmp_path) == ["a.yaml", "b.yml", "c.json"]


def test_a_file_is_read_again_only_when_it_may_have_changed(tmp_path: Path) -> None:
    """A settled stamp that still fits spares the reading; a fresh one does not, because clocks are coarse."""
    path = tmp_path / "a.yaml"
    path.write_text("a: 1")
    first = read_file(path, None)
    assert first is not None
    assert first.text == b"a: 1"
    again = read_file(path, first.stamp)
    assert again is not None
    assert again.text == b"a: 1"
    settled = old(path)
    spared = read_file(path, settled)
    assert spared is not None
    assert (spared.text, spared.error, spared.stamp) == (None, "", settled)
    path.write_text("a: 2")
    os.utime(path, ns=(0, time.time_ns()))
    changed = read_file(path, settled)
    assert changed is not None
    assert changed.text == b"a: 2"


def test_a_file_that_is_gone_is_no_error(tmp_path: Path) -> None:
    """It was deleted between listing and reading."""
    assert read_file(tmp_path / "a.yaml", None) is None


@pytest.mark.timeout(10)
def test_what_is_no_readable_file_is_an_error(tmp_path: Path) -> None:
    """A pipe does not block the daemon, a folder and a dangling symlink do not break it."""
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "folder.yaml").mkdir()
    (tmp_path / "link.yaml").symlink_to("nowhere")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    (tmp_path / "memory.yaml").symlink_to("/proc/self/mem")
    reasons = {}
    for name in list_names(tmp_path):
        found = read_file(tmp_path / name, None)
        assert found is not None
        assert found.text is None
        reasons[name] = found.error
    assert reasons == {
        "folder.yaml": "not a regular file",
        "link.yaml": "cannot be read: its symlink leads nowhere",
        "loop.yaml": "cannot be read: Too many levels of symbolic links",
        "memory.yaml": "cannot be read: Input/output error",
        "pipe.yaml": "not a regular file",
    }


def test_a_file_that_is_too_large_is_an_error(tmp_path: Path) -> None:
    """And it is not read to its end."""
    path = tmp_path / "a.yaml"
    with path.open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    found = read_file(path, None)
    assert found is not None
    assert (found.text, found.error) == (None, "larger than 4 MiB")


def test_a_plain_folder_is_watched_with_its_own_name(tmp_path: Path) -> None:
    """All names in it, and its own name in its parent, in case it is replaced."""
    (tmp_path / "a.yaml").write_text("a: 1")
    assert places(tmp_path) == {tmp_path: frozenset(), tmp_path.parent: frozenset({tmp_path.name})}


def test_every_link_on_the_way_is_watched(tmp_path: Path) -> None:
    """The folder itself a link, a mounted ConfigMap's `..data`, and a file elsewhere behind a swapped link."""
    real, elsewhere = tmp_path / "real", tmp_path / "elsewhere"
    (real / "..v1").mkdir(parents=True)
    (elsewhere / "v1").mkdir(parents=True)
    (real / "..v1" / "a.yaml").write_text("a: 1")
    (elsewhere / "v1" / "b.yaml").write_text("b: 1")
    (real / "..data").symlink_to("..v1")
    (real / "a.yaml").symlink_to("..data/a.yaml")
    (elsewhere / "current").symlink_to("v1")
    (real / "b.yaml").symlink_to(elsewhere / "current" / "b.yaml")
    (tmp_path / "conf").symlink_to("real")
    found = places(tmp_path / "conf")
    assert found == {
        tmp_path: frozenset({"conf", "real"}),
        real: frozenset(),
        real / "..v1": frozenset({"a.yaml"}),
        elsewhere: frozenset({"current"}),
        elsewhere / "v1": frozenset({"b.yaml"}),
    }


def test_a_link_that_goes_up_is_followed(tmp_path: Path) -> None:
    """`..` on the way is a step like any other."""
    (tmp_path / "manifests").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a").write_text("a: 1")
    (tmp_path / "manifests" / "a.yaml").symlink_to("../elsewhere/a")
    found = places(tmp_path / "manifests")
    assert found[tmp_path / "elsewhere"] == frozenset({"a"})
    assert found[tmp_path / "manifests"] == frozenset()


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    """As in the kernel, after forty."""
    (tmp_path / "a.yaml").symlink_to("a.yaml")
    assert places(tmp_path)[tmp_path] == frozenset()


def test_a_folder_that_is_not_there_cannot_be_watched(tmp_path: Path) -> None:
    """The caller then looks again and again."""
    with pytest.raises(FileNotFoundError):
        places(tmp_path / "missing")
