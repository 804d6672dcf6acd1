"""From pyroute2's messages to values."""

import socket
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from littlelb.host.netlink import (
    METRIC,
    PROTOCOL,
    Address,
    Link,
    Route,
    decode_address,
    decode_link,
    decode_route,
    is_unicast,
    keeps_protocol,
    render_label,
)


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
    ("release", "keeps"), [("5.17.9-generic", False), ("5.18.0", True), ("6.1.0-13-amd64", True), ("odd", False)]
)
def test_which_kernels_keep_the_protocol(release: str, keeps: bool) -> None:
    """IFA_PROTO came with Linux 5.18; a release that cannot be read is an old one."""
    assert keeps_protocol(release) is keeps


def test_labels_fit_the_kernel() -> None:
    """At most 15 characters, and always beginning with the device's name."""
    assert render_label("eth0") == "eth0:lb"
    assert render_label("enp130s0f1np") == "enp130s0f1np:lb"
    assert render_label("enp130s0f1np1") == "enp130s0f1np1"


FIELDS = {"index": 2, "prefixlen": 32, "flags": 0x80, "scope": 0}


@pytest.mark.parametrize(
    ("attributes", "marked"),
    [({"IFA_PROTO": PROTOCOL}, True), ({"IFA_RT_PRIORITY": METRIC}, True), ({"IFA_PROTO": 3}, False), ({}, False)],
)
def test_marks(attributes: dict[str, int], marked: bool) -> None:
    """Protocol or metric make an address ours; a label does not, for anybody may write one."""
    message = Message(FIELDS, IFA_LOCAL="203.0.113.7", IFA_LABEL="eth0:lb", **attributes)
    assert decode_address(message).marked is marked


def test_flags_of_an_address() -> None:
    """The long flags win over the short ones; a peer address is not the local one."""
    message = Message(FIELDS, IFA_ADDRESS="192.0.2.99", IFA_LOCAL="192.0.2.2", IFA_FLAGS=0x2A8)
    assert decode_address(message) == Address(
        *(ip_address("192.0.2.2"), 32, 2, False), deprecated=True, usable=False, prefix_route=False
    )


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


def test_routes() -> None:
    """A default route has a gateway; a connected one has none; a multipath route names all of its hops."""
    default = Message({"family": socket.AF_INET6, "dst_len": 0}, RTA_GATEWAY="2001:db8::1", RTA_OIF=2)
    assert decode_route(default) == Route(ip_network("::/0"), 2, (ip_address("2001:db8::1"),), on_link=False)
    connected = Message({"family": socket.AF_INET, "dst_len": 24}, RTA_DST="192.0.2.0", RTA_OIF=2)
    assert decode_route(connected) == Route(ip_network("192.0.2.0/24"), 2, (), on_link=True)
    hops = [Message({}, RTA_GATEWAY="192.0.2.1"), Message({}, RTA_GATEWAY="192.0.2.3")]
    several = Message({"family": socket.AF_INET, "dst_len": 0}, RTA_MULTIPATH=hops)
    assert [str(gateway) for gateway in decode_route(several).gateways] == ["192.0.2.1", "192.0.2.3"]


@pytest.mark.parametrize(
    ("family", "kind", "taken"),
    [(socket.AF_INET, 1, True), (socket.AF_INET6, 1, True), (28, 1, False), (socket.AF_INET, 3, False)],
)
def test_routes_of_other_families_and_types_are_none_of_ours(family: int, kind: int, taken: bool) -> None:
    """A dump of all families holds those of MPLS (28), whose destination is a label."""
    assert is_unicast(Message({"family": family, "type": kind})) is taken
