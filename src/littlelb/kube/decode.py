"""Turns API JSON into `core.model`: pages of a list, lines of a watch, single objects.

A page is decoded typed in one go. Only when that fails are its items decoded one by one, and the item that does not fit
its types becomes an object with a `fault` (a Service, an EndpointSlice) or without addresses (a Node): one poisoned
object never costs its page or its watch. Text that is no JSON at all raises `msgspec.DecodeError`.
"""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import msgspec
from msgspec import Raw, Struct, ValidationError
from msgspec.json import Decoder
from msgspec.structs import replace

from littlelb.core.model import EndpointSlice, Node, Service, ServiceType
from littlelb.kube.build import build_node, build_service, build_slice
from littlelb.kube.client import ApiStatus, EventType, Page, WatchEvent
from littlelb.kube.wire import (
    WireEndpoint,
    WireEndpointPort,
    WireMeta,
    WireNode,
    WireService,
    WireServiceSpec,
    WireServiceStatus,
    WireSlice,
)

MAX_FAULT_CHARACTERS = 300
_INITIAL_EVENTS_END = "k8s.io/initial-events-end"
_UNFIT = (ValidationError, UnicodeDecodeError, RecursionError)
"""What an object that does not fit its types, or that nests too deeply, raises."""

T = TypeVar("T")
V = TypeVar("V")


class _HasMetadata(Protocol):
    """Every kind's wire shape."""

    metadata: WireMeta | None


W = TypeVar("W", bound=_HasMetadata)


class _ListMeta(Struct, gc=False, rename="camel"):
    """meta/v1 ListMeta; `continue` is a word of Python."""

    resource_version: str | None = None
    continue_: str | None = msgspec.field(default=None, name="continue")
    remaining_item_count: int | None = None


class _List(Struct, Generic[V], gc=False):
    """A LIST answer of any kind."""

    metadata: _ListMeta | None = None
    items: list[V] | None = None


class _Event(Struct, Generic[V], gc=False):
    """One line of a watch of any kind; BOOKMARK's object has the kind's shape, ERROR's is a Status."""

    type: EventType
    object: V


class _Kind(Generic[W, T]):
    """How one kind is decoded: typed, and what is made of an object that does not fit."""

    def __init__(self, wire: type[W], build: Callable[[W], T], salvage: Callable[[object, str], T]) -> None:
        self._build = build
        self._salvage = salvage
        self._one: Decoder[W] = Decoder(wire)
        self._page: Decoder[_List[W]] = Decoder(_List[wire])  # type: ignore[valid-type]
        self._event: Decoder[_Event[W]] = Decoder(_Event[wire])  # type: ignore[valid-type]

    def one(self, text: bytes) -> T:
        try:
            return self._build(self._one.decode(text))
        except _UNFIT as why:
            return self._salvage(_loosely(_valid_utf8(text)), _fault(why))

    def page(self, text: bytes) -> Page[T]:
        try:
            found = self._page.decode(text)
            return _page_of(found.metadata, tuple(map(self._build, found.items or ())))
        except _UNFIT:
            pieces = _bounded(_RAW_LIST, _valid_utf8(text))
            return _page_of(pieces.metadata, tuple(self.one(bytes(item)) for item in pieces.items or ()))

    def event(self, text: bytes) -> WatchEvent[T]:
        try:
            line = self._event.decode(text)
        except _UNFIT:
            return self._odd_event(_valid_utf8(text))
        meta = line.object.metadata or WireMeta()
        version = meta.resource_version or ""
        if line.type is EventType.BOOKMARK:
            return WatchEvent(line.type, None, version, _INITIAL_EVENTS_END in (meta.annotations or ()))
        if line.type is EventType.ERROR:
            return self._odd_event(text)
        return WatchEvent(line.type, self._build(line.object), version)

    def _odd_event(self, text: bytes) -> WatchEvent[T]:
        """Decode an ERROR, or a line whose object does not fit its types."""
        line = _bounded(_RAW_EVENT, text)
        whole = _loosely(bytes(line.object))
        if line.type is EventType.ERROR:
            return WatchEvent(line.type, _status(whole))
        meta = _field(whole, "metadata", dict[str, object], {})
        version = _field(meta, "resourceVersion", str, "")
        if line.type is EventType.BOOKMARK:
            return WatchEvent(line.type, None, version, _INITIAL_EVENTS_END in _field(meta, "annotations", dict, {}))
        return WatchEvent(line.type, self.one(bytes(line.object)), version)


class _Named(Struct, gc=False):
    """What every kind has."""

    metadata: WireMeta | None = None


_NAMED = Decoder(_Named)
_ANYTHING: Decoder[object] = Decoder()
_RAW_LIST: Decoder[_List[Raw]] = Decoder(_List[Raw])
_RAW_EVENT: Decoder[_Event[Raw]] = Decoder(_Event[Raw])


def _page_of(meta: _ListMeta | None, items: tuple[T, ...]) -> Page[T]:
    meta = meta or _ListMeta()
    return Page(items, meta.resource_version or "", meta.continue_ or "", meta.remaining_item_count)


