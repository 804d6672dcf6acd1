"""The reflector with the real decoders on an API server, fake and real; and what only the real one can do to it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

import pytest

from littlelb.core.model import Service
from littlelb.kube.client import SERVICES, Selection
from littlelb.kube.decode import decode_service_event, decode_service_page
from littlelb.kube.pace import SharedProbe
from littlelb.kube.reflector import Kind, Reflector
from littlelb.testing.clock import LoopClock
from tests.contract.conftest import MERGE, ServerUnderTest
from tests.controlplane.cluster import ControlPlane

SERVICES_KIND = Kind(Selection(SERVICES), decode_service_page, decode_service_event)


@dataclass
class Table:
    """A sink for Services."""

    services: dict[str, Service] = field(default_factory=dict)
    lists: int = 0

    def upsert(self, item: Service) -> None:
        """Take a Service."""
        self.services[item.key] = item

    def remove(self, key: str) -> None:
        """Forget one."""
        self.services.pop(key, None)

    def retain(self, keys: frozenset[str]) -> None:
        """Forget the others."""
        self.lists += 1
        self.services = {key: service for key, service in self.services.items() if key in keys}


@dataclass
class Following:
    """A reflector at work on the server under test."""

    server: ServerUnderTest
    reflector: Reflector[Service]
    table: Table

    async def until(self, holds: Callable[[], bool], seconds: float = 20) -> None:
        """Wait for a state."""
        async with asyncio.timeout(seconds):
            while not holds():  # the sink is a plain table, without anybody to tell
                await asyncio.sleep(0.01)

    async def until_equal(self, seconds: float = 20) -> None:
        """Wait until the sink holds what a list by other means shows."""
        async with asyncio.timeout(seconds):
            while await self._there() != self._here():  # the other side has nobody to tell us
                await asyncio.sleep(0.05)

    def _here(self) -> dict[str, str]:
        return {key: found.resource_version for key, found in self.table.services.items()}

    async def _there(self) -> dict[str, str]:
        listed = (await self.server.ask("GET", "/api/v1/services")).body["items"]
        metas = [item["metadata"] for item in listed]
        return {f"{meta['namespace']}/{meta['name']}": meta["resourceVersion"] for meta in metas}


@asynccontextmanager
async def following(server: ServerUnderTest) -> AsyncIterator[Following]:
    """Run a reflector of all Services."""
    table, clock = Table(), LoopClock()
    random = Random(1)  # noqa: S311  # jitter
    reflector = Reflector(server.api, SERVICES_KIND, table, clock, random, SharedProbe(server.api.ping, clock))
    task = asyncio.create_task(reflector.run())
    try:
        it = Following(server, reflector, table)
        await it.until(lambda: reflector.connected)
        yield it
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_follows_what_is_written(server: ServerUnderTest) -> None:
    """After one list the sink hears of every creation, change, deletion and finalizer by the watch alone."""
    await server.service("old")
    async with following(server) as it:
        await server.service("new", finalizers=["example.com/a"])
        ingress = {"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}}
        await server.ask("PATCH", server.path("services", "new", "status"), ingress)
        await server.ask("DELETE", server.path("services", "old"))
        await server.ask("DELETE", server.path("services", "new"))
        await it.until_equal()
        new = it.table.services[f"{server.namespace}/new"]
        assert (new.deleting, [entry.ip for entry in new.ingress]) == (True, ["203.0.113.7"])
        await server.ask("PATCH", server.path("services", "new"), {"metadata": {"finalizers": None}}, MERGE)
        await it.until(lambda: f"{server.namespace}/new" not in it.table.services)
        assert it.table.lists == 1


async def test_comes_back_after_history_was_lost(server: ServerUnderTest) -> None:
    """When the server has forgotten what happened meanwhile, a new list makes it good; nothing is lost before."""
    await server.service("web")
    async with following(server) as it:
        await server.forget()
        assert f"{server.namespace}/web" in it.table.services
        await server.service("after")
        await it.until(lambda: f"{server.namespace}/after" in it.table.services)
        await it.until_equal()


@pytest.mark.parametrize("server", ["real"], indirect=True)
async def test_a_killed_server_comes_back(server: ServerUnderTest, controlplane: ControlPlane) -> None:
    """Killed and started again, the API server is followed as before; the old state stays meanwhile."""
    await server.service("web")
    async with following(server) as it:
        controlplane.api.kill()
        await it.until(lambda: not it.reflector.connected)
        assert f"{server.namespace}/web" in it.table.services
        controlplane.api.start()
        await server.service("after")
        await it.until(lambda: f"{server.namespace}/after" in it.table.services, 30)
        await it.until_equal()
        await it.until(lambda: it.reflector.connected)


@pytest.mark.parametrize("server", ["real"], indirect=True)
async def test_a_frozen_server_is_noticed(server: ServerUnderTest, controlplane: ControlPlane) -> None:
    """A stopped process answers nothing, though its connections stand: noticed by the probe, and found again."""
    async with following(server) as it:
        controlplane.api.freeze()
        await it.until(lambda: not it.reflector.connected, 30)
        controlplane.api.thaw()
        await server.service("after")
        await it.until(lambda: f"{server.namespace}/after" in it.table.services, 30)


@pytest.mark.parametrize("server", ["real"], indirect=True)
async def test_a_dead_wire_is_noticed(server: ServerUnderTest, controlplane: ControlPlane) -> None:
    """When packets vanish in both directions and nobody says so, it is noticed, and found again when they pass."""
    wire = controlplane.namespace
    async with following(server) as it:
        wire.run(["nft", "add table inet dead; add chain inet dead input { type filter hook input priority 0; }"])
        wire.run(["nft", "add rule inet dead input iifname host drop"])
        try:
            await it.until(lambda: not it.reflector.connected, 30)
        finally:
            wire.run(["nft", "delete table inet dead"])
        await it.until(lambda: it.reflector.connected)
        await server.service("after")
        await it.until(lambda: f"{server.namespace}/after" in it.table.services, 30)
