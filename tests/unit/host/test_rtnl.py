"""Messages as the kernel sends and takes them (recorded on Linux 6.18, little-endian)."""

import struct
import sys
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from littlelb.core.model import Ip
from littlelb.host.rtnl import (
    ACKNOWLEDGE,
    METRIC,
    NEW_ADDRESS,
    PROTOCOL,
    Address,
    Edit,
    Link,
    Message,
    Put,
    Route,
    Take,
    address_dump,
    attribute,
    keeps_protocol,
    parse_address,
    parse_attributes,
    parse_route,
    render_edit,
    render_label,
    route_dump,
    split_messages,
)

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="the recordings are little-endian")

FOUR, SIX = IPv4Address("203.0.113.7"), IPv6Address("2001:db8:0:113::7")
ETH0 = Link(2, "eth0", up=True, mac=b"")
OURS = Address(FOUR, 32, 2, marked=True, deprecated=True, prefix_route=False)


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


@pytest.mark.parametrize(
    ("edit", "octets"),
    [
        pytest.param(
            Put(FOUR, 32, ETH0),
            "58000000 1400 0506 07000000 00000000 02200000 02000000 08000200cb007107 08000100cb007107"
            "14000600 00000000 ffffffff 00000000 00000000 08000800 00020000 05000b00 6c000000"
            "0c000300 657468303a6c6200",
            id="put IPv4",
        ),
        pytest.param(
            Put(SIX, 128, ETH0, 3600, renew=True),
            "64000000 1400 0505 07000000 00000000 0a800000 02000000 1400020020010db8000001130000000000000007"
            "1400010020010db8000001130000000000000007 14000600 00000000 100e0000 00000000 00000000 08000800 02020000"
            "05000b00 6c000000",
            id="renew IPv6",
        ),
        pytest.param(
            Take(OURS),
            "28000000 1500 0500 07000000 00000000 02200000 02000000 08000200cb007107 08000100cb007107",
            id="take IPv4",
        ),
    ],
)
def test_edits_as_bytes(edit: Edit, octets: str) -> None:
    """Mark, lifetimes (preferred: none), flags and label are where the kernel looks for them."""
    assert render_edit(edit, by_protocol=True).render(7, ACKNOWLEDGE).hex() == octets.replace(" ", "")


def test_older_kernels_get_the_metric() -> None:
    """It marks the address where the protocol would be forgotten."""
    body = render_edit(Put(SIX, 128, ETH0), by_protocol=False).body
    found = parse_attributes(body, 8)
    assert (found.get(11), found[9]) == (None, struct.pack("=I", METRIC))


def test_dumps_as_bytes() -> None:
    """All addresses of all devices; the routes of one table and type only, for kernels that filter."""
    assert address_dump().render(1).hex() == "18000000160001030100000000000000" + "0000000000000000"
    assert route_dump(2).render(2).hex() == (
        "240000001a0001030200000000000000" + "02000000fe00000100000000" + "08000f00fe000000"
    )


def test_a_recorded_address() -> None:
    """An address with a label, of which the kernel made nothing ours."""
    recorded = bytes.fromhex(
        "5000000014000000bf86046bfb120000022080000200000008000100cb00710708000200cb0071070900030065746830"
        "00000000080008008000000014000600ffffffffffffffff204d0400204d0400"
    )
    (message,) = split_messages(recorded)
    assert parse_address(message) == Address(FOUR, 32, 2, marked=False)
    assert parse_route(message) is None


def address_message(attributes: dict[int, bytes], short_flags: int = 0x80) -> Message:
    """Make an RTM_NEWADDR on device 2."""
    body = struct.pack("=BBBBI", 2, 32, short_flags, 0, 2)
    return Message(NEW_ADDRESS, 0, 1, body + b"".join(attribute(kind, value) for kind, value in attributes.items()))


