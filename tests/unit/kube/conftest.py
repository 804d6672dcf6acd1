"""What the tests of writers share: a clock that stands still, and a fake API server with a cache like the store's."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from littlelb.core.model import Key, Service
from littlelb.kube.client import Api
from littlelb.kube.decode import decode_service
from littlelb.kube.transport import Transport
from littlelb.kube.writes.budget import make_write_budget
from littlelb.kube.writes.service_writer import Cache, ServiceWriter
from littlelb.testing.fake_api import FakeApi, FixedCredentials
from littlelb.testing.fake_api_cluster import Writer
from littlelb.testing.fake_api_store import Name


class StillClock:
    """Time that moves only when a test, or somebody's wait, moves it."""

    def __init__(self) -> None:
        """Start on 2026-01-01."""
        self.elapsed = 0.0

    def now(self) -> float:
        """Seconds since the epoch."""
        return 1_767_225_600.0 + self.elapsed

    def monotonic(self) -> float:
        """Seconds since the test began."""
        return self.elapsed

    async def sleep(self, seconds: float) -> None:
        """Move on at once."""
        self.elapsed += seconds


@pytest.fixture
def clock() -> StillClock:
    """Time at the test's command."""
    return StillClock()


class World:
    """A fake API server, our writer, and a cache that learns what the test lets it learn."""

    def __init__(self, server: FakeApi, transport: Transport, clock: StillClock) -> None:
        """Start with no Services."""
        self.server = server
        self.clock = clock
        self.api = Api(transport)
        self.budget = make_write_budget(clock)
        self.services: dict[Key, Service] = {}
        self.told: list[Key] = []
        self.writer = ServiceWriter(self.api, self.budget, decode_service, Cache(lambda: self.services, self._take))

    def _take(self, service: Service) -> None:
        self.told.append(service.key)
        self.services[service.key] = service

    def create(self, name: str = "web", **spec: object) -> Service:
        """Make a Service of type LoadBalancer as its user would; the cache learns it."""
        body = {"spec": {"type": "LoadBalancer", "ports": [{"port": 80}]} | spec}
        self.server.cluster.create(Name("/services", "default", name), body, Writer("kubectl"))
        return self.sync(name)

    def sync(self, name: str = "web") -> Service:
        """Let the cache learn how the Service is."""
        service = decode_service(json.dumps(self.raw(name)).encode())
        self.services[service.key] = service
        return service

    def raw(self, name: str = "web") -> dict[str, Any]:
        """Return the stored object."""
        return self.server.cluster.get(Name("/services", "default", name))

    def patch(self, body: dict[str, Any], manager: str, subresource: str = "", name: str = "web") -> None:
        """Somebody else writes; the cache does not learn it."""
        writer = Writer(manager, subresource)
        self.server.cluster.patch(Name("/services", "default", name), body, writer, strategic=True)

    def foreign_ingress(self, ip: str, manager: str = "other-lb", name: str = "web") -> None:
        """Another controller publishes an address."""
        self.patch({"status": {"loadBalancer": {"ingress": [{"ip": ip}]}}}, manager, "status", name)

    def requests(self, method: str) -> list[str]:
        """Paths that were asked with this method."""
        return [seen.path for seen in self.server.faults.seen if seen.method == method]


@pytest.fixture
async def world(clock: StillClock) -> AsyncIterator[World]:
    """Start the server."""
    async with FakeApi() as server:
        transport = Transport(FixedCredentials(server.url))
        yield World(server, transport, clock)
        await transport.close()
