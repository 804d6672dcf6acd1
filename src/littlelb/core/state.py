"""The two worlds that the loop compares: Snapshot (all that is known) and DesiredState (all that should be)."""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from littlelb.core.immutable.index import Index
from littlelb.core.immutable.layered import Layered
from littlelb.core.ipam.cases import Docket
from littlelb.core.model import (
    Announcement,
    Claim,
    EndpointSlice,
    Family,
    Forward,
    Frontend,
    Grant,
    HostFacts,
    Ip,
    Key,
    Net,
    Node,
    Placement,
    Plane,
    Protocol,
    Publication,
    Service,
)
from littlelb.core.reasons import Notice, Refusal


class BackendsMode(StrEnum):
    """`--backends`."""

    AUTO = "auto"
    PODS = "pods"
    NODES = "nodes"


class PrefixMode(StrEnum):
    """`--prefix`: VIPs as /32 and /128, or with the length of the device's on-link route."""

    HOST = "host"
    LINK = "link"


class DefaultAddress(StrEnum):
    """`--default-address`: may Services that ask for no address share the device's own?"""

    SHARE = "share"
    REFUSE = "refuse"


class OffSubnet(StrEnum):
    """What becomes of an address outside of the device's on-link networks."""

    WARN = "warn"
    REFUSE = "refuse"


class SourceAddress(StrEnum):
    """`--source-address`: whose address does a backend see?"""

    AUTO = "auto"
    """The client's where the answers are known to come back through this machine, else this machine's."""
    KEEP = "keep"
    MASQUERADE = "masquerade"


class LocalPolicy(StrEnum):
    """`--local-policy`: what becomes of externalTrafficPolicy Local where the client's address cannot be kept?"""

    WARN = "warn"
    STRICT = "strict"


@dataclass(frozen=True, slots=True)
class Settings:
    """The part of the configuration that decisions depend on."""

    load_balancer_class: str = "littlelb.io/littlelb"
    class_less: bool = True
    prefix: PrefixMode = PrefixMode.HOST
    backends: BackendsMode = BackendsMode.AUTO
    node_selector: str = ""
    max_nodes: int = 32
    """At most so many nodes serve one Service, chosen by rendezvous."""
    default_address: DefaultAddress = DefaultAddress.SHARE
    off_subnet: OffSubnet = OffSubnet.WARN
    refused_networks: tuple[Net, ...] = ()
    """Addresses that no Service may have, whatever it says."""
    external_ips: bool = False
    in_cluster: bool = False
    stand_alone: bool = False
    """Objects come from a folder."""
    planes: tuple[Plane, ...] = (Plane.PIPE,)
    """Those that work on this machine; the first one is taken where a Service says nothing."""
    no_nft: str = ""
    """Why the kernel plane does not work here, or is not to be used."""
    source_address: SourceAddress = SourceAddress.AUTO
    local_policy: LocalPolicy = LocalPolicy.WARN
    routed_networks: tuple[Net, ...] = ()
    """Networks whose answers are known to come back through this machine."""
    node_name: str = ""
    """This machine's name as a node of the cluster; empty: it is none."""


@dataclass(frozen=True, slots=True)
class Dirty:
    """What has changed since the previous snapshot."""

    services: frozenset[Key] = frozenset()
    endpoints: frozenset[Key] = frozenset()
    """Services whose EndpointSlices or status changed, though what they ask for did not."""
    grants: frozenset[Key] = frozenset()
    """Services that hold something else than before."""
    conflicts: frozenset[Ip] = frozenset()
    """Addresses that another machine has now, or has no more."""
    nodes: bool = False
    listeners: bool = False
    """What this host itself listens on; of the host's facts nothing else."""
    everything: bool = False
    """Settings, the other facts of this host …: whatever concerns all."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that is known at one moment. Immutable: the store copies before it writes."""

    settings: Settings
    host: HostFacts
    services: Mapping[Key, Service] = field(default_factory=dict)
    slices: Mapping[Key, tuple[EndpointSlice, ...]] = field(default_factory=dict)
    """By the key of the Service."""
    nodes: Mapping[str, Node] = field(default_factory=dict)
    seen: Mapping[Key, int] = field(default_factory=dict)
    """Order of first sight, for Services without a creationTimestamp."""
    grants: Mapping[Key, Grant] = field(default_factory=dict)
    conflicts: Mapping[Ip, str] = field(default_factory=dict)
    """Addresses that another machine on the LAN has → a sentence naming its MAC address."""
    dirty: Dirty = field(default_factory=lambda: Dirty(everything=True))


