"""Part of bench/programming.py: the daemon's whole way within one process, from bytes of the API to the kernel.

    pages of a list ─┐
    lines of a watch ┴─→ decode → store → compute → switch → nft plane → nf_tables
                                                  └→ addresses (real: LAN asked, netlink) → announcements

Claims and publications go to doubles that only remember: there is no API server. The process runs in the balancer of a
LAN of namespaces; it prints one JSON object.
"""

import asyncio
import gc
import json
import logging
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

import structlog

from bench.large_world import HOST, PODS, VIPS, Silent
from bench.record import Figure, memory_mib, percentile
from littlelb.announce.probe import LanProber
from littlelb.announce.target import AnnounceTarget
from littlelb.app.daemon import tune_interpreter
from littlelb.control.loop import Loop
from littlelb.control.reconciler import PassResult, Reconciler
from littlelb.control.store import Store
from littlelb.core.interfaces import Phase
from littlelb.core.model import Plane
from littlelb.core.plan import Severity
from littlelb.core.state import Settings
from littlelb.dataplane.netfilter.socket import NfSocket
from littlelb.dataplane.nft.plane import NftPlane, NftSettings
from littlelb.dataplane.pipe.crew import PipeSettings
from littlelb.dataplane.pipe.plane import PipePlane
from littlelb.dataplane.switch import PlaneSwitch
from littlelb.host.address import AddressTarget
from littlelb.host.netlink import Netlink
from littlelb.kube import decode
from littlelb.testing.clock import LoopClock
from littlelb.testing.lan import Lan

PAGE: Final = 500
"""Objects of one page, as the daemon asks for."""
GAP_SECONDS: Final = 0.05
PATIENCE_SECONDS: Final = 120.0
STRIDE: Final = 7_919
RANGES: Final = (["192.0.2.0/25", "198.51.100.0/24"], ["192.0.2.0/24", "198.51.100.0/24"])

# --- objects as the API tells them -----------------------------------------------------------------------------------


def service(number: int, port: int = 80, ranges: Sequence[str] = ()) -> dict[str, Any]:
    """A Service with an address of its own."""
    meta = {"name": f"svc-{number}", "namespace": "default", "uid": f"00000000-0000-0000-0000-{number:012}"}
    meta |= {"resourceVersion": str(time.monotonic_ns()), "creationTimestamp": "2026-01-01T00:00:00Z"}
    spec: dict[str, Any] = {"type": "LoadBalancer", "loadBalancerIP": str(IPv4Address(VIPS + 256 + number))}
    spec |= {"ports": [{"name": "http", "port": port, "protocol": "TCP"}], "ipFamilies": ["IPv4"]}
    spec |= {"allocateLoadBalancerNodePorts": False, "loadBalancerSourceRanges": list(ranges)}
    return {"metadata": meta, "spec": spec, "status": {}}


def endpoints(number: int, turn: int = 0) -> dict[str, Any]:
    """Its slice: three endpoints, of which one is another one at every turn."""
    labels = {"kubernetes.io/service-name": f"svc-{number}"}
    first = PODS + number * 16 + turn % 2
    ready = {"ready": True, "serving": True, "terminating": False}
    found = [
        {"addresses": [str(IPv4Address(first + at))], "conditions": ready, "nodeName": f"node-{at}"} for at in range(3)
    ]
    ports = [{"name": "http", "port": 8080, "protocol": "TCP"}]
    meta = {"name": f"svc-{number}-x", "namespace": "default", "labels": labels}
    meta["resourceVersion"] = str(time.monotonic_ns())
    return {"metadata": meta, "addressType": "IPv4", "endpoints": found, "ports": ports}


def render_pages(objects: Iterable[dict[str, Any]]) -> list[bytes]:
    """Render list answers of `PAGE` objects each."""
    items = list(objects)
    return [
        json.dumps({"metadata": {"resourceVersion": "1"}, "items": items[start : start + PAGE]}).encode()
        for start in range(0, len(items), PAGE)
    ]


def render_line(kind: str, item: dict[str, Any]) -> bytes:
    """One line of a watch."""
    return json.dumps({"type": kind, "object": item}).encode()


# --- the daemon, in one process --------------------------------------------------------------------------------------


