"""The two worlds that the loop compares: Snapshot (all that is known) and DesiredState (all that should be)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from littlelb.core.model import (
    Announcement,
    Claim,
    Decision,
    EndpointSlice,
    Forward,
    Frontend,
    Grant,
    HostFacts,
    Ip,
    Key,
    Net,
    Node,
    Placement,
    Protocol,
    Publication,
    Service,
)


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
    protocols: frozenset[Protocol] = frozenset({Protocol.TCP})
    """What the data plane can forward."""


@dataclass(frozen=True, slots=True)
class Dirty:
    """What has changed since the previous snapshot."""

    services: frozenset[Key] = frozenset()
    endpoints: frozenset[Key] = frozenset()
    """Services whose EndpointSlices changed, though they themselves did not."""
    everything: bool = False
    """Nodes, host facts, grants of others …: whatever concerns all."""


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
    touched: Touched | None = None
    """None: compare everything."""
