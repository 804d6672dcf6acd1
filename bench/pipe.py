"""Our userspace plane against HAProxy: bulk, keep-alive requests and short connections, alternated in one run.

    sudo python bench/pipe.py      about three minutes; needs haproxy, wrk, iperf3 (apt-get install haproxy wrk iperf3)

Client, balancer and backend are three network namespaces with veth links between them. Both balancers run at the same
time in the middle one, with two threads or workers each, on different ports; each workload is measured on one after the
other, several rounds, in turn. What counts is the ratio of each pair. HAProxy runs twice: with 64 KiB buffers, and
with its own `splice-auto`. Throughput on a machine that has other work says little: beside it stands the CPU time that
each balancer's processes used for a request or a gigabyte.
"""

import asyncio
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple

from littlelb.core.model import Backend, Forward, Frontend, Protocol
from littlelb.core.plan import Changes
from littlelb.dataplane.pipe.crew import PipeSettings
from littlelb.dataplane.pipe.plane import PipePlane
from littlelb.testing.netns import Namespace, Network, unavailable

VIP: Final = "203.0.113.1"
SERVER: Final = "198.51.100.2"
ROUNDS: Final = 5
SECONDS: Final = 2
WEB: Final = {"pipe": 8001, "haproxy 64k": 8002, "haproxy splice": 8003}
BULK: Final = {"pipe": 5301, "haproxy 64k": 5302, "haproxy splice": 5303}
RESULTS: Final = Path(__file__).parent / "results"

BACKEND = """
global
    nbthread 1
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 5s
frontend web
    bind 198.51.100.2:8000 backlog 16384
    http-request return status 200 content-type text/plain string ok
"""

HAPROXY = """
global
    nbthread 2
    maxconn 4000
    {tune}
defaults
    mode tcp
    {option}
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen web
    bind 203.0.113.1:{web} backlog 16384
    server s 198.51.100.2:8000
listen bulk
    bind 203.0.113.1:{bulk}
    server s 198.51.100.2:5201
"""


