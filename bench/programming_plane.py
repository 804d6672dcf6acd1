"""Part of bench/programming.py: our kernel plane beside kube-proxy's layout, each in a namespace of its own.

Both have the same Services. Ours is driven as the loop drives it (`apply` of Changes), theirs by `nft -f -` with the
text that kube-proxy writes; after some changes of ours comes one of theirs, and so on.
"""

import asyncio
import gc
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Final, cast

from bench.kube_layout import Shape, render_all, render_endpoints, render_ranges, run_nft
from bench.large_world import PODS, VIPS
from bench.record import Figure, memory_mib, percentile
from littlelb.core.model import Backend, Forward, Frontend, Net, Plane, Protocol
from littlelb.core.plan import Changes
from littlelb.dataplane.netfilter.socket import NfSocket
from littlelb.dataplane.nft.plane import NftPlane, NftSettings
from littlelb.testing.netns import Namespace, Network

RANGES: Final = (IPv4Network("192.0.2.0/25"), IPv4Network("198.51.100.0/24"))
THEIR_RANGED: Final = 1_000
"""With source ranges on more Services, kube-proxy's layout takes minutes to load: each is an anonymous set."""
OTHER_RANGES: Final = (IPv4Network("192.0.2.0/24"), IPv4Network("198.51.100.0/24"))
STRIDE: Final = 7_919
"""A prime: changes go from one end to the other."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of it."""

    services: int
    ours: int
    """Changes of our plane."""
    theirs: int
    """Changes of kube-proxy's layout; 0: it is not even loaded."""


def frontend(number: int) -> Frontend:
    """Where clients of a Service knock."""
    return Frontend(IPv4Address(VIPS + 256 + number), Protocol.TCP, 80)


def forward(number: int, turn: int = 0, ranges: tuple[Net, ...] | None = None) -> Forward:
    """Three backends; at another turn one of them has gone and another one has come, and all slots move."""
    first = PODS + number * 16 + turn % 2
    served = tuple(Backend(IPv4Address(first + at), 8080, keeps_source=True) for at in range(3))
    return Forward(service=f"default/svc-{number}", backends=served, plane=Plane.NFT, source_ranges=ranges)


def shape(number: int, wanted: Forward) -> Shape:
    """Give the same to kube-proxy's layout."""
    backends = tuple((str(backend.address), backend.port) for backend in wanted.backends)
    return Shape(number, str(frontend(number).address), backends, tuple(map(str, wanted.source_ranges or ())))


@contextmanager
def timed_commits() -> Iterator[list[tuple[float, float]]]:
    """Milliseconds, and those of CPU time, of each transaction while it lasts: encode, send, acknowledgement."""
    seen: list[tuple[float, float]] = []
    commit = NfSocket.commit

    def timed(self: NfSocket, *arguments: object) -> None:
        began, busy = time.perf_counter(), time.thread_time()
        commit(self, *arguments)  # type: ignore[arg-type]
        seen.append(((time.perf_counter() - began) * 1_000, (time.thread_time() - busy) * 1_000))

    NfSocket.commit = timed  # type: ignore[assignment,method-assign]
    try:
        yield seen
    finally:
        NfSocket.commit = commit  # type: ignore[method-assign]


class Ours:
    """Our plane with so many Services."""

    def __init__(self, services: int, *, with_ranges: bool) -> None:
        """Nothing is loaded yet."""
        ranges = RANGES if with_ranges else None
        self.wanted = {frontend(number): forward(number, ranges=ranges) for number in range(services)}
        self.plane = NftPlane(NftSettings("eth0"), lambda: None)

    async def load(self) -> float:
        """Bring all of it up from nothing; the seconds it took."""
        began = time.perf_counter()
        await self.plane.start()
        assert await self.plane.apply(Changes(self.wanted)) == {}
        took = time.perf_counter() - began
        assert await self.plane.observe(None) == self.wanted
        return took

    async def change(self, number: int, wanted: Forward, times: "Times") -> None:
        """Change one Service, and enter how long it took."""
        key = frontend(number)
        with timed_commits() as commits:
            began = time.perf_counter()
            seen = await self.plane.observe(frozenset({key}))
            assert await self.plane.apply(Changes(change={key: wanted})) == {}
            times.ours.append((time.perf_counter() - began) * 1_000)
        assert seen[key] != wanted
        times.writes.append(sum(wall for wall, _ in commits))
        times.busy.append(sum(busy for _, busy in commits))
        self.wanted[key] = wanted

    async def resync(self) -> float:
        """Read all of it back; the seconds it took."""
        began = time.perf_counter()
        assert await self.plane.observe(None) == self.wanted
        return time.perf_counter() - began


class Theirs:
    """kube-proxy's layout in its own namespace."""

    def __init__(self, box: Namespace, wanted: Mapping[Frontend, Forward]) -> None:
        """Nothing is loaded yet."""
        self._box = box
        self._shapes = [shape(number, one) for number, one in enumerate(wanted.values())]

    def load(self) -> float:
        """Load all of it; the seconds it took."""
        return self._run(render_all(self._shapes))

    def change(self, number: int, wanted: Forward) -> float:
        """Change one Service; the milliseconds it took."""
        old, new = self._shapes[number], shape(number, wanted)
        text = render_endpoints(old, new) if old.backends != new.backends else render_ranges(new)
        self._shapes[number] = new
        return self._run(text) * 1_000

    def _run(self, text: str) -> float:
        def inside() -> float:
            began = time.perf_counter()
            run_nft(text)
            return time.perf_counter() - began

        return self._box.call(inside)


