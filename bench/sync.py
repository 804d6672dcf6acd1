"""How fast and how large: the first list of a big cluster, on a real API server, by the reader alone and by the daemon.

    python -m bench.sync                      10,000 Services, 20,000 EndpointSlices, 5,000 Nodes: about 12 minutes,
                                              of which creating the objects takes 6
    python -m bench.sync --services 300 --slices 600 --nodes 50 --runs 1 --trial

Reader: a child process with the daemon's transport, client, reflectors and decoders, and plain dictionaries, so that
its memory is the reader's alone. Events: the same slices once more as ADDED events of a watch from resourceVersion 0,
split, decoded and stored as the reflector does. Daemon: `loadbalancer` in a network namespace, as shipped, once serving
the few Services of a class of their own among ten thousand of others, once serving all the others, which have our
finalizer already, as after a restart. Server and daemon share the machine's CPUs.
"""

import argparse
import asyncio
import gc
import json
import logging
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import Final, Generic, Self

import structlog

from bench.population import (
    FEW_CLASS,
    connect,
    few,
    fill,
    put_finalizers,
    render_nodes,
    render_services,
    render_slices,
    vip,
)
from bench.record import Figure, memory_mib, pss_mib, report
from littlelb.core.model import EndpointSlice
from littlelb.kube import decode
from littlelb.kube.client import ENDPOINT_SLICES, NODES, SERVICES, Api, EventType, Selection
from littlelb.kube.pace import SharedProbe
from littlelb.kube.reflector import K, Kind, Reflector
from littlelb.testing.clock import LoopClock
from tests.controlplane import build
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.objects import service
from tests.e2e.rig import Rig, fetch

SLICE_EVENTS = 64
"""Events between two turns of other tasks, as in the reflector."""
PATIENCE_SECONDS = 300.0


class Table(Generic[K]):
    """A sink that is a dictionary."""

    def __init__(self) -> None:
        """Start empty."""
        self.items: dict[str, K] = {}

    def upsert(self, item: K) -> None:
        """Take an object."""
        self.items[item.key] = item

    def remove(self, key: str) -> None:
        """Forget one."""
        self.items.pop(key, None)

    def retain(self, keys: frozenset[str]) -> None:
        """Forget the others."""
        for key in self.items.keys() - keys:
            del self.items[key]


# --- the child: a reader ---------------------------------------------------------------------------------------------


async def read(server: str, folder: Path) -> dict[str, float]:
    """Sync all three kinds at the same time, then take slice events."""
    before = memory_mib("VmRSS")
    async with connect(server, folder) as api:
        clock, random = LoopClock(), Random(1)  # noqa: S311  # jitter
        probe = SharedProbe(api.ping, clock)

        def reflect(kind: Kind[K]) -> tuple[Reflector[K], Table[K]]:
            table = Table[K]()
            return Reflector(api, kind, table, clock, random, probe), table

        made = (
            reflect(Kind(Selection(SERVICES), decode.decode_service_page, decode.decode_service_event)),
            reflect(Kind(Selection(ENDPOINT_SLICES), decode.decode_slice_page, decode.decode_slice_event)),
            reflect(Kind(Selection(NODES), decode.decode_node_page, decode.decode_node_event)),
        )
        began, cpu = time.monotonic(), time.process_time()
        tasks = [asyncio.create_task(reflector.run()) for reflector, _ in made]
        while not all(reflector.synced for reflector, _ in made):
            await asyncio.sleep(0.005)
        found = {"sync_seconds": time.monotonic() - began, "sync_cpu_seconds": time.process_time() - cpu}
        gc.collect()
        found |= {"rss_before_mib": before, "rss_mib": memory_mib("VmRSS"), "peak_mib": memory_mib("VmHWM")}
        found |= {"services": len(made[0][1].items), "slices": len(made[1][1].items), "nodes": len(made[2][1].items)}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return found | await take_events(api, len(made[1][1].items))


async def take_events(api: Api, expected: int) -> dict[str, float]:
    """Take every slice once more, as an event."""
    table = Table[EndpointSlice]()
    began, cpu, count = time.monotonic(), time.process_time(), 0
    async with api.watch(Selection(ENDPOINT_SLICES), "0", 300) as watch:
        while count < expected and (lines := await watch.read()) is not None:
            for line in lines:
                event = decode.decode_slice_event(line)
                if event.type is EventType.ADDED and isinstance(event.object, EndpointSlice):
                    table.upsert(event.object)
                    count += 1
                if count % SLICE_EVENTS == 0:
                    await asyncio.sleep(0)
    seconds, busy = time.monotonic() - began, time.process_time() - cpu
    return {"slice_events_per_second": count / seconds, "slice_events_per_cpu_second": count / busy}


