"""The last known world on disk: a restart with the API server down goes on serving it, and says so.

One MessagePack file, written whole beside the old one and renamed over it, so that a crash leaves the old or the new
one and never half of one. It is used only until the API answers; what it says about Services is never published.
"""

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address, ip_network
from pathlib import Path
from threading import Lock

import msgspec
import structlog

from littlelb.core.model import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Family,
    Frontend,
    Grant,
    Key,
    Node,
    Protocol,
    Service,
    ServiceType,
)
from littlelb.core.state import Snapshot

VERSION = 1
FILE_NAME = "world.msgpack"
NEW_SUFFIX = ".new"
_FIXMAP, _ARRAY32, _MAP32 = 0x80, 0xDD, 0xDF
PIECE_OBJECTS = 64
_WRITE = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
MAX_BYTES = 512 * 1024 * 1024
log = structlog.get_logger(__name__)


class StoredGrant(msgspec.Struct):
    """A `Grant`, as it is written."""

    frontends: list[tuple[str, Protocol, int]]
    since: float
    borrowed: list[str] = msgspec.field(default_factory=list)

    def restore(self) -> Grant:
        """Give the grant as the store holds it."""
        frontends = frozenset(Frontend(ip_address(text), protocol, port) for text, protocol, port in self.frontends)
        return Grant(frontends, self.since, frozenset(ip_address(text) for text in self.borrowed))


class StoredEndpoint(msgspec.Struct, gc=False):
    """An `Endpoint`, as it is written: addresses are texts."""

    address: str
    ready: bool
    serving: bool
    terminating: bool
    node: str


class StoredSlice(msgspec.Struct):
    """An `EndpointSlice`, as it is written."""

    namespace: str
    name: str
    service: str
    family: Family | None
    ports: tuple[EndpointPort, ...]
    endpoints: list[StoredEndpoint]
    fault: str

    def restore(self) -> EndpointSlice:
        """Give the slice as the store holds it."""
        endpoints = tuple(
            Endpoint(ip_address(e.address), e.ready, e.serving, e.terminating, e.node) for e in self.endpoints
        )
        return EndpointSlice(
            namespace=self.namespace,
            name=self.name,
            service=self.service,
            family=self.family,
            ports=self.ports,
            endpoints=endpoints,
            fault=self.fault,
        )


class StoredNode(msgspec.Struct):
    """A `Node`, as it is written."""

    name: str
    addresses: list[str]
    labels: dict[str, str]
    pod_networks: list[str]
    ready: bool
    leaving: bool

    def restore(self) -> Node:
        """Give the node as the store holds it."""
        return Node(
            name=self.name,
            addresses=tuple(ip_address(text) for text in self.addresses),
            labels=self.labels,
            pod_networks=tuple(ip_network(text) for text in self.pod_networks),
            ready=self.ready,
            leaving=self.leaving,
        )


class Stored(msgspec.Struct):
    """The file's content."""

    version: int
    written: float
    """Seconds since the epoch."""
    services: list[Service]
    slices: list[StoredSlice]
    nodes: list[StoredNode]
    grants: dict[Key, StoredGrant]

    def restore(self) -> tuple[list[Service], list[EndpointSlice], list[Node]]:
        """Give the world as the store takes it. Raises ValueError for addresses that are none."""
        return self.services, [piece.restore() for piece in self.slices], [node.restore() for node in self.nodes]

    def granted(self) -> dict[Key, Grant]:
        """Give the grants as the store holds them."""
        return {key: grant.restore() for key, grant in self.grants.items()}


def encode_world(snapshot: Snapshot, grants: Mapping[Key, Grant], written: float) -> bytes:
    """Turn what is known into the file's bytes: LoadBalancer Services, their slices, all nodes."""
    return b"".join(encode_pieces(snapshot, grants, written))


def encode_pieces(snapshot: Snapshot, grants: Mapping[Key, Grant], written: float) -> Iterator[bytes]:
    """Encode in pieces of a millisecond or two: with ten thousand Services all of it takes a fifth of a second.

    `grants` must not change meanwhile.
    """
    services = [s for s in snapshot.services.values() if s.type is ServiceType.LOAD_BALANCER or s.has_finalizer]
    slices = [piece for service in services for piece in snapshot.slices.get(service.key, ())]
    lists: dict[str, Sequence[object]] = {"services": services, "slices": slices, "nodes": [*snapshot.nodes.values()]}
    yield _header(_FIXMAP | 6) + _encode("version") + _encode(VERSION) + _encode("written") + _encode(written)
    for name, items in lists.items():
        yield _encode(name) + _header(_ARRAY32, len(items))
        for start in range(0, len(items), PIECE_OBJECTS):
            yield b"".join(_encode(item) for item in items[start : start + PIECE_OBJECTS])
    yield _encode("grants") + _header(_MAP32, len(grants))
    entries = list(grants.items())
    for start in range(0, len(entries), PIECE_OBJECTS):
        some = entries[start : start + PIECE_OBJECTS]
        yield b"".join(_encode(key) + _encode(_store_grant(grant)) for key, grant in some)


def _encode(value: object) -> bytes:
    return msgspec.msgpack.encode(value, enc_hook=str)


def _header(kind: int, length: int | None = None) -> bytes:
    """First byte of a container and, if it does not hold it, the length (MessagePack specification, "formats")."""
    return bytes([kind]) if length is None else struct.pack(">BI", kind, length)


def _store_grant(grant: Grant) -> StoredGrant:
    frontends = [(str(frontend.address), frontend.protocol, frontend.port) for frontend in grant.frontends]
    return StoredGrant(frontends, grant.since, [str(address) for address in grant.borrowed])


def decode_world(content: bytes) -> Stored:
    """Read the file's bytes. Raises `msgspec.DecodeError` or ValueError for what is none, or of another version."""
    stored = msgspec.msgpack.decode(content, type=Stored)
    if stored.version != VERSION:
        raise msgspec.ValidationError(f"version {stored.version}, this program writes version {VERSION}")
    return stored


class StateFile:
    """Reads and writes the file; a disk that is full or read-only is logged once and harms nothing else."""

    def __init__(self, directory: Path) -> None:
        """`directory` is made when the first file is written."""
        self._path = directory / FILE_NAME
        self._failing = False
        self._writing = Lock()  # the last write of a daemon may come while one in a thread is under way

    def read(self) -> Stored | None:
        """Read the last known world; None when there is none that can be used."""
        try:
            if self._path.stat().st_size > MAX_BYTES:
                raise msgspec.ValidationError(f"larger than {MAX_BYTES} bytes")
            stored = decode_world(self._path.read_bytes())
            stored.restore()
            return stored  # noqa: TRY300  (everything above may raise)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, msgspec.DecodeError) as error:
            log.warning("state_file.unusable", path=str(self._path), error=str(error), remedy="it is written anew")
            return None

    def write(self, content: bytes) -> None:
        """Put new content in the place of the old, in one step; from whatever thread."""
        with self._writing:
            self._replace(content)

    def _replace(self, content: bytes) -> None:
        temporary = self._path.with_suffix(NEW_SUFFIX)
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(temporary, _WRITE, 0o600)
            with open(descriptor, "wb") as file:  # noqa: PTH123  (a descriptor, opened with a mode of its own)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self._path)
        except OSError as error:
            if not self._failing:
                log.warning(
                    "state_file.not_written",
                    path=str(self._path),
                    error=str(error),
                    effect="a restart while the API server is down would not know the Services",
                )
            self._failing = True
            return
        if self._failing:
            log.info("state_file.written_again", path=str(self._path))
        self._failing = False