@dataclass(frozen=True, slots=True)
class Decision:
    """All that was decided for one Service: a pure function of that Service's inputs."""

    service: Key
    uid: str
    forwards: tuple[tuple[Frontend, Forward], ...] = ()
    placements: tuple[tuple[Ip, Placement], ...] = ()
    """Addresses that we must put on the device; those that the host has by itself are only used."""
    kept: tuple[Ip, ...] = ()
    """Served on until the addresses asked for have been granted; published only while one of those fails."""
    ports: tuple[tuple[Protocol, int], ...] = ()
    """All ports of the Service, refused ones too."""
    plane: Plane = Plane.PIPE
    client_address: str | None = None
    """Why some backend does not see the client's address; empty: all do; None: policy Cluster, nobody relies on it."""
    ip_mode: str = "VIP"
    external_ips: bool = False
    refusals: tuple[Refusal, ...] = ()
    notices: tuple[Notice, ...] = ()
    span: tuple[int, int] | None = None
    """The lowest and the highest address of its endpoints as numbers; None: it has none."""
    by_nodes: bool = False
    """It depends on the nodes that the World names."""

    @property
    def addresses(self) -> tuple[Ip, ...]:
        """Addresses on which it is served, those asked for first, without repeats."""
        return tuple(dict.fromkeys(frontend.address for frontend, _ in self.forwards))


@dataclass(frozen=True, slots=True)
class Allocation:
    """What `core.ipam` gives one Service."""

    frontends: tuple[Frontend, ...] = ()
    """To be served, addresses asked for first, kept ones last."""
    kept: tuple[Ip, ...] = ()
    """Addresses it no longer asks for, and goes on with until those that it asks for are granted."""
    refusals: tuple[Refusal, ...] = ()
    notices: tuple[Notice, ...] = ()


@dataclass(frozen=True, slots=True)
class World:
    """What the choice of backends depends on besides the Service and its slices."""

    settings: Settings
    host: HostFacts
    nodes: tuple[Node, ...]
    """Usable nodes (`core.serving.nodes.select_nodes`)."""
    node_addresses: Mapping[Family, Mapping[str, Ip]]
    """Their names → the address by which each is reached, for all Services at once: there are Services times nodes."""
    stale_nodes: bool
    """No node is usable now: these are the last ones that were."""
    vips: Container[Ip]
    """Addresses that Services of ours are served on: never a backend."""
    node_weights: Mapping[str, tuple[int, Notice | None]] = field(default_factory=dict)
    """Names of all nodes that have a weight, usable or not, and what is wrong with it: pods run on them."""


@dataclass(frozen=True, slots=True)
class Touched:
    """Keys whose value may differ from the previous DesiredState; everything else is the same object as before."""

    frontends: frozenset[Frontend] = frozenset()
    addresses: frozenset[Ip] = frozenset()
    services: frozenset[Key] = frozenset()


@dataclass(frozen=True, slots=True)
class DesiredState:
    """All that should be: one mapping for each phase, and the Decisions that they were merged from."""

    claims: Mapping[Key, Claim] = field(default_factory=dict)
    forwards: Mapping[Frontend, Forward] = field(default_factory=dict)
    placements: Mapping[Ip, Placement] = field(default_factory=dict)
    announcements: Mapping[Ip, Announcement] = field(default_factory=dict)
    publications: Mapping[Key, Publication] = field(default_factory=dict)
    decisions: Mapping[Key, Decision] = field(default_factory=dict)
    allocations: Layered[Key, Allocation] = field(default_factory=Layered)
    holders: Index[Ip] = field(default_factory=Layered)
    """Address → the Services that it was given to."""
    docket: Docket | None = None
    """What the allocations were made from, for the next run to take over."""
    world: World | None = None
    """What the decisions shared; its nodes are the last usable ones, for the day on which none is left."""
    touched: Touched | None = None
    """None: compare everything."""
    withheld: frozenset[Key] = frozenset()
    """Services whose publication tells of a failure (`core.publication.withhold`)."""

    def served_on(self, address: Ip) -> Iterator[Key]:
        """Find the Services that have a frontend on an address, failed or not."""
        for key in self.holders.get(address, ()):
            if key in self.decisions and address in self.decisions[key].addresses:
                yield key
