"""Where the objects come from: an API server, or a folder. Both tell the store, and say how they fare."""

import asyncio
import socket
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from random import Random
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

import msgspec
import structlog

from littlelb.config import Config
from littlelb.control.store import Kind as StoreKind
from littlelb.control.store import Store
from littlelb.core.errors import Transient
from littlelb.core.interfaces import Clock, Keyed, Sink
from littlelb.core.model import EndpointSlice, Ip, Node, Service
from littlelb.core.shown.status import SyncProgress
from littlelb.kube import decode
from littlelb.kube.client import ENDPOINT_SLICES, NODES, SERVICES, Api, Page, Selection
from littlelb.kube.credentials.choice import InCluster, choose_credentials
from littlelb.kube.folder import FolderSource
from littlelb.kube.pace import SharedProbe
from littlelb.kube.reflector import Kind, Reflector
from littlelb.kube.transport import Transport

log = structlog.get_logger(__name__)
RESOLVE_SECONDS = 2.0
"""A start while DNS is away is not held up: there is a last known world to serve."""
T = TypeVar("T", bound=Keyed)
Work = Coroutine[Any, Any, None]  # a task that runs for ever


class Source(Protocol):
    """What the daemon asks of either source."""

    name: str
    """For people: the server's address, or the folder."""

    @property
    def synced(self) -> bool:
        """Has everything been listed once?"""
        ...

    @property
    def connected(self) -> bool:
        """Is it heard now?"""
        ...

    @property
    def progress(self) -> tuple[SyncProgress, ...]:
        """How far the first lists are."""
        ...

    @property
    def errors(self) -> tuple[str, ...]:
        """What is wrong in the folder."""
        ...

    @property
    def refused(self) -> tuple[str, ...]:
        """What the API server does not let us read."""
        ...

    def tasks(self) -> Mapping[str, Work]:
        """Make the tasks that keep the store current, by name."""
        ...

    async def list_once(self) -> None:
        """Tell the store what there is now, and follow nothing. Raises `Transient`, `Permanent`."""
        ...


class Folder:
    """`--manifests DIR`."""

    def __init__(self, directory: Path, store: Store) -> None:
        """Read nothing yet."""
        self.name = str(directory)
        self.source = FolderSource(directory, store.services, store.slices, store.nodes)
        self._store = store

    @property
    def synced(self) -> bool:
        """The first reading lists everything at once."""
        return self._store.ready

    @property
    def connected(self) -> bool:
        """A folder that cannot be listed says so as an error without a file."""
        return not any(error.document == 0 and error.file == self.name for error in self.source.errors)

    @property
    def progress(self) -> tuple[SyncProgress, ...]:
        """There is nothing to wait for."""
        return ()

    @property
    def errors(self) -> tuple[str, ...]:
        """One line each: file, document, line, reason."""
        return tuple(str(error) for error in self.source.errors)

    @property
    def refused(self) -> tuple[str, ...]:
        """A folder refuses nothing but by its errors."""
        return ()

    def tasks(self) -> Mapping[str, Work]:
        """One task follows the folder."""
        return {"folder": self.source.run()}

    async def list_once(self) -> None:
        """Read all files; what is wrong with them is in `errors`."""
        await asyncio.to_thread(self.source.load_once)


@dataclass(frozen=True, slots=True)
class ApiParts:
    """The API server as seen by those who speak to it."""

    transport: Transport
    api: Api
    server: str


def connect(config: Config, clock: Clock) -> ApiParts:
    """Choose credentials and build the client; nothing is sent yet. Raises `ConfigError`."""
    pod = InCluster(config.service_host, config.service_port) if config.in_cluster else None
    credentials = choose_credentials(config.kubeconfig, pod, config.default_kubeconfig, clock, config.environment)
    transport = Transport(credentials)
    return ApiParts(transport, Api(transport), credentials.server)


async def resolve_server(server: str, seconds: float = RESOLVE_SECONDS) -> frozenset[Ip]:
    """Find the addresses of the API server, which no Service may have; none where the name does not resolve now."""
    host = urlsplit(server).hostname or ""
    try:
        async with asyncio.timeout(seconds):
            found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:  # TimeoutError is an OSError; UnicodeError: no name that DNS could have
        log.warning("api.unresolved", server=server, error=str(error) or "no answer in time")
        return frozenset()
    return frozenset(ip_address(str(entry[4][0]).partition("%")[0]) for entry in found)


class ApiServer:
    """Reflectors of Services, EndpointSlices and Nodes."""

    def __init__(self, parts: ApiParts, store: Store, clock: Clock) -> None:
        """Send nothing yet."""
        self.name = parts.server
        self._api, self._store = parts.api, store
        probe = SharedProbe(parts.api.ping, clock)
        random = Random()  # noqa: S311  (jitter)
        services = Kind(Selection(SERVICES), decode.decode_service_page, decode.decode_service_event)
        slices = Kind(Selection(ENDPOINT_SLICES), decode.decode_slice_page, decode.decode_slice_event)
        nodes = Kind(Selection(NODES), decode.decode_node_page, decode.decode_node_event)
        self._services: Reflector[Service] = Reflector(parts.api, services, store.services, clock, random, probe)
        self._slices: Reflector[EndpointSlice] = Reflector(parts.api, slices, store.slices, clock, random, probe)
        self._nodes: Reflector[Node] = Reflector(parts.api, nodes, store.nodes, clock, random, probe)

    @property
    def synced(self) -> bool:
        """Have all three been listed?"""
        return self._services.synced and self._slices.synced and self._nodes.synced

    @property
    def connected(self) -> bool:
        """Are all three watches open?"""
        return self._services.connected and self._slices.connected and self._nodes.connected

    @property
    def progress(self) -> tuple[SyncProgress, ...]:
        """Objects of each kind so far."""
        return (
            SyncProgress(StoreKind.SERVICES, self._services.progress.items, self._services.synced),
            SyncProgress(StoreKind.SLICES, self._slices.progress.items, self._slices.synced),
            SyncProgress(StoreKind.NODES, self._nodes.progress.items, self._nodes.synced),
        )

    @property
    def errors(self) -> tuple[str, ...]:
        """An API server has no files."""
        return ()

    @property
    def refused(self) -> tuple[str, ...]:
        """One line for each kind."""
        return tuple(one.refused for one in (self._services, self._slices, self._nodes) if one.refused)

    def tasks(self) -> Mapping[str, Work]:
        """One task for each kind."""
        return {
            "reflector services": self._services.run(),
            "reflector endpointslices": self._slices.run(),
            "reflector nodes": self._nodes.run(),
        }

    async def list_once(self) -> None:
        """Read all three kinds by pages, in one consistent list each."""
        store, api = self._store, self._api
        await list_all(api, Selection(SERVICES), decode.decode_service_page, store.services)
        await list_all(api, Selection(ENDPOINT_SLICES), decode.decode_slice_page, store.slices)
        await list_all(api, Selection(NODES), decode.decode_node_page, store.nodes)


async def list_all(api: Api, what: Selection, decode_page: Callable[[bytes], Page[T]], sink: Sink[T]) -> None:
    """Read every object of one kind and tell the sink. Raises `Transient`, `Permanent`."""
    keys: set[str] = set()
    token = ""
    while True:
        try:
            page = await api.list_page(what, decode_page, token)
        except msgspec.MsgspecError as error:
            raise Transient(f"a page of {what.resource.plural} cannot be read: {error}") from error
        for item in page.items:
            keys.add(item.key)
            sink.upsert(item)
        token = page.continue_
        if not token:
            return sink.retain(frozenset(keys))
