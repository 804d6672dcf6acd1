"""Builds and reads the rtnetlink messages for a device's IPv4 settings: `net.ipv4.conf.DEVICE` by another way.

RTM_SETLINK with IFLA_AF_SPEC → AF_INET → IFLA_INET_CONF sets single values (linux/ip.h numbers them), also where
/proc/sys is mounted read-only, as in most containers. Settings of `all`, and those of IPv6, cannot be reached so.
"""

import struct
from collections.abc import Mapping
from enum import IntEnum

from littlelb.host.rtnl import ACKNOWLEDGE, GET_LINK, NEW_LINK, SET_LINK, Message, Request, attribute, parse_attributes

_INTERFACE = struct.Struct("=BxHiII")
_WORD = struct.Struct("=I")
_IFLA_AF_SPEC, _AF_INET, _IFLA_INET_CONF = 26, 2, 1
_NESTED = 0x8000


class Setting(IntEnum):
    """Numbers of IPV4_DEVCONF_*: those that are read or set here."""

    FORWARDING = 1
    ARP_IGNORE = 19


def get_settings(index: int) -> Request:
    """Ask for one device."""
    return Request(GET_LINK, ACKNOWLEDGE, _INTERFACE.pack(0, 0, index, 0, 0))


def set_settings(index: int, values: Mapping[Setting, int]) -> Request:
    """Set some values of one device; the others stay."""
    entries = b"".join(attribute(setting, _WORD.pack(value)) for setting, value in values.items())
    configuration = attribute(_IFLA_INET_CONF | _NESTED, entries)
    family = attribute(_IFLA_AF_SPEC | _NESTED, attribute(_AF_INET | _NESTED, configuration))
    return Request(SET_LINK, 0, _INTERFACE.pack(0, 0, index, 0, 0) + family)


def parse_settings(message: Message) -> Mapping[Setting, int] | None:
    """Read an RTM_NEWLINK; None where it is something else, or the device has no IPv4."""
    if message.kind != NEW_LINK:
        return None
    families = parse_attributes(parse_attributes(message.body, _INTERFACE.size).get(_IFLA_AF_SPEC, b""))
    values = parse_attributes(families.get(_AF_INET, b"")).get(_IFLA_INET_CONF, b"")
    found = {setting: (setting - 1) * _WORD.size for setting in Setting}
    return {s: _WORD.unpack_from(values, at)[0] for s, at in found.items() if at + _WORD.size <= len(values)} or None
