"""Part of bench/programming.py: the real API server, the real daemon and the real kube-proxy, on the same objects.

    API server ─┬─ watch ─→ loadbalancer, in the balancer of a LAN ─→ nf_tables ─→ notification ─┐
                └─ watch ─→ kube-proxy, in a namespace of its own ──→ nf_tables ─→ notification ─┴→ who came when

An EndpointSlice is patched; the clock runs from the API server's answer to the kernel's notification that the
transaction is complete, in both namespaces for the same change. All of it runs on the same CPUs.
"""

import asyncio
import json
import select
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Any, Final, Self

from bench.population import connect, fill, put_finalizers, vip
from bench.programming_loop import STRIDE, endpoints
from bench.record import Figure, memory_mib, percentile
from bench.sync import held, widen
from littlelb.dataplane.netfilter.event_socket import open_events
from littlelb.dataplane.netfilter.events import Change, Commit
from littlelb.kube.client import ENDPOINT_SLICES, SERVICES, Api, PatchType, Reference
from littlelb.testing.netns import Namespace, Network
from tests.controlplane import build
from tests.controlplane.certificates import certificate_user
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.objects import create_node
from tests.controlplane.process import Process
from tests.e2e.rig import Rig

NODE: Final = "proxied"
PATIENCE_SECONDS: Final = 60.0
SYNC_PERIODS: Final = {"1s": 1.5, "1ms": 0.3}
"""kube-proxy's minSyncPeriod (its default; 0 would mean the default, too) → seconds between two changes, at most."""

ALONE_GAP_SECONDS: Final = 0.3
"""The same without a kube-proxy, which else takes a CPU just then."""


def render_services(count: int) -> Iterator[tuple[Reference, dict[str, Any]]]:
    """LoadBalancer Services without NodePorts and without a selector: their slices are ours."""
    for number in range(count):
        spec = {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False, "loadBalancerIP": vip(number)}
        body = {"metadata": {"name": f"svc-{number}"}, "spec": {**spec, "ports": [{"name": "http", "port": 80}]}}
        yield Reference(SERVICES, "default"), body


def render_slices(count: int) -> Iterator[tuple[Reference, dict[str, Any]]]:
    """Three endpoints each."""
    for number in range(count):
        body = endpoints(number)
        del body["metadata"]["resourceVersion"]
        yield Reference(ENDPOINT_SLICES, "default"), body


class Ear:
    """Hears when transactions complete in a network namespace."""

    def __init__(self, box: Namespace, table: str) -> None:
        """Begin to listen, in a thread."""
        self._events, self._table = box.call(open_events), table
        self._heard: list[tuple[float, frozenset[str]]] = []
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="ear")
        self._thread.start()

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self._events.fileno(), select.POLLIN)
        names: set[str] = set()
        while not self._enough.is_set():
            if not poll.poll(100):
                continue
            now = time.monotonic()
            for event in self._events.receive():
                if isinstance(event, Change) and event.table == self._table:
                    names.add(event.name or "")
                elif isinstance(event, Commit) and names:
                    self._heard.append((now, frozenset(names)))
                    names = set()

    async def hear(self, since: float, word: str) -> float:
        """Wait for a transaction after `since` about something with this in its name; when it was."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while True:
                for when, names in reversed(self._heard):
                    if when < since:
                        break
                    if any(word in name for name in names):
                        return when
                await asyncio.sleep(0.002)

    async def wait_quiet(self, seconds: float) -> None:
        """Wait until something was heard, and then nothing for so long."""
        async with asyncio.timeout(10 * PATIENCE_SECONDS):
            while not self._heard or time.monotonic() - self._heard[-1][0] < seconds:
                await asyncio.sleep(0.05)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._enough.set()
        self._thread.join()
        self._events.close()


@contextmanager
def kube_proxy(plane: ControlPlane, server: str, box: Namespace, period: str) -> Iterator[Process]:
    """A kube-proxy in nftables mode with this minSyncPeriod, which no flag sets."""
    user = certificate_user(plane.folder, "kube-proxy")
    config = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(plane.kubeconfig("kube-proxy", user, server))},
        "mode": "nftables",
        "hostnameOverride": NODE,
        "clusterCIDR": "10.0.0.0/8",
        "oomScoreAdj": 0,
        # Machine-wide conntrack settings are not a bench's to change.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "nftables": {"minSyncPeriod": period, "syncPeriod": "30s"},
    }
    path = plane.folder / "kube-proxy.json"
    path.write_text(json.dumps(config), encoding="utf-8")

    def ready() -> bool:
        return box.run(["nft", "list", "table", "ip", "kube-proxy"], check=False).returncode == 0

    command = [str(build.ensure(print).kube_proxy), f"--config={path}"]
    process = Process(box, command, plane.logs / "kube-proxy.log", ready)
    process.start(PATIENCE_SECONDS)
    try:
        yield process
    finally:
        process.stop()


@dataclass(slots=True)
class Times:
    """Milliseconds from the API server's answer to the kernel, and how long the answer itself took."""

    answer: list[float]
    ours: list[float]
    theirs: list[float]


