"""What each API object becomes in `core.model`: nulls resolved, addresses parsed, strings that repeat shared.

Runs for every object of a big cluster (20,000 slices with 180,000 endpoints), so it makes no object it can do without:
names of namespaces, nodes and labels are interned, empty tuples and mappings are shared, parsed addresses are cached.
"""

import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_network

from littlelb.core.model import (
    Condition,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Family,
    Ingress,
    Ip,
    Net,
    Node,
    PortError,
    Protocol,
    Service,
    ServicePort,
    ServiceType,
)
from littlelb.core.serving.weights import WEIGHT_ANNOTATION
from littlelb.kube.ownership import FINALIZER
from littlelb.kube.wire import (
    ANNOTATIONS_OF_PEERS,
    DELETION_TAINT,
    EXCLUDE_LABEL,
    OUR_PREFIX,
    PORTS_ERROR_CONDITION,
    SERVICE_NAME_LABEL,
    WireEndpoint,
    WireEndpointConditions,
    WireIngress,
    WireMeta,
    WireNode,
    WireNodeSpec,
    WireNodeStatus,
    WireService,
    WireServiceSpec,
    WireServiceStatus,
    WireSlice,
)

CACHED_ADDRESSES = 16_384
DEFAULT_AFFINITY_SECONDS = 10_800
"""core/v1 `DefaultClientIPServiceAffinitySeconds`."""
_NO_TEXTS: Mapping[str, str] = {}
_NO_META = WireMeta()
_NO_SPEC = WireServiceSpec()
_NO_STATUS = WireServiceStatus()
_NO_CONDITIONS = WireEndpointConditions()
_OCTETS = {str(number): number for number in range(256)}
"""The texts that an octet of an address may have; looking them up is three times as fast as reading them."""
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})
"""What Go's strconv.ParseBool reads as false."""


# --- Services --------------------------------------------------------------------------------------------------------


def build_service(wire: WireService) -> Service:
    """Reduce a Service. Without a name it has a fault and is no load balancer: nothing can be written to it."""
    meta, spec, status = wire.metadata or _NO_META, wire.spec or _NO_SPEC, wire.status or _NO_STATUS
    return Service(
        namespace=sys.intern(meta.namespace or ""),
        name=sys.intern(meta.name or ""),
        uid=meta.uid or "",
        resource_version=meta.resource_version or "",
        created=_seconds(meta.creation_timestamp),
        deleting=meta.deletion_timestamp is not None,
        type=(meta.name and spec.type) or ServiceType.CLUSTER_IP,
        load_balancer_class=spec.loadBalancerClass,
        load_balancer_ip=spec.loadBalancerIP or "",
        annotations=_relevant(meta.annotations),
        ports=tuple(
            ServicePort(port.port, port.protocol or Protocol.TCP, sys.intern(port.name or ""), port.node_port or 0)
            for port in spec.ports or ()
        ),
        cluster_ips=tuple(spec.clusterIPs or ((spec.clusterIP,) if spec.clusterIP else ())),
        source_ranges=tuple(spec.loadBalancerSourceRanges or ()),
        affinity_seconds=_affinity(spec),
        external_traffic_policy_local=spec.externalTrafficPolicy == "Local",
        health_check_node_port=spec.healthCheckNodePort or 0,
        ip_families=tuple(spec.ipFamilies or ()),
        publish_not_ready_addresses=bool(spec.publishNotReadyAddresses),
        external_ips=tuple(spec.externalIPs or ()),
        has_finalizer=FINALIZER in (meta.finalizers or ()),
        ingress=_ingress(status),
        conditions=_conditions(status),
        fault="" if meta.name else "it has no name",
    )


def _relevant(annotations: dict[str, str] | None) -> Mapping[str, str]:
    """Keep the annotations that a balancer reads; most Services have none."""
    if not annotations:
        return _NO_TEXTS
    kept = {
        sys.intern(key): value
        for key, value in annotations.items()
        if key in ANNOTATIONS_OF_PEERS or key.startswith(OUR_PREFIX)
    }
    return kept or _NO_TEXTS


def _affinity(spec: WireServiceSpec) -> int:
    """Read the timeout; what is out of range is left to the core to judge, and 0, which would read as None, is -1."""
    if spec.sessionAffinity != "ClientIP":
        return 0
    client = spec.sessionAffinityConfig and spec.sessionAffinityConfig.clientIP
    if not client or client.timeout_seconds is None:
        return DEFAULT_AFFINITY_SECONDS
    return client.timeout_seconds or -1


def _ingress(status: WireServiceStatus) -> tuple[Ingress, ...]:
    entries: Sequence[WireIngress] = (status.load_balancer and status.load_balancer.ingress) or ()
    return tuple(
        Ingress(
            entry.ip or "",
            entry.hostname or "",
            entry.ipMode or "",
            tuple(PortError(port.port, port.protocol or Protocol.TCP, port.error or "") for port in entry.ports or ()),
        )
        for entry in entries
    )


def _conditions(status: WireServiceStatus) -> tuple[Condition, ...]:
    """Keep our own conditions."""
    return tuple(
        Condition(entry.type, entry.status or "", entry.reason or "", entry.message or "")
        for entry in status.conditions or ()
        if entry.type.startswith(OUR_PREFIX) or entry.type == PORTS_ERROR_CONDITION
    )


