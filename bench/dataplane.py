"""What each way of forwarding costs beside no balancer at all: our planes, kube-proxy's rules, klipper's, two proxies.

    sudo python -m bench.dataplane            about 25 minutes; needs cc nft iperf3 wrk haproxy, and nginx, iptables
    sudo python -m bench.dataplane --short    one round of half a second

Each way has three network namespaces of its own: client -- balancer -- three backends. All are set up at the same time;
each workload is measured on all of them in turn, several rounds. A ratio is that of a pair: a way, and plain routing in
the same round. The CPU time is that of the whole machine (/proc/stat), because the kernel forwards on whichever CPU
sends; what a way adds is its CPU time for one unit less that of plain routing.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from bench.record import RESULTS, describe_machine, render_table
from littlelb.core.model import Backend, Forward, Frontend, Plane, Protocol
from littlelb.core.plan import Changes
from littlelb.dataplane.nft.plane import NftPlane, NftSettings
from littlelb.dataplane.pipe.crew import PipeSettings
from littlelb.dataplane.pipe.plane import PipePlane
from littlelb.testing.netns import Namespace, Network, unavailable

VIP: Final = "203.0.113.7"
BACKENDS: Final = ("198.51.100.11", "198.51.100.12", "198.51.100.13")
SOURCES: Final = 16
"""Addresses of the client: behind one of them there are only 64 thousand ports."""
FIRST_SOURCE: Final = "192.0.2.16"
WEB, BULK, LOAD = 8000, 5201, 9000
FRONTENDS: Final = (("tcp", WEB), ("tcp", LOAD), ("tcp", BULK), ("udp", LOAD))
"""All ports of the Service."""
ALONE: Final = (("tcp", BULK), ("udp", LOAD))
"""Those with one backend: an iperf3 client has two connections to one server, and datagrams are counted by one."""
LOAD_SOURCE: Final = Path(__file__).parent / "tools" / "load.c"

WEB_SERVER = """
global
    nbthread 1
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 5s
frontend web
    bind :8000 backlog 16384
    http-request return status 200 content-type text/plain string ok