@dataclass(slots=True)
class Commits:
    """When the kernel had what: the end of our last transaction, and how long each took."""

    last: float = 0.0
    milliseconds: list[float] = field(default_factory=list)

    def watch(self) -> None:
        """Look at every transaction from now on."""
        commit = NfSocket.commit

        def timed(socket: NfSocket, *arguments: object) -> None:
            began = time.perf_counter()
            commit(socket, *arguments)  # type: ignore[arg-type]
            self.last = time.perf_counter()
            self.milliseconds.append((self.last - began) * 1_000)

        NfSocket.commit = timed  # type: ignore[assignment,method-assign]


class Daemon:
    """Store, loop and targets, wired as the app does it."""

    def __init__(self, netlink: Netlink, plane: Plane, folder: Path) -> None:
        """Nothing runs yet."""
        self.plane = plane
        self.pipe = PipePlane(PipeSettings(folder / "pipe", workers=2), lambda _: "", self._hint)
        self.kernel = NftPlane(NftSettings("eth0"), self._hint)
        self.switch = PlaneSwitch(self.pipe, self.kernel if plane is Plane.NFT else None, lambda: None)
        self.address = AddressTarget(netlink, LanProber(), self._look_again)
        self.announce = AnnounceTarget()
        planes = (Plane.NFT, Plane.PIPE) if plane is Plane.NFT else (Plane.PIPE,)
        self.store = Store(Settings(planes=planes), HOST, self._wake)
        claims: Silent = Silent(Phase.CLAIM, lambda state: state.claims)
        publications: Silent = Silent(Phase.PUBLISH, lambda state: state.publications)
        targets = (claims, self.switch, self.address, self.announce, publications)
        self.reconciler = Reconciler(self.store, targets, LoopClock())
        self.loop = Loop(self.store, self.reconciler, LoopClock(), self._passed)
        self._heard = asyncio.Event()
        self._last: PassResult | None = None

    @property
    def last(self) -> PassResult:
        """The last pass."""
        assert self._last is not None
        return self._last

    def _wake(self) -> None:
        self.loop.wake()

    def _hint(self) -> None:
        self.loop.hint()

    def _look_again(self, addresses: Iterable[Any]) -> None:
        self.loop.look_again(addresses)

    def _passed(self, result: PassResult) -> None:
        self._last = result
        self._heard.set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run all of it, and take everything away at the end."""
        await self.pipe.start()
        if self.plane is Plane.NFT:
            await self.kernel.start()
        works = [self.loop.run(), self.address.run(), self.announce.run(), self.pipe.run()]
        works += [self.kernel.run()] if self.plane is Plane.NFT else []
        tasks = [asyncio.create_task(work) for work in works]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            if self.plane is Plane.NFT:
                await self.kernel.stop(keep=False)
            await self.pipe.stop(keep=False)

    async def until(self, done: Callable[[PassResult], bool]) -> None:
        """Wait for a pass after which it is so."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                await self._heard.wait()
                self._heard.clear()
                if self._last is not None and done(self._last):
                    return

    def list_all(self, services: Sequence[bytes], slices: Sequence[bytes]) -> None:
        """Take complete lists, as the reflectors do."""
        for page in services:
            for one in decode.decode_service_page(page).items:
                self.store.services.upsert(one)
        for page in slices:
            for some in decode.decode_slice_page(page).items:
                self.store.slices.upsert(some)
        for shelf in (self.store.services, self.store.slices, self.store.nodes):
            shelf.retain(frozenset(shelf.items))

    def hear(self, line: bytes) -> None:
        """Take a line of the watch."""
        if b'"addressType"' in line:
            self.store.slices.upsert(decode.decode_slice_event(line).object)  # type: ignore[arg-type]
        else:
            self.store.services.upsert(decode.decode_service_event(line).object)  # type: ignore[arg-type]

    async def timed(self, commits: Commits, line: bytes) -> float:
        """Milliseconds from a line of the watch to the end of our transaction in the kernel."""
        self._heard.clear()
        began = time.perf_counter()
        self.hear(line)
        await self.until(lambda _: commits.last > began)
        took = (commits.last - began) * 1_000
        await asyncio.sleep(GAP_SECONDS)
        return took


def is_served(result: PassResult) -> bool:
    """Is everything forwarded, held and announced?"""
    failures = result.report.failures.values()
    assert all(failure.severity is Severity.WAITING for failure in failures), failures
    return not result.report.failed and not failures and not result.report.standing and bool(result.after.placements)


async def cold_start(daemon: Daemon, services: int) -> float:
    """Seconds from lists in memory to all elements in the kernel and all addresses on the device."""
    lists = render_pages(map(service, range(services))), render_pages(map(endpoints, range(services)))
    began = time.perf_counter()
    daemon.list_all(*lists)
    await daemon.until(is_served)
    took = time.perf_counter() - began
    assert len(await daemon.address.observe(None)) == services
    assert len(await daemon.switch.observe(None)) == services
    return took


