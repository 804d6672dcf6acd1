"""From pyroute2's messages to values."""

from collections.abc import Mapping
from typing import Any

import pytest

from littlelb.host.netlink import decode_link
from littlelb.host.rtnl import Link


class Message(dict[str, Any]):
    """A netlink message as pyroute2 gives it: fields, and attributes by name."""

    def __init__(self, fields: Mapping[str, Any], **attributes: object) -> None:
        """Keep both."""
        super().__init__(fields)
        self._attributes = attributes

    def get_attr(self, name: str) -> object:
        """Return an attribute, or None."""
        return self._attributes.get(name)


@pytest.mark.parametrize(
    ("flags", "carrier", "mac", "link"),
    [
        (0x1, 1, "02:00:5e:00:53:01", Link(2, "eth0", up=True, mac=bytes.fromhex("02005e005301"))),
        (0x1, 0, "02:00:5e:00:53:01", Link(2, "eth0", up=False, mac=bytes.fromhex("02005e005301"))),
        (0x0, 1, "02:00:5e:00:53:01", Link(2, "eth0", up=False, mac=bytes.fromhex("02005e005301"))),
        (0x9, 1, "00:00:00:00:00:00", Link(2, "eth0", up=True, mac=b"")),
        (0x1, None, None, Link(2, "eth0", up=True, mac=b"")),
    ],
    ids=["up", "no carrier", "down", "loopback", "tunnel"],
)
def test_devices(flags: int, carrier: int | None, mac: str | None, link: Link) -> None:
    """Up means up with a carrier; only devices on which somebody asks have a MAC address."""
    message = Message({"index": 2, "flags": flags}, IFLA_IFNAME="eth0", IFLA_CARRIER=carrier, IFLA_ADDRESS=mac)
    assert decode_link(message) == link