"""
HAPROXY = """
global
    nbthread 2
    maxconn 8000
    tune.bufsize 65536
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
"""
NGINX = """
worker_processes 2;
worker_rlimit_nofile 16384;
error_log stderr error;
pid {folder}/nginx.pid;
{modules}
events {{ worker_connections 8000; }}
stream {{
    proxy_buffer_size 64k;
"""


@dataclass(frozen=True, slots=True)
class World:
    """The three namespaces of one way."""

    client: Namespace
    balancer: Namespace
    backend: Namespace
    target: str
    """The address that the client asks."""


@dataclass(slots=True)
class Way:
    """One way of forwarding."""

    name: str
    start: Callable[[World, Path], None]
    """Set it up in the balancer's namespace; processes end with the Network."""
    target: str = VIP
    udp: bool = True
    needs: str = ""
    """A program that must be there."""
    world: World | None = field(default=None, repr=False)


def backends_of(protocol: str, port: int) -> tuple[str, ...]:
    """Who serves a port."""
    return BACKENDS[:1] if (protocol, port) in ALONE else BACKENDS


# --- ways ------------------------------------------------------------------------------------------------------------


def start_direct(_world: World, _folder: Path) -> None:
    """Plain routing: nothing to do."""


def start_conntrack(world: World, _folder: Path) -> None:
    """Plain routing beside a firewall that asks for the connection's state."""
    load_text(
        world, "table ip bench { chain f { type filter hook forward priority 0; ct state established accept; }; }"
    )


def start_ours(word: str) -> Callable[[World, Path], None]:
    """One of our planes, programmed by its own code, in a process that stays."""

    def start(world: World, folder: Path) -> None:
        process = subprocess.Popen(
            world.balancer.command([sys.executable, "-m", "bench.dataplane", "--serve", word, str(folder)]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        SERVING.append(process)
        assert process.stdout is not None
        while (line := process.stdout.readline()) != "serving\n":
            assert line, f"{word} did not start"

    return start


SERVING: list[subprocess.Popen[str]] = []


def start_kube_proxy(world: World, _folder: Path) -> None:
    """The layout of kube-proxy's nftables mode (KEP-3866): a chain for each Service, one for each endpoint."""
    lines = ["table ip bench {"]
    entries = []
    for protocol, port in FRONTENDS:
        name, verdicts = f"{protocol}-{port}", []
        backends = backends_of(protocol, port)
        for number, backend in enumerate(backends):
            lines += [
                f"chain endpoint-{name}-{number} {{",
                f"ip saddr {backend} meta mark set meta mark or 0x4000",
                f"meta l4proto {protocol} dnat to {backend}:{port}",
                "}",
            ]
            verdicts.append(f"{number} : goto endpoint-{name}-{number}")
        choice = f"numgen random mod {len(backends)} vmap {{ {', '.join(verdicts)} }}"
        lines += [f"chain service-{name} {{", choice, "}"]
        lines += [f"chain external-{name} {{", "meta mark set meta mark or 0x4000", f"goto service-{name}", "}"]
        entries.append(f"{VIP} . {protocol} . {port} : goto external-{name}")
    lines += [
        "map services { type ipv4_addr . inet_proto . inet_service : verdict",
        f"elements = {{ {', '.join(entries)} }}",
        "}",
        "chain pre { type nat hook prerouting priority dstnat",
        "ip daddr . meta l4proto . th dport vmap @services",
        "}",
        "chain post { type nat hook postrouting priority srcnat",
        "meta mark and 0x4000 != 0 masquerade fully-random",
        "}",
        "}",
    ]
    load_text(world, "\n".join(lines))


def start_klipper(world: World, _folder: Path) -> None:
    """What klipper-lb does: iptables, DNAT to one address, masquerade everything."""
    table = ["iptables", "-w", "-t", "nat"]
    for protocol, port in FRONTENDS:
        goal = ["-j", "DNAT", "--to-destination", f"{BACKENDS[0]}:{port}"]
        world.balancer.run([*table, "-A", "PREROUTING", "-d", VIP, "-p", protocol, "--dport", str(port), *goal])
    world.balancer.run([*table, "-A", "POSTROUTING", "-o", "eth1", "-j", "MASQUERADE"])


def start_haproxy(world: World, folder: Path) -> None:
    """Two threads, 64 KiB buffers."""
    text = HAPROXY
    for port in (WEB, LOAD, BULK):
        text += f"listen p{port}\n    bind {VIP}:{port} backlog 16384\n"
        text += "".join(f"    server s{at} {backend}:{port}\n" for at, backend in enumerate(backends_of("tcp", port)))
    (folder / "haproxy.cfg").write_text(text)
    world.balancer.popen(["haproxy", "-f", str(folder / "haproxy.cfg"), "-db"], stderr=subprocess.DEVNULL)


def start_nginx(world: World, folder: Path) -> None:
    """Two workers, the stream module."""
    module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    text = NGINX.format(folder=folder, modules=f"load_module {module};" if module.exists() else "")
    for port in (WEB, LOAD, BULK):
        servers = "".join(f"server {backend}:{port};" for backend in backends_of("tcp", port))
        text += (
            f"upstream t{port} {{ {servers} }}\nserver {{ listen {VIP}:{port} backlog=16384; proxy_pass t{port}; }}\n"
        )
    text += f"server {{ listen {VIP}:{LOAD} udp; proxy_pass {BACKENDS[0]}:{LOAD}; proxy_timeout 10s; }}\n}}\n"
    (folder / "nginx.conf").write_text(text)
    world.balancer.popen(["nginx", "-c", str(folder / "nginx.conf"), "-g", "daemon off;"], stderr=subprocess.DEVNULL)


WAYS: Final = (
    Way("plain routing", start_direct, target=BACKENDS[0]),
    Way("routing + conntrack", start_conntrack, target=BACKENDS[0]),
    Way("nft, address kept", start_ours("keep")),
    Way("nft, masquerade", start_ours("masquerade")),
    Way("kube-proxy's layout", start_kube_proxy),
    Way("klipper's way", start_klipper, needs="iptables"),
    Way("pipe", start_ours("pipe"), udp=False),
    Way("HAProxy", start_haproxy, udp=False, needs="haproxy"),
    Way("nginx stream", start_nginx, needs="nginx"),
)


def load_text(world: World, text: str) -> None:
    """Give a table to nft."""
    subprocess.run(world.balancer.command(["nft", "-f", "-"]), input=text, text=True, check=True)


async def serve(word: str, folder: Path) -> None:
    """Be one of our planes in its namespace until stdin ends."""
    forwards: dict[Frontend, Forward] = {}
    for protocol, port in FRONTENDS:
        backends = backends_of(protocol, port)
        forwards[Frontend(ip_address(VIP), Protocol(protocol.upper()), port)] = Forward(
            service="bench/load",
            plane=Plane.PIPE if word == "pipe" else Plane.NFT,
            backends=tuple(Backend(ip_address(one), port, keeps_source=word == "keep") for one in backends),
        )
    plane: NftPlane | PipePlane
    if word == "pipe":
        forwards = {f: v for f, v in forwards.items() if f.protocol is Protocol.TCP}
        plane = PipePlane(PipeSettings(folder / "run", workers=2), lambda _: "", lambda: None)
    else:
        plane = NftPlane(NftSettings("eth0"), lambda: None)
    await plane.start()
    failures = await plane.apply(Changes(forwards))
    assert not failures, failures
    print("serving", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await plane.stop(keep=False)


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


# --- the stage -------------------------------------------------------------------------------------------------------


def build(net: Network, way: Way, number: int, folder: Path, tool: Path) -> None:
    """Lay client -- balancer -- backends, start the servers, then the way itself."""
    client, balancer, backend = (net.namespace(f"{label}{number}") for label in ("client", "lb", "backend"))
    net.veth(client, "eth0", balancer, "eth0")
    net.veth(balancer, "eth1", backend, "eth0")
    first = int(ip_address(FIRST_SOURCE))
    client.batch(
        *(f"addr add {ip_address(first + at)}/24 dev eth0" for at in range(SOURCES)), "route add default via 192.0.2.2"
    )
    balancer.batch("addr add 192.0.2.2/24 dev eth0", "addr add 198.51.100.2/24 dev eth1", f"addr add {VIP}/32 dev eth0")
    backend.batch(*(f"addr add {ip}/24 dev eth0" for ip in BACKENDS), "route add default via 198.51.100.2")
    balancer.sysctl("net.ipv4.ip_forward", "1")
    for box in (client, balancer, backend):
        box.sysctl("net.ipv4.tcp_congestion_control", "reno")
        box.sysctl("net.ipv4.ip_local_port_range", "1024 65000")
    (folder / "web.cfg").write_text(WEB_SERVER)
    backend.popen(["haproxy", "-f", str(folder / "web.cfg"), "-db"], stderr=subprocess.DEVNULL)
    for ip in BACKENDS:
        backend.popen(["iperf3", "-s", "-B", ip, "-p", str(BULK)], stdout=subprocess.DEVNULL)
    backend.popen([str(tool), "serve", str(LOAD)])
    way.world = World(client, balancer, backend, way.target)
    way.start(way.world, folder)
    _wait_until_served(way.world, tool)


def _wait_until_served(world: World, tool: Path) -> None:
    deadline = time.monotonic() + 20
    words = [str(tool), "connect", world.target, str(LOAD), FIRST_SOURCE, "1", "1", "0.1"]
    while not json.loads(world.client.run(words, check=False).stdout or '{"done": 0}')["done"]:
        assert time.monotonic() < deadline, f"nobody answers on {world.target}"
        time.sleep(0.1)
    time.sleep(0.3)  # the other servers of this world were started before the one that has just answered


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
    if "--serve" in sys.argv:
        asyncio.run(serve(sys.argv[-2], Path(sys.argv[-1])))
    else:
        sys.exit(main())
