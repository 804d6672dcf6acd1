"""Ten thousand addresses on one device: asked for, put there, read back, announced, removed; and who waits meanwhile.

    python -m bench.addresses                              10,000 IPv4 and 2,000 IPv6 addresses: about half a minute
    python -m bench.addresses --addresses 500 --six 200 --trial

The real targets, prober and link monitor in a network namespace with one other machine on the LAN, driven as the loop
does it: a pass applies what is wanted, and is made again when something that waited is woken. «Held up» is the longest
time in which the event loop did nothing else: that is how long a change to another Service would have waited.
"""

import argparse
import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Final

import structlog

from bench.record import Figure, report
from littlelb.announce.probe import LanProber
from littlelb.announce.target import AnnounceTarget
from littlelb.core.model import Announcement, HostFacts, Ip, Placement
from littlelb.core.plan import Changes, Severity, diff
from littlelb.host.address import AddressTarget
from littlelb.host.links import LinkMonitor, Reactions
from littlelb.host.netlink import Netlink
from littlelb.host.rtnl import Put, Take
from littlelb.testing.lan import Lan

DEVICE: Final = "eth0"
NOTES: Final = (
    """At each address the kernel walks over all others of the device, so the time grows with the square of their number
(perf: a third of it in fib_sync_up, the rest mostly in the list of inet_rtm_newaddr and __inet_insert_ifa).""",
    """For IPv6 it begins a report for each multicast group of the device at each new address (ipv6_mc_up): 10,000 take
more than half a minute, in passes of a quarter of a second; their removal takes a third of that, in one pass.""",
)
FIRST: Final = {4: "10.7.0.1", 6: "2001:db8:7::1"}


@dataclass(slots=True)
class Stalls:
    """How long the event loop was held up at most, since the last look."""

    longest: float = 0.0

    async def watch(self) -> None:
        """Look every millisecond."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.001)
            now = time.monotonic()
            self.longest, last = max(self.longest, now - last - 0.001), now

    def take(self) -> float:
        """Return it, in milliseconds, and begin anew."""
        longest, self.longest = self.longest, 0.0
        return longest * 1000


@dataclass(slots=True)
class Stage:
    """The parts of a daemon that addresses have to do with."""

    netlink: Netlink
    stalls: Stalls = field(default_factory=Stalls)
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    announce: AnnounceTarget = field(default_factory=AnnounceTarget)
    hints: int = 0
    facts: int = 0
    passes: list[float] = field(default_factory=list)
    target: AddressTarget = field(init=False)

    def __post_init__(self) -> None:
        """Wire them."""
        self.target = AddressTarget(self.netlink, LanProber(), lambda _addresses: self.woken.set())

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run what runs beside the passes."""

        def tell(_facts: HostFacts) -> None:
            self.facts += 1

        def hint() -> None:
            self.hints += 1

        monitor = LinkMonitor(DEVICE, self.netlink, Reactions(tell, hint, self.announce.forget, self.target.expects))
        works = (self.stalls.watch(), self.target.run(), self.announce.run(), monitor.run())
        tasks = [asyncio.create_task(work) for work in works]
        try:
            while not self.facts:
                await asyncio.sleep(0.001)
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def bring_up(self, wanted: Mapping[Ip, Placement]) -> float:
        """Make passes until nothing waits; the seconds it took."""
        began = time.monotonic()
        self.passes.clear()
        left = wanted
        while True:
            self.woken.clear()
            start = time.monotonic()
            seen = await self.target.observe(frozenset(left))
            failures = await self.target.apply(diff(left, seen))
            self.passes.append(time.monotonic() - start)
            assert all(failure.severity is Severity.WAITING for failure in failures.values()), failures
            left = {address: wanted[address] for address in failures}
            if not left:
                return time.monotonic() - began
            await self.woken.wait()


async def timed(work: Awaitable[object]) -> float:
    """The seconds that it takes."""
    began = time.monotonic()
    await work
    return time.monotonic() - began


def place(version: int, count: int, skip: int = 0) -> dict[Ip, Placement]:
    """So many addresses as host prefixes."""
    first = ip_address(FIRST[version]) + skip
    return {first + n: Placement(device=DEVICE, prefix_length=first.max_prefixlen) for n in range(count)}


