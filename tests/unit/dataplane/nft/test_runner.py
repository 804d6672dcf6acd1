"""Running nft, played by small scripts."""

import sys
from pathlib import Path

import pytest

from littlelb.core.errors import Permanent, Transient
from littlelb.dataplane.nft.runner import find_nft, probe, run_nft


def play(folder: Path, *lines: str) -> Path:
    """Write a program that stands in for nft."""
    path = folder / "nft"
    path.write_text("\n".join([f"#!{sys.executable} -S", "import os, sys, time", *lines, ""]), encoding="utf-8")
    path.chmod(0o755)
    return path


def test_text_goes_to_its_standard_input(tmp_path: Path) -> None:
    """Whole, with `-f -`; the process id is returned, and the environment is not handed on."""
    nft = play(
        tmp_path,
        f"path = {str(tmp_path / 'heard')!r}",
        "open(path, 'w').write(repr((sys.argv[1:], sys.stdin.read(), os.getpid(), sorted(os.environ))))",
    )
    process = run_nft("add table inet littlelb\n", nft=nft)
    heard = (tmp_path / "heard").read_text(encoding="utf-8")
    assert heard.startswith(f"(['-f', '-'], 'add table inet littlelb\\n', {process}, ")
    assert "HOME" not in heard


def test_a_check_changes_nothing(tmp_path: Path) -> None:
    """By nft's own check mode; silence means that all is well."""
    nft = play(tmp_path, "sys.stdin.read()", "sys.exit(0 if sys.argv[1] == '-c' else 'no check')")
    assert not probe(nft)


@pytest.mark.parametrize(
    ("said", "kind", "remedy"),
    [
        ("Error: Could not process rule: Operation not permitted", Permanent, "CAP_NET_ADMIN"),
        ("Error: syntax error, unexpected string", Permanent, "install nftables"),
        ("Error: Could not process rule: Operation not supported", Permanent, "modules"),
        ("Error: Could not process rule: Message too long", Permanent, "root of the whole machine"),
        ("Error: Could not process rule: Device or resource busy", Transient, "busy"),
        ("", Transient, "without a word"),
    ],
)
def test_a_complaint_is_an_error_with_a_remedy(tmp_path: Path, said: str, kind: type[Exception], remedy: str) -> None:
    """What may pass is told from what will not."""
    nft = play(tmp_path, "sys.stdin.read()", f"print({said!r})", "sys.exit(1)")
    with pytest.raises(kind, match=remedy):
        run_nft("x", nft=nft)
    assert remedy in probe(nft)


def test_a_long_complaint_is_cut(tmp_path: Path) -> None:
    """Nft repeats the text that it does not like."""
    nft = play(tmp_path, "sys.stdin.read()", "print('x' * 100_000)", "sys.exit(1)")
    assert len(probe(nft)) < 400


def test_who_takes_too_long_is_ended(tmp_path: Path) -> None:
    """Bounded time; it may go better the next time."""
    nft = play(tmp_path, "time.sleep(60)")
    with pytest.raises(Transient, match=r"longer than 0\.2 s"):
        run_nft("x", nft=nft, seconds=0.2)


def test_a_program_that_cannot_be_run(tmp_path: Path) -> None:
    """Not executable."""
    nft = play(tmp_path)
    nft.chmod(0o644)
    with pytest.raises(Permanent, match="cannot be run"):
        run_nft("x", nft=nft)


def test_nft_is_looked_for_in_fixed_places(tmp_path: Path) -> None:
    """The caller's PATH has no say; where there is none, the remedy is to install it."""
    with pytest.raises(Permanent, match="install nftables"):
        find_nft([str(tmp_path)])
    assert find_nft(["/nowhere", str(play(tmp_path).parent)]) == tmp_path / "nft"
