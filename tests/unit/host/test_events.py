"""Notifications as the kernel sent them (recorded on Linux 6.18, little-endian)."""

import sys
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from littlelb.host.events import AddressEvent, Event, TopologyEvent, parse_events

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="the recordings are little-endian")

NEW_FOUR = bytes.fromhex(
    "5000000014000000bf86046bfb120000022080000200000008000100cb00710708000200cb0071070900030065746830"
    "00000000080008008000000014000600ffffffffffffffff204d0400204d0400"
)
NEW_SIX = bytes.fromhex(
    "480000001400000000000000000000000a808200020000001400010020010db8000001130000000000000007"
    "14000600ffffffffffffffff204d0400204d04000800080082000000"
)
LOCAL_ROUTE = bytes.fromhex(
    "3c00000018000006000000000000000002200000ff02fe020000000008000f00ff000000"
    "08000100cb00710708000700cb0071070800040002000000"
)
MAIN_ROUTE = bytes.fromhex(
    "3c00000018000006bf86046bfe12000002100000fe0300010000000008000f00fe00000008000100"
    "0a01000008000500c000020a0800040002000000"
)
FOUR, SIX = IPv4Address("203.0.113.7"), IPv6Address("2001:db8:0:113::7")


def with_attribute(message: bytes, kind: int, value: bytes) -> bytes:
    """Append an attribute to a message."""
    attribute = (4 + len(value)).to_bytes(2, "little") + kind.to_bytes(2, "little") + value
    attribute += bytes(-len(attribute) % 4)
    return (len(message) + len(attribute)).to_bytes(4, "little") + message[4:] + attribute


def gone(message: bytes) -> bytes:
    """Turn RTM_NEWADDR into RTM_DELADDR."""
    return message[:4] + b"\x15" + message[5:]


@pytest.mark.parametrize(
    ("datagram", "events"),
    [
        pytest.param(NEW_FOUR, [AddressEvent(FOUR, marked=False, gone=False)], id="an address came"),
        pytest.param(gone(NEW_SIX), [AddressEvent(SIX, marked=False, gone=True)], id="an address went"),
        pytest.param(
            with_attribute(NEW_FOUR, 11, b"\x6c"), [AddressEvent(FOUR, marked=True, gone=False)], id="ours by protocol"
        ),
        pytest.param(
            with_attribute(gone(NEW_SIX), 9, bytes.fromhex("626c0000")),
            [AddressEvent(SIX, marked=True, gone=True)],
            id="ours by metric",
        ),
        pytest.param(
            with_attribute(NEW_SIX, 11, b"\x03"), [AddressEvent(SIX, marked=False, gone=False)], id="the kernel's own"
        ),
        pytest.param(LOCAL_ROUTE, [], id="the table that goes with addresses"),
        pytest.param(MAIN_ROUTE, [TopologyEvent()], id="a route"),
        pytest.param(
            NEW_FOUR + MAIN_ROUTE, [AddressEvent(FOUR, marked=False, gone=False), TopologyEvent()], id="two at once"
        ),
        pytest.param(MAIN_ROUTE[:4] + b"\x10" + MAIN_ROUTE[5:], [TopologyEvent()], id="a device"),
        pytest.param(MAIN_ROUTE[:4] + b"\x1c" + MAIN_ROUTE[5:], [], id="a neighbour"),
        pytest.param(NEW_FOUR[:-8], [], id="cut short"),
        pytest.param(b"\x18\x00\x00\x00\x14" + bytes(19), [], id="no address in it"),
    ],
)
def test_recorded_notifications(datagram: bytes, events: list[Event]) -> None:
    """Addresses with our mark are told apart; routes and devices mean: read again."""
    assert parse_events(datagram) == events


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: NEW_FOUR[:40] + tail))
def test_garbage_is_no_error(datagram: bytes) -> None:
    """Whatever comes is read to its end."""
    parse_events(datagram)
