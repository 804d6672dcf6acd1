"""What needs backends, and what is chosen for it: the values that pods and nodes have in common."""

from dataclasses import dataclass

from littlelb.core.model import Backend, EndpointSlice, Family, Ip, Service, ServicePort
from littlelb.core.reasons import Notice
from littlelb.core.serving.sources import Source


@dataclass(frozen=True, slots=True)
class Wanted:
    """What needs backends: one port, or one range of ports, of one Service in one address family."""

    service: Service
    port: ServicePort
    """For a range its first port, without name and NodePort."""
    family: Family
    slices: tuple[EndpointSlice, ...]
    source: Source
    last_port: int = 0
    """The last port of a range; 0: it is one port."""

    def __str__(self) -> str:
        """`port 80` or `ports 5000-5999`, for messages."""
        return f"ports {self.port.port}-{self.last_port}" if self.last_port else f"port {self.port.port}"


@dataclass(frozen=True, slots=True)
class Choice:
    """Backends of one port, and what the owner should know."""

    backends: tuple[Backend, ...] = ()
    notices: tuple[Notice, ...] = ()
    refusal: Notice | None = None
    """Why this port cannot be served at all."""
    by_nodes: bool = False
    """It depends on which nodes may serve."""


def never_a_backend(address: Ip) -> bool:
    """Loopback, link-local, unspecified or multicast; by numbers, because this is asked of every endpoint there is."""
    if address.version == 6:
        return address.is_loopback or address.is_link_local or address.is_unspecified or address.is_multicast
    number = int(address)
    first = number >> 24
    return number == 0 or first == 127 or 224 <= first < 240 or number >> 16 == 0xA9FE
