"""The demo, as a newcomer runs it: it succeeds, and nothing of it is left, whether it ends by itself or by Ctrl-C."""

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.userns import PREFIX

pytestmark = [pytest.mark.lab, pytest.mark.timeout(150)]
TOP = Path(__file__).resolve().parents[2]


def start(tmp_path: Path, *prefix: str) -> subprocess.Popen[str]:
    """Start it, with a folder of its own for temporary files."""
    return subprocess.Popen(
        [*prefix, sys.executable, "-u", "-m", "tools.demo"],
        cwd=TOP,
        env=os.environ | {"TMPDIR": str(tmp_path), "PYTHONPATH": f"{TOP}:{TOP / 'src'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def leftovers(pid: int, folder: Path) -> list[str]:
    """Namespaces, files and processes of the demo with this process id."""
    names = subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout.split()
    found = [name for name in names if name.startswith(f"littlelb-demo-{pid}-")]
    found += [str(file) for file in folder.iterdir()]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = process.read_bytes()
        except OSError:  # it ended while we looked
            continue
        if str(folder).encode() in line:
            found.append(f"{process.parent.name}: {line!r}")
    return found


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path: sockets are made below it (unix(7) allows 107 bytes)."""
    with tempfile.TemporaryDirectory(prefix="llb-") as made:
        yield Path(made)


def test_the_demo_succeeds_and_leaves_nothing(folder: Path) -> None:
    """Every step sees what it says, and namespaces, processes and files are gone afterwards."""
    demo = start(folder)
    said, _ = demo.communicate(timeout=120)
    assert demo.returncode == 0, said
    assert "All of it happened as shown" in said
    assert "demo/rival is refused" in said
    assert "plane nft: the kernel (nftables) carries the connections" in said
    assert leftovers(demo.pid, folder) == []


def test_nobody_needs_to_be_root_for_the_demo(folder: Path) -> None:
    """In a user namespace it succeeds, too, and says which plane carried the connections."""
    if subprocess.run([*PREFIX, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this kernel lets nobody make user namespaces")
    demo = start(folder, *PREFIX)
    said, _ = demo.communicate(timeout=120)
    assert demo.returncode == 0, said
    assert "seen  plane " in said


def test_ctrl_c_leaves_nothing(folder: Path) -> None:
    """SIGINT in the middle of a step ends it with 130, and everything it made is removed."""
    demo = start(folder)
    assert demo.stdout is not None
    deadline = time.monotonic() + 60
    for line in demo.stdout:
        if "2. A port is added" in line or time.monotonic() > deadline:
            break
    demo.send_signal(signal.SIGINT)
    demo.communicate(timeout=30)
    assert demo.returncode == 130
    assert leftovers(demo.pid, folder) == []