async def sample(api: Api, ears: Sequence[Ear], services: int, times: int, gap: float) -> Times:
    """Patch a slice, wait for all, pause for a random time; again. `ears`: ours, theirs."""
    seen, random = Times([], [], []), Random(1)  # noqa: S311  (pauses)
    salt = time.monotonic_ns() // 1_000_000_000
    for at in range(times):
        number = (at + salt) * STRIDE % services
        where = Reference(ENDPOINT_SLICES, "default", f"svc-{number}-x")
        current = json.loads(await api.get(where))["endpoints"][0]["addresses"]
        turn = 0 if current == endpoints(number, 1)["endpoints"][0]["addresses"] else 1
        body = json.dumps({"endpoints": endpoints(number, turn)["endpoints"]}).encode()
        await asyncio.sleep(random.uniform(0.05, gap))
        sent = time.monotonic()
        await api.patch(where, body, PatchType.MERGE)
        answered = time.monotonic()
        seen.answer.append((answered - sent) * 1_000)
        words = (("", seen.ours), (f"/svc-{number}/", seen.theirs))
        for ear, (word, values) in zip(ears, words, strict=False):
            values.append(max(0.0, await ear.hear(sent, word) - answered) * 1_000)
    return seen


async def populate(plane: ControlPlane, services: int) -> None:
    """Create all objects; our finalizer is there, as after a restart."""
    async with connect(plane.server, plane.folder) as api:
        print(f"slices created in {await fill(api, render_slices(services)):.0f} s", flush=True)
        print(f"Services created in {await fill(api, render_services(services)):.0f} s", flush=True)
        print(f"finalizers put on in {await put_finalizers(api, range(services)):.0f} s", flush=True)


def published(plane: ControlPlane) -> int:
    """How many Services show an address."""
    found = plane.admin.items("v1", "Service", "default")
    return sum(bool(one.get("status", {}).get("loadBalancer", {}).get("ingress")) for one in found)


def describe(services: int, period: str, seen: Times) -> list[Figure]:
    """Figures of one run."""
    ours, theirs = tuple(seen.ours), tuple(seen.theirs)
    name = f"{services:,} Services, real API: slice patched → in the kernel: loadbalancer"
    answer = Figure("  the API server's answer before that", "ms", tuple(seen.answer))
    if not theirs:
        return [Figure(f"{name} alone", "ms", ours, 10.0, judged=percentile(ours, 0.99)), answer]
    figures = [Figure(f"{name} beside kube-proxy", "ms", ours)]
    return [*figures, Figure(f"  kube-proxy, minSyncPeriod {period}", "ms", theirs), answer]


async def measure(plane: ControlPlane, rig: Rig, box: Namespace, services: int, times: int) -> list[Figure]:
    """Let both follow the same changes, with each of kube-proxy's periods."""
    figures: list[Figure] = []
    server = plane.attach(box)
    assert rig.daemon is not None
    async with connect(plane.server, plane.folder) as api:
        with Ear(rig.lan.balancer, "littlelb") as ours:
            figures += describe(services, "", await sample(api, (ours,), services, 3 * times, ALONE_GAP_SECONDS))
        for period, gap in SYNC_PERIODS.items():
            with (
                Ear(rig.lan.balancer, "littlelb") as ours,
                Ear(box, "kube-proxy") as theirs,
                kube_proxy(plane, server, box, period) as process,
            ):
                await theirs.wait_quiet(3.0)
                seen = await sample(api, (ours, theirs), services, times, gap)
                memory = memory_mib("VmRSS", process.pid)
            figures += describe(services, period, seen)
            print(f"beside kube-proxy with minSyncPeriod {period}: done", flush=True)
    figures.append(Figure(f"{services:,} Services, real API: RSS of loadbalancer", "MiB", (_weigh(rig),)))
    figures.append(Figure("  of kube-proxy", "MiB", (memory,)))
    return figures


def _weigh(rig: Rig) -> float:
    assert rig.daemon is not None
    return memory_mib("VmRSS", rig.daemon.pid)


def run(services: int, times: int, folder: Path | None = None) -> list[Figure]:
    """Start everything, fill it, measure."""
    with ControlPlane(build.ensure(print), folder) as plane:
        asyncio.run(populate(plane, services))
        create_node(plane.admin, NODE, ["198.51.100.13"])
        with Rig(plane, "default") as rig, Network("llprog") as net:
            widen(rig)
            rig.start("--plane", "nft", wait=False)
            rig.wait("all held", lambda: held(rig) >= services, 30 + services / 20)
            rig.wait("all published", lambda: published(plane) >= services, 30 + services / 10)
            figures = asyncio.run(measure(plane, rig, net.namespace("node"), services, times))
    return figures