async def measure_one(stage: Stage, rounds: int) -> list[Figure]:
    """One new Service at a time."""
    seconds = []
    for number in range(rounds):
        one = place(4, 1, skip=60_000 + number)
        seconds.append(await stage.bring_up(one) * 1000)
        await asyncio.sleep(0.05)
        await stage.target.apply(Changes(remove=one))
    return [Figure("one new IPv4 address, question to the LAN included", "ms", tuple(seconds), goal=800)]


async def measure_many(stage: Stage, version: int, count: int) -> list[Figure]:
    """All at once, from nothing to held, and back."""
    wanted, name = place(version, count), f"{count:,} IPv{version} addresses"
    stage.stalls.take()
    seconds = await stage.bring_up(wanted)
    await asyncio.sleep(0.1)  # what the kernel still has to say about them
    figures = [
        Figure(f"{name}: asked for and on the device", "s", (seconds,)),
        Figure(f"{name}: event loop held up", "ms", (stage.stalls.take(),), goal=50),
        Figure(f"{name}: passes it took", "", (len(stage.passes),)),
        Figure(f"{name}: longest pass", "s", (max(stage.passes),), goal=0.5),
        Figure(f"{name}: looks at the world because of our own events", "", (stage.hints,), goal=0),
    ]
    back = await timed(stage.target.observe(None))
    figures += [
        Figure(f"{name}: read back", "s", (back,), goal=0.3),
        Figure(f"{name}: event loop held up by that", "ms", (stage.stalls.take(),), goal=50),
    ]
    assert len(await stage.target.observe(None)) == count
    announced = {address: Announcement(device=DEVICE) for address in wanted}
    stage.stalls.take()
    figures += [
        Figure(f"{name}: announced, within the pass", "s", (await timed(stage.announce.apply(Changes(add=announced))),))
    ]
    await asyncio.sleep(2 * count / 10_000)
    figures += [Figure(f"{name}: event loop held up by all announcements", "ms", (stage.stalls.take(),), goal=50)]
    removed = await timed(stage.target.apply(Changes(remove=wanted)))
    figures += [
        Figure(f"{name}: removed", "s", (removed,)),
        Figure(f"{name}: event loop held up by that", "ms", (stage.stalls.take(),), goal=50),
    ]
    assert await stage.target.observe(None) == {}
    return figures


async def measure_kernel(netlink: Netlink, count: int) -> list[Figure]:
    """The kernel's part alone, with nothing of ours around it."""
    link = next(link for link in await netlink.read_links() if link.name == DEVICE)
    puts = [Put(address, 32, link) for address in place(4, count)]
    added = await timed(netlink.edit(puts))
    found = [entry for entry in await netlink.read_addresses() if entry.marked]
    removed = await timed(netlink.edit([Take(entry) for entry in found]))
    return [
        Figure(f"{count:,} IPv4 addresses: the kernel alone, put", "s", (added,), goal=0.5),
        Figure(f"{count:,} IPv4 addresses: the kernel alone, taken", "s", (removed,)),
    ]


async def measure(options: argparse.Namespace) -> list[Figure]:
    """Everything, in a namespace."""
    async with Netlink() as netlink:
        figures: list[Figure] = []
        for count in sorted({min(2000, options.addresses), options.addresses}):
            figures += await measure_kernel(netlink, count)
        stage = Stage(netlink)
        async with stage.running():
            figures += await measure_one(stage, options.rounds)
            figures += await measure_many(stage, 4, options.addresses)
            figures += await measure_many(stage, 6, options.six)
        return figures


def main(arguments: Sequence[str] | None = None) -> list[Figure]:
    """Measure, and write the result unless it is a trial."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--addresses", type=int, default=10_000)
    parser.add_argument("--six", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--trial", action="store_true", help="print only")
    options = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with Lan(clients=1, backends=0) as lan:
        figures = lan.balancer.call(lambda: asyncio.run(measure(options)))
    report("addresses", "Addresses", figures, NOTES, keep=not options.trial)
    return figures


if __name__ == "__main__":
    main()
