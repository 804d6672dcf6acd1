"""Endpoints that change all the time while connections come and streams go on: does anybody notice?

    python -m bench.changes_under_load             a minute of changes, half a minute without
    python -m bench.changes_under_load --short     a few seconds of each, nothing is written

client ── balancer (NftPlane, in a process of its own) ── four backends

Each change goes through the plane as the loop's changes do. Half of them are of the Service under load: one of its four
backends goes, and at its next turn comes back (the server stays, only whom new connections are given to changes). The
others are of a hundred more Services. Streams and connections keep the client's address. 0 failed, 0 broken.
"""

import argparse
import asyncio
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from pathlib import Path
from typing import IO, Final

import structlog

from bench.record import Figure, percentile, report
from littlelb.core.model import Backend, Forward, Frontend, Plane, Protocol
from littlelb.core.plan import Changes
from littlelb.dataplane.nft.plane import NftPlane, NftSettings
from littlelb.testing.netns import Namespace, Network, unavailable

VIP: Final = "203.0.113.7"
BACKENDS: Final = ("198.51.100.11", "198.51.100.12", "198.51.100.13", "198.51.100.14")
FIRST_SOURCE, SOURCES = "192.0.2.16", 16
SHORT_PORT, STREAM_PORT = 9000, 9001
STREAMS: Final = 20
AT_ONCE: Final = 16
OTHERS: Final = 100
"""Services that change, too, and that nobody asks."""
BEAT_SECONDS: Final = 0.05
"""A stream sends a message so often, and waits for it to come back."""
LOAD_SOURCE: Final = Path(__file__).parent / "tools" / "load.c"


# --- processes -------------------------------------------------------------------------------------------------------


