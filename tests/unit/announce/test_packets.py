"""ARP and neighbour discovery on the wire: golden bytes, round trips, and what must be discarded."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from littlelb.announce.packets import (
    ADVERTISEMENT,
    ETHERTYPE_ARP,
    ETHERTYPE_IPV6,
    SOLICITATION,
    Arp,
    Neighbour,
    arp_announcements,
    arp_probe,
    checksum,
    duplicate_solicitation,
    multicast_mac,
    parse_arp,
    parse_frame,
    parse_neighbour,
    render_arp,
    render_neighbour,
    solicited_node,
    unsolicited_advertisement,
)

MAC = bytes.fromhex("02005e005301")
FOUR = IPv4Address("203.0.113.7")
SIX = IPv6Address("2001:db8:0:113::7")

macs = st.binary(min_size=6, max_size=6)
arps = st.builds(Arp, st.sampled_from([1, 2]), macs, st.ip_addresses(v=4), macs, st.ip_addresses(v=4))
neighbours = st.builds(
    Neighbour,
    st.sampled_from([SOLICITATION, ADVERTISEMENT]),
    *[st.ip_addresses(v=6)] * 3,
    macs | st.just(b""),
    st.booleans(),
    st.booleans(),
)


def test_arp_probe_on_the_wire() -> None:
    """A probe is a broadcast request from 0.0.0.0, so that nobody's cache changes."""
    assert bytes(arp_probe(MAC, FOUR)).hex() == (
        "ffffffffffff02005e0053010806"  # Ethernet
        "0001080006040001"  # Ethernet, IPv4, request
        "02005e00530100000000"  # sender: nobody
        "000000000000cb007107"
    )


def test_arp_announcements_on_the_wire() -> None:
    """Both forms name the address as sender and target; only the reply fills the target's MAC."""
    request, reply = arp_announcements(MAC, FOUR)
    assert bytes(request).hex() == (
        "ffffffffffff02005e0053010806000108000604000102005e005301cb007107000000000000cb007107"
    )
    assert bytes(reply).hex() == (
        "ffffffffffff02005e0053010806000108000604000202005e005301cb00710702005e005301cb007107"
    )


def test_duplicate_solicitation_on_the_wire() -> None:
    """The search for duplicates comes from `::`, goes to the solicited-node group, and carries no MAC option."""
    assert bytes(duplicate_solicitation(MAC, SIX)).hex() == (
        "3333ff00000702005e00530186dd"
        "6000000000183aff"  # version 6, 24 bytes of ICMPv6, hop limit 255
        "00000000000000000000000000000000"
        "ff0200000000000000000001ff000007"
        "8700"
        "4bce"  # checksum
        "00000000"
        "20010db8000001130000000000000007"
    )


def test_unsolicited_advertisement_on_the_wire() -> None:
    """The advertisement goes to all nodes with the override flag and the target's MAC."""
    assert bytes(unsolicited_advertisement(MAC, SIX)).hex() == (
        "33330000000102005e00530186dd"
        "6000000000203aff"
        "20010db8000001130000000000000007"
        "ff020000000000000000000000000001"
        "8800"
        "45f8"  # checksum
        "20000000"
        "20010db8000001130000000000000007"
        "020102005e005301"
    )


@pytest.mark.parametrize(
    ("octets", "expected"),
    [("", 0xFFFF), ("0001f203f4f5f6f7", 0x220D), ("ff", 0x00FF), ("ffff", 0)],
)
def test_checksum(octets: str, expected: int) -> None:
    """The worked example of RFC 1071 section 3, an odd length, and the edges."""
    assert checksum(bytes.fromhex(octets)) == expected


def test_groups() -> None:
    """The last 24 bits of an address choose its group, the last 32 of the group its Ethernet address."""
    assert solicited_node(IPv6Address("2001:db8::ab:cdef:1234")) == IPv6Address("ff02::1:ffef:1234")
    assert multicast_mac(IPv6Address("ff02::1:ffef:1234")) == bytes.fromhex("3333ffef1234")


@given(arps)
def test_arp_round_trip(packet: Arp) -> None:
    """What is rendered parses back to the same, with the padding of short frames too."""
    assert parse_arp(render_arp(packet) + bytes(18)) == packet


@given(neighbours)
def test_neighbour_round_trip(message: Neighbour) -> None:
    """What is rendered parses back to the same: the checksum fits."""
    assert parse_neighbour(render_neighbour(message) + bytes(6)) == message


@given(neighbours, st.data())
def test_damage_is_noticed(message: Neighbour, data: st.DataObject) -> None:
    """A changed bit anywhere in the ICMPv6 part makes the message void."""
    whole = bytearray(render_neighbour(message))
    at = data.draw(st.integers(40, len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    assert parse_neighbour(bytes(whole)) is None


@given(st.binary(max_size=120))
def test_garbage_is_no_error(octets: bytes) -> None:
    """Bytes that mean nothing are None or a value, never an exception."""
    frame = parse_frame(octets)
    assert (frame is None) == (len(octets) < 14)
    parse_arp(octets)
    parse_neighbour(octets)


def test_what_is_not_ours_to_read() -> None:
    """ARP for other networks, other hop limits, other kinds, bad options: discarded (RFC 4861 section 7.1)."""
    good = render_neighbour(Neighbour(ADVERTISEMENT, SIX, SIX, SIX, MAC))
    assert parse_arp(b"\x00\x06" + render_arp(Arp(1, MAC, FOUR, MAC, FOUR))[2:]) is None
    assert parse_neighbour(good[:7] + b"\x40" + good[8:]) is None  # was routed
    assert parse_neighbour(b"\x40" + good[1:]) is None  # not IPv6
    assert parse_neighbour(good[:-1]) is None  # cut short
    assert parse_neighbour(render_neighbour(Neighbour(133, SIX, SIX, SIX))) is None  # router solicitation
    empty_option = Neighbour(ADVERTISEMENT, SIX, SIX, SIX, bytes(6))
    broken = bytearray(render_neighbour(empty_option))
    broken[65] = 0  # option of length 0; then make the checksum fit again
    broken[42:44] = (int.from_bytes(broken[42:44]) + 1).to_bytes(2)
    assert parse_neighbour(bytes(broken)) is None


def test_frame_round_trip() -> None:
    """A frame parses back to itself."""
    for frame in (*arp_announcements(MAC, FOUR), unsolicited_advertisement(MAC, SIX)):
        assert parse_frame(bytes(frame)) == frame
        assert frame.ethertype in {ETHERTYPE_ARP, ETHERTYPE_IPV6}
