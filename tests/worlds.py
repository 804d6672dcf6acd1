"""Builders of small made-up worlds for unit tests: every field that a test does not name has a harmless value."""

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

from littlelb.core.model import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Family,
    Frontend,
    Grant,
    HostFacts,
    Ip,
    Node,
    Protocol,
    Service,
    ServicePort,
    ServiceType,
)
from littlelb.core.shown.status import DaemonStatus
from littlelb.core.state import Dirty, Settings, Snapshot

HOST = HostFacts(
    device="eth0",
    own=(ip_address("192.0.2.2"),),
    on_link=(ip_network("192.0.2.0/24"), ip_network("203.0.113.0/24"), ip_network("2001:db8::/64")),
    gateways=frozenset({ip_address("192.0.2.1")}),
    elsewhere={ip_address("198.51.100.2"): "eth1"},
    routed=(ip_network("10.1.0.0/16"),),
)
STAND_ALONE = Settings(stand_alone=True)
DAEMON = DaemonStatus(
    version="1",
    pid=7,
    started=1.0,
    source="https://192.0.2.1",
    plane="pipe",
    holder="lb-1",
    synced=True,
    connected=True,
)


def service(name: str = "web", address: str = "", ports: Iterable[int | ServicePort] = (80,), **fields: Any) -> Service:
    """A LoadBalancer Service default/`name`."""
    known = {"uid": f"uid-{name}", "type": ServiceType.LOAD_BALANCER, "namespace": "default"} | fields
    listed = tuple(port if isinstance(port, ServicePort) else ServicePort(port=port) for port in ports)
    return Service(name=name, load_balancer_ip=address, ports=listed, **known)


def piece(
    of: str = "web", addresses: Iterable[str | Endpoint] = ("10.1.0.11",), port: int | None = 8080, **fields: Any
) -> EndpointSlice:
    """An EndpointSlice of default/`of`."""
    endpoints = tuple(a if isinstance(a, Endpoint) else Endpoint(ip_address(a)) for a in addresses)
    known: dict[str, Any] = {
        "namespace": "default",
        "name": f"{of}-1",
        "family": Family.IPV4,
        "ports": (EndpointPort("", Protocol.TCP, port),),
    } | fields
    return EndpointSlice(service=of, endpoints=endpoints, **known)


def node(name: str, address: str, **fields: Any) -> Node:
    """A Node with one InternalIP."""
    return Node(name=name, addresses=(ip_address(address),), **fields)


def snapshot(*objects: Service | EndpointSlice | Node, settings: Settings = STAND_ALONE, **fields: Any) -> Snapshot:
    """Everything new; Services are seen in the order given."""
    slices: dict[str, tuple[EndpointSlice, ...]] = {}
    services, nodes = {}, {}
    for item in objects:
        match item:
            case Service():
                services[item.key] = item
            case EndpointSlice():
                slices[item.service_key] = (*slices.get(item.service_key, ()), item)
            case Node():
                nodes[item.key] = item
    known: dict[str, Any] = {"host": HOST, "seen": {key: n for n, key in enumerate(services)}} | fields
    return Snapshot(settings=settings, services=services, slices=slices, nodes=nodes, **known)


def dirty(world: Snapshot, *, services: Iterable[str] = (), endpoints: Iterable[str] = ()) -> Snapshot:
    """The same world, of which only this is new."""
    return replace(world, dirty=Dirty(frozenset(services), frozenset(endpoints)))


def ip(text: str) -> Ip:
    """Short for `ipaddress.ip_address`."""
    return ip_address(text)


def frontend(address: str, port: int = 80, protocol: Protocol = Protocol.TCP) -> Frontend:
    """Short for a Frontend."""
    return Frontend(ip_address(address), protocol, port)


def grant(*frontends: Frontend, since: float = 36_000.0, borrowed: Iterable[str] = ()) -> Grant:
    """What a Service holds since 10:00 UTC of the first day of the epoch."""
    return Grant(frozenset(frontends), since, frozenset(map(ip_address, borrowed)))
