"""Turns documents into Services, EndpointSlices and Nodes, judged as the API server would judge them.

From the API these objects come validated; from a folder they come from an editor. What the server would refuse, and
what would be misread without a word, is an error with its line. What the server lets through (any `loadBalancerIP`, any
source range) is left to the core, so that both sources lead to the same refusal on the Service.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TypeAlias, TypeVar
from uuid import UUID

import msgspec
from msgspec.structs import replace

from littlelb.core.model import EndpointSlice, Node, Service, ServiceType
from littlelb.kube.build import build_node, build_service, build_slice, parse_ipv4, parse_ipv6
from littlelb.kube.folder.documents import Json, ManifestError, Parsed, printable
from littlelb.kube.folder.endpoints import WireEndpoints, split_endpoints
from littlelb.kube.wire import SERVICE_NAME_LABEL, WireMeta, WireNode, WireService, WireSlice

DEFAULT_NAMESPACE = "default"
MAX_AFFINITY_SECONDS = 86_400
"""core/v1 `MaxClientIPServiceAffinitySeconds`."""

Thing: TypeAlias = Service | EndpointSlice | Node
Path: TypeAlias = tuple[str | int, ...]
W = TypeVar("W")

_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?\Z")
_SUBDOMAIN = re.compile(r"(?=.{1,253}\Z)[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*\Z")
_SPEC_FIELDS = frozenset(
    {
        "allocateLoadBalancerNodePorts",
        "clusterIP",
        "clusterIPs",
        "externalIPs",
        "externalName",
        "externalTrafficPolicy",
        "healthCheckNodePort",
        "internalTrafficPolicy",
        "ipFamilies",
        "ipFamilyPolicy",
        "loadBalancerClass",
        "loadBalancerIP",
        "loadBalancerSourceRanges",
        "ports",
        "publishNotReadyAddresses",
        "selector",
        "sessionAffinity",
        "sessionAffinityConfig",
        "topologyKeys",
        "trafficDistribution",
        "type",
    }
)
_PORT_FIELDS = frozenset({"appProtocol", "name", "nodePort", "port", "protocol", "targetPort"})


@dataclass(slots=True)
class Manifest:
    """What one file says."""

    things: dict[tuple[str, str], tuple[Thing, ManifestError]] = field(default_factory=dict)
    """(kind, key) → the object, and its place (an error without a reason yet)."""
    errors: list[ManifestError] = field(default_factory=list)
    ignored: set[str] = field(default_factory=set)
    """Kinds that no balancer reads."""


class _Wrong(ValueError):
    """An object that the API server would refuse; `path` is where."""

    def __init__(self, reason: str, *path: str | int) -> None:
        super().__init__(reason)
        self.path = path


def read_manifest(file: str, parsed: Parsed) -> Manifest:
    """Turn a parsed file into objects. Never raises: what is wrong is in `errors`."""
    manifest = Manifest(errors=list(parsed.errors))
    for document in parsed.documents:
        for path, value in _objects(document.value):
            try:
                things = list(_convert(value, manifest))
            except _Wrong as why:
                line = document.line(*path, *why.path)
                manifest.errors.append(ManifestError(file, document.number, line, printable(str(why))))
                continue
            for kind, thing in things:
                place = ManifestError(file, document.number, document.line(*path), "")
                _add(manifest, kind, thing, place)
    return manifest


def _add(manifest: Manifest, kind: str, thing: Thing, place: ManifestError) -> None:
    """Take an object, unless the file already has one of this name."""
    known = manifest.things.setdefault((kind, thing.key), (thing, place))
    if known[0] is not thing:
        first = known[1]
        reason = f"{kind} {thing.key} is already in document {first.document}, line {first.line}"
        manifest.errors.append(ManifestError(place.file, place.document, place.line, reason))


def _objects(value: Json, path: Path = ()) -> Iterator[tuple[Path, Json]]:
    """Yield the objects of a document: itself, or the items of a List."""
    if isinstance(value, dict) and str(value.get("kind")).endswith("List") and isinstance(value.get("items"), list):
        for index, item in enumerate(value["items"]):  # type: ignore[arg-type]
            yield (*path, "items", index), _with_kind(item, str(value["kind"]), value.get("apiVersion"))
    else:
        yield path, value


def _with_kind(item: Json, kind: str, version: Json) -> Json:
    """Give items of a typed list (`ServiceList`) the kind that they leave out."""
    if isinstance(item, dict) and kind != "List":
        return {"kind": kind.removesuffix("List"), "apiVersion": version, **item}
    return item


def _convert(value: Json, manifest: Manifest) -> Iterator[tuple[str, Thing]]:
    if not isinstance(value, dict):
        raise _Wrong("not an object: a mapping with apiVersion, kind and metadata is expected")
    version, kind = value.get("apiVersion"), value.get("kind")
    if not isinstance(version, str) or not isinstance(kind, str) or not version or not kind:
        raise _Wrong("apiVersion and kind are needed, both texts")
    match version, kind:
        case "v1", "Service":
            yield kind, _service(value)
        case "discovery.k8s.io/v1", "EndpointSlice":
            yield kind, _slice(value)
        case "v1", "Endpoints":
            for part in split_endpoints(_named(value, WireEndpoints, _LABEL)):
                yield "EndpointSlice", _judge_slice(part)
        case "v1", "Node":
            yield kind, _node(value)
        case _:
            manifest.ignored.add(printable(f"{version} {kind}"))


def _typed(value: Mapping[str, Json], kind: type[W]) -> W:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as why:
        reason, _, place = str(why).rpartition(" - at ")
        path = _path_of(place)
        raise _Wrong(f"{_dotted(path)}: {reason}" if path else reason or str(why), *path) from None


def _path_of(place: str) -> Path:
    """`$.spec.ports[0].port` in back quotes → ("spec", "ports", 0, "port")."""
    return tuple(
        int(index) if index else name for name, index in re.findall(r"\.(\w+)|\[(\d+)\]", place.partition("$")[2])
    )


def _dotted(path: Path) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")


class _HasMeta(msgspec.Struct):
    metadata: WireMeta | None = None


def _named(value: Mapping[str, Json], kind: type[W], name: re.Pattern[str], namespace: str = DEFAULT_NAMESPACE) -> W:
    """Convert to the wire shape, with a valid name and, unless `namespace` is empty, a namespace."""
    meta = _typed(value, _HasMeta).metadata
    if meta is None or not meta.name:
        raise _Wrong("metadata.name is needed", "metadata")
    if not name.match(meta.name):
        raise _Wrong(f"metadata.name {_quoted(meta.name)} is not a valid name (RFC 1123)", "metadata", "name")
    if namespace and not _LABEL.match(meta.namespace or namespace):
        raise _Wrong(
            f"metadata.namespace {_quoted(meta.namespace or '')} is not a valid name (RFC 1123)",
            "metadata",
            "namespace",
        )
    given = value["metadata"]
    assert isinstance(given, dict)  # noqa: S101  (`meta` was read from it)
    return _typed({**value, "metadata": {**given, "namespace": given.get("namespace") or namespace}}, kind)


# --- Services --------------------------------------------------------------------------------------------------------


def _service(value: Mapping[str, Json]) -> Service:
    """Judge a Service; uid and version are made from its name and content, and what a server wrote is dropped."""
    wire = _named(value, WireService, _LABEL)
    spec = value.get("spec")
    _known(spec, _SPEC_FIELDS, "spec")
    for index, port in enumerate(spec.get("ports") or () if isinstance(spec, dict) else ()):  # type: ignore[arg-type]
        _known(port, _PORT_FIELDS, "spec", "ports", index)
    service = build_service(wire)
    _judge_ports(service)
    if wire.spec:
        _one_of(wire.spec.sessionAffinity, {"None", "ClientIP"}, "sessionAffinity")
        _one_of(wire.spec.externalTrafficPolicy, {"Cluster", "Local"}, "externalTrafficPolicy")
        _judge_numbers(service)
    return replace(
        service,
        uid=str(UUID(bytes=sha256(f"Service/{service.key}".encode()).digest()[:16])),
        resource_version=sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()[:16],
        deleting=False,
        has_finalizer=False,
        ingress=(),
        conditions=(),
    )


def _judge_numbers(service: Service) -> None:
    """Refuse a timeout or a port that no server would take."""
    if service.affinity_seconds and not 1 <= service.affinity_seconds <= MAX_AFFINITY_SECONDS:
        path = ("spec", "sessionAffinityConfig", "clientIP", "timeoutSeconds")
        raise _Wrong(f"{_dotted(path)} is not in 1 to {MAX_AFFINITY_SECONDS}", *path)
    if service.health_check_node_port:
        _port_number(service.health_check_node_port, "spec", "healthCheckNodePort")


def _known(node: Json, fields: frozenset[str], *path: str | int) -> None:
    """Refuse a misspelt field: without a word it would be as if it were not there."""
    for name in node if isinstance(node, dict) else ():
        if name not in fields:
            raise _Wrong(f"unknown field {_quoted(name)} in {_dotted(path)}", *path, name)


def _one_of(value: str | None, allowed: set[str], name: str) -> None:
    if value is not None and value not in allowed:
        raise _Wrong(f"spec.{name} {_quoted(value)} is none of {', '.join(sorted(allowed))}", "spec", name)


def _judge_ports(service: Service) -> None:
    if not service.ports and service.type is ServiceType.LOAD_BALANCER:
        raise _Wrong("spec.ports is needed", "spec")
    seen: set[tuple[int, str]] = set()
    names: set[str] = set()
    for index, port in enumerate(service.ports):
        at: Path = ("spec", "ports", index)
        _port_number(port.port, *at, "port")
        if port.node_port:
            _port_number(port.node_port, *at, "nodePort")
        if (port.port, port.protocol) in seen:
            raise _Wrong(f"port {port.port}/{port.protocol} is given twice", *at)
        if len(service.ports) > 1 and (not port.name or port.name in names):
            raise _Wrong("with several ports each needs a name of its own", *at)
        if port.name and not _LABEL.match(port.name):
            raise _Wrong(f"{_dotted((*at, 'name'))} {_quoted(port.name)} is not a valid name (RFC 1123)", *at, "name")
        seen.add((port.port, port.protocol))
        names.add(port.name)


def _port_number(port: int, *path: str | int) -> None:
    if not 1 <= port <= 65535:
        raise _Wrong(f"{_dotted(path)} {str(port)[:20]} is not in 1 to 65535", *path)


# --- EndpointSlices and Nodes ----------------------------------------------------------------------------------------


def _slice(value: Mapping[str, Json]) -> EndpointSlice:
    found = _judge_slice(build_slice(_named(value, WireSlice, _SUBDOMAIN)))
    if not found.service:
        raise _Wrong(f"label {SERVICE_NAME_LABEL} is needed: it names the Service", "metadata", "labels")
    return found


def _judge_slice(found: EndpointSlice) -> EndpointSlice:
    if found.fault:
        raise _Wrong(found.fault, "endpoints")
    for index, port in enumerate(found.ports):
        if port.port is not None:
            _port_number(port.port, "ports", index, "port")
    return found


def _node(value: Mapping[str, Json]) -> Node:
    wire = _named(value, WireNode, _SUBDOMAIN, namespace="")
    for index, entry in enumerate((wire.status and wire.status.addresses) or ()):
        text = entry.address or ""
        if entry.type == "InternalIP" and parse_ipv4(text) is None and parse_ipv6(text) is None:
            raise _Wrong(f"address {_quoted(text)} is not an IP address", "status", "addresses", index)
    return build_node(wire)


def _quoted(text: str) -> str:
    return ascii(text if len(text) <= 64 else f"{text[:64]}...")