async def change(per_second: int) -> None:
    """Be the plane in the balancer's namespace: serve, change from one line on stdin to the next, go at its end."""
    plane = NftPlane(NftSettings("eth0"), lambda: None)
    await plane.start()
    looking = asyncio.create_task(plane.run())
    wanted = {frontend(0, port): forward(0, port) for port in (SHORT_PORT, STREAM_PORT)}
    wanted |= {frontend(number): forward(number) for number in range(1, OTHERS + 1)}
    assert await plane.apply(Changes(wanted)) == {}
    print("serving", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    enough = asyncio.create_task(asyncio.to_thread(sys.stdin.readline))
    took: list[float] = []
    began = time.monotonic()
    while not enough.done():
        await asyncio.sleep(max(0.0, began + len(took) / per_second - time.monotonic()))
        turn, loaded = divmod(len(took), 2)
        number = 1 + turn % OTHERS if loaded else 0
        ports = (80,) if loaded else (SHORT_PORT, STREAM_PORT)
        some = {frontend(number, port): forward(number, port, away=turn % 5) for port in ports}
        start = time.perf_counter()
        assert await plane.apply(Changes(change=some)) == {}
        took.append((time.perf_counter() - start) * 1_000)
        wanted |= some
    assert await plane.observe(None) == wanted
    answer = {"changes": len(took), "seconds": time.monotonic() - began, "p50": percentile(took, 0.5)}
    print(json.dumps(answer | {"p99": percentile(took, 0.99)}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    looking.cancel()
    await plane.stop(keep=False)


def frontend(number: int, port: int = 80) -> Frontend:
    """Service 0 is the one under load."""
    return Frontend(IPv4Address(VIP) + number, Protocol.TCP, port)


def forward(number: int, port: int = 8080, away: int = len(BACKENDS)) -> Forward:
    """All backends but one; by default all."""
    served = [Backend(ip_address(ip), port, keeps_source=True) for at, ip in enumerate(BACKENDS) if at != away]
    return Forward(service=f"bench/{number}", backends=tuple(served), plane=Plane.NFT)


async def echo() -> None:
    """Be a server of long streams, until stdin ends."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while part := await reader.read(4096):
            writer.write(part)

    async with await asyncio.start_server(serve, "0.0.0.0", STREAM_PORT):  # noqa: S104  (in a namespace of ours)
        print("serving", flush=True)
        await asyncio.to_thread(sys.stdin.readline)


async def stream() -> None:
    """Be twenty clients until a line on stdin; say how many streams broke, and how slow the slowest echo was."""
    enough = asyncio.Event()
    slowest = 0.0
    messages = 0

    async def talk() -> None:
        nonlocal slowest, messages
        reader, writer = await asyncio.open_connection(VIP, STREAM_PORT)
        opened.append(writer)
        while not enough.is_set():
            message = messages.to_bytes(8) * 128
            began = time.monotonic()
            writer.write(message)
            async with asyncio.timeout(10):
                assert await reader.readexactly(len(message)) == message
            slowest, messages = max(slowest, time.monotonic() - began), messages + 1
            await asyncio.sleep(BEAT_SECONDS)
        writer.close()

    opened: list[asyncio.StreamWriter] = []
    tasks = [asyncio.create_task(talk()) for _ in range(STREAMS)]
    while len(opened) < STREAMS and not any(task.done() for task in tasks):
        await asyncio.sleep(0.01)
    print("serving", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    enough.set()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    broken = [why for why in ended if why is not None]
    print(*map(repr, broken), sep="\n", file=sys.stderr)
    print(json.dumps({"broken": len(broken), "messages": messages, "slowest": slowest * 1_000}), flush=True)


# --- the stage -------------------------------------------------------------------------------------------------------


class Child:
    """One of the processes above, in a namespace."""

    def __init__(self, box: Namespace, *words: str) -> None:
        """Start it, and wait until it serves."""
        argv = box.command([sys.executable, "-m", "bench.changes_under_load", *words])
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        while (line := self._out.readline()) != "serving\n":
            assert line, f"{words} did not start"

    @property
    def _out(self) -> IO[str]:
        assert self._process.stdout is not None
        return self._process.stdout

    def say(self) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        self._process.stdin.write("now\n")
        self._process.stdin.flush()

    def hear(self) -> dict[str, float]:
        """Send a line, and read what it says to that."""
        self.say()
        answer: dict[str, float] = json.loads(self._out.readline())
        return answer

    def end(self) -> None:
        """Close its input, and wait."""
        self._process.communicate(timeout=60)
        assert self._process.returncode == 0


@dataclass(frozen=True, slots=True)
class Stage:
    """Namespaces, and the load tool."""

    client: Namespace
    balancer: Namespace
    backend: Namespace
    tool: Path

    def connect(self, seconds: float) -> dict[str, float]:
        """Make short connections for so long."""
        words = [str(self.tool), "connect", VIP, str(SHORT_PORT), FIRST_SOURCE, str(SOURCES), str(AT_ONCE)]
        answer: dict[str, float] = json.loads(self.client.run([*words, str(seconds)], timeout=seconds + 30).stdout)
        return answer


def build(net: Network, tool: Path) -> Stage:
    """Lay client -- balancer -- backends."""
    client, balancer, backend = (net.namespace(label) for label in ("client", "lb", "backend"))
    net.veth(client, "eth0", balancer, "eth0")
    net.veth(balancer, "eth1", backend, "eth0")
    first = ip_address(FIRST_SOURCE)
    client.batch(*(f"addr add {first + at}/24 dev eth0" for at in range(SOURCES)), "route add default via 192.0.2.2")
    balancer.batch("addr add 192.0.2.2/24 dev eth0", "addr add 198.51.100.2/24 dev eth1", f"addr add {VIP}/32 dev eth0")
    backend.batch(*(f"addr add {ip}/24 dev eth0" for ip in BACKENDS), "route add default via 198.51.100.2")
    balancer.sysctl("net.ipv4.ip_forward", "1")
    for box in (client, backend):
        box.sysctl("net.ipv4.ip_local_port_range", "1024 65000")
    return Stage(client, balancer, backend, tool)


def measure(stage: Stage, seconds: float, per_second: int) -> list[Figure]:
    """Without changes, with changes, without changes; streams go on all the time."""
    stage.backend.popen([str(stage.tool), "serve", str(SHORT_PORT)])
    with ExitStack() as children:

        def start(box: Namespace, *words: str) -> Child:
            child = Child(box, *words)
            children.callback(child.end)
            return child

        start(stage.backend, "--echo")
        plane = start(stage.balancer, "--change", str(per_second))
        # In a minute those that wait for their end would fill the table of connections.
        stage.balancer.sysctl("net.netfilter.nf_conntrack_tcp_timeout_time_wait", "5")
        streams = start(stage.client, "--stream")
        before = stage.connect(seconds / 4)
        plane.say()
        meanwhile = stage.connect(seconds)
        changed = plane.hear()
        after = stage.connect(seconds / 4)
        return describe(changed, streams.hear(), meanwhile, (before, after))


def describe(
    changed: dict[str, float],
    streams: dict[str, float],
    meanwhile: dict[str, float],
    quiet: Sequence[dict[str, float]],
) -> list[Figure]:
    """Put the answers together."""
    without = tuple(one["p99_us"] / 1_000 for one in quiet)
    return [
        Figure("changes applied", "/s", (changed["changes"] / changed["seconds"],)),
        Figure("  median of one", "ms", (changed["p50"],)),
        Figure("  p99 of one", "ms", (changed["p99"],)),
        Figure("short connections meanwhile", "", (meanwhile["done"],)),
        Figure("  failed", "", (meanwhile["failed"],), 0.0),
        Figure("  failed without changes", "", tuple(one["failed"] for one in quiet)),
        Figure("  a second", "/s", (meanwhile["done"] / meanwhile["seconds"],)),
        Figure("  a second, without changes", "/s", tuple(one["done"] / one["seconds"] for one in quiet)),
        Figure("  p99", "ms", (meanwhile["p99_us"] / 1_000,)),
        Figure("  p99 without changes, before and after", "ms", without),
        Figure(f"of {STREAMS} long streams, broken", "", (streams["broken"],), 0.0),
        Figure(f"  slowest echo of {streams['messages']:,.0f}", "ms", (streams["slowest"],)),
    ]


# --- the command -----------------------------------------------------------------------------------------------------


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, help="with changes (default: 60); half as long without")
    parser.add_argument("--rate", type=int, default=100, help="changes a second")
    parser.add_argument("--short", action="store_true", help="four seconds; write no result")
    parser.add_argument("--trial", action="store_true", help="write no result")
    parser.add_argument("--change", type=int, help=argparse.SUPPRESS)
    for name in ("--echo", "--stream"):
        parser.add_argument(name, action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    options.seconds = options.seconds or (4.0 if options.short else 60.0)
    return options


def main(words: Sequence[str] | None = None) -> list[Figure]:
    """Be one of the processes; or measure, print, and write the dated result."""
    options = parse(words)
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    if options.change:
        asyncio.run(change(options.change))
        return []
    if options.echo or options.stream:
        asyncio.run(echo() if options.echo else stream())
        return []
    missing = [tool for tool in ("cc", "nft") if shutil.which(tool) is None]
    reason = f"install {' '.join(missing)}" if missing else unavailable()
    if reason:
        print(f"SKIPPED bench/changes_under_load.py: {reason}")
        return []
    with Network("llload") as net, tempfile.TemporaryDirectory() as top:
        tool = Path(top) / "load"
        subprocess.run(["cc", "-O2", "-o", str(tool), str(LOAD_SOURCE)], check=True)
        figures = measure(build(net, tool), options.seconds, options.rate)
    note = (
        f"{options.rate} changes a second asked for, {options.seconds:g} s; {AT_ONCE} short connections at once and "
        f"{STREAMS} streams, with the client's address kept; client, balancer and backends share the CPUs."
    )
    report("changes_under_load", "Changes under load", figures, [note], keep=not (options.trial or options.short))
    return figures


if __name__ == "__main__":
    main()