async def serve() -> None:
    """Be the balancer's daemon inside its namespace, until stdin ends."""
    with tempfile.TemporaryDirectory() as folder:
        plane = PipePlane(PipeSettings(Path(folder) / "run", workers=2), lambda _: "", lambda: None)
        await plane.start()
        rules = {
            Frontend(ip_address(VIP), Protocol.TCP, port): Forward(
                service="bench/pipe", backends=(Backend(ip_address(SERVER), target),)
            )
            for port, target in ((WEB["pipe"], 8000), (BULK["pipe"], 5201))
        }
        failures = await plane.apply(Changes(rules))
        assert not failures, failures
        print(*plane.pids, flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await plane.stop(keep=False)


class Run(NamedTuple):
    """One side, once."""

    rate: float
    """Gbit/s or requests/s."""
    units: float
    """Gigabytes or requests in all; after `charge`: the CPU time of one, in ms or us."""

    def charge(self, seconds: float, scale: float) -> "Run":
        """Turn the number of units into what each cost, when all took so much CPU time; `scale`: 1e3 for ms."""
        return Run(self.rate, seconds / self.units * scale)


def cpu_seconds(pids: Sequence[int]) -> float:
    """CPU time that these processes have used, all threads, user and system."""
    stats = [Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split() for pid in pids]
    return sum(int(fields[11]) + int(fields[12]) for fields in stats) / os.sysconf("SC_CLK_TCK")


def bulk(client: Namespace, side: str, streams: int) -> Run:
    """Gbit/s of an upload, and gigabytes."""
    command = ["iperf3", "-J", "-c", VIP, "-p", str(BULK[side]), "-t", str(SECONDS), "-P", str(streams)]
    answer = json.loads(client.run(command).stdout)
    received = answer["end"]["sum_received"]
    return Run(float(received["bits_per_second"]) / 1e9, float(received["bytes"]) / 1e9)


def requests(client: Namespace, side: str, *, close: bool) -> Run:
    """Requests per second of 64 clients, and how many."""
    command = ["wrk", "-t1", "-c64", f"-d{SECONDS}s", f"http://{VIP}:{WEB[side]}/"]
    out = client.run([*command, "-H", "Connection: close"] if close else command).stdout
    (rate,) = [line.split()[1] for line in out.splitlines() if line.startswith("Requests/sec")]
    (count,) = [line.split()[0] for line in out.splitlines() if " requests in " in line]
    return Run(float(rate), float(count))


WORKLOADS: dict[str, tuple[str, Callable[[Namespace, str], Run]]] = {
    "bulk, 1 stream": ("Gbit/s", lambda client, side: bulk(client, side, 1)),
    "bulk, 8 streams": ("Gbit/s", lambda client, side: bulk(client, side, 8)),
    "keep-alive, 64 clients": ("requests/s", lambda client, side: requests(client, side, close=False)),
    "a connection for each request, 64 clients": (
        "requests/s",
        lambda client, side: requests(client, side, close=True),
    ),
}


def build(net: Network) -> tuple[Namespace, Namespace, Namespace]:
    """Lay client 192.0.2.1 -- 192.0.2.2 balancer 198.51.100.1 -- 198.51.100.2 backend."""
    client, balancer, backend = (net.namespace(name) for name in ("client", "lb", "backend"))
    net.veth(client, "eth0", balancer, "eth0")
    net.veth(balancer, "eth1", backend, "eth0")
    client.batch("addr add 192.0.2.1/24 dev eth0", f"route add {VIP}/32 via 192.0.2.2")
    balancer.batch("addr add 192.0.2.2/24 dev eth0", f"addr add {VIP}/32 dev eth0", "addr add 198.51.100.1/24 dev eth1")
    backend.batch(f"addr add {SERVER}/24 dev eth0")
    for box in (client, balancer, backend):
        box.ip("link", "set", "lo", "up")
        box.sysctl("net.ipv4.tcp_congestion_control", "reno")
    return client, balancer, backend


def start(balancer: Namespace, backend: Namespace, folder: Path) -> tuple[subprocess.Popen[str], dict[str, list[int]]]:
    """Start everything; return the daemon of our plane, and who forwards: process ids by side."""
    configurations = {
        "haproxy 64k": HAPROXY.format(
            tune="tune.bufsize 65536", option="", web=WEB["haproxy 64k"], bulk=BULK["haproxy 64k"]
        ),
        "haproxy splice": HAPROXY.format(
            tune="", option="option splice-auto", web=WEB["haproxy splice"], bulk=BULK["haproxy splice"]
        ),
    }
    (folder / "backend.cfg").write_text(BACKEND)
    backend.popen(["haproxy", "-f", str(folder / "backend.cfg"), "-db"])
    backend.popen(["iperf3", "-s"], stdout=subprocess.DEVNULL)
    command = balancer.command([sys.executable, __file__, "--serve"])
    daemon = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert daemon.stdout is not None
    pids = {"pipe": _read_pids(daemon.stdout)}
    for name, text in configurations.items():
        path = folder / f"{name.replace(' ', '-')}.cfg"
        path.write_text(text)
        pids[name] = [balancer.popen(["haproxy", "-f", str(path), "-db"]).pid]
    return daemon, pids


def _read_pids(lines: Iterable[str]) -> list[int]:
    """Find the one line that is nothing but numbers; the others are the plane's log."""
    return next(
        [int(word) for word in words] for line in lines if (words := line.split()) and all(map(str.isdigit, words))
    )


def wait_until_served(client: Namespace) -> None:
    """Ask every side until it answers."""
    deadline = time.monotonic() + 20
    for port in WEB.values():
        command = ["wrk", "-t1", "-c1", "-d1s", f"http://{VIP}:{port}/"]
        while "Requests/sec:      0.00" in (out := client.run(command, check=False).stdout) or not out:
            assert time.monotonic() < deadline, f"nobody answers on port {port}"


def measure(client: Namespace, pids: dict[str, list[int]]) -> dict[str, dict[str, list[Run]]]:
    """Run all workloads on all sides in turn."""
    seen: dict[str, dict[str, list[Run]]] = {name: {side: [] for side in WEB} for name in WORKLOADS}
    for number in range(ROUNDS):
        for name, (unit, run) in WORKLOADS.items():
            for side in list(WEB)[number % 3 :] + list(WEB)[: number % 3]:
                before = cpu_seconds(pids[side])
                done = run(client, side)
                seen[name][side].append(done.charge(cpu_seconds(pids[side]) - before, 1e3 if unit == "Gbit/s" else 1e6))
    return seen


def render(seen: dict[str, dict[str, list[Run]]], load: float) -> str:
    """Write the tables."""
    version = subprocess.run(["haproxy", "-v"], capture_output=True, text=True, check=True).stdout.split()[2]
    lines = [
        f"# Pipe against HAProxy, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "",
        f"Machine: {os.cpu_count()} CPUs, Linux {platform.release()}, Python {platform.python_version()},",
        f"HAProxy {version}; load average {load:.1f} before (other work), {os.getloadavg()[0]:.1f} at the end.",
        f"{ROUNDS} rounds of {SECONDS} s, all sides in turn; medians; a ratio is the median of the pairs of one round",
        "(lowest to highest). Two workers against two threads, on the two CPUs that client and backend use too.",
        "Script: `bench/pipe.py`.",
        "",
        *_table(
            seen,
            "throughput (a ratio above 1: pipe is faster)",
            0,
            {name: unit for name, (unit, _) in WORKLOADS.items()},
        ),
        "",
        *_table(
            seen,
            "CPU time of the balancer (a ratio below 1: pipe is cheaper)",
            1,
            {name: "ms/GB" if unit == "Gbit/s" else "us/request" for name, (unit, _) in WORKLOADS.items()},
        ),
    ]
    return "\n".join(lines) + "\n"


def _table(seen: dict[str, dict[str, list[Run]]], title: str, field: int, units: dict[str, str]) -> list[str]:
    """One figure of all workloads and sides."""
    lines = [
        f"| {title} | pipe | HAProxy, 64 KiB buffers | HAProxy, splice-auto | pipe : 64 KiB | pipe : splice |",
        "|---|---|---|---|---|---|",
    ]
    for name, unit in units.items():
        sides = {side: [run[field] for run in runs] for side, runs in seen[name].items()}
        cells = [f"{statistics.median(sides[side]):,.4g} {unit}" for side in WEB]
        for other in list(WEB)[1:]:
            ratios = [ours / theirs for ours, theirs in zip(sides["pipe"], sides[other], strict=True)]
            cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Measure, print, and write the dated result."""
    missing = [tool for tool in ("haproxy", "wrk", "iperf3") if shutil.which(tool) is None]
    reason = f"install {' '.join(missing)}" if missing else unavailable()
    if reason:
        print(f"SKIPPED bench/pipe.py: {reason}")
        return
    with Network("llbbench") as net, tempfile.TemporaryDirectory() as folder:
        client, balancer, backend = build(net)
        daemon, pids = start(balancer, backend, Path(folder))
        try:
            wait_until_served(client)
            load = os.getloadavg()[0]
            text = render(measure(client, pids), load)
        finally:
            assert daemon.stdin is not None
            daemon.stdin.close()
            daemon.wait(20)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-pipe.md").write_text(text)


if __name__ == "__main__":
    if "--serve" in sys.argv:
        asyncio.run(serve())
    else:
        main()