# --- the parent: fill, and let the child read ------------------------------------------------------------------------


async def populate(plane: ControlPlane, options: argparse.Namespace) -> None:
    """Create all objects."""
    async with connect(plane.server, plane.folder) as api:
        for kind, objects in (
            ("nodes", render_nodes(options.nodes)),
            ("slices", render_slices(options.slices, options.services)),
            ("services", render_services(options.services)),
        ):
            print(f"{kind} created in {await fill(api, objects):.0f} s", flush=True)


async def claim(plane: ControlPlane, services: int) -> None:
    """Put our finalizer on all Services but the few."""
    async with connect(plane.server, plane.folder) as api:
        print(f"finalizers put on in {await put_finalizers(api, range(few(services), services)):.0f} s", flush=True)


async def measure_reader(plane: ControlPlane, runs: int) -> list[Figure]:
    """Let child processes read, one after the other."""
    seen: list[dict[str, float]] = []
    for _ in range(runs):
        command = [sys.executable, "-m", "bench.sync", "--read", plane.server, "--folder", str(plane.folder)]
        child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        output, _ = await child.communicate()
        seen.append(json.loads(output.splitlines()[-1]))
        print({key: round(value, 2) for key, value in seen[-1].items()}, flush=True)

    def column(key: str) -> tuple[float, ...]:
        return tuple(one[key] for one in seen)

    return [
        Figure("reader: everything listed", "s", column("sync_seconds"), 4.0),
        Figure("reader: CPU time of that", "s", column("sync_cpu_seconds")),
        Figure("reader: RSS after it", "MiB", column("rss_mib"), 200.0),
        Figure("reader: slice events taken in", "/s", column("slice_events_per_second"), 15_000.0, at_least=True),
        Figure(
            "  by a second of its own CPU time", "/s", column("slice_events_per_cpu_second"), 15_000.0, at_least=True
        ),
    ]


# --- the parent: the whole daemon ------------------------------------------------------------------------------------


class Pulse:
    """Asks the daemon's health page ten times a second: how long its loop does not answer."""

    def __init__(self, rig: Rig) -> None:
        """Begin to ask."""
        self.seconds: list[float] = []
        self._rig, self._enough = rig, Event()
        self._thread = Thread(target=self._ask)

    def _ask(self) -> None:
        while not self._enough.wait(0.1):
            began = time.monotonic()
            if self._rig.lan.balancer.call(lambda: fetch("127.0.0.1", 7480, "/healthz")):
                self.seconds.append(time.monotonic() - began)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()


def worker_pids(rig: Rig) -> list[int]:
    """The pipe's workers of the rig's daemon: all other processes in the balancer's namespace."""
    assert rig.daemon is not None
    return sorted(rig.lan.balancer.pids() - {rig.daemon.pid})


def held(rig: Rig) -> int:
    """How many Service addresses are on the device."""
    return rig.lan.balancer.ip("-o", "-4", "addr", "show", "dev", "eth0").count("100.64.")


def widen(rig: Rig) -> None:
    """Let the addresses of `population.vip` be in a subnet of the device, and pods be behind a node."""
    rig.lan.balancer.ip("route", "add", "100.64.0.0/16", "dev", "eth0")
    rig.lan.balancer.ip("route", "add", "10.0.0.0/8", "via", "198.51.100.11")


def logged_at(rig: Rig, event: str) -> float:
    """Seconds since the epoch of an entry of the daemon's log."""
    return datetime.fromisoformat(rig.log_events(event)[-1]["timestamp"]).timestamp()


@dataclass(frozen=True, slots=True)
class Load:
    """What a daemon is to serve of the cluster."""

    flags: tuple[str, ...]
    expected: int
    """So many addresses."""
    outage: float | None
    """The API server is away for so many seconds; None: it is not."""

    @property
    def name(self) -> str:
        """For the table."""
        return f"daemon, {self.expected:,} served"


GOALS: Final = {"everything listed": 4.0, "RSS of the daemon": 260.0, "serving again after the API's return": 8.0}


def measure_daemon(plane: ControlPlane, load: Load, runs: int, settle: float) -> list[Figure]:
    """Start it so many times, and put the figures together."""
    seen: dict[tuple[str, str], list[float]] = {}
    for _ in range(runs):
        for (name, unit), values in run_daemon(plane, load, settle).items():
            seen.setdefault((name, unit), []).extend(values)
    return [Figure(f"{load.name}: {name}", unit, tuple(v), GOALS.get(name)) for (name, unit), v in seen.items()]


