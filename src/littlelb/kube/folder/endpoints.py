"""Turns a v1 Endpoints object into EndpointSlices, as the mirroring controller of a cluster does.

Each subset and each address family becomes a slice of its own, because a slice has one list of ports and one family.
"""

from collections.abc import Iterator
from ipaddress import IPv4Address

from msgspec import Struct

from littlelb.core.model import Endpoint, EndpointPort, EndpointSlice, Family, Protocol
from littlelb.core.serving.weights import WEIGHT_ANNOTATION
from littlelb.kube.build import parse_ipv4, parse_ipv6
from littlelb.kube.wire import WireEndpointPort, WireMeta


class WireEndpointAddress(Struct, gc=False, rename="camel"):
    """core/v1 EndpointAddress."""

    ip: str | None = None
    node_name: str | None = None


class WireSubset(Struct, gc=False, rename="camel"):
    """core/v1 EndpointSubset."""

    addresses: list[WireEndpointAddress] | None = None
    not_ready_addresses: list[WireEndpointAddress] | None = None
    ports: list[WireEndpointPort] | None = None


class WireEndpoints(Struct, gc=False):
    """core/v1 Endpoints; its name is that of its Service."""

    metadata: WireMeta | None = None
    subsets: list[WireSubset] | None = None


def split_endpoints(wire: WireEndpoints) -> Iterator[EndpointSlice]:
    """Yield a slice for each subset and family in it; an address that cannot be read is the slice's fault."""
    meta = wire.metadata or WireMeta()
    name, namespace = meta.name or "", meta.namespace or ""
    for index, subset in enumerate(wire.subsets or ()):
        endpoints, fault = _endpoints(subset)
        ports = tuple(
            EndpointPort(port.name or "", port.protocol or Protocol.TCP, port.port) for port in subset.ports or ()
        )
        families = {_family(endpoint): None for endpoint in endpoints} or {Family.IPV4: None}
        for family in families:
            yield EndpointSlice(
                namespace=namespace,
                name=f"{name}-{index}-{family.lower()}",
                service=name,
                family=family,
                ports=ports,
                endpoints=tuple(endpoint for endpoint in endpoints if _family(endpoint) is family),
                weight=(meta.annotations or {}).get(WEIGHT_ANNOTATION, ""),
                fault=fault,
            )


def _family(endpoint: Endpoint) -> Family:
    return Family.IPV4 if isinstance(endpoint.address, IPv4Address) else Family.IPV6


def _endpoints(subset: WireSubset) -> tuple[list[Endpoint], str]:
    """Endpoints of both lists, and what could not be read."""
    found: list[Endpoint] = []
    fault = ""
    for ready, entries in ((True, subset.addresses), (False, subset.not_ready_addresses)):
        for entry in entries or ():
            address = parse_ipv4(entry.ip or "") or parse_ipv6(entry.ip or "")
            if address is None:
                fault = fault or f"endpoint address {(entry.ip or '')[:64]!a} is not an IP address"
            else:
                found.append(Endpoint(address, ready, ready, terminating=False, node=entry.node_name or ""))
    return found, fault
