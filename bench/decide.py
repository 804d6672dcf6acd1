"""How long the loop thinks: from one changed object in the store to the changes that every target is told to make.

    python -m bench.decide                10,000 Services of 2 to 9 endpoints, about a minute
    python -m bench.decide --profile endpoint
                                          where the time of one kind of change goes (cProfile)

Store, core and reconciler are the daemon's; the targets are doubles that do nothing but remember, so what is measured
is upsert, snapshot, compute, diff of all targets, and the story told about it.
"""

import argparse
import asyncio
import cProfile
import gc
import logging
import pstats
import sys
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, ip_address, ip_network
from random import Random
from typing import Any

import msgspec
import structlog

from bench.record import Figure, percentile, report
from littlelb.control.reconciler import Reconciler
from littlelb.control.store import Store
from littlelb.core.desired import compute
from littlelb.core.interfaces import Phase
from littlelb.core.model import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Family,
    HostFacts,
    Node,
    Protocol,
    Service,
    ServicePort,
    ServiceType,
)
from littlelb.core.state import DesiredState, Settings
from littlelb.core.story import changed_keys, tell
from littlelb.testing.clock import LoopClock
from littlelb.testing.fake_target import FakeTarget

VIPS = int(IPv4Address("198.18.0.0"))
"""Service addresses: the network of RFC 2544."""
PODS = int(IPv4Address("10.1.0.0"))
HOST = HostFacts(
    device="eth0",
    own=(ip_address("192.0.2.2"),),
    on_link=(ip_network("192.0.2.0/24"), ip_network("198.18.0.0/15")),
    gateways=frozenset({ip_address("192.0.2.1")}),
    routed=(ip_network("10.0.0.0/8"),),
)


class Silent(FakeTarget[Any, Any]):
    """A target that remembers what it was told, and writes no transcript."""

    def _do(self, verb: str, key: Any, value: Any) -> None:
        if verb == "remove":
            self.world.pop(key, None)
        else:
            self.world[key] = value


def make_service(number: int) -> Service:
    """Service with two ports and an address of its own."""
    return Service(
        namespace="default",
        name=f"svc-{number}",
        uid=f"00000000-0000-0000-0000-{number:012}",
        resource_version=str(number + 1),
        created=1_700_000_000.0 + number // 7,
        type=ServiceType.LOAD_BALANCER,
        load_balancer_ip=str(IPv4Address(VIPS + 256 + number)),
        ports=(ServicePort(80, name="http"), ServicePort(443, name="https")),
        cluster_ips=(str(IPv4Address(int(IPv4Address("10.99.0.0")) + number)),),
        ip_families=(Family.IPV4,),
        has_finalizer=True,
    )


def make_slice(number: int, *, away: int | None = None) -> EndpointSlice:
    """The Service's slice: 2 to 9 endpoints, of which `away` is not ready."""
    endpoints = tuple(
        Endpoint(IPv4Address(PODS + number * 16 + at), ready=at != away, serving=at != away, node=f"node-{at}")
        for at in range(2 + number % 8)
    )
    ports = (EndpointPort("http", Protocol.TCP, 8080), EndpointPort("https", Protocol.TCP, 8443))
    names = {"namespace": "default", "name": f"svc-{number}-x", "service": f"svc-{number}"}
    return EndpointSlice(**names, family=Family.IPV4, ports=ports, endpoints=endpoints)


class Bench:
    """A store full of Services, and a reconciler that has seen them all."""

    def __init__(self, services: int, nodes: int) -> None:
        """Fill the store; no pass is made yet."""
        self.services, self.random = services, Random(1)  # noqa: S311  (the same order in every run)
        self.store = Store(Settings(), HOST, lambda: None)
        for number in range(services):
            self.store.services.upsert(make_service(number))
            self.store.slices.upsert(make_slice(number))
        for number in range(nodes):
            self.store.nodes.upsert(Node(name=f"node-{number}", addresses=(IPv4Address((198 << 24) + number),)))
        for shelf in (self.store.services, self.store.slices, self.store.nodes):
            shelf.retain(frozenset(shelf.items))
        selections: dict[Phase, Callable[[DesiredState], Any]] = {
            Phase.CLAIM: lambda state: state.claims,
            Phase.FORWARD: lambda state: state.forwards,
            Phase.ADDRESS: lambda state: state.placements,
            Phase.ANNOUNCE: lambda state: state.announcements,
            Phase.PUBLISH: lambda state: state.publications,
        }
        self.targets = [Silent(phase, select) for phase, select in selections.items()]
        self.reconciler = Reconciler(self.store, self.targets, LoopClock())
        self.told = 0
        self._away = 0
        self._added = services

    async def run_pass(self, *, full: bool = False) -> int:
        """One pass and its story; the number of changes."""
        result = await self.reconciler.run_pass(full=full)
        self.told += sum(1 for _ in tell(result.before, result.after, changed_keys(result.before, result.after)))
        return result.report.changes

    # --- kinds of change ---------------------------------------------------------------------------------------------

    def change_endpoint(self) -> None:
        """One endpoint of one Service goes, or comes back."""
        self._away += 1
        self.store.slices.upsert(make_slice(self.random.randrange(self.services), away=self._away % 2))

    def change_service(self) -> None:
        """One Service is edited."""
        service = make_service(self.random.randrange(self.services))
        self._away += 1
        edited = {"littlelb.io/drain-seconds": str(self._away % 1_000)}
        self.store.services.upsert(msgspec.structs.replace(service, annotations=edited))

    def write_back(self) -> None:
        """Our own write on a Service comes back by the watch: its version and status are new, no decision is."""
        service = self.store.services.items[make_service(self.random.randrange(self.services)).key]
        self._away += 1
        self.store.services.upsert(msgspec.structs.replace(service, resource_version=str(100_000 + self._away)))

    def add_service(self) -> None:
        """One Service more, with its slice."""
        self.store.services.upsert(make_service(self._added))
        self.store.slices.upsert(make_slice(self._added))
        self._added += 1

    def change_node(self) -> None:
        """A node turns unready: concerns all Services."""
        name = f"node-{self.random.randrange(len(self.store.nodes.items))}"
        node = self.store.nodes.items[name]
        self.store.nodes.upsert(msgspec.structs.replace(node, ready=not node.ready))