def run_daemon(plane: ControlPlane, load: Load, settle: float) -> dict[tuple[str, str], list[float]]:
    """Start it, wait until it serves what it should, and look at it."""
    with Rig(plane, "default") as rig:
        widen(rig)
        started, began = time.time(), time.monotonic()
        rig.start(*load.flags, wait=False)
        with Pulse(rig) as pulse:
            rig.wait("synced", lambda: rig.log_events("source.synced"), PATIENCE_SECONDS)
            rig.wait("all held", lambda: held(rig) >= load.expected, PATIENCE_SECONDS)
            served = time.monotonic() - began
            print(f"{load.name}: {served:.1f} s", flush=True)
            time.sleep(settle)
        assert rig.daemon is not None
        pid = rig.daemon.pid
        found = {
            ("everything listed", "s"): [logged_at(rig, "reflector.synced") - logged_at(rig, "daemon.started")],
            ("from exec to listed", "s"): [logged_at(rig, "reflector.synced") - started],
            ("from exec to all addresses held", "s"): [served],
            ("RSS of the daemon", "MiB"): [memory_mib("VmRSS", pid)],
            ("its peak", "MiB"): [memory_mib("VmHWM", pid)],
            ("PSS of the daemon", "MiB"): [pss_mib(pid)],
            ("PSS of each worker", "MiB"): [pss_mib(worker) for worker in worker_pids(rig)],
            ("answers of its health page meanwhile", "s"): pulse.seconds,
        }
        if load.outage is not None:
            found["serving again after the API's return", "s"] = [outage(plane, rig, load.outage)]
        rig.stop(timeout=120)
    return found


def outage(plane: ControlPlane, rig: Rig, seconds: float) -> float:
    """Stop the API server for a while; from its readiness until a new Service's address is held."""
    plane.api.stop(timeout=20)
    time.sleep(seconds)
    plane.api.start()
    began = time.monotonic()
    address = vip(30_000)
    ports = ({"name": "http", "port": 80, "protocol": "TCP"},)
    wanted = {"loadBalancerIP": address, "loadBalancerClass": FEW_CLASS, "allocateLoadBalancerNodePorts": False}
    late = service("after-the-outage", "default", ports, **wanted)
    plane.admin.apply(late)
    rig.wait("served after the outage", lambda: f"{address}/" in rig.lan.balancer.ip("-o", "addr"), 60)
    took = time.monotonic() - began
    plane.admin.delete(late)
    plane.admin.wait(late, lambda left: left is None)
    return took


# --- the command -----------------------------------------------------------------------------------------------------


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("services", 10_000), ("slices", 20_000), ("nodes", 5_000), ("runs", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--outage", type=float, default=15.0, help="seconds without the API server")
    parser.add_argument("--settle", type=float, default=10.0, help="seconds from the last address to the memory's size")
    parser.add_argument("--only", choices=["reader", "few", "all"], action="append", help="several times for several")
    parser.add_argument("--trial", action="store_true", help="write no result")
    parser.add_argument("--read", metavar="SERVER", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> list[Figure]:
    """Run as parent or as child."""
    options = parse(arguments)
    if options.read:
        print(json.dumps(asyncio.run(read(options.read, options.folder))))
        return []
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    only = options.only or ["reader", "few", "all"]
    some = few(options.services)
    loads = {
        "few": Load(("--load-balancer-class", FEW_CLASS, "--no-class-less"), some, options.outage),
        "all": Load((), options.services - some, None),
    }
    figures: list[Figure] = []
    say: Callable[[str], None] = print
    with ControlPlane(build.ensure(say)) as plane:
        asyncio.run(populate(plane, options))
        if "reader" in only:
            figures += asyncio.run(measure_reader(plane, options.runs))
        if "few" in only:
            figures += measure_daemon(plane, loads["few"], options.runs, options.settle)
        if "all" in only:
            asyncio.run(claim(plane, options.services))
            figures += measure_daemon(plane, loads["all"], 1, options.settle)
    note = (
        f"{options.services:,} LoadBalancer Services without NodePorts, {options.slices:,} EndpointSlices, "
        f"{options.nodes:,} Nodes on Kubernetes {build.KUBERNETES_VERSION} on the same machine."
    )
    report("sync", "First sync of a large cluster", figures, [note], keep=not options.trial)
    return figures


if __name__ == "__main__":
    main()
