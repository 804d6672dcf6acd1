"""The nouns: what the sources tell us (Service, Node, HostFacts, ...) and what follows (Frontend, Forward, ...).

Values only. Structs are used where the decoder makes them by the ten thousand (`gc=False`: they cannot form cycles),
frozen dataclasses elsewhere. Addresses are `ipaddress` objects; a text that a user wrote and that still has to be
judged (`load_balancer_ip`, `source_ranges`) stays a text until `core.ipam` or `core.ranges` has parsed it strictly.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import TypeAlias

from msgspec import Struct

from littlelb.core.immutable.ranges import Ranges

Ip: TypeAlias = IPv4Address | IPv6Address
Net: TypeAlias = IPv4Network | IPv6Network
Key: TypeAlias = str
"""`namespace/name` of a Service; neither part can contain a slash (RFC 1123 labels)."""


class Protocol(StrEnum):
    """Transport protocols of a Service port (core/v1 `Protocol`)."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"


class Plane(StrEnum):
    """What moves a Service's packets: the kernel (nftables), or worker processes of ours (the pipe)."""

    NFT = "nft"
    PIPE = "pipe"


class Family(StrEnum):
    """Address families as core/v1 spells them in `spec.ipFamilies`."""

    IPV4 = "IPv4"
    IPV6 = "IPv6"


class ServiceType(StrEnum):
    """`spec.type`."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"
    EXTERNAL_NAME = "ExternalName"


# --- what the Kubernetes API, or a folder of the same objects, tells -------------------------------------------------


class ServicePort(Struct, frozen=True, gc=False):
    """One entry of `spec.ports`. Ports are 1 to 65535 on a real API server; from a folder anything can come."""

    port: int
    protocol: Protocol = Protocol.TCP
    name: str = ""
    node_port: int = 0
    """0: none was allocated."""


class PortError(Struct, frozen=True, gc=False):
    """One entry of `status.loadBalancer.ingress[].ports`; `error` is `littlelb.io/CamelCase` or empty."""

    port: int
    protocol: Protocol
    error: str = ""


class Ingress(Struct, frozen=True, gc=False):
    """One entry of `status.loadBalancer.ingress`, as text, because others may have written it."""

    ip: str = ""
    hostname: str = ""
    ip_mode: str = ""
    ports: tuple[PortError, ...] = ()


class Condition(Struct, frozen=True, gc=False):
    """One of our entries of `status.conditions` (meta/v1 `Condition` without its time stamps)."""

    type: str
    status: str
    reason: str
    message: str


class Service(Struct, frozen=True, gc=False, kw_only=True):
    """A core/v1 Service, reduced to what a load balancer needs."""

    namespace: str
    name: str
    uid: str = ""
    resource_version: str = ""
    created: float | None = None
    """Seconds since the epoch; None where the source gives no creationTimestamp (a folder)."""
    deleting: bool = False
    type: ServiceType = ServiceType.CLUSTER_IP
    load_balancer_class: str | None = None
    load_balancer_ip: str = ""
    annotations: Mapping[str, str] = {}
    """Only those a balancer reads: ours, the aliases of peers, source ranges."""
    ports: tuple[ServicePort, ...] = ()
    cluster_ips: tuple[str, ...] = ()
    source_ranges: tuple[str, ...] = ()
    affinity_seconds: int = 0
    """`sessionAffinity: ClientIP` with its timeout (1 to 86,400, by default 10,800); 0: None."""
    external_traffic_policy_local: bool = False
    health_check_node_port: int = 0
    ip_families: tuple[Family, ...] = ()
    publish_not_ready_addresses: bool = False
    external_ips: tuple[str, ...] = ()
    has_finalizer: bool = False
    """`service.kubernetes.io/load-balancer-cleanup` is present; whose it is only managedFields tell."""
    ingress: tuple[Ingress, ...] = ()
    conditions: tuple[Condition, ...] = ()
    """Only ours: types with the prefix `littlelb.io/`, and `LoadBalancerPortsError`."""
    fault: str = ""
    """Why this object could not be understood; such a Service is refused with this text."""

    @property
    def key(self) -> Key:
        """`namespace/name`."""
        return f"{self.namespace}/{self.name}"


class EndpointPort(Struct, frozen=True, gc=False):
    """One entry of `ports` of an EndpointSlice; `port` None means all ports, which no Service of ours can use."""

    name: str
    protocol: Protocol
    port: int | None


class Endpoint(Struct, frozen=True, gc=False):
    """One endpoint, with nil conditions resolved: ready nil = true, serving nil = ready, terminating nil = false."""

    address: Ip
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node: str = ""


class EndpointSlice(Struct, frozen=True, gc=False, kw_only=True):
    """A discovery/v1 EndpointSlice (or a v1 Endpoints object turned into one) of the Service named by its label."""

    namespace: str
    name: str
    service: str
    family: Family | None
    """None for an FQDN slice, which is never used."""
    ports: tuple[EndpointPort, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    weight: str = ""
    """The annotation `littlelb.io/weight`, as written."""
    fault: str = ""
    """What in it could not be used; the rest of the slice counts."""

    @property
    def key(self) -> Key:
        """`namespace/name` of the slice itself."""
        return f"{self.namespace}/{self.name}"

    @property
    def service_key(self) -> Key:
        """`namespace/name` of the Service that it belongs to."""
        return f"{self.namespace}/{self.service}"


class Node(Struct, frozen=True, gc=False, kw_only=True):
    """A core/v1 Node, reduced to its duty as a backend."""

    name: str
    addresses: tuple[Ip, ...] = ()
    """InternalIPs, in the order of `status.addresses`."""
    labels: Mapping[str, str] = {}
    pod_networks: tuple[Net, ...] = ()
    weight: str = ""
    """The annotation `littlelb.io/weight`, as written."""
    ready: bool = True
    leaving: bool = False
    """Has a deletionTimestamp or the taint ToBeDeletedByClusterAutoscaler."""

    @property
    def key(self) -> Key:
        """The node's name: nodes have no namespace."""
        return self.name


