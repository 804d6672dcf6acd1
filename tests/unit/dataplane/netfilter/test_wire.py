"""Framing of netlink: golden bytes, round trips, and datagrams that are cut or lie."""

import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.wire import Acknowledgement, Malformed

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="the golden bytes were taken on a little-endian host")

REQUEST = bytes.fromhex("1c000000 0c0a 0504 07000000 00000000 02 00 0000 0700 0100 6c6c00 00")
"""NFT_MSG_NEWSETELEM for the table `ll`, but no elements, with the sequence number 7."""


def test_request_bytes() -> None:
    """A request is the header in host order, nfgenmsg, and padded attributes; its length counts all of them."""
    built = wire.message(0xA0C, wire.NLM_F_REQUEST | wire.NLM_F_ACK | wire.NLM_F_CREATE, 7, 2, wire.text(1, "ll"))
    assert built.hex() == REQUEST.hex()


def test_numbers_are_in_network_order_and_nests_are_marked() -> None:
    """NFTA_DATA_VERDICT with code -4 in a list element, byte for byte."""
    built = wire.nested(1, wire.u32(1, 0xFFFFFFFC), wire.u64(4, 5))
    assert built.hex() == "18000180" + "08000100" + "fffffffc" + "0c000400" + "0000000000000005"


@given(st.lists(st.tuples(st.integers(0, 0x3FFF), st.binary(max_size=40))))
def test_attributes_round_trip(pairs: list[tuple[int, bytes]]) -> None:
    """Whatever is built side by side is read back in order, without its padding."""
    built = b"".join(wire.attribute(kind, value) for kind, value in pairs)
    read = [(kind, built[first:last]) for kind, first, last in wire.iterate_attributes(built)]
    assert read == pairs
    assert wire.parse_attributes(built) == dict(pairs)


@given(
    st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.integers(0, 255), st.binary(max_size=30))),
)
def test_messages_round_trip(wanted: list[tuple[int, int, int, bytes]]) -> None:
    """Messages in one datagram come out one by one, with their family and their attributes."""
    datagram = b"".join(
        wire.message(kind, flags, number, family, wire.attribute(3, value))
        for number, (kind, flags, family, value) in enumerate(wanted)
    )
    read = list(wire.iterate_messages(datagram))
    assert [(m.type, m.flags, m.family, m.attributes()[3]) for m in read] == wanted
    assert [m.sequence for m in read] == list(range(len(wanted)))


@given(st.integers(1, 31))
def test_every_cut_is_noticed(size: int) -> None:
    """A datagram that ends early never yields a message that was not whole."""
    whole = wire.message(1, 0, 1, 2, wire.attribute(1, b"abcdefgh"))
    with pytest.raises(Malformed, match="bytes"):
        list(wire.iterate_messages(whole[:size]))


@given(st.binary(max_size=120))
def test_hostile_bytes_raise_only_malformed(noise: bytes) -> None:
    """Noise is either read or refused; it ends, and raises nothing else."""
    try:
        for message in wire.iterate_messages(noise):
            assert message.family >= 0
            message.attributes()
            wire.parse_acknowledgement(message)
    except Malformed:
        pass


@pytest.mark.parametrize("length", [0, 3, 9, 0xFFFF])
def test_attribute_that_lies_about_its_length(length: int) -> None:
    """An attribute shorter than its header or longer than what is there is refused, with the place."""
    with pytest.raises(Malformed, match=f"the one at 0 claims {length} of 8"):
        wire.parse_attributes(struct.pack("=HHI", length, 1, 0))


def acknowledgement(flags: int, code: int, rest: bytes) -> wire.Message:
    """NLMSG_ERROR for REQUEST."""
    return wire.Message(wire.NLMSG_ERROR, flags, 7, 99, struct.pack("=i", -code) + rest)


def test_plain_acknowledgement() -> None:
    """Without extensions there are the code and the request's number."""
    assert wire.parse_acknowledgement(acknowledgement(0x100, 17, REQUEST[:16])) == Acknowledgement(17, 7)
    assert wire.parse_acknowledgement(acknowledgement(0x100, 0, REQUEST[:16])) == Acknowledgement(0, 7)


@pytest.mark.parametrize(("flags", "echo"), [(0x300, REQUEST[:16]), (0x200, REQUEST)], ids=["capped", "whole"])
def test_extended_acknowledgement(flags: int, echo: bytes) -> None:
    """The kernel's words and the place of the fault are found behind the request's header, or behind the request."""
    more = wire.text(1, "Could not process rule") + wire.attribute(2, struct.pack("=I", 28))
    read = wire.parse_acknowledgement(acknowledgement(flags, 2, echo + more))
    assert read == Acknowledgement(2, 7, "Could not process rule", 28)


def test_short_acknowledgement() -> None:
    """An acknowledgement without the request's header is refused."""
    with pytest.raises(Malformed, match="at least 20"):
        wire.parse_acknowledgement(acknowledgement(0, 1, b""))


def test_end_of_a_dump() -> None:
    """NLMSG_DONE carries an errno, or nothing."""
    assert wire.parse_done(wire.Message(wire.NLMSG_DONE, 2, 1, 1, struct.pack("=i", -4))) == 4
    assert wire.parse_done(wire.Message(wire.NLMSG_DONE, 2, 1, 1, b"")) == 0


def test_names() -> None:
    """A name ends at its zero byte; one of somebody else that is no UTF-8 is still shown; ours may hold no zero."""
    assert wire.parse_text(b"ll\0") == "ll"
    assert wire.parse_text(b"\xff\0") == "\\xff"
    with pytest.raises(ValueError, match="zero byte"):
        wire.text(1, "a\0b")


def test_too_long_for_an_attribute() -> None:
    """What does not fit into 16 bits of length is refused instead of cut."""
    assert len(wire.attribute(1, b"x" * wire.MAX_VALUE_BYTES)) == 0x10000
    with pytest.raises(ValueError, match="at most 65531"):
        wire.nested(1, b"x" * (wire.MAX_VALUE_BYTES + 1))