@dataclass(slots=True)
class Times:
    """What was seen of one kind of change, in milliseconds."""

    ours: list[float]
    writes: list[float]
    busy: list[float]
    """CPU time of the writes: without other programs of the machine."""
    theirs: list[float]


async def alternate(ours: Ours, theirs: Theirs | None, scale: Scale, *, of_ranges: bool) -> Times:
    """Change Services one after the other, on both sides in turn."""
    times = Times([], [], [], [])
    every = max(1, scale.ours // scale.theirs) if theirs is not None else 0
    for at in range(scale.ours):
        number = at * STRIDE % scale.services
        before = ours.wanted[frontend(number)]
        turn = 1 - (int(before.backends[0].address) - PODS) % 16
        if of_ranges:
            other = OTHER_RANGES if before.source_ranges == RANGES else RANGES
            wanted = forward(number, 1 - turn, other)
        else:
            wanted = forward(number, turn, before.source_ranges)
        await ours.change(number, wanted, times)
        if theirs is not None and at % every == 0:
            times.theirs.append(await asyncio.to_thread(theirs.change, number, wanted))
    return times


def describe(scale: Scale, what: str, times: Times, goals: tuple[float | None, float | None]) -> list[Figure]:
    """Figures of one kind of change; `goals` of its kernel write, and of all of it (p99, milliseconds)."""
    name = f"{scale.services:,} Services, {what}"
    write, whole = tuple(times.writes), tuple(times.ours)
    figures = [
        Figure(f"{name}: ours", "ms", whole, goals[1], judged=percentile(whole, 0.99)),
        Figure("  of it the kernel write", "ms", write, goals[0], judged=percentile(write, 0.99)),
        Figure("  by CPU time", "ms", tuple(times.busy)),
    ]
    if times.theirs:
        theirs = Figure("  kube-proxy's layout", "ms", tuple(times.theirs))
        figures += [theirs, Figure("  times ours (of medians)", "", (theirs.median / figures[0].median,))]
    return figures


async def measure(scale: Scale, theirs_box: Namespace, *, with_ranges: bool) -> list[Figure]:
    """One size, with or without source ranges on every Service."""
    ours = Ours(scale.services, with_ranges=with_ranges)
    able = scale.theirs and not (with_ranges and scale.services > THEIR_RANGED)
    theirs = Theirs(theirs_box, ours.wanted) if able else None
    ranged = ", all with source ranges" if with_ranges else ""
    name = f"{scale.services:,} Services{ranged}"
    loaded = Figure(f"{name}: cold load, ours", "s", (await ours.load(),))
    figures = [loaded]
    if theirs is not None:
        other = Figure("  kube-proxy's layout", "s", (await asyncio.to_thread(theirs.load),))
        figures += [other, Figure("  times ours", "", (other.median / loaded.median,))]
    figures.append(Figure("  all of ours read back", "s", (await ours.resync(),)))
    times = await alternate(ours, theirs, scale, of_ranges=False)
    figures += describe(scale, f"an endpoint changed{ranged}", times, (None, 20.0) if with_ranges else (1.0, None))
    if with_ranges:
        times = await alternate(ours, theirs, scale, of_ranges=True)
        figures += describe(scale, "source ranges of one changed", times, (20.0, None))
    await ours.resync()
    await ours.plane.stop(keep=False)
    return figures


def run(scale: Scale) -> list[Figure]:
    """One size: with and without source ranges, and the memory of it."""
    figures: list[Figure] = []
    for with_ranges in (False, True):
        with Network("llprog") as net:
            ours, theirs = (net.namespace(label) for label in ("ours", "theirs"))

            def inside(theirs: Namespace = theirs, with_ranges: bool = with_ranges) -> list[Figure]:
                return asyncio.run(measure(scale, theirs, with_ranges=with_ranges))

            figures += ours.call(inside)
    with Network("llprog") as net:
        words = [sys.executable, "-m", "bench.programming_plane", str(scale.services)]
        done = net.namespace("memory").run(words, timeout=300)
    grown = cast("float", json.loads(done.stdout.splitlines()[-1]))
    return [*figures, Figure(f"{scale.services:,} Services: memory that the plane adds", "MiB", (grown,))]


async def weigh(services: int) -> float:
    """MiB by which this process grows when the plane takes on so many Services that are known already."""
    ours = Ours(services, with_ranges=False)
    gc.collect()
    before = memory_mib("VmRSS")
    await ours.load()
    await ours.resync()
    gc.collect()
    grown = memory_mib("VmRSS") - before
    await ours.plane.stop(keep=False)
    return grown


if __name__ == "__main__":
    print(json.dumps(asyncio.run(weigh(int(sys.argv[1])))))
