"""IPv4 settings of a device, as bytes (recorded on Linux 6.18, little-endian)."""

import struct
import sys

import pytest

from littlelb.host.forwarding.devconf import Setting, get_settings, parse_settings, set_settings
from littlelb.host.rtnl import Message, attribute

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="the recordings are little-endian")


def test_requests_as_bytes() -> None:
    """One device; a nest of nests around the numbered values."""
    assert get_settings(5).render(1).hex() == "200000001200050001000000000000000000000005000000" + "0000000000000000"
    wanted = (
        "3c00000013000100020000000000000000000000050000000000000000000000" + "1c001a80" + "18000280" + "14000180"
        "0800010001000000" + "0800130001000000"
    )
    assert set_settings(5, {Setting.FORWARDING: 1, Setting.ARP_IGNORE: 1}).render(2).hex() == wanted


def link(values: bytes | None, kind: int = 16) -> Message:
    """Make an RTM_NEWLINK with these IPv4 settings."""
    families = attribute(2, attribute(1, values)) if values is not None else b""
    return Message(kind, 0, 1, struct.pack("=BxHiII", 0, 1, 5, 0x1003, 0) + attribute(26, families))


def test_values_are_read_by_their_numbers() -> None:
    """The kernel sends all of them in a row; an older one may send fewer."""
    row = struct.pack("=33I", *range(100, 133))
    assert parse_settings(link(row)) == {Setting.FORWARDING: 100, Setting.ARP_IGNORE: 118}
    assert parse_settings(link(row[:16])) == {Setting.FORWARDING: 100}


@pytest.mark.parametrize("message", [link(None), link(b""), link(bytes(132), kind=20), Message(16, 0, 1, b"")])
def test_a_device_without_ipv4_has_none(message: Message) -> None:
    """Nor has any other message."""
    assert parse_settings(message) is None
