"""The question of a trace and its answer: a packet, its steps, and where it ends. Values with a JSON form."""

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address

from msgspec import Struct, json

from littlelb.core.model import Ip, Key, Protocol


class Entering(StrEnum):
    """Where a packet comes from, as seen by this machine."""

    LINK = "link"
    """By the link device."""
    OTHER = "other"
    """By another device: a pod or virtual machine of this host, another network."""
    LOCAL = "local"
    """A process of this machine sends it."""


@dataclass(frozen=True, slots=True)
class Packet:
    """The first packet of a connection."""

    source: Ip
    source_port: int | None
    """None: any."""
    destination: Ip
    port: int
    protocol: Protocol = Protocol.TCP
    entering: Entering = Entering.LINK

    def __str__(self) -> str:
        """`192.0.2.10:40000 → 203.0.113.10:80/TCP`."""
        source = render_place(self.source, self.source_port)
        return f"{source} → {render_place(self.destination, self.port)}/{self.protocol}"


def render_place(address: Ip, port: int | None) -> str:
    """`192.0.2.10`, `192.0.2.10:80`, `[2001:db8::1]:80`."""
    if not port:
        return str(address)
    return f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"


def parse_packet(source: str, destination: str, entering: Entering = Entering.LINK) -> Packet:
    """Read `SRC[:PORT]` and `VIP:PORT[/udp]`; IPv6 in brackets where a port follows. Raises ValueError, for people."""
    text, _, protocol = destination.partition("/")
    address, port = _parse_place(text)
    if port is None:
        raise ValueError(f"{destination!r}: name the port too, as in 203.0.113.10:80 or [2001:db8::10]:80/udp")
    spoken = {"": Protocol.TCP, "tcp": Protocol.TCP, "udp": Protocol.UDP}.get(protocol.lower())
    if spoken is None:
        raise ValueError(f"{destination!r}: the protocol is tcp or udp")
    client, client_port = _parse_place(source)
    if client.version != address.version:
        raise ValueError(f"{client} is IPv{client.version}, but {address} is IPv{address.version}")
    return Packet(client, client_port, address, port, spoken, entering)


def _parse_place(text: str) -> tuple[Ip, int | None]:
    """Read an address and, if there is one, a port."""
    head, colon, port = text.rpartition(":")
    if text.startswith("["):
        address, _, port = text[1:].partition("]")
        head, colon, port = address, port[:1], port[1:]
    elif text.count(":") != 1:
        head, colon, port = text, "", ""
    try:
        found = ip_address(head)
    except ValueError:
        raise ValueError(f"{text!r}: not an address, nor an address and a port") from None
    if not colon and not port:
        return found, None
    if colon != ":" or not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65_535):
        raise ValueError(f"{text!r}: a port is a number from 1 to 65535")
    return found, int(port)


class Outcome(StrEnum):
    """Where a packet ends."""

    FORWARDED = "forwarded"
    REFUSED = "refused"
    """The client is told at once."""
    DROPPED = "dropped"
    """Nobody answers."""
    HOST = "host"
    """It is none of our business: this machine's own sockets and routes, and others' rules, decide."""


class Step(Struct, frozen=True, gc=False):
    """One thing that the packet meets."""

    stage: str
    """A chain, a map or a process."""
    rule: str
    """What is looked at there."""
    verdict: str
    why: str = ""


class Destination(Struct, frozen=True, gc=False):
    """One backend that may get the packet."""

    address: str
    port: int
    sees: str
    """Address that it takes the packet to come from; empty: one of this machine's."""
    why: str
    """Why it sees this one."""


class Trace(Struct, frozen=True, gc=False, kw_only=True):
    """The whole answer."""

    packet: str
    steps: tuple[Step, ...]
    outcome: Outcome
    why: str
    service: Key = ""
    plane: str = ""
    answer: str = ""
    """What a refused client hears: `TCP RST`, `ICMP port unreachable`."""
    backends: tuple[Destination, ...] = ()
    """One where it is known which; otherwise all that the packet may be sent to."""
    slot: int | None = None
    slots: int | None = None
    doubts: tuple[str, ...] = ()
    """Why it may be otherwise in this moment."""


def decode_trace(octets: bytes) -> Trace:
    """Decode what `encode` made of a Trace. Raises msgspec.DecodeError."""
    return json.decode(octets, type=Trace)
