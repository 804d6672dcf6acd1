"""Reads rtnetlink notifications: bytes to the few values that the link monitor needs (rtnetlink(7), netlink(7)).

By hand and not by pyroute2, because one pass of ours can cause ten thousand of them, to be looked at and dropped.
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from littlelb.core.model import Ip
from littlelb.host.rtnl import TABLE_MAIN, is_marked, parse_attributes, read_ip, split_messages

_ADDRESS_SIZE = 8
"""Of ifaddrmsg, which comes before the attributes."""
_ROUTE_TABLE_OFFSET = 4


class _Type(IntEnum):
    NEW_LINK, DEL_LINK = 16, 17
    NEW_ADDRESS, DEL_ADDRESS = 20, 21
    NEW_ROUTE, DEL_ROUTE = 24, 25


@dataclass(frozen=True, slots=True)
class AddressEvent:
    """An address came (or changed), or went."""

    address: Ip
    marked: bool
    gone: bool


@dataclass(frozen=True, slots=True)
class TopologyEvent:
    """A device, or a route of the main table, came, changed or went: everything has to be read again."""


Event: TypeAlias = AddressEvent | TopologyEvent


def parse_events(datagram: bytes) -> list[Event]:
    """Read all messages of one datagram; what is of no interest (other tables, other kinds) is left out."""
    events = (_parse(message.kind, message.body) for message in split_messages(datagram))
    return [event for event in events if event is not None]


def _parse(kind: int, body: bytes) -> Event | None:
    match kind:
        case _Type.NEW_LINK | _Type.DEL_LINK:
            return TopologyEvent()
        case _Type.NEW_ROUTE | _Type.DEL_ROUTE:
            # Table 255 (local) changes with every address of ours. Tables above 255 read as 252 here.
            is_main = len(body) > _ROUTE_TABLE_OFFSET and body[_ROUTE_TABLE_OFFSET] == TABLE_MAIN
            return TopologyEvent() if is_main else None
        case _Type.NEW_ADDRESS | _Type.DEL_ADDRESS:
            return _parse_address(body, gone=kind == _Type.DEL_ADDRESS)
        case _:
            return None


def _parse_address(body: bytes, *, gone: bool) -> AddressEvent | None:
    attributes = parse_attributes(body, _ADDRESS_SIZE)
    address = read_ip(attributes)
    return AddressEvent(address, is_marked(attributes), gone) if address is not None else None
