"""Measures the reader on a real API server: time and memory of the first list, and how fast slice events are taken in.

    python -m bench.sync --services 10000 --slices 20000 --nodes 5000 --result bench/results/sync.json

A child process reads with the same transport, client, reflectors and decoders as the daemon, into plain dictionaries,
so that its memory is the reader's alone. Events: the same slices once more as ADDED events of a watch from
resourceVersion 0, split, decoded and stored as the reflector does, with the server on the same machine.
"""

import argparse
import asyncio
import gc
import json
import platform
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, Generic

import msgspec

from littlelb.core.errors import Transient
from littlelb.core.model import EndpointSlice
from littlelb.kube import decode
from littlelb.kube.client import ENDPOINT_SLICES, NODES, SERVICES, Api, Conflict, EventType, Reference, Selection
from littlelb.kube.pace import SharedProbe
from littlelb.kube.reflector import K, Kind, Reflector
from littlelb.kube.transport import Transport
from littlelb.testing.clock import LoopClock
from littlelb.testing.fake_api import FixedCredentials
from tests.controlplane import build
from tests.controlplane.admin import tls_context
from tests.controlplane.cluster import ControlPlane

WRITERS = 16
"""More would not be faster: the API server allocates one cluster IP after the other."""
SLICE_EVENTS = 64
"""Events between two turns of other tasks, as in the reflector."""


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


@asynccontextmanager
async def connect(server: str, folder: Path) -> AsyncIterator[Api]:
    """Open a client as the control plane's admin."""
    tls = tls_context(folder / "ca.crt", folder / "admin.crt", folder / "admin.key")
    transport = Transport(FixedCredentials(server, tls=tls))
    try:
        yield Api(transport)
    finally:
        await transport.close()


# --- objects of the size that clusters have ---


def render_services(count: int) -> Iterator[tuple[Reference, dict[str, Any]]]:
    """Services without node ports, with an annotation of 2 KiB as kubectl leaves it."""
    for number in range(count):
        annotations = {"kubectl.kubernetes.io/last-applied-configuration": "x" * 2_048}
        ports = [{"name": "http", "port": 80}, {"name": "https", "port": 443}]
        spec = {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False, "ports": ports}
        meta = {"name": f"svc-{number}", "annotations": annotations}
        yield Reference(SERVICES, "default"), {"metadata": meta, "spec": spec}


def render_slices(count: int, services: int) -> Iterator[tuple[Reference, dict[str, Any]]]:
    """Slices of 9 endpoints; every hundredth has 100."""
    for number in range(count):
        addresses = [f"10.1.{number % 250}.{at + 1}" for at in range(100 if number % 100 == 0 else 9)]
        conditions = {"ready": True, "serving": True, "terminating": False}
        endpoints = [
            {"addresses": [address], "conditions": conditions, "nodeName": f"node-{at}", "zone": "a"}
            for at, address in enumerate(addresses)
        ]
        labels = {"kubernetes.io/service-name": f"svc-{number % max(services, 1)}"}
        ports = [{"name": "http", "port": 8080, "protocol": "TCP"}]
        meta = {"name": f"slice-{number}", "labels": labels}
        body = {"metadata": meta, "addressType": "IPv4", "endpoints": endpoints, "ports": ports}
        yield Reference(ENDPOINT_SLICES, "default"), body


def render_nodes(count: int) -> Iterator[tuple[Reference, dict[str, Any]]]:
    """Nodes with 50 images and an address."""
    for number in range(count):
        names = [{"names": [f"registry.example.com/app-{image}@sha256:{'0' * 64}"]} for image in range(50)]
        address = f"198.51.{100 + number // 250}.{number % 250 + 1}"
        status = {"addresses": [{"type": "InternalIP", "address": address}], "images": names}
        status["conditions"] = [{"type": "Ready", "status": "True"}]
        yield Reference(NODES), {"metadata": {"name": f"node-{number}"}, "status": status}


async def create(api: Api, where: Reference, body: bytes) -> None:
    """Create one object, however often that has to be tried on a busy machine."""
    while True:
        try:
            await api.create(where, body)
        except Conflict:
            return  # an earlier attempt did it after all
        except Transient as error:
            print("once more:", error, flush=True)
        else:
            return


async def fill(api: Api, objects: Iterator[tuple[Reference, dict[str, Any]]]) -> float:
    """Create them, some at a time; return the seconds it took."""

    async def write() -> None:
        for where, body in objects:
            await create(api, where, json.dumps(body).encode())

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(WRITERS):
            group.create_task(write())
    return time.monotonic() - began


# --- the child: a reader ---


def memory_mib(field: str) -> float:
    """Read VmRSS or VmHWM of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


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


# --- the parent ---


async def measure(plane: ControlPlane, options: argparse.Namespace) -> dict[str, Any]:
    """Fill the server, then let a child read."""
    created = {}
    async with connect(plane.server, plane.folder) as api:
        for kind, objects in (
            ("nodes", render_nodes(options.nodes)),
            ("slices", render_slices(options.slices, options.services)),
            ("services", render_services(options.services)),
        ):
            created[kind] = await fill(api, objects)
            print(f"{kind} created in {created[kind]:.0f} s", flush=True)
    runs = []
    for _ in range(options.runs):
        command = [sys.executable, "-m", "bench.sync", "--read", plane.server, "--folder", str(plane.folder)]
        child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        output, _ = await child.communicate()
        runs.append(json.loads(output.splitlines()[-1]))
        print({key: round(value, 2) for key, value in runs[-1].items()}, flush=True)
    return {"created_seconds": created, "runs": runs}


def machine() -> dict[str, Any]:
    """Describe where it ran."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpus": len(models) or None,
        "cpu": models[0] if models else platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "msgspec": msgspec.__version__,
        "kubernetes": build.KUBERNETES_VERSION,
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("services", 10_000), ("slices", 20_000), ("nodes", 5_000), ("runs", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--result", type=Path)
    parser.add_argument("--read", metavar="SERVER", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main() -> int:
    """Run as parent or as child."""
    options = parse()
    if options.read:
        print(json.dumps(asyncio.run(read(options.read, options.folder))))
        return 0
    say: Callable[[str], None] = print
    with ControlPlane(build.ensure(say)) as plane:
        result = {"machine": machine(), **asyncio.run(measure(plane, options))}
    if options.result:
        options.result.write_text(json.dumps(result, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
