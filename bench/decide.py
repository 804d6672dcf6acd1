"""How long the loop thinks: from one changed object in the store to the changes that every target is told to make.

    python -m bench.decide                10,000 Services of 2 to 9 endpoints, two minutes
    python -m bench.decide --profile endpoint
                                          where the time of one kind of change goes (cProfile)

Store, core, reconciler, loop and what listens to passes are the daemon's; the targets are doubles that do nothing but
remember, so what is measured is upsert, snapshot, compute, observe, diff, apply and the story told about it.
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
from typing import TypeAlias

import structlog

from bench.large_world import LargeWorld
from bench.record import Figure, percentile, report
from littlelb.app.daemon import tune_interpreter
from littlelb.control.loop import Loop
from littlelb.control.reconciler import PassResult
from littlelb.core.desired import compute
from littlelb.core.state import Snapshot
from littlelb.testing.clock import LoopClock

Change: TypeAlias = Callable[[LargeWorld], None]
KINDS: dict[str, tuple[str, Change, float | None]] = {
    "endpoint": ("one endpoint changed", LargeWorld.change_endpoint, 10.0),
    "service": ("one Service edited", LargeWorld.change_service, 10.0),
    "write-back": ("our own write seen again", LargeWorld.write_back, 10.0),
    "add": ("one Service added", LargeWorld.add_service, 10.0),
    "remove": ("one Service removed", LargeWorld.remove_service, 10.0),
    "label": ("a Node labelled", LargeWorld.label_node, 10.0),
    "flap": ("a Node unready, or ready again", LargeWorld.flap_node, 150.0),
    "join": ("a Node joins", LargeWorld.join_node, 150.0),
    "leave": ("a Node leaves", LargeWorld.leave_node, 150.0),
}
NODE_KINDS = ("label", "flap", "join", "leave")
NODE_PORTS = 2_768
"""The default NodePort range has so many."""
STREAM_PER_SECOND = 100


async def sample(bench: LargeWorld, change: Change, times: int) -> tuple[list[float], list[float]]:
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


def cold(bench: LargeWorld, times: int) -> tuple[list[float], list[float]]:
    """Milliseconds of deciding everything anew, by the clock on the wall and by this process's CPU time."""
    wall: list[float] = []
    busy: list[float] = []
    snapshot = bench.store.peek()
    for _ in range(times):
        began, cpu = time.perf_counter(), time.process_time()
        state = compute(snapshot)
        wall.append((time.perf_counter() - began) * 1_000)
        busy.append((time.process_time() - cpu) * 1_000)
        assert len(state.decisions) == len(snapshot.services)
    return wall, busy


async def measure(options: argparse.Namespace) -> list[Figure]:
    """Every kind of change in turn."""
    bench = LargeWorld(options.services, options.nodes)
    began = time.perf_counter()
    changes = await bench.run_pass(full=True)
    first = (time.perf_counter() - began) * 1_000
    began = time.perf_counter()
    await bench.run_pass()
    second = (time.perf_counter() - began) * 1_000
    gc.collect()
    gc.freeze()  # as the daemon does after its first pass
    assert changes == 6 * options.services, changes  # claim, two frontends, address, announcement, publication
    figures = []
    for name, change, goal in KINDS.values():
        wall, busy = await sample(bench, change, options.times)
        figures.append(Figure(f"{name} → changes applied", "ms", tuple(wall), goal, judged=percentile(wall, 0.99)))
        figures.append(Figure("  by CPU time", "ms", tuple(busy)))
    for name, gap in (("alone", 0.05), (f"{STREAM_PER_SECOND} a second", 1 / STREAM_PER_SECOND)):
        waits = await sample_loop(bench, options.times, gap)
        figures.append(Figure(f"endpoint, {name} → end of its pass", "ms", waits, 10.0, judged=percentile(waits, 0.99)))
    figures += await measure_nodes(options)
    full = [await timed_full(bench) for _ in range(max(3, options.times // 100))]
    figures.append(Figure("full pass, nothing changed", "ms", tuple(full)))
    wall, busy = cold(bench, max(3, options.times // 100))
    figures.append(Figure("cold compute of everything", "ms", tuple(wall), 1_000.0))
    figures.append(Figure("  by CPU time", "ms", tuple(busy)))
    figures.append(Figure("first pass, everything new", "ms", (first,)))
    figures.append(Figure("the pass after it, which follows the grants", "ms", (second,)))
    return figures


async def measure_nodes(options: argparse.Namespace) -> list[Figure]:
    """Changes of Nodes where they are the backends."""
    bench = LargeWorld(min(options.services, NODE_PORTS // 2), options.nodes, by_nodes=True)
    await bench.run_pass(full=True)
    await bench.run_pass()
    figures = []
    for key in NODE_KINDS:
        name, change, _ = KINDS[key]
        wall, _ = await sample(bench, change, max(3, options.times // 20))
        figures.append(Figure(f"{name}, NodePorts → changes applied", "ms", tuple(wall)))
    return figures


async def sample_loop(bench: LargeWorld, times: int, gap: float) -> tuple[float, ...]:
    """Milliseconds from so many changes, one after each `gap` seconds, to the end of the pass that took it up."""
    waiting: list[float] = []
    taken: list[float] = []
    waits: list[float] = []
    snapshot, hear = bench.store.snapshot, bench.hear

    def watched_snapshot() -> Snapshot:
        taken.extend(waiting)
        waiting.clear()
        return snapshot()

    def watched_hear(result: PassResult) -> None:
        hear(result)
        waits.extend((time.perf_counter() - began) * 1_000 for began in taken)
        taken.clear()

    bench.store.snapshot = watched_snapshot  # type: ignore[method-assign]
    bench.loop = Loop(bench.store, bench.reconciler, LoopClock(), watched_hear)
    running = asyncio.create_task(bench.loop.run())
    await asyncio.sleep(1.0)
    for _ in range(times):
        waiting.append(time.perf_counter())
        bench.change_endpoint()
        await asyncio.sleep(gap)
    await asyncio.sleep(1.0)
    running.cancel()
    bench.store.snapshot = snapshot  # type: ignore[method-assign]
    return tuple(waits)


async def timed_full(bench: LargeWorld) -> float:
    """Milliseconds of a pass at a resync, which finds nothing."""
    began = time.perf_counter()
    changes = await bench.run_pass(full=True)
    assert changes == 0, changes
    return (time.perf_counter() - began) * 1_000


async def profile(options: argparse.Namespace) -> None:
    """Show where one kind of change spends its time."""
    bench = LargeWorld(options.services, options.nodes)
    await bench.run_pass(full=True)
    watcher = cProfile.Profile()
    if options.profile == "cold":
        watcher.runcall(cold, bench, 3)
    else:
        watcher.enable()
        await sample(bench, KINDS[options.profile][1], max(3, options.times // 10))
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
    tune_interpreter()  # as the daemon does
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))  # as without --debug
    if options.profile:
        asyncio.run(profile(options))
        return []
    figures = asyncio.run(measure(options))
    note = (
        f"{options.services:,} LoadBalancer Services with an address each, two ports and 2 to 9 endpoints; "
        f"{options.nodes:,} Nodes. Goals are for p99; CPU time leaves other programs out. With NodePorts there are "
        f"{min(options.services, NODE_PORTS // 2):,} Services: there are not more NodePorts. "
        f"The garbage collector runs, and leaves out {gc.get_freeze_count():,} objects of the first world."
    )
    report("decide", "Deciding", figures, [note], keep=not options.trial)
    return figures


if __name__ == "__main__":
    main()
