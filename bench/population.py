"""A cluster of the size that hurts, put into a real API server: Services, EndpointSlices, Nodes.

Services are of type LoadBalancer without NodePorts, with an address of their own each; the first few have a class of
their own, so that a daemon can be told to serve only those, and our finalizer, as after a restart.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

from littlelb.core.errors import Transient
from littlelb.kube.client import ENDPOINT_SLICES, NODES, SERVICES, Api, Conflict, Reference
from littlelb.kube.transport import Transport
from littlelb.testing.fake_api import FixedCredentials
from tests.controlplane.admin import tls_context

WRITERS: Final = 16
"""More would not be faster: the API server allocates one cluster IP after the other."""
FEW_CLASS: Final = "littlelb.io/few"
FINALIZER: Final = "service.kubernetes.io/load-balancer-cleanup"


def vip(number: int) -> str:
    """Address of Service `number`: from 100.64.1.0 on (RFC 6598)."""
    return str(IPv4Address("100.64.1.0") + number)


@asynccontextmanager
async def connect(server: str, folder: Path) -> AsyncIterator[Api]:
    """Open a client as the control plane's admin."""
    tls = tls_context(folder / "ca.crt", folder / "admin.crt", folder / "admin.key")
    transport = Transport(FixedCredentials(server, tls=tls))
    try:
        yield Api(transport)
    finally:
        await transport.close()


def few(count: int) -> int:
    """Of so many Services, how many have the class `FEW_CLASS`."""
    return min(200, count // 2)


def render_services(count: int) -> Iterator[tuple[Reference, dict[str, Any]]]:
    """Services with an annotation of 2 KiB as kubectl leaves it."""
    for number in range(count):
        annotations = {"kubectl.kubernetes.io/last-applied-configuration": "x" * 2_048}
        spec: dict[str, Any] = {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False}
        spec |= {"ports": [{"name": "http", "port": 80}], "loadBalancerIP": vip(number)}
        if number < few(count):
            spec["loadBalancerClass"] = FEW_CLASS
        meta: dict[str, Any] = {"name": f"svc-{number}", "annotations": annotations}
        if number < few(count):
            meta["finalizers"] = [FINALIZER]
        yield Reference(SERVICES, "default"), {"metadata": meta, "spec": spec}


def render_slices(count: int, services: int) -> Iterator[tuple[Reference, dict[str, Any]]]:
    """Slices of 9 endpoints; every hundredth has 100."""
    for number in range(count):
        first = IPv4Address("10.1.0.0") + 128 * number
        addresses = [str(first + at + 1) for at in range(100 if number % 100 == 0 else 9)]
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


async def put_finalizers(api: Api, numbers: Iterable[int]) -> float:
    """Put our finalizer on these Services, as the daemon would have done; return the seconds it took."""
    body = json.dumps({"metadata": {"finalizers": [FINALIZER]}}).encode()
    left = iter(numbers)

    async def write() -> None:
        for number in left:
            await api.patch(Reference(SERVICES, "default", f"svc-{number}"), body)

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(WRITERS):
            group.create_task(write())
    return time.monotonic() - began