# --- what this machine tells -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket of this host, not ours, that waits on a port. `address` None: the wildcard address."""

    protocol: Protocol
    address: Ip | None
    port: int
    process: str
    """For people: `sshd (pid 812)`."""


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What netlink tells of the link device and of the rest of this machine. Our own marked addresses are not in it."""

    device: str
    present: bool = True
    up: bool = True
    own: tuple[Ip, ...] = ()
    """Global addresses on the link device that somebody else put there, in the kernel's order."""
    on_link: tuple[Net, ...] = ()
    """On-link networks of the device: which addresses are in the subnet, and with what prefix length."""
    gateways: frozenset[Ip] = frozenset()
    elsewhere: Mapping[Ip, str] = field(default_factory=dict)
    """Addresses on other devices of this machine → the device's name."""
    routed: tuple[Net, ...] = ()
    """Destinations of all routes but the default ones: is there a route to a pod?"""
    listeners: tuple[Listener, ...] = ()
    api_servers: frozenset[Ip] = frozenset()
    _reached: Mapping[int, Ranges] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Index the routes: each endpoint there is is looked for in them, and there may be one for each node."""
        nets = (*self.routed, *self.on_link)
        ranges = {
            version: Ranges(
                (int(net.network_address), int(net.broadcast_address)) for net in nets if net.version == version
            )
            for version in (4, 6)
        }
        object.__setattr__(self, "_reached", ranges)

    def reaches(self, address: Ip) -> bool:
        """Is there a route to it other than the default one?"""
        return int(address) in self._reached[address.version]


# --- what has become of earlier decisions ----------------------------------------------------------------------------


class Frontend(Struct, frozen=True, gc=False, order=False, cache_hash=True):
    """Where clients knock: one address, protocol and port, or a range of ports."""

    address: Ip
    protocol: Protocol
    port: int
    last_port: int = 0
    """The last port of a range that begins with `port`; 0: it is one port."""

    def __str__(self) -> str:
        """`192.0.2.7 port 80/TCP`, for messages."""
        if self.last_port:
            return f"{self.address} ports {self.port}-{self.last_port}/{self.protocol}"
        return f"{self.address} port {self.port}/{self.protocol}"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a Service really got, and since when: who holds something keeps it."""

    frontends: frozenset[Frontend]
    since: float
    """Seconds since the epoch at which it first held any of them."""
    borrowed: frozenset[Ip] = frozenset()
    """Those of the addresses that the host had by itself: when it loses one, the Service does not keep it."""

    @property
    def addresses(self) -> frozenset[Ip]:
        """Addresses of the frontends."""
        return frozenset(f.address for f in self.frontends)


# --- what should be --------------------------------------------------------------------------------------------------


class Backend(Struct, frozen=True, gc=False):
    """Where a connection is forwarded to."""

    address: Ip
    port: int
    """0 behind a range of ports: the port stays as the client chose it."""
    weight: int = 1
    """Share of new connections, relative to the other backends; never 0."""
    keeps_source: bool = False
    """It sees the client's address: its answers are known to come back through this machine (nft only)."""


class Forward(Struct, frozen=True, gc=False, kw_only=True):
    """FORWARD's value: what happens to a connection that arrives at a Frontend."""

    service: Key
    backends: tuple[Backend, ...]
    """Empty: connections are refused at once."""
    source_ranges: tuple[Net, ...] | None = None
    """None: everybody; empty: nobody. A family without a range of its own is unrestricted (as in kube-proxy)."""
    plane: Plane = Plane.PIPE
    affinity_seconds: int = 0
    """How long after its last connection a client address keeps its backend; 0: every connection is chosen for anew."""
    from_link_only: bool = False
    """Only what enters by the link device: kube-proxy on this node serves the pods and processes of the node."""
    held: bool = True
    """The address is one that we put on the device: nothing else may answer on it."""
    drain_seconds: int | None = None
    """How long flows of a removed backend may go on; None: until they end by themselves."""
    withdraw_seconds: int = 0
    """How long established flows may go on when the whole frontend goes."""


class Placement(Struct, frozen=True, gc=False):
    """ADDRESS's value: how an address of ours sits on the link device."""

    device: str
    prefix_length: int


class Announcement(Struct, frozen=True, gc=False):
    """ANNOUNCE's value: on which device the address is made known."""

    device: str


class Publication(Struct, frozen=True, gc=False, kw_only=True):
    """PUBLISH's value: what the Service's owner reads."""

    uid: str
    ingress: tuple[Ingress, ...] = ()
    conditions: tuple[Condition, ...] = ()
    external_ips: tuple[str, ...] = ()


class Claim(Struct, frozen=True, gc=False):
    """CLAIM's value: this Service must not vanish before we have cleaned up after it."""

    uid: str
