"""Reads rtnetlink notifications: bytes to the few values that the link monitor needs (rtnetlink(7), netlink(7)).

By hand and not by pyroute2, because one pass of ours can cause ten thousand of them, to be looked at and dropped.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeAlias

from littlelb.host.netlink import METRIC, PROTOCOL

_HEADER = struct.Struct("=IHHII")
_ADDRESS = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_ROUTE_TABLE_OFFSET = 4
_TABLE_MAIN = 254
_IFA_ADDRESS, _IFA_LOCAL, _IFA_RT_PRIORITY, _IFA_PROTO = 1, 2, 9, 11


class _Type(IntEnum):
    NEW_LINK, DEL_LINK = 16, 17
    NEW_ADDRESS, DEL_ADDRESS = 20, 21
    NEW_ROUTE, DEL_ROUTE = 24, 25


@dataclass(frozen=True, slots=True)
class AddressEvent:
    """An address came (or changed), or went."""

    address: IPv4Address | IPv6Address
    marked: bool
    gone: bool


@dataclass(frozen=True, slots=True)
class TopologyEvent:
    """A device, or a route of the main table, came, changed or went: everything has to be read again."""


Event: TypeAlias = AddressEvent | TopologyEvent


def parse_events(datagram: bytes) -> list[Event]:
    """Read all messages of one datagram; what is of no interest (other tables, other kinds) is left out."""
    events: list[Event] = []
    offset = 0
    while offset + _HEADER.size <= len(datagram):
        length, kind, *_ = _HEADER.unpack_from(datagram, offset)
        if length < _HEADER.size or offset + length > len(datagram):
            break  # cut short
        event = _parse(kind, datagram[offset + _HEADER.size : offset + length])
        if event is not None:
            events.append(event)
        offset += _aligned(length)
    return events


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _parse(kind: int, body: bytes) -> Event | None:
    match kind:
        case _Type.NEW_LINK | _Type.DEL_LINK:
            return TopologyEvent()
        case _Type.NEW_ROUTE | _Type.DEL_ROUTE:
            # Table 255 (local) changes with every address of ours. Tables above 255 read as 252 here.
            is_main = len(body) > _ROUTE_TABLE_OFFSET and body[_ROUTE_TABLE_OFFSET] == _TABLE_MAIN
            return TopologyEvent() if is_main else None
        case _Type.NEW_ADDRESS | _Type.DEL_ADDRESS:
            return _parse_address(body, gone=kind == _Type.DEL_ADDRESS)
        case _:
            return None


def _parse_address(body: bytes, *, gone: bool) -> AddressEvent | None:
    attributes = _attributes(body[_ADDRESS.size :])
    packed = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS) or b""
    if len(packed) not in {4, 16}:
        return None
    marked = attributes.get(_IFA_PROTO) == bytes((PROTOCOL,)) or attributes.get(_IFA_RT_PRIORITY) == struct.pack(
        "=I", METRIC
    )
    return AddressEvent(ip_address(packed), marked, gone)


def _attributes(octets: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    offset = 0
    while offset + _ATTRIBUTE.size <= len(octets):
        length, kind = _ATTRIBUTE.unpack_from(octets, offset)
        if length < _ATTRIBUTE.size:
            break
        found[kind & 0x3FFF] = octets[offset + _ATTRIBUTE.size : offset + length]
        offset += _aligned(length)
    return found
