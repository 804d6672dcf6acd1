"""What it costs to cut the flows of a backend, and to add up all flows by frontend and backend.

    sudo python -m bench.conntrack        20,000 and 50,000 flows, a minute

One network namespace without traffic, whose conntrack table is filled by hand with TCP flows from 10 frontends to 10
backends, accounting on. Each round deletes one backend's flows in every way and enters them anew, in turn: one filtered
message, a list with a deletion for each flow, and the command of conntrack-tools. The loop's longest pause is what
another task of the same loop had to wait for while the call was under way.
"""

import argparse
import asyncio
import errno
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from ipaddress import ip_address
from typing import Final, TypeVar

from msgspec.structs import replace

from bench.record import Figure, report
from littlelb.core.model import Backend, Family, Forward, Frontend, Ip, Plane, Protocol
from littlelb.core.plan import Changes
from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.conntrack.exchange import Exchange
from littlelb.dataplane.netfilter.conntrack.filters import FlowFilter
from littlelb.dataplane.netfilter.conntrack.flows import Flow, Tuple, render_create
from littlelb.dataplane.netfilter.conntrack.limits import Accounting
from littlelb.dataplane.netfilter.conntrack.probe import Support
from littlelb.dataplane.netfilter.conntrack.socket import ConntrackSocket
from littlelb.dataplane.nft.flows.counting import Counting
from littlelb.dataplane.nft.flows.flows import Sockets
from littlelb.dataplane.nft.plane import NftPlane, NftSettings
from littlelb.dataplane.nft.ruleset import MARK_OURS
from littlelb.testing.netns import Namespace, Network, unavailable

T = TypeVar("T")

FRONTENDS: Final = 10
BACKENDS: Final = 10
PORT: Final = 80
MARK: Final = 0x4C000000
BASES: Final = {
    Family.IPV4: tuple(map(ip_address, ("192.0.2.0", "203.0.113.0", "10.1.0.0"))),
    Family.IPV6: tuple(map(ip_address, ("2001:db8:2::", "2001:db8:113::", "2001:db8:1::"))),
}


def make_flow(family: Family, number: int) -> Flow:
    """Make the n-th flow: clients have 20,000 ports each, frontends and backends come in turn."""
    clients, vips, pods = BASES[family]
    client, port = clients + number // 20_000, 20_000 + number % 20_000
    vip, pod = vips + number % FRONTENDS, pods + number // FRONTENDS % BACKENDS
    original, reply = Tuple(client, vip, port, PORT), Tuple(pod, client, PORT, port)
    return Flow(protocol=6, original=original, reply=reply, mark=MARK, timeout_seconds=600)


def enter(exchange: Exchange, flows: Sequence[Flow]) -> None:
    """Put flows into the table, unless they are there."""

    def create(flow: Flow, flags: int, sequence: int) -> bytes:
        return render_create(flow, flags | wire.NLM_F_CREATE | wire.NLM_F_EXCL, sequence)

    for codes in exchange.batches([partial(create, flow) for flow in flows]):
        assert set(codes) <= {0, errno.EEXIST}, codes


