"""Figures of a bench: what was measured, what the goal is, met or not; printed, and kept as a dated page.

Noise is part of a result: every page tells the machine and its load, every figure the median and the worst of its runs.
"""

import math
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

RESULTS: Final = Path(__file__).parent / "results"


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that was measured, several times where that makes sense."""

    name: str
    unit: str
    values: tuple[float, ...]
    goal: float | None = None
    """In `unit`; None: no goal was set."""
    at_least: bool = False
    """The goal is a floor, not a ceiling."""
    judged: float | None = None
    """What is held against the goal; None: the median."""

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.values)

    @property
    def worst(self) -> float:
        """The smallest where more is better, else the largest."""
        return min(self.values) if self.at_least else max(self.values)

    @property
    def met(self) -> bool | None:
        """Is the goal reached? None: there is none."""
        if self.goal is None:
            return None
        value = self.median if self.judged is None else self.judged
        return value >= self.goal if self.at_least else value <= self.goal

    def cells(self) -> tuple[str, ...]:
        """Name, median, p99, worst, runs, goal, verdict."""
        p99 = show(percentile(self.values, 0.99)) if len(self.values) >= 100 else "-"
        sign = "≥" if self.at_least else "≤"
        goal = "-" if self.goal is None else f"{sign} {show(self.goal)} {self.unit}"
        verdict = {True: "met", False: "NOT MET", None: "-"}[self.met]
        numbers = (f"{show(self.median)} {self.unit}", p99, show(self.worst), str(len(self.values)))
        return self.name, *numbers, goal, verdict


HEADER: Final = ("figure", "median", "p99", "worst", "runs", "goal", "verdict")


def show(value: float) -> str:
    """Three digits that mean something."""
    if value == 0 or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of them lies (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, math.ceil(share * len(ordered)) - 1)]


def describe_machine() -> str:
    """Say where it ran, without names of hosts or paths, and how busy that is right now."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    nice = f", run with nice {os.nice(0)}" if os.nice(0) else ""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"Machine: {os.cpu_count()} CPUs ({models[0] if models else platform.machine()}), {memory:.0f} GiB, "
        f"Linux {platform.release()}, Python {platform.python_version()}; "
        f"load average {', '.join(f'{load:.1f}' for load in os.getloadavg())}{nice}."
    )


def render_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table that is also one to look at."""
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    lines = [f"| {' | '.join(row)} |" for row in padded]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def report(name: str, title: str, figures: Sequence[Figure], notes: Sequence[str] = (), *, keep: bool = True) -> None:
    """Print the figures and, unless it was only a trial, write them to `results/DATE-name.md`."""
    table = render_table([HEADER, *(figure.cells() for figure in figures)])
    print(f"\n{title}\n{describe_machine()}\n\n{table}\n", *notes, sep="\n")
    if not keep:
        return
    parts = [f"# {title}, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC", describe_machine(), f"Script: `bench/{name}.py`."]
    parts += [table, *notes]
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-{name}.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def memory_mib(field: str, pid: int | str = "self") -> float:
    """Read VmRSS or VmHWM of a process."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def pss_mib(pid: int) -> float:
    """Proportional set size: shared pages are divided among those who share them."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024