async def resync(daemon: Daemon) -> float:
    """Milliseconds of a pass that reads everything back and finds nothing: so long an event may have to wait."""
    while True:
        number = daemon.last.report.number
        daemon.loop.hint()
        await daemon.until(lambda result: result.report.number > number)  # noqa: B023  (awaited here)
        if not daemon.last.report.changes and not daemon.last.report.failures:
            return daemon.last.report.duration_seconds * 1_000


async def sample(daemon: Daemon, services: int, times: int) -> dict[str, list[float]]:
    """Change by change; names are those of the figures."""
    commits = Commits()
    commits.watch()
    seen: dict[str, list[float]] = {}

    async def enter(name: str, line: bytes) -> None:
        commits.milliseconds.clear()
        seen.setdefault(name, []).append(await daemon.timed(commits, line))
        seen.setdefault(f"{name} (kernel)", []).append(sum(commits.milliseconds))

    for at in range(times):
        number = at * STRIDE % services
        await enter("an endpoint changed", render_line("MODIFIED", endpoints(number, at // services + 1)))
    for at in range(times):
        number = at * STRIDE % services
        await enter("a Service's port edited", render_line("MODIFIED", service(number, 81 + at // services)))
    for at in range(times):
        number = at * STRIDE % services
        line = render_line("MODIFIED", service(number, 81 + (times - 1) // services, RANGES[at // services % 2]))
        await enter("a Service's source ranges edited", line)
    for at in range(times):
        daemon.hear(render_line("ADDED", endpoints(services + at)))
        await asyncio.sleep(GAP_SECONDS)
        await enter("a Service added", render_line("ADDED", service(services + at)))
    return seen


async def measure(plane: Plane, services: int, times: int) -> dict[str, list[float]]:
    """Start it, change it, weigh it."""
    tune_interpreter()
    with tempfile.TemporaryDirectory(prefix="llprog-") as folder:
        async with Netlink() as netlink:
            daemon = Daemon(netlink, plane, Path(folder))
            async with daemon.running():
                found = {"cold start": [await cold_start(daemon, services)]}
                gc.collect()
                gc.freeze()
                found["RSS"] = [memory_mib("VmRSS")]
                if times:
                    found |= await sample(daemon, services, times)
                    found["resync"] = [await resync(daemon) for _ in range(5)]
    return found


# --- the parent ------------------------------------------------------------------------------------------------------

GOALS: Final = {
    "an endpoint changed": 10.0,
    "a Service's port edited": 10.0,
    "a Service's source ranges edited": 20.0,
    "a Service added": 10.0,
}


def run_child(plane: Plane, services: int, times: int) -> dict[str, list[float]]:
    """One daemon in a LAN of its own."""
    with Lan(clients=1, backends=0, prefix="llprog") as lan:
        words = [sys.executable, "-m", "bench.programming_loop", plane, str(services), str(times)]
        done = lan.balancer.run(words, timeout=900, check=False)
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-4_000:]
    found: dict[str, list[float]] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(services: int, times: int) -> list[Figure]:
    """Our kernel plane in the whole loop, and the memory of the same with the pipe."""
    ours, piped = run_child(Plane.NFT, services, times), run_child(Plane.PIPE, services, 0)
    name = f"{services:,} Services, whole loop"
    figures = [
        Figure(f"{name}: lists in memory → elements in the kernel, addresses held", "s", tuple(ours["cold start"]), 5.0)
    ]
    for what, goal in GOALS.items():
        whole = tuple(ours[what])
        figures.append(Figure(f"{name}: {what} → in the kernel", "ms", whole, goal, judged=percentile(whole, 0.99)))
        figures.append(Figure("  of it the kernel write", "ms", tuple(ours[f"{what} (kernel)"])))
    figures += [
        Figure(f"{name}: a full pass that finds nothing, once a minute", "ms", tuple(ours["resync"])),
        Figure(f"{name}: RSS with the nft plane", "MiB", tuple(ours["RSS"])),
        Figure("  with the pipe plane", "MiB", tuple(piped["RSS"])),
        Figure("  more than with the pipe plane", "MiB", (ours["RSS"][0] - piped["RSS"][0],), 20.0),
    ]
    return figures


if __name__ == "__main__":
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    print(json.dumps(asyncio.run(measure(Plane(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))))
