"""What `check` reads by itself; the rest needs a machine (tests/lab) or a cluster (tests/e2e)."""

from pathlib import Path

from littlelb.app.commands.check import is_writable, parse_capabilities


def test_effective_capabilities_are_read() -> None:
    """CapEff is a hexadecimal bit set in /proc/PID/status."""
    assert parse_capabilities("Name:\tx\nCapPrm:\t0000000000000001\nCapEff:\t0000000000003400\n") == 0x3400


def test_a_folder_that_can_be_made_is_writable(tmp_path: Path) -> None:
    """What counts is the nearest folder that exists; a file in the way is none."""
    assert is_writable(tmp_path)
    assert is_writable(tmp_path / "a" / "b")
    (tmp_path / "file").write_text("x")
    assert not is_writable(tmp_path / "file")
    assert not is_writable(tmp_path / "file" / "below")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
