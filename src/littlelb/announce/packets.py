"""Builds and reads ARP packets and neighbour discovery messages: bytes to values and back, nothing else.

RFC 826 (ARP), RFC 5227 (probe: sender 0.0.0.0; announcement: sender = target), RFC 4861 sections 4.3, 4.4 and 7.2.6
(neighbour solicitation and advertisement), RFC 4862 section 5.4 (the solicitation from `::` that asks for duplicates).
All functions take and give payloads of Ethernet frames; the frame's header is `Frame`.
"""

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

ETHERTYPE_ARP = 0x0806
ETHERTYPE_IPV6 = 0x86DD
BROADCAST = b"\xff" * 6
UNSPECIFIED = IPv4Address(0)
UNSPECIFIED6 = IPv6Address(0)
ALL_NODES = IPv6Address("ff02::1")

REQUEST, REPLY = 1, 2
SOLICITATION, ADVERTISEMENT = 135, 136

_ARP = struct.Struct("!HHBBH6s4s6s4s")
_IPV6 = struct.Struct("!IHBB16s16s")
_ICMPV6 = 58
_ROUTER, _SOLICITED, _OVERRIDE = 0x80, 0x40, 0x20
_SOURCE_LINK_ADDRESS, _TARGET_LINK_ADDRESS = 1, 2


@dataclass(frozen=True, slots=True)
class Frame:
    """An Ethernet II frame; MAC addresses are 6 bytes."""

    destination: bytes
    source: bytes
    ethertype: int
    payload: bytes

    def __bytes__(self) -> bytes:
        """As it goes over the wire, without padding and check sequence."""
        return self.destination + self.source + self.ethertype.to_bytes(2) + self.payload


