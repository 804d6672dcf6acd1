"""The benches work: each runs on a tiny scale to its table. How fast it was is nobody's business here."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e

TOP = Path(__file__).resolve().parents[2]
TINY = {
    "changes_under_load": ("--seconds", "1"),
    "conntrack": ("--flows", "500", "--usage", "500", "--rounds", "1"),
    "decide": ("--services", "30", "--nodes", "5", "--times", "3"),
    "programming": (
        *("--sizes", "20", "--changes", "5", "--theirs", "2", "--loop", "20", "--api", "5", "--patches", "2"),
    ),
    "reaction": ("--rounds", "1", "--outage", "1"),
    "sync": ("--services", "8", "--slices", "16", "--nodes", "3", "--runs", "1", "--settle", "0", "--outage", "1"),
}


@pytest.mark.timeout(180)
@pytest.mark.parametrize("name", TINY)
def test_a_bench_runs_to_its_table(name: str) -> None:
    """Every figure has a value, and no result is written."""
    words = [sys.executable, "-m", f"bench.{name}", *TINY[name], "--trial"]
    done = subprocess.run(words, cwd=TOP, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    table = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    assert table[0].split()[1:3] == ["figure", "|"]
    assert len(table) > 7