class Watch:
    """Wall time, CPU time of this thread, and the loop's longest pause, of calls; in milliseconds."""

    def __init__(self) -> None:
        """Nothing is measured yet."""
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.pause: list[float] = []

    async def measure(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make one call beside a task that only breathes."""
        gaps = [0.0]

        async def breathe() -> None:
            last = time.perf_counter()
            while True:
                await asyncio.sleep(0)
                now = time.perf_counter()
                gaps.append(now - last)
                last = now

        breathing = asyncio.create_task(breathe())
        await asyncio.sleep(0)
        gaps.clear()
        began, cpu = time.perf_counter(), time.thread_time()
        result = await call()
        self.wall.append((time.perf_counter() - began) * 1e3)
        self.cpu.append((time.thread_time() - cpu) * 1e3)
        await asyncio.sleep(0)
        breathing.cancel()
        self.pause.append(max(gaps) * 1e3)
        return result


async def cut(box: Namespace, family: Family, count: int, rounds: int) -> list[Figure]:
    """Cut the flows of one backend out of `count`, in all ways in turn."""
    exchange = box.call(Exchange)
    flows = [make_flow(family, number) for number in range(count)]
    enter(exchange, flows)
    backend = BASES[family][2] + 3
    mine = [flow for flow in flows if flow.reply.source == backend]
    asked = FlowFilter(backend=backend, backend_port=PORT, protocol=Protocol.TCP, mark=MARK, mark_mask=MARK)
    probed = box.call(ConntrackSocket)
    ways = {"listed": box.call(partial(ConntrackSocket, Support()))}
    if probed.support.covers(asked):
        ways["filtered"] = probed
    watches = {name: Watch() for name in ways}
    command: list[float] = []
    for _ in range(rounds):
        for name, conntrack in ways.items():
            await watches[name].measure(partial(conntrack.delete, [asked]))
            left = await conntrack.count()
            assert sum(left.values()) == count - len(mine), "exactly the backend's flows are gone"
            enter(exchange, mine)
        command.append(run_command(box, backend))
        enter(exchange, mine)
    title = f"{family.value}, {len(mine):,} of {count:,} flows"
    figures = [
        figure
        for name, watch in watches.items()
        for figure in (
            Figure(f"{title}, {name}: wall", "ms", tuple(watch.wall)),
            Figure(f"{title}, {name}: longest pause of the loop", "ms", tuple(watch.pause)),
        )
    ]
    return [*figures, Figure(f"{title}, conntrack -D: wall", "ms", tuple(command))]


def run_command(box: Namespace, backend: Ip) -> float:
    """Delete the same flows by conntrack-tools; milliseconds."""
    family = "ipv4" if backend.version == 4 else "ipv6"
    began = time.perf_counter()
    box.run(
        ["conntrack", "-D", "-f", family, "-p", "tcp", "--reply-src", str(backend), "--sport", str(PORT)], check=False
    )
    return (time.perf_counter() - began) * 1e3


async def add_up(box: Namespace, count: int, rounds: int) -> list[Figure]:
    """Add all flows up."""
    enter(box.call(Exchange), [make_flow(Family.IPV4, number) for number in range(count)])
    conntrack, watch = box.call(ConntrackSocket), Watch()
    for _ in range(rounds):
        found = await watch.measure(partial(conntrack.usage, [FlowFilter(mark=MARK, mark_mask=MARK)]))
        assert sum(usage.flows for usage in found.values()) == count
        assert len(found) == FRONTENDS * BACKENDS
    title = f"usage of {count:,} flows"
    return [
        Figure(f"{title}: wall", "ms", tuple(watch.wall)),
        Figure(f"{title}: CPU a flow, kernel and Python", "us", tuple(value * 1e3 / count for value in watch.cpu), 10),
        Figure(f"{title}: longest pause of the loop", "ms", tuple(watch.pause)),
        Figure(f"{title}: share of a CPU, every 10 s", "%", tuple(value / 100 for value in watch.cpu)),
    ]


async def count(box: Namespace, flows: int, services: int, rounds: int) -> list[Figure]:
    """Count as the daemon does: the slots of all Services, and all flows of ours, into the books."""
    _, vips, pods = BASES[Family.IPV4]
    backends = tuple(Backend(pods + number, PORT) for number in range(BACKENDS))
    rules = {
        Frontend(vips + number, Protocol.TCP, PORT): Forward(
            service=f"bench/{number}", backends=backends if number < FRONTENDS else backends[:3], plane=Plane.NFT
        )
        for number in range(services)
    }
    plane = NftPlane(NftSettings("lo"), lambda: None)
    await plane.start()
    await plane.observe(None)
    await plane.apply(Changes(add=rules))
    entered = [replace(make_flow(Family.IPV4, number), mark=MARK_OURS) for number in range(flows)]
    enter(box.call(Exchange), entered)
    world, watch = Sockets(), Watch()
    counting = Counting(world.sets, world.conntrack, octets=True)
    spent = []
    for _ in range(rounds):
        began = time.process_time()
        await watch.measure(partial(counting.look, lambda _: True))
        spent.append(time.process_time() - began)
        assert sum(counting.live.values()) == flows
    world.close()
    await plane.stop(keep=True)
    title = f"counting {services:,} Services with {flows:,} flows"
    return [
        Figure(f"{title}: CPU", "ms", tuple(value * 1e3 for value in spent)),
        Figure(f"{title}: pause until the next", "s", (counting.pause,)),
        Figure(f"{title}: share of a CPU", "%", tuple(value * 100 / counting.pause for value in spent), 7),
        Figure(f"{title}: longest pause of the loop", "ms", tuple(watch.pause)),
    ]


def main(argv: Sequence[str] | None = None) -> list[Figure]:
    """Run it all and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flows", type=int, default=20_000, help="among which those of one backend are cut")
    parser.add_argument("--usage", type=int, default=50_000, help="flows that are added up")
    parser.add_argument("--services", type=int, default=10_000, help="whose connections are counted")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--trial", action="store_true", help="write no result")
    options = parser.parse_args(argv)
    if (reason := unavailable()) is not None:
        sys.exit(reason)
    figures: list[Figure] = []
    for part in (
        partial(cut, family=Family.IPV4, count=options.flows, rounds=options.rounds),
        partial(cut, family=Family.IPV6, count=options.flows, rounds=options.rounds),
        partial(add_up, count=options.usage, rounds=options.rounds),
        partial(count, flows=options.usage, services=options.services, rounds=options.rounds),
    ):
        with Network("llb-bench") as network:
            box = network.namespace("box")
            box.call(Accounting().turn_on)
            figures += box.call(partial(asyncio.run, part(box)))
    title = "Cutting the flows of a backend, and adding all flows up"
    report("conntrack", title, figures, keep=not options.trial)
    return figures


if __name__ == "__main__":
    main()
