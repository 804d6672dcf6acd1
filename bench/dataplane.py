"""What each way of forwarding costs beside no balancer at all: our planes, kube-proxy's rules, klipper's, two proxies.

    sudo python -m bench.dataplane            about 25 minutes; needs cc nft iperf3 wrk haproxy, and nginx, iptables
    sudo python -m bench.dataplane --short    one round of half a second

Each way has three network namespaces of its own: client -- balancer -- three backends. All are set up at the same time;
each workload is measured on all of them in turn, several rounds. A ratio is that of a pair: a way, and plain routing in
the same round. The CPU time is that of the whole machine (/proc/stat), because the kernel forwards on whichever CPU
sends; what a way adds is its CPU time for one unit less that of plain routing.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bench.record import RESULTS, describe_machine, render_table
from bench.ways import BULK, FIRST_SOURCE, LOAD, SERVING, SOURCES, WAYS, WEB, Way, World, build
from littlelb.testing.netns import Network, unavailable

LOAD_SOURCE: Final = Path(__file__).parent / "tools" / "load.c"


# --- workloads -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sample:
    """One workload on one way, once."""

    rate: float
    """Units per second."""
    cpu_us: float
    """CPU time of the whole machine for one unit, in microseconds."""
    p50_us: float = 0
    p99_us: float = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Workload:
    """What the client does; `unit` is what is counted."""

    name: str
    unit: str
    run: Callable[[World, float, Path], tuple[float, float, float, int]]
    """(world, seconds, load tool) → units in all, p50 us, p99 us, failures."""
    udp: bool = False
    goal: float | None = None
    """Of our plane with the client's address kept, as a share of plain routing."""


def run_bulk(streams: int) -> Callable[[World, float, Path], tuple[float, float, float, int]]:
    """iperf3 upload; the unit is a gigabyte."""

    def run(world: World, seconds: float, _tool: Path) -> tuple[float, float, float, int]:
        words = ["iperf3", "-J", "-c", world.target, "-p", str(BULK), "-t", str(max(1, round(seconds)))]
        answer = json.loads(world.client.run([*words, "-P", str(streams)]).stdout)
        return float(answer["end"]["sum_received"]["bytes"]) / 1e9, 0, 0, 0

    return run


def run_requests(clients: int) -> Callable[[World, float, Path], tuple[float, float, float, int]]:
    """HTTP with keep-alive."""

    def run(world: World, seconds: float, _tool: Path) -> tuple[float, float, float, int]:
        words = ["wrk", "-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", "--latency"]
        out = world.client.run([*words, f"http://{world.target}:{WEB}/"]).stdout.splitlines()
        (count,) = [float(line.split()[0]) for line in out if " requests in " in line]
        latency = {line.split()[0]: line.split()[1] for line in out if line.split()[:1] in (["50%"], ["99%"])}
        failed = sum(int(word.strip(",")) for line in out if "Socket errors" in line for word in line.split()[3::2])
        return count, _microseconds(latency["50%"]), _microseconds(latency["99%"]), failed

    return run


def _microseconds(text: str) -> float:
    for suffix, factor in (("us", 1.0), ("ms", 1e3), ("s", 1e6)):
        if text.endswith(suffix):
            return float(text.removesuffix(suffix)) * factor
    raise ValueError(text)


def run_load(mode: str) -> Callable[[World, float, Path], tuple[float, float, float, int]]:
    """One of load.c's clients, 64 at once."""

    def run(world: World, seconds: float, tool: Path) -> tuple[float, float, float, int]:
        words = [str(tool), mode, world.target, str(LOAD), FIRST_SOURCE, str(SOURCES), "64", str(seconds)]
        answer = json.loads(world.client.run(words).stdout)
        return answer["done"], answer["p50_us"], answer["p99_us"], answer["failed"]

    return run


WORKLOADS: Final = (
    Workload("bulk, 1 stream", "GB", run_bulk(1), goal=0.95),
    Workload("bulk, 8 streams", "GB", run_bulk(8), goal=0.95),
    Workload("keep-alive, 64 clients", "request", run_requests(64), goal=0.95),
    Workload("keep-alive, 1,000 clients", "request", run_requests(1000), goal=0.95),
    Workload("short connections, 64 at once", "connection", run_load("connect"), goal=0.90),
    Workload("UDP flood, 64 flows", "datagram", run_load("flood"), udp=True, goal=0.85),
    Workload("UDP echo, 64 under way", "datagram", run_load("echo"), udp=True, goal=0.85),
)


