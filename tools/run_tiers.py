"""Runs the tiers of tests one after the other, with coverage, and ends with a table of passed, failed and skipped.

A tier that cannot run here says so in one line and counts as skipped; under CI that is a failure, and so is a branch of
the core that no test took.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from tools.userns import read_prefix

TOP = Path(__file__).resolve().parent.parent
TIERS = ("unit", "contract", "golden", "lab", "e2e")
TRY = "from littlelb.testing.netns import unavailable; print(unavailable() or '')"
"""A program that prints why network namespaces cannot be made, or an empty line."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one tier. `reason` says why it did not run, or is empty."""

    tier: str
    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    reason: str = ""

    @property
    def ran(self) -> bool:
        """Did any test give a verdict?"""
        return bool(self.passed or self.failed)


def parse_report(tier: str, text: str, seconds: float) -> Outcome:
    """Read a JUnit report; errors while collecting or tearing down count as failures."""
    suites = list(ET.fromstring(text).iter("testsuite"))  # noqa: S314  (written by the pytest that we started)
    total, skipped = (sum(int(suite.get(key, "0")) for suite in suites) for key in ("tests", "skipped"))
    failed = sum(int(suite.get(key, "0")) for suite in suites for key in ("failures", "errors"))
    reason = "" if total > skipped else "every test was skipped (reasons above)" if total else "no tests in this tier"
    return Outcome(tier, max(0, total - skipped - failed), failed, skipped, seconds, reason)


def render_table(outcomes: Sequence[Outcome]) -> str:
    """The summary: one line for each tier."""
    lines = [f"{'tier':<10}{'passed':>8}{'failed':>8}{'skipped':>9}{'seconds':>9}"]
    for found in outcomes:
        numbers = f"{found.tier:<10}{found.passed:>8}{found.failed:>8}{found.skipped:>9}{found.seconds:>9.1f}"
        lines.append(f"{numbers}  {found.reason}".rstrip())
    return "\n".join(lines)


def select_failures(outcomes: Iterable[Outcome], *, everything: bool) -> list[str]:
    """Say why the run as a whole fails; `everything`: no tier that has tests may be skipped."""
    found = []
    for outcome in outcomes:
        if outcome.failed:
            found.append(f"{outcome.tier}: {outcome.failed} failed")
        elif everything and not outcome.ran and outcome.reason != "no tests in this tier":
            found.append(f"{outcome.tier}: skipped, and CI runs every tier ({outcome.reason})")
    return found


def read_way(tier: str) -> tuple[Sequence[str], str]:
    """What to put before the command of this tier, and why it cannot run on this machine (empty when it can)."""
    if tier in ("unit", "golden"):
        return (), ""
    prefix, obstacle = read_prefix()
    if not obstacle:
        tried = subprocess.run(
            [*prefix, sys.executable, "-c", TRY], cwd=TOP, capture_output=True, text=True, check=False
        )
        obstacle = tried.stdout.strip() or tried.stderr.strip()
    if tier == "contract":
        return ((), "") if obstacle else (prefix, "")  # its half on doubles runs anywhere
    return prefix, obstacle.splitlines()[-1] if obstacle else ""


def read_control_plane() -> str:
    """Build the control plane of the tests, or find it in its cache; why there is none, or empty."""
    print("control plane: building it (some minutes), or taking it from the cache", flush=True)
    argv = [sys.executable, "-m", "tests.controlplane", "build"]
    made = subprocess.run(argv, cwd=TOP, env=environment(), stderr=subprocess.PIPE, text=True, check=False)
    last = made.stderr.strip().splitlines() or ["no reason given"]
    return f"no control plane: {last[-1]}" if made.returncode else ""


def environment() -> dict[str, str]:
    """Ours, with the programs of this virtual environment first on the PATH, and this tree importable."""
    path = f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}"
    return os.environ | {"PATH": path, "PYTHONPATH": f"{TOP}:{TOP / 'src'}"}


def run_tier(tier: str, reports: Path) -> Outcome:
    """Run pytest on one tier and read its report."""
    if not any((TOP / "tests" / tier).rglob("test_*.py")):
        return Outcome(tier, reason="no tests in this tier")
    prefix, reason = read_way(tier)
    if not reason and tier == "e2e":
        reason = read_control_plane()
    if reason:
        print(f"{tier:<10}skipped: {reason}", flush=True)
        return Outcome(tier, reason=reason)
    print(f"== {tier}", flush=True)
    report, started = reports / f"{tier}.xml", time.monotonic()
    pytest = ["-m", "coverage", "run", "-m", "pytest", "-q", "--no-header", f"--junitxml={report}", f"tests/{tier}"]
    subprocess.run([*prefix, sys.executable, *pytest], cwd=TOP, env=environment(), check=False)
    seconds = time.monotonic() - started
    if not report.exists():
        return Outcome(tier, failed=1, seconds=seconds, reason="pytest ended without a report")
    return parse_report(tier, report.read_text(encoding="utf-8"), seconds)


def run_coverage() -> list[str]:
    """Combine what the tiers measured, show it, and demand every branch of the core."""
    coverage = [sys.executable, "-m", "coverage"]
    subprocess.run([*coverage, "combine", "-q"], cwd=TOP, check=False)
    print("\n== coverage (lines that no tier reached)", flush=True)
    subprocess.run([*coverage, "report"], cwd=TOP, check=False)
    core = [*coverage, "report", "--include=src/littlelb/core/*", "--fail-under=100"]
    if subprocess.run(core, cwd=TOP, stdout=subprocess.DEVNULL, check=False).returncode:
        return ["core: below 100 % branch coverage"]
    return []


def main(tiers: Sequence[str]) -> int:
    """Run the named tiers, or all; 0 when nothing failed."""
    whole = not tiers
    subprocess.run([sys.executable, "-m", "coverage", "erase"], cwd=TOP, check=False)
    with tempfile.TemporaryDirectory(prefix="littlelb-tiers-") as folder:
        outcomes = [run_tier(tier, Path(folder)) for tier in tiers or TIERS]
    failures = run_coverage() if whole else []
    print(f"\n{render_table(outcomes)}")
    failures += select_failures(outcomes, everything=os.environ.get("CI", "") not in ("", "0", "false"))
    for line in failures:
        print(f"FAIL {line}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