@pytest.mark.parametrize(
    ("mark", "marked"),
    [
        ({11: bytes((PROTOCOL,))}, True),
        ({9: struct.pack("=I", METRIC)}, True),
        ({11: b"\x03"}, False),
        ({}, False),
    ],
)
def test_marks(mark: dict[int, bytes], marked: bool) -> None:
    """Protocol or metric make an address ours; a label does not, for anybody may write one."""
    found = parse_address(address_message({2: FOUR.packed, 3: b"eth0:lb\x00"} | mark))
    assert found is not None
    assert found.marked is marked


def test_flags_of_an_address() -> None:
    """The long flags win over the short ones; a peer address is not the local one."""
    peer, local = ip_address("192.0.2.99"), ip_address("192.0.2.2")
    message = address_message({1: peer.packed, 2: local.packed, 8: struct.pack("=I", 0x2A8)})
    assert parse_address(message) == Address(*(local, 32, 2, False), deprecated=True, usable=False, prefix_route=False)
    assert parse_address(address_message({2: local.packed}, 0x20)) == Address(
        local, 32, 2, marked=False, deprecated=True
    )
    assert parse_address(address_message({3: b"none"})) is None


ADDRESSES = st.ip_addresses()


@given(ADDRESSES, st.integers(0, 128), st.integers(1, 2**31 - 1), st.booleans())
def test_what_is_put_reads_as_ours(address: Ip, length: int, index: int, by_protocol: bool) -> None:
    """The kernel answers with the attributes that it was given."""
    put = Put(address, length, replace(ETH0, index=index))
    (message,) = split_messages(render_edit(put, by_protocol=by_protocol).render(1))
    read = parse_address(message)
    assert read is not None
    assert (read.address, read.prefix_length, read.index) == (address, length, index)
    assert (read.marked, read.prefix_route, read.scope_global) == (True, False, True)


def route(family: int, length: int, *attributes: bytes, table: int = 254, kind: int = 1) -> Message:
    """Make an RTM_NEWROUTE."""
    return Message(
        24, 0, 1, struct.pack("=BBBBBBBBI", family, length, 0, 0, table, 0, 0, kind, 0) + b"".join(attributes)
    )


def hops(*gateways: Ip) -> bytes:
    """Render RTA_MULTIPATH."""

    def each() -> Iterator[bytes]:
        for gateway in gateways:
            inner = attribute(5, gateway.packed)
            yield struct.pack("=HBBI", 8 + len(inner), 0, 0, 2) + inner

    return attribute(9, b"".join(each()))


def test_routes() -> None:
    """A default route has a gateway; a connected one has none; a multipath route names all of its hops."""
    device = attribute(4, struct.pack("=I", 2))
    gateway = ip_address("2001:db8::1")
    default = route(10, 0, device, attribute(5, gateway.packed))
    assert parse_route(default) == Route(ip_network("::/0"), 2, (gateway,), on_link=False)
    connected = route(2, 24, device, attribute(1, ip_address("192.0.2.0").packed))
    assert parse_route(connected) == Route(ip_network("192.0.2.0/24"), 2, (), on_link=True)
    both = (ip_address("192.0.2.1"), ip_address("192.0.2.3"))
    several = parse_route(route(2, 0, hops(*both)))
    assert several == Route(ip_network("0.0.0.0/0"), 0, both, on_link=False)


@pytest.mark.parametrize(
    "other", [route(28, 20), route(2, 32, table=255), route(2, 32, kind=3)], ids=["MPLS", "local table", "broadcast"]
)
def test_other_routes_are_none_of_ours(other: Message) -> None:
    """Older kernels send all of them, whatever was asked for."""
    assert parse_route(other) is None


@given(st.binary(max_size=120))
def test_garbage_is_no_error(octets: bytes) -> None:
    """Attributes end where they are malformed, datagrams where a message is cut short."""
    parse_attributes(octets)
    for message in split_messages(octets):
        parse_address(message)