def _status(whole: object) -> ApiStatus:
    return ApiStatus(_field(whole, "code", int, 0), _field(whole, "reason", str, ""), _field(whole, "message", str, ""))


# --- objects that do not fit their types -----------------------------------------------------------------------------


def _fault(why: Exception) -> str:
    """Say why an object could not be understood: one printable line of at most 300 characters."""
    text = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in str(why)[:MAX_FAULT_CHARACTERS])
    return text[:MAX_FAULT_CHARACTERS]


def _bounded(decoder: Decoder[V], text: bytes) -> V:
    """Decode what may nest so deeply that it is no API server's answer."""
    try:
        return decoder.decode(text)
    except RecursionError:
        raise msgspec.DecodeError("nested too deeply") from None


def _loosely(text: bytes) -> object:
    """Decode without types; where even that cannot be (a number of thousands of digits), the metadata alone."""
    try:
        return _bounded(_ANYTHING, text)
    except ValidationError:
        pass  # said in the fault already
    try:
        return msgspec.to_builtins(_NAMED.decode(text))
    except ValidationError:
        return None


def _valid_utf8(text: bytes) -> bytes:
    return text.decode("utf-8", "replace").encode()


def _field(node: object, key: str, kind: type[V], default: V) -> V:
    """Read one field if it fits its type."""
    value = node.get(key) if isinstance(node, dict) else None
    try:
        return default if value is None else msgspec.convert(value, kind)
    except ValidationError:
        return default


def _each(node: object, key: str, kind: type[V]) -> list[V]:
    """Read those entries of a list that fit their type."""
    entries = _field(node, key, list, [])
    return [found for entry in entries if (found := _field({"": entry}, "", kind, None)) is not None]


def _meta(whole: object) -> WireMeta:
    """Read what can be read of an object's metadata."""
    meta = _field(whole, "metadata", dict[str, object], {})
    return WireMeta(
        name=_field(meta, "name", str, ""),
        namespace=_field(meta, "namespace", str, ""),
        uid=_field(meta, "uid", str, ""),
        resource_version=_field(meta, "resourceVersion", str, ""),
        creation_timestamp=_field(meta, "creationTimestamp", str, ""),
        deletion_timestamp="unknown" if meta.get("deletionTimestamp") is not None else None,
        labels={key: value for key, value in _field(meta, "labels", dict, {}).items() if isinstance(value, str)},
        finalizers=[entry for entry in _field(meta, "finalizers", list, []) if isinstance(entry, str)],
    )


def _salvage_service(whole: object, fault: str) -> Service:
    """Keep who it is, whose it is and what was written on it, so that it can be refused and cleaned up after."""
    spec = _field(whole, "spec", dict[str, object], {})
    wire = WireService(
        _meta(whole),
        WireServiceSpec(
            type=_field(spec, "type", ServiceType, ServiceType.CLUSTER_IP),
            loadBalancerClass=_field(spec, "loadBalancerClass", str, None),
            externalIPs=_each(spec, "externalIPs", str),
        ),
        _field(whole, "status", WireServiceStatus, WireServiceStatus()),
    )
    return replace(build_service(wire), fault=fault)


def _salvage_slice(whole: object, fault: str) -> EndpointSlice:
    """Keep the endpoints and ports that can be understood."""
    wire = WireSlice(
        _meta(whole),
        _field(whole, "addressType", str, ""),
        _each(whole, "ports", WireEndpointPort),
        _each(whole, "endpoints", WireEndpoint),
    )
    return replace(build_slice(wire), fault=fault)


def _salvage_node(whole: object, fault: str) -> Node:
    """Keep the name only: a node without addresses serves nobody."""
    del fault
    return build_node(WireNode(_meta(whole)))


_SERVICE = _Kind(WireService, build_service, _salvage_service)
_SLICE = _Kind(WireSlice, build_slice, _salvage_slice)
_NODE = _Kind(WireNode, build_node, _salvage_node)


# --- the public face -------------------------------------------------------------------------------------------------


def decode_service(text: bytes) -> Service:
    """Decode one Service, as a GET or a PATCH answers it."""
    return _SERVICE.one(text)


def decode_service_page(text: bytes) -> Page[Service]:
    """Decode one page of a ServiceList."""
    return _SERVICE.page(text)


def decode_service_event(text: bytes) -> WatchEvent[Service]:
    """Decode one line of a watch on Services."""
    return _SERVICE.event(text)


def decode_slice_page(text: bytes) -> Page[EndpointSlice]:
    """Decode one page of an EndpointSliceList."""
    return _SLICE.page(text)


def decode_slice_event(text: bytes) -> WatchEvent[EndpointSlice]:
    """Decode one line of a watch on EndpointSlices."""
    return _SLICE.event(text)


def decode_node_page(text: bytes) -> Page[Node]:
    """Decode one page of a NodeList."""
    return _NODE.page(text)


def decode_node_event(text: bytes) -> WatchEvent[Node]:
    """Decode one line of a watch on Nodes."""
    return _NODE.event(text)
