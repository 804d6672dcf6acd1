"""Notifications as values, and the filter that drops our own."""

import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.batch import Kind
from littlelb.dataplane.netfilter.events import Change, Commit, parse_event, render_filter
from littlelb.dataplane.netfilter.sets import Element, SetName, add_elements
from littlelb.dataplane.netfilter.wire import Malformed, Message


def told(kind: int, *attributes: bytes, port: int = 4711) -> Message:
    """A notification about the family inet."""
    return Message(0xA00 | kind, 0, 1, port, b"\1\0\0\7" + b"".join(attributes))


TABLE = wire.text(1, "ll")


@pytest.mark.parametrize(
    ("message", "kind", "name"),
    [
        (told(0, TABLE, wire.u32(2, 0)), Kind.NEWTABLE, None),
        (told(2, TABLE, wire.u32(2, 0)), Kind.DELTABLE, None),
        (told(3, TABLE, wire.text(3, "pre")), Kind.NEWCHAIN, "pre"),
        (told(5, TABLE, wire.text(3, "pre")), Kind.DELCHAIN, "pre"),
        (told(6, TABLE, wire.text(2, "pre"), wire.u64(3, 9)), Kind.NEWRULE, "pre"),
        (told(8, TABLE, wire.text(2, "pre")), Kind.DELRULE, "pre"),
        (told(9, TABLE, wire.text(2, "slots")), Kind.NEWSET, "slots"),
        (told(11, TABLE, wire.text(2, "slots")), Kind.DELSET, "slots"),
        (told(14, TABLE, wire.text(2, "slots")), Kind.DELSETELEM, "slots"),
        (told(18, TABLE, wire.text(2, "quota")), Kind.NEWOBJ, "quota"),
    ],
)
def test_changes(message: Message, kind: Kind, name: str | None) -> None:
    """Each notification says what happened to what in which table, and which socket did it."""
    assert parse_event(message) == Change(kind, wire.NFPROTO_INET, "ll", name, 4711)


def test_new_elements() -> None:
    """Of elements the set is told; which ones is for a list to say."""
    (request,) = add_elements(SetName(1, "ll", "slots"), [Element(b"abcd")])
    assert parse_event(told(12, request.attributes)) == Change(Kind.NEWSETELEM, 1, "ll", "slots", 4711)


def test_commit() -> None:
    """The end of a transaction names the process."""
    message = told(15, wire.u32(1, 8), wire.u32(2, 815), wire.text(3, "nft"))
    assert parse_event(message) == Commit(generation=8, process=815, program="nft", port=4711)


@pytest.mark.parametrize("number", [0x103, 0xA00 | 13, 0xA00 | 17, 0xAFF])
def test_others_are_passed_over(number: int) -> None:
    """Questions, traces, other subsystems and what later kernels say are no events."""
    assert parse_event(Message(number, 0, 1, 1, b"\1\0\0\0")) is None


def test_cut_notification() -> None:
    """A notification without nfgenmsg is refused."""
    with pytest.raises(Malformed):
        parse_event(Message(0xA00, 0, 1, 1, b"\1\0"))


def passes(program: bytes, datagram: bytes) -> bool:
    """Run the three instructions that the filter is made of, as the kernel does (classic BPF)."""
    instructions = [struct.unpack_from("=HBBI", program, place) for place in range(0, len(program), 8)]
    register, place = 0, 0
    while True:
        code, if_equal, if_not, value = instructions[place]
        place += 1
        match code:
            case 0x20:
                (register,) = struct.unpack_from("!I", datagram, value)
            case 0x15:
                place += if_equal if register == value else if_not
            case _:
                return bool(value)


@given(st.lists(st.integers(1, 0xFFFFFFFF), max_size=5), st.integers(0, 0xFFFFFFFF))
def test_filter(own: list[int], other: int) -> None:
    """What the given ports did is dropped, everything else passes."""
    program = render_filter(own)
    for port in [*own, other]:
        datagram = struct.pack("=IHHII", 20, 0xA0F, 0, 1, port) + b"\0\0\0\0"
        assert passes(program, datagram) == (port not in own)


@pytest.mark.skipif(sys.byteorder != "little", reason="the golden bytes are those of a little-endian host")
def test_filter_bytes() -> None:
    """`ld [12]; jeq port; ret all; ret nothing`, with the port as a network-order load sees it."""
    assert (
        render_filter([4711]).hex() == "200000000c000000" + "1500010000001267" + "06000000ffffffff" + "0600000000000000"
    )