KINDS: dict[str, tuple[str, Callable[[Bench], None], float | None]] = {
    "endpoint": ("one endpoint changed", Bench.change_endpoint, 10.0),
    "service": ("one Service edited", Bench.change_service, None),
    "write-back": ("our own write seen again", Bench.write_back, None),
    "add": ("one Service added", Bench.add_service, None),
    "node": ("one Node changed (concerns all)", Bench.change_node, None),
}
HEAVY = frozenset({"node"})


async def sample(bench: Bench, change: Callable[[Bench], None], times: int) -> tuple[list[float], list[float]]:
    """Milliseconds of each of so many changes, by the clock on the wall and by this process's CPU time."""
    wall: list[float] = []
    busy: list[float] = []
    for _ in range(times):
        began, cpu = time.perf_counter(), time.process_time()
        change(bench)
        await bench.run_pass()
        wall.append((time.perf_counter() - began) * 1_000)
        busy.append((time.process_time() - cpu) * 1_000)
    return wall, busy


def cold(bench: Bench, times: int) -> list[float]:
    """Milliseconds of deciding everything anew."""
    found: list[float] = []
    snapshot = bench.store.peek()
    for _ in range(times):
        began = time.perf_counter()
        state = compute(snapshot)
        found.append((time.perf_counter() - began) * 1_000)
        assert len(state.decisions) == len(snapshot.services)
    return found


async def measure(options: argparse.Namespace) -> list[Figure]:
    """Every kind of change in turn."""
    bench = Bench(options.services, options.nodes)
    began = time.perf_counter()
    changes = await bench.run_pass(full=True)
    first = (time.perf_counter() - began) * 1_000
    gc.collect()
    gc.freeze()  # as the daemon does after its first pass
    assert changes == 6 * options.services, changes  # claim, two frontends, address, announcement, publication
    figures = []
    for key, (name, change, goal) in KINDS.items():
        times = max(3, options.times // 100) if key in HEAVY else options.times
        wall, busy = await sample(bench, change, times)
        figures.append(Figure(f"{name} → changes computed", "ms", tuple(wall), goal, judged=percentile(wall, 0.99)))
        figures.append(Figure("  by CPU time", "ms", tuple(busy)))
    full = [await timed_full(bench) for _ in range(max(3, options.times // 100))]
    figures.append(Figure("full pass, nothing changed", "ms", tuple(full)))
    figures.append(Figure("cold compute of everything", "ms", tuple(cold(bench, max(3, options.times // 100)))))
    figures.append(Figure("first pass, everything new", "ms", (first,)))
    return figures


async def timed_full(bench: Bench) -> float:
    """Milliseconds of a pass at a resync, which finds nothing."""
    began = time.perf_counter()
    changes = await bench.run_pass(full=True)
    assert changes == 0, changes
    return (time.perf_counter() - began) * 1_000


async def profile(options: argparse.Namespace) -> None:
    """Show where one kind of change spends its time."""
    bench = Bench(options.services, options.nodes)
    await bench.run_pass(full=True)
    watcher = cProfile.Profile()
    if options.profile == "cold":
        watcher.runcall(cold, bench, 3)
    else:
        watcher.enable()
        await sample(bench, KINDS[options.profile][1], max(3, options.times // 100))
        watcher.disable()
    pstats.Stats(watcher, stream=sys.stdout).sort_stats("tottime").print_stats(25)


def main(arguments: Sequence[str] | None = None) -> list[Figure]:
    """Measure, print, and write the dated result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("services", 10_000), ("nodes", 100), ("times", 1_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--profile", choices=[*KINDS, "cold"])
    parser.add_argument("--trial", action="store_true", help="write no result")
    options = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))  # as without --debug
    if options.profile:
        asyncio.run(profile(options))
        return []
    figures = asyncio.run(measure(options))
    note = (
        f"{options.services:,} LoadBalancer Services with an address each, two ports and 2 to 9 endpoints; "
        f"{options.nodes:,} Nodes. The goal of the first is for its p99; CPU time leaves other programs out. "
        f"The garbage collector runs, and leaves out {gc.get_freeze_count():,} objects of the first world."
    )
    report("decide", "Deciding", figures, [note], keep=not options.trial)
    return figures


if __name__ == "__main__":
    main()
