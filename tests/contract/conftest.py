"""Fixtures of the contract tests: one suite, run on the double and on the real thing."""

import asyncio
import itertools
import json
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any

import pytest

from littlelb.kube.client import Api, LineSplitter
from littlelb.kube.transport import Request, Transport
from littlelb.testing.fake_api import FakeApi, FixedCredentials
from tests.controlplane.admin import tls_context
from tests.controlplane.cluster import ControlPlane

_numbers = itertools.count(1)

STRATEGIC = "application/strategic-merge-patch+json"
MERGE = "application/merge-patch+json"


def pytest_configure(config: pytest.Config) -> None:
    """Load the control plane's fixtures; a conftest below the top may not list them in `pytest_plugins`."""
    config.pluginmanager.import_plugin("tests.controlplane.plugin")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Have the control plane built, and started, for those tests only that run on the real server."""
    for item in items:
        if not isinstance(item, pytest.Function) or not hasattr(item, "callspec"):
            continue
        if item.callspec.params.get("server") == "real":
            item.fixturenames = [*item.fixturenames, "controlplane"]


@dataclass(frozen=True)
class Said:
    """An answer, parsed."""

    code: int
    body: dict[str, Any]

    @property
    def version(self) -> str:
        """Its resourceVersion."""
        return str(self.body["metadata"]["resourceVersion"])


class Events:
    """An open watch, as JSON."""

    def __init__(self, lines: AsyncIterator[bytes]) -> None:
        """Read from these lines."""
        self._lines = lines

    async def next(self, seconds: float = 10.0) -> dict[str, Any]:
        """Return the next event. Raises StopAsyncIteration at the end, TimeoutError when there is none in time."""
        async with asyncio.timeout(seconds):
            event: dict[str, Any] = json.loads(await anext(self._lines))
        return event

    async def take(self, count: int) -> list[tuple[str, str]]:
        """Return type and name of the next events."""
        events = [await self.next() for _ in range(count)]
        return [(event["type"], event["object"]["metadata"]["name"]) for event in events]


class ServerUnderTest:
    """An API server, fake or real, and a namespace in it that nobody else uses."""

    def __init__(self, transport: Transport, namespace: str, forget: Callable[[], Awaitable[None]]) -> None:
        """`forget` makes the server lose all history up to now."""
        self.transport = transport
        self.api = Api(transport)
        self.namespace = namespace
        self.forget = forget

    def path(self, plural: str, name: str = "", subresource: str = "", group: str = "") -> str:
        """Path of something in the namespace."""
        root = f"/apis/{group}/v1" if group else "/api/v1"
        return "/".join(part for part in (f"{root}/namespaces/{self.namespace}", plural, name, subresource) if part)

    async def ask(self, method: str, path: str, body: object = None, content: str = "", **query: str) -> Said:
        """Send a request; every answer is returned. Writes are those of `tests` unless they name a fieldManager."""
        query = query if body is None else {"fieldManager": "tests"} | query
        text = None if body is None else json.dumps(body).encode()
        content = content or (STRATEGIC if method == "PATCH" else "application/json")
        answer = await self.transport.fetch(Request(method, path, query, text, content))
        return Said(answer.code, json.loads(answer.body))

    async def service(self, name: str, spec: Mapping[str, Any] | None = None, **meta: object) -> Said:
        """Create a Service of type LoadBalancer without node ports."""
        default = {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": False, "ports": [{"port": 80}]}
        body = {"metadata": {"name": name, **meta}, "spec": dict(spec) if spec is not None else default}
        said = await self.ask("POST", self.path("services"), body)
        assert said.code == 201, said.body
        return said

    @asynccontextmanager
    async def watch(self, path: str, **query: str) -> AsyncIterator[Events]:
        """Open a watch."""
        request = Request("GET", path, {"watch": "true", **query})
        async with self.transport.stream(request) as stream:
            assert stream.code == 200, await stream.rest()

            async def lines() -> AsyncIterator[bytes]:
                splitter = LineSplitter()
                while chunk := await stream.read():
                    for line in splitter.feed(chunk):
                        yield line

            yield Events(lines())


@asynccontextmanager
async def closing(transport: Transport) -> AsyncIterator[None]:
    """Close a transport at the end, whatever happened."""
    try:
        yield
    finally:
        await transport.close()


@asynccontextmanager
async def fake() -> AsyncIterator[ServerUnderTest]:
    """Start the double."""
    async with FakeApi() as server:
        transport = Transport(FixedCredentials(server.url))

        async def forget() -> None:
            server.cluster.store.compact()

        async with closing(transport), _namespaced(transport, forget) as it:
            yield it


@asynccontextmanager
async def real(plane: ControlPlane) -> AsyncIterator[ServerUnderTest]:
    """Speak to the real thing as its admin."""
    tls = tls_context(plane.folder / "ca.crt", plane.folder / "admin.crt", plane.folder / "admin.key")
    transport = Transport(FixedCredentials(plane.server, tls=tls))

    async def forget() -> None:
        # Compaction alone is not enough: the API server's own cache answers watches from memory until it restarts.
        # Not in a thread: a program of the control plane ends with the thread that started it.
        _compact_etcd(plane)
        plane.api.kill()
        plane.api.start()
        await transport.close()  # connections to the old process, whose end this loop had no time to see

    async with closing(transport), _namespaced(transport, forget) as it:
        yield it


def _compact_etcd(plane: ControlPlane) -> None:
    """Compact at the current revision, through etcd's JSON gateway, which listens in the control plane's namespace."""
    revision = _etcd(plane, "range", {"key": "AA=="})["header"]["revision"]
    _etcd(plane, "compaction", {"revision": revision, "physical": True})


def _etcd(plane: ControlPlane, verb: str, body: Mapping[str, object]) -> dict[str, Any]:
    connection = HTTPConnection("127.0.0.1", 2379, timeout=10)
    connection.sock = plane.namespace.socket(socket.AF_INET, socket.SOCK_STREAM)
    connection.sock.connect(("127.0.0.1", 2379))
    try:
        connection.request("POST", f"/v3/kv/{verb}", json.dumps(body))
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return answer


@asynccontextmanager
async def _namespaced(transport: Transport, forget: Callable[[], Awaitable[None]]) -> AsyncIterator[ServerUnderTest]:
    it = ServerUnderTest(transport, f"contract-{os.getpid()}-{next(_numbers)}", forget)
    said = await it.ask("POST", "/api/v1/namespaces", {"metadata": {"name": it.namespace}})
    assert said.code == 201, said.body
    yield it
    for service in (await it.ask("GET", it.path("services"))).body["items"]:
        name = service["metadata"]["name"]
        await it.ask("PATCH", it.path("services", name), {"metadata": {"finalizers": None}}, MERGE)
        await it.ask("DELETE", it.path("services", name))
    await it.ask("DELETE", f"/api/v1/namespaces/{it.namespace}")


@pytest.fixture(params=["fake", "real"])
async def server(request: pytest.FixtureRequest) -> AsyncIterator[ServerUnderTest]:
    """Give the server under test: the double, then the real kube-apiserver."""
    if request.param == "fake":
        async with fake() as it:
            yield it
    else:
        async with real(request.getfixturevalue("controlplane")) as it:
            yield it