def busy_seconds() -> float:
    """CPU time of the whole machine since it started, without idle, waiting and stolen time."""
    with Path("/proc/stat").open(encoding="ascii") as stat:
        user, nice, system, _, _, irq, softirq, *_ = (int(word) for word in stat.readline().split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def measure(way: Way, workload: Workload, seconds: float, tool: Path) -> Sample:
    """Run one workload on one way."""
    assert way.world is not None
    busy, begun = busy_seconds(), time.monotonic()
    units, p50, p99, failed = workload.run(way.world, seconds, tool)
    elapsed = time.monotonic() - begun
    return Sample(units / elapsed, (busy_seconds() - busy) / max(units, 1e-9) * 1e6, p50, p99, failed)


Seen = Mapping[str, Mapping[str, list[Sample]]]


def run_all(ways: Sequence[Way], rounds: int, seconds: float, tool: Path) -> Seen:
    """Measure everything on everybody, in turn; each round begins with another way."""
    seen: dict[str, dict[str, list[Sample]]] = {w.name: {way.name: [] for way in ways} for w in WORKLOADS}
    for number in range(rounds):
        for workload in WORKLOADS:
            able = [way for way in ways if way.udp or not workload.udp]
            start = number * 2 % len(able)
            for way in able[start:] + able[:start]:
                seen[workload.name][way.name].append(measure(way, workload, seconds, tool))
            print(f"round {number + 1} of {rounds}: {workload.name}", flush=True)
    return seen


def render(seen: Seen, ways: Sequence[Way]) -> str:
    """One table of ratios, one of CPU time, one of latency."""
    base = ways[0].name
    header = ["workload", *(way.name for way in ways), "goal of nft, kept"]
    ratios, costs, delays = [header], [header[:-1]], [header[:-1]]
    for workload in WORKLOADS:
        row, cost, delay = [workload.name], [f"{workload.name}, us/{workload.unit}"], [workload.name]
        plain = seen[workload.name][base]
        for way in ways:
            samples = seen[workload.name][way.name]
            row.append(_ratio_cell(samples, plain, base=way.name == base, unit=workload.unit))
            cost.append(_cost_cell(samples, plain))
            p50, p99 = ([getattr(sample, name) for sample in samples] for name in ("p50_us", "p99_us"))
            delay.append(f"{statistics.median(p50):,.0f} / {statistics.median(p99):,.0f}" if any(p99) else "-")
        kept = [a.rate / b.rate for a, b in zip(seen[workload.name]["nft, address kept"], plain, strict=True)]
        verdict = "met" if statistics.median(kept) >= (workload.goal or 0) else "NOT MET"
        ratios.append([*row, f"≥ {workload.goal}: {verdict}"])
        costs.append(cost)
        if any(cell != "-" for cell in delay[1:]):
            delays.append(delay)
    failed = {
        f"{way}, {name}": sum(sample.failed for sample in samples)
        for name, by_way in seen.items()
        for way, samples in by_way.items()
        if name.startswith(("keep", "short")) and any(sample.failed for sample in samples)
    }
    parts = [
        "Throughput: plain routing in units per second, others as a share of it: median of pairs (lowest to highest).",
        render_table(ratios),
        "CPU time of the whole machine for one unit; behind the plus what a way adds to plain routing (medians).",
        render_table(costs),
        "Latency p50 / p99 in microseconds (medians).",
        render_table(delays),
        f"Failed connections: {failed or 'none'}.",
    ]
    return "\n\n".join(parts)


def _ratio_cell(samples: list[Sample], plain: list[Sample], *, base: bool, unit: str) -> str:
    if not samples:
        return "-"
    if base:
        return f"{statistics.median(sample.rate for sample in samples):,.4g} {unit}/s"
    pairs = [ours.rate / theirs.rate for ours, theirs in zip(samples, plain, strict=True)]
    return f"{statistics.median(pairs):.2f} ({min(pairs):.2f} to {max(pairs):.2f})"


def _cost_cell(samples: list[Sample], plain: list[Sample]) -> str:
    if not samples:
        return "-"
    cost = statistics.median(sample.cpu_us for sample in samples)
    added = statistics.median(a.cpu_us - b.cpu_us for a, b in zip(samples, plain, strict=True))
    return f"{cost:,.1f}" if samples is plain else f"{cost:,.1f} ({added:+,.1f})"


def main(words: Sequence[str] | None = None) -> int:
    """Measure, print, and write the dated result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="a trial: one short round, nothing is written")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args(words)
    missing = [tool for tool in ("cc", "nft", "iperf3", "wrk", "haproxy") if shutil.which(tool) is None]
    reason = f"install {' '.join(missing)}" if missing else unavailable()
    if reason:
        print(f"SKIPPED bench/dataplane.py: {reason}")
        return 0
    rounds, seconds = (1, 0.5) if options.short else (options.rounds, options.seconds)
    ways = [way for way in WAYS if not way.needs or shutil.which(way.needs) is not None]
    print(*(f"SKIPPED {way.name}: install {way.needs}" for way in WAYS if way not in ways), sep="\n")
    with Network("llbench") as net, tempfile.TemporaryDirectory() as top:
        tool = Path(top) / "load"
        subprocess.run(["cc", "-O2", "-o", str(tool), str(LOAD_SOURCE)], check=True)
        try:
            for number, way in enumerate(ways):
                folder = Path(top) / str(number)
                folder.mkdir()
                build(net, way, number, folder, tool)
            machine = describe_machine()
            text = render(run_all(ways, rounds, seconds, tool), ways)
        finally:
            for process in SERVING:
                process.communicate(timeout=20)
    title = f"# Ways of forwarding, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    notes = f"{machine}\n{rounds} rounds of {seconds} s. Script: `bench/dataplane.py`."
    page = f"{title}\n\n{notes}\n\n{text}\n"
    print(page)
    if not options.short:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-dataplane.md").write_text(page, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
