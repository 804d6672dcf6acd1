"""The systemd unit that we ship, read by systemd itself."""

import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).resolve().parents[2] / "deploy" / "systemd" / "littlelb.service"
PROGRAM = "/opt/littlelb/bin/loadbalancer"


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """Copy the unit, its program replaced by one that is there: systemd looks for it."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: the unit was not checked")
    text = UNIT.read_text()
    assert f"ExecStart={PROGRAM} run" in text
    copy = tmp_path / UNIT.name
    copy.write_text(text.replace(PROGRAM, "/bin/true"))
    return copy


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze; it needs no running systemd for this."""
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=50, errors="replace"
    )


def test_systemd_finds_nothing_wrong_with_the_unit(unit: Path) -> None:
    """Every key is known and well-formed; remarks about other units of this machine do not count."""
    done = analyze("verify", "--man=no", "--recursive-errors=no", str(unit))
    remarks = [line for line in done.stderr.splitlines() if UNIT.name in line]
    assert not remarks
    assert done.returncode == 0


def test_the_unit_is_hardened(unit: Path) -> None:
    """The exposure that systemd computes is "OK" (below 5 of 10), with the capabilities that the work needs."""
    done = analyze("security", "--offline=true", "--threshold=50", str(unit))
    assert done.returncode == 0, done.stdout[-400:]


def test_the_workers_survive_what_they_must_survive() -> None:
    """The settings that keep connections over a crash or an upgrade are all there."""
    lines = set(UNIT.read_text().splitlines())
    assert {"KillMode=process", "RuntimeDirectoryPreserve=yes", "Restart=always", "RestartPreventExitStatus=2"} <= lines