@dataclass(frozen=True, slots=True)
class Arp:
    """An ARP packet for IPv4 over Ethernet."""

    operation: int
    sender_mac: bytes
    sender: IPv4Address
    target_mac: bytes
    target: IPv4Address


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A neighbour solicitation or advertisement, with the IPv6 addresses that it was sent with."""

    type: int
    source: IPv6Address
    destination: IPv6Address
    target: IPv6Address
    mac: bytes = b""
    """The link-layer address option (source or target, by type); empty: none."""
    solicited: bool = False
    override: bool = False


# --- ARP -------------------------------------------------------------------------------------------------------------


def render_arp(packet: Arp) -> bytes:
    """Return the 28 bytes of the packet."""
    return _ARP.pack(
        *(1, 0x0800, 6, 4, packet.operation),
        *(packet.sender_mac, packet.sender.packed, packet.target_mac, packet.target.packed),
    )


def parse_arp(payload: bytes) -> Arp | None:
    """Read the packet; None when it is cut short or is not ARP for IPv4 over Ethernet."""
    if len(payload) < _ARP.size:
        return None
    hardware, protocol, mac_length, ip_length, operation, *rest = _ARP.unpack_from(payload)
    if (hardware, protocol, mac_length, ip_length) != (1, 0x0800, 6, 4):
        return None
    sender_mac, sender, target_mac, target = rest
    return Arp(operation, sender_mac, IPv4Address(sender), target_mac, IPv4Address(target))


def arp_probe(mac: bytes, address: IPv4Address) -> Frame:
    """«Has anybody this address?», asked by nobody, so that no cache changes (RFC 5227 section 2.1.1)."""
    packet = Arp(REQUEST, mac, UNSPECIFIED, bytes(6), address)
    return Frame(BROADCAST, mac, ETHERTYPE_ARP, render_arp(packet))


def arp_announcements(mac: bytes, address: IPv4Address) -> tuple[Frame, Frame]:
    """«This address is here»: as a request (RFC 5227 section 2.3) and as a reply, for stacks that mind only one."""
    request = Arp(REQUEST, mac, address, bytes(6), address)
    reply = Arp(REPLY, mac, address, mac, address)
    return (
        Frame(BROADCAST, mac, ETHERTYPE_ARP, render_arp(request)),
        Frame(BROADCAST, mac, ETHERTYPE_ARP, render_arp(reply)),
    )


# --- neighbour discovery ---------------------------------------------------------------------------------------------


def solicited_node(address: IPv6Address) -> IPv6Address:
    """Return the multicast group on which an address is asked for (RFC 4291 section 2.7.1)."""
    return IPv6Address(int(IPv6Address("ff02::1:ff00:0")) | (int(address) & 0xFFFFFF))


def multicast_mac(group: IPv6Address) -> bytes:
    """Return the Ethernet address of an IPv6 multicast group (RFC 2464 section 7)."""
    return b"\x33\x33" + group.packed[-4:]


def checksum(parts: bytes) -> int:
    """Return the internet checksum (RFC 1071); it is 0 over bytes that contain their own."""
    padded = parts + b"\x00" * (len(parts) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def _pseudo_header(source: bytes, destination: bytes, length: int) -> bytes:
    return source + destination + struct.pack("!II", length, _ICMPV6)


def render_neighbour(message: Neighbour) -> bytes:
    """Return the IPv6 packet (header, ICMPv6, option) with its checksum; hop limit 255 (RFC 4861 section 7.1.1)."""
    flags = (_SOLICITED if message.solicited else 0) | (_OVERRIDE if message.override else 0)
    option = b""
    if message.mac:
        kind = _SOURCE_LINK_ADDRESS if message.type == SOLICITATION else _TARGET_LINK_ADDRESS
        option = bytes((kind, 1)) + message.mac
    rest = bytes((flags, 0, 0, 0)) + message.target.packed + option
    source, destination = message.source.packed, message.destination.packed
    bare = bytes((message.type, 0, 0, 0)) + rest
    total = checksum(_pseudo_header(source, destination, len(bare)) + bare)
    body = bytes((message.type, 0)) + total.to_bytes(2) + rest
    return _IPV6.pack(6 << 28, len(body), _ICMPV6, 255, source, destination) + body


def parse_neighbour(payload: bytes) -> Neighbour | None:
    """Read the message; None for everything that RFC 4861 section 7.1 says to discard, and for other packets."""
    if len(payload) < _IPV6.size + 24:
        return None
    version, length, following, hops, source, destination = _IPV6.unpack_from(payload)
    body = payload[_IPV6.size : _IPV6.size + length]
    if (version >> 28, following, hops) != (6, _ICMPV6, 255) or len(body) != length or length < 24:
        return None
    kind, code, flags = body[0], body[1], body[4]
    if kind not in {SOLICITATION, ADVERTISEMENT} or code:
        return None
    if checksum(_pseudo_header(source, destination, length) + body):
        return None
    mac = _link_address(body[24:], _SOURCE_LINK_ADDRESS if kind == SOLICITATION else _TARGET_LINK_ADDRESS)
    if mac is None:
        return None
    return Neighbour(
        type=kind,
        source=IPv6Address(source),
        destination=IPv6Address(destination),
        target=IPv6Address(body[8:24]),
        mac=mac,
        solicited=bool(flags & _SOLICITED),
        override=bool(flags & _OVERRIDE),
    )


def _link_address(options: bytes, wanted: int) -> bytes | None:
    """Return the MAC address option, empty if there is none, None if the options are malformed (RFC 4861, 4.6)."""
    mac = b""
    while options:
        if len(options) < 2 or options[1] == 0 or len(options) < options[1] * 8:
            return None
        size = options[1] * 8
        if options[0] == wanted and size == 8:
            mac = options[2:8]
        options = options[size:]
    return mac


def duplicate_solicitation(mac: bytes, address: IPv6Address) -> Frame:
    """«Has anybody this address?», from the unspecified address, so that no cache changes (RFC 4862 section 5.4.2)."""
    group = solicited_node(address)
    message = Neighbour(SOLICITATION, UNSPECIFIED6, group, address)
    return Frame(multicast_mac(group), mac, ETHERTYPE_IPV6, render_neighbour(message))


def unsolicited_advertisement(mac: bytes, address: IPv6Address) -> Frame:
    """«This address is here now», to all nodes, overriding what their caches hold (RFC 4861 section 7.2.6)."""
    message = Neighbour(ADVERTISEMENT, address, ALL_NODES, address, mac, override=True)
    return Frame(multicast_mac(ALL_NODES), mac, ETHERTYPE_IPV6, render_neighbour(message))


def parse_frame(octets: bytes) -> Frame | None:
    """Read an Ethernet II frame; None when it is shorter than its header."""
    if len(octets) < 14:
        return None
    return Frame(octets[:6], octets[6:12], int.from_bytes(octets[12:14]), octets[14:])
