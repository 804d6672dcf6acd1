"""Builds and reads rtnetlink(7) messages for addresses and routes: values to bytes and back, nothing else.

By hand and not by pyroute2, because there can be ten thousand of each: a message takes some microseconds here. Our mark
on an address: IFA_PROTO = 108 (kernel 5.18 and later keep it); before that, the metric IFA_RT_PRIORITY = 0x6c62 (kernel
4.18), which has no effect on an address without a prefix route. The label `eth0:lb` on IPv4 is for people: `ip addr`.
"""

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias

from littlelb.core.model import Ip, Net

PROTOCOL = 108
METRIC = 0x6C62
FOREVER = 0xFFFFFFFF
"""A lifetime without end (RFC 4861 section 4.6.2)."""
LABEL_LIMIT = 15
"""IFNAMSIZ less the closing zero."""

ERROR, DONE = 2, 3
NEW_LINK, NEW_ADDRESS, DEL_ADDRESS, GET_ADDRESS, NEW_ROUTE, GET_ROUTE = 16, 20, 21, 22, 24, 26
SET_LINK, GET_LINK = 19, 18
REQUEST, ACKNOWLEDGE, INTERRUPTED = 0x1, 0x4, 0x10
DUMP, EXCLUSIVE, REPLACE, CREATE = 0x300, 0x200, 0x100, 0x400
TABLE_MAIN = 254

_AF_INET, _AF_INET6 = 2, 10
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_HOP = struct.Struct("=HBBI")
_WORD, _SIGNED = struct.Struct("=I"), struct.Struct("=i")
_IFA_ADDRESS, _IFA_LOCAL, _IFA_LABEL, _IFA_CACHEINFO, _IFA_FLAGS, _IFA_RT_PRIORITY, _IFA_PROTO = 1, 2, 3, 6, 8, 9, 11
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_MULTIPATH, _RTA_TABLE = 1, 4, 5, 9, 15
_NODAD, _NOPREFIXROUTE, _DEPRECATED, _TENTATIVE, _DADFAILED = 0x02, 0x200, 0x20, 0x40, 0x08
_SCOPE_GLOBAL, _RTN_UNICAST = 0, 1
_OUR_PROTOCOL, _OUR_METRIC = bytes((PROTOCOL,)), _WORD.pack(METRIC)


@dataclass(frozen=True, slots=True)
class Link:
    """One network device."""

    index: int
    name: str
    up: bool
    """Administratively up and with a carrier."""
    mac: bytes
    """Empty where there is none, or where nobody is asked for it (loopback, tunnels, NOARP)."""


@dataclass(frozen=True, slots=True)
class Address:
    """One address on one device."""

    address: Ip
    prefix_length: int
    index: int
    marked: bool
    """It bears our mark."""
    deprecated: bool = False
    usable: bool = True
    """Neither tentative nor found to be a duplicate."""
    scope_global: bool = True
    prefix_route: bool = True


@dataclass(frozen=True, slots=True)
class Route:
    """One unicast route of the main table."""

    destination: Net
    index: int
    gateways: tuple[Ip, ...]
    on_link: bool


@dataclass(frozen=True, slots=True)
class Put:
    """Put the address on the device with our mark: deprecated, no prefix route, no asking for duplicates."""

    address: Ip
    prefix_length: int
    link: Link
    valid_seconds: int = FOREVER
    renew: bool = False
    """It is there and ours, and gets a new lifetime."""


@dataclass(frozen=True, slots=True)
class Take:
    """Take an address off its device."""

    found: Address


Edit: TypeAlias = Put | Take