def _seconds(timestamp: str | None) -> float | None:
    """Parse meta/v1 Time (RFC 3339, always with a zone); None for what is none."""
    if not timestamp:
        return None
    try:
        moment = datetime.fromisoformat(timestamp)
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo else None


# --- EndpointSlices --------------------------------------------------------------------------------------------------


def build_slice(wire: WireSlice) -> EndpointSlice:
    """Reduce an EndpointSlice; an endpoint whose address cannot be read is left out and named in `fault`."""
    meta = wire.metadata or _NO_META
    endpoints, family, fault = _endpoints(wire)
    return EndpointSlice(
        namespace=sys.intern(meta.namespace or ""),
        name=meta.name or "",
        service=sys.intern((meta.labels or _NO_TEXTS).get(SERVICE_NAME_LABEL, "")),
        family=family,
        ports=tuple(
            EndpointPort(sys.intern(port.name or ""), port.protocol or Protocol.TCP, port.port)
            for port in wire.ports or ()
        ),
        endpoints=endpoints,
        weight=(meta.annotations or _NO_TEXTS).get(WEIGHT_ANNOTATION, ""),
        fault=fault,
    )


def _endpoints(wire: WireSlice) -> tuple[tuple[Endpoint, ...], Family | None, str]:
    """Endpoints, their family, and what could not be used."""
    if wire.address_type == "IPv4":
        family, parse = Family.IPV4, parse_ipv4
    elif wire.address_type == "IPv6":
        family, parse = Family.IPV6, parse_ipv6
    else:
        return (), None, "" if wire.address_type == "FQDN" else "its addressType is none of IPv4, IPv6 and FQDN"
    endpoints = []
    unusable: WireEndpoint | None = None
    for endpoint in wire.endpoints or ():
        # Only the first address counts: the API gives the others no meaning, and kube-proxy does not look at them.
        address = parse(endpoint.addresses[0]) if endpoint.addresses else None
        if address is None:
            unusable = unusable or endpoint
        else:
            endpoints.append(_endpoint(address, endpoint))
    if unusable is None:
        return tuple(endpoints), family, ""
    text = ascii(unusable.addresses[0][:64]) if unusable.addresses else "none"
    return tuple(endpoints), family, f"endpoint address {text} is not an {family} address"


def _endpoint(address: Ip, wire: WireEndpoint) -> Endpoint:
    """Resolve null conditions: ready is true, serving is as ready, terminating is false (discovery/v1)."""
    conditions = wire.conditions or _NO_CONDITIONS
    ready = conditions.ready is not False
    serving = ready if conditions.serving is None else conditions.serving
    return Endpoint(address, ready, serving, conditions.terminating is True, sys.intern(wire.node_name or ""))


@lru_cache(CACHED_ADDRESSES)
def parse_ipv4(text: str) -> Ip | None:
    """Parse an IPv4 address strictly: four decimal numbers without leading zeros."""
    try:
        first, second, third, fourth = text.split(".")
        return IPv4Address(_OCTETS[first] << 24 | _OCTETS[second] << 16 | _OCTETS[third] << 8 | _OCTETS[fourth])
    except (KeyError, ValueError):
        return None


@lru_cache(CACHED_ADDRESSES)
def parse_ipv6(text: str) -> Ip | None:
    """Parse an IPv6 address strictly: no zone, no v4-mapped form."""
    try:
        address = IPv6Address(text)
    except ValueError:
        return None
    return None if address.scope_id or address.ipv4_mapped else address


# --- Nodes -----------------------------------------------------------------------------------------------------------


def build_node(wire: WireNode) -> Node:
    """Reduce a Node. One that is excluded from load balancers counts as leaving; no Ready condition counts as ready."""
    meta, spec, status = wire.metadata or _NO_META, wire.spec or WireNodeSpec(), wire.status or WireNodeStatus()
    labels = {sys.intern(key): sys.intern(value) for key, value in (meta.labels or _NO_TEXTS).items()}
    return Node(
        name=sys.intern(meta.name or ""),
        addresses=_internal_ips(status),
        labels=labels or _NO_TEXTS,
        pod_networks=_networks(spec.podCIDRs or ([spec.podCIDR] if spec.podCIDR else [])),
        weight=(meta.annotations or _NO_TEXTS).get(WEIGHT_ANNOTATION, ""),
        ready=all(entry.status == "True" for entry in status.conditions or () if entry.type == "Ready"),
        leaving=meta.deletion_timestamp is not None
        or any(taint.key == DELETION_TAINT for taint in spec.taints or ())
        or _is_excluded(labels),
    )


def _is_excluded(labels: Mapping[str, str]) -> bool:
    """Is the node kept from load balancers? The label is a boolean; empty or unreadable excludes (upstream too)."""
    value = labels.get(EXCLUDE_LABEL)
    return value is not None and value not in _FALSE


def _internal_ips(status: WireNodeStatus) -> tuple[Ip, ...]:
    found = (
        parse_ipv4(entry.address) or parse_ipv6(entry.address)
        for entry in status.addresses or ()
        if entry.type == "InternalIP" and entry.address
    )
    return tuple(address for address in found if address is not None)


def _networks(texts: Sequence[str]) -> tuple[Net, ...]:
    """Parse podCIDRs; what is none is left out."""
    nets: list[Net] = []
    for text in texts:
        try:
            nets.append(ip_network(text))
        except ValueError:
            continue
    return tuple(nets)