@dataclass(frozen=True, slots=True)
class Request:
    """A message without its sequence number."""

    kind: int
    flags: int
    body: bytes

    def render(self, sequence: int, more_flags: int = 0) -> bytes:
        """As it goes to the kernel."""
        flags = REQUEST | self.flags | more_flags
        return _HEADER.pack(_HEADER.size + len(self.body), self.kind, flags, sequence, 0) + self.body


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the kernel."""

    kind: int
    flags: int
    sequence: int
    body: bytes

    @property
    def error(self) -> int:
        """The errno of an ERROR (0: it is an acknowledgement) or of a DONE."""
        return -int(_SIGNED.unpack_from(self.body)[0]) if len(self.body) >= _SIGNED.size else 0


def keeps_protocol(release: str) -> bool:
    """Does a kernel of this release (`uname -r`) keep IFA_PROTO? It came with 5.18."""
    version = re.match(r"(\d+)\.(\d+)", release)
    return version is not None and (int(version[1]), int(version[2])) >= (5, 18)


def render_label(device: str) -> str:
    """Return `eth0:lb`, or the bare name where that would exceed the 15 characters of the kernel."""
    return f"{device}:lb" if len(device) + 3 <= LABEL_LIMIT else device


def attribute(kind: int, value: bytes) -> bytes:
    """Render one attribute, padded to four bytes."""
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def parse_attributes(octets: bytes, offset: int = 0) -> dict[int, bytes]:
    """Read attributes up to the end, or up to the first that is malformed; flags of the type are cut off."""
    found: dict[int, bytes] = {}
    end = len(octets)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(octets, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = octets[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found


def split_messages(datagram: bytes) -> Iterator[Message]:
    """Cut a datagram into its messages, up to one that is cut short."""
    offset = 0
    while offset + _HEADER.size <= len(datagram):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(datagram, offset)
        if length < _HEADER.size or offset + length > len(datagram):
            return
        yield Message(kind, flags, sequence, datagram[offset + _HEADER.size : offset + length])
        offset += (length + 3) & ~3


# --- addresses -------------------------------------------------------------------------------------------------------


def render_edit(edit: Edit, *, by_protocol: bool) -> Request:
    """Build RTM_NEWADDR or RTM_DELADDR; `by_protocol`: the mark is IFA_PROTO, not the metric."""
    if isinstance(edit, Take):
        found = edit.found
        body = _address_body(found.address, found.prefix_length, found.index)
        return Request(DEL_ADDRESS, 0, body)
    address, v4 = edit.address, edit.address.version == 4
    body = _address_body(address, edit.prefix_length, edit.link.index)
    body += attribute(_IFA_CACHEINFO, struct.pack("=IIII", 0, edit.valid_seconds, 0, 0))
    body += attribute(_IFA_FLAGS, _WORD.pack(_NOPREFIXROUTE | (0 if v4 else _NODAD)))
    body += attribute(_IFA_PROTO, _OUR_PROTOCOL) if by_protocol else attribute(_IFA_RT_PRIORITY, _OUR_METRIC)
    if v4:
        body += attribute(_IFA_LABEL, render_label(edit.link.name).encode() + b"\x00")
    return Request(NEW_ADDRESS, CREATE | (REPLACE if edit.renew else EXCLUSIVE), body)


def _address_body(address: Ip, prefix_length: int, index: int) -> bytes:
    family = _AF_INET if address.version == 4 else _AF_INET6
    packed = address.packed
    body = _ADDRESS.pack(family, prefix_length, 0, _SCOPE_GLOBAL, index)
    return body + attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed)


def address_dump() -> Request:
    """Ask for all addresses of all devices."""
    return Request(GET_ADDRESS, DUMP, _ADDRESS.pack(0, 0, 0, 0, 0))


def is_marked(attributes: Mapping[int, bytes]) -> bool:
    """Do the attributes of an address bear our mark?"""
    return attributes.get(_IFA_PROTO) == _OUR_PROTOCOL or attributes.get(_IFA_RT_PRIORITY) == _OUR_METRIC


def read_ip(attributes: Mapping[int, bytes]) -> Ip | None:
    """Return the address itself, which is not that of its peer; None where there is none, or none of IP."""
    packed = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS) or b""
    match len(packed):
        case 4:
            return IPv4Address(packed)
        case 16:
            return IPv6Address(packed)
        case _:
            return None


def parse_address(message: Message) -> Address | None:
    """Read an RTM_NEWADDR; None for other families than IP."""
    if message.kind != NEW_ADDRESS or len(message.body) < _ADDRESS.size:
        return None
    _, prefix_length, short_flags, scope, index = _ADDRESS.unpack_from(message.body)
    attributes = parse_attributes(message.body, _ADDRESS.size)
    address = read_ip(attributes)
    if address is None:
        return None
    flags = _WORD.unpack(attributes[_IFA_FLAGS])[0] if _IFA_FLAGS in attributes else short_flags
    return Address(
        address,
        prefix_length,
        index,
        marked=is_marked(attributes),
        deprecated=bool(flags & _DEPRECATED),
        usable=not flags & (_TENTATIVE | _DADFAILED),
        scope_global=scope == _SCOPE_GLOBAL,
        prefix_route=not flags & _NOPREFIXROUTE,
    )


# --- routes ----------------------------------------------------------------------------------------------------------


def route_dump(family: int) -> Request:
    """Ask for the unicast routes of the main table; a kernel that does not filter (before 4.20) sends all of them."""
    body = _ROUTE.pack(family, 0, 0, 0, TABLE_MAIN, 0, 0, _RTN_UNICAST, 0)
    return Request(GET_ROUTE, DUMP, body + attribute(_RTA_TABLE, _WORD.pack(TABLE_MAIN)))


def parse_route(message: Message) -> Route | None:
    """Read an RTM_NEWROUTE; None where it is not unicast, not of IP, or not of the main table."""
    if message.kind != NEW_ROUTE or len(message.body) < _ROUTE.size:
        return None
    family, length, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(message.body)
    if family not in {_AF_INET, _AF_INET6} or table != TABLE_MAIN or kind != _RTN_UNICAST:
        return None
    attributes = parse_attributes(message.body, _ROUTE.size)
    packed = attributes.get(_RTA_DST, bytes(4 if family == _AF_INET else 16))
    hops = list(_parse_hops(attributes.get(_RTA_MULTIPATH, b""))) or [attributes]
    gateways = tuple(ip_address(hop[_RTA_GATEWAY]) for hop in hops if _RTA_GATEWAY in hop)
    return Route(
        destination=IPv4Network((packed, length)) if family == _AF_INET else IPv6Network((packed, length)),
        index=_WORD.unpack(attributes[_RTA_OIF])[0] if _RTA_OIF in attributes else 0,
        gateways=gateways,
        on_link=not gateways and _RTA_MULTIPATH not in attributes,
    )


def _parse_hops(octets: bytes) -> Iterator[Mapping[int, bytes]]:
    offset = 0
    while offset + _HOP.size <= len(octets):
        length, *_ = _HOP.unpack_from(octets, offset)
        if length < _HOP.size:
            return
        yield parse_attributes(octets[offset : offset + length], _HOP.size)
        offset += (length + 3) & ~3
