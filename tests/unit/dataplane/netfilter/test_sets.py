"""Elements to messages: the bytes that nft 1.0.6 sends for the same elements, and the cutting into messages."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from littlelb.dataplane.netfilter import sets, wire
from littlelb.dataplane.netfilter.batch import Kind
from littlelb.dataplane.netfilter.element_reader import parse_elements
from littlelb.dataplane.netfilter.sets import Element, SetName, Verdict, VerdictCode

SLOTS = SetName(wire.NFPROTO_IPV4, "ll", "slots")
HEX = bytes.fromhex
LITTLE = pytest.mark.skipif(sys.byteorder != "little", reason="the golden bytes were taken on a little-endian host")

CAPTURED = {
    "counter": (
        Element(HEX("cb007107 06000000 00500000 02000000"), HEX("0a010005 1f900000"), counter=(3, 180)),
        (
            "58000180 18000180 14000100 cb007107 06000000 00500000 02000000 10000280 0c000100 0a010005 1f900000"
            "2c000780 0c000100 636f756e74657200 1c000280 0c000100 00000000000000b4 0c000200 0000000000000003"
        ),
    ),
    "verdict": (
        Element(HEX("cb007107 11000000 00350000"), sets.goto("c")),
        "30000180 14000180 10000100 cb007107 11000000 0035000018000280 14000280 08000100 fffffffc 06000200 63000000",
    ),
    "interval": (
        Element(HEX("cb007107 00500000 c0000200"), key_end=HEX("cb007107 00500000 c00002ff")),
        "2c000180 14000180 10000100 cb007107 00500000 c0000200 14000a80 10000100 cb007107 00500000 c00002ff",
    ),
    "timeout": (
        Element(HEX("cb007107"), timeout=30_000),
        "1c000180 0c000400 0000000000007530 0c000180 08000100 cb007107",
    ),
}
"""Elements, and what nft was seen to send for them:

    203.0.113.7 . tcp . 80 . 0x2 counter packets 3 bytes 180 : 10.1.0.5 . 8080
    203.0.113.7 . udp . 53 : goto c
    203.0.113.7 . 80 . 192.0.2.0/24
    203.0.113.7 timeout 30s
"""


@LITTLE
@pytest.mark.parametrize("name", CAPTURED)
def test_bytes_as_nft_sends_them(name: str) -> None:
    """An element is encoded as nft does it."""
    element, captured = CAPTURED[name]
    assert sets.encode_element(element).hex() == HEX(captured).hex()


@LITTLE
def test_a_whole_request() -> None:
    """A request names table and map, and holds the elements in one attribute."""
    (request,) = sets.add_elements(SLOTS, [CAPTURED["verdict"][0]])
    assert (request.kind, request.family, request.flags) == (Kind.NEWSETELEM, 2, wire.NLM_F_CREATE)
    names = "07000100 6c6c0000 0a000200 736c6f7473000000"
    assert request.attributes.hex() == HEX(names + "34000380" + CAPTURED["verdict"][1]).hex()


@given(
    st.lists(
        st.builds(
            Element,
            st.binary(max_size=9),
            st.none() | st.binary(max_size=9) | st.sampled_from([sets.goto("c"), Verdict(VerdictCode.DROP)]),
        ),
        min_size=1,
        max_size=9,
    )
)
def test_short_way_and_long_way_agree(elements: list[Element]) -> None:
    """Elements of key and value are built from a frame: the bytes are those of the general encoder."""
    (request,) = sets.add_elements(SLOTS, elements)
    assert request.attributes.endswith(b"".join(map(sets.encode_element, elements)))


def test_many_elements_are_cut_into_messages() -> None:
    """No attribute reaches 64 KiB, no element is lost, and the order stays."""
    elements = [Element(number.to_bytes(16), number.to_bytes(8)) for number in range(5_000)]
    requests = sets.add_elements(SLOTS, iter(elements), exclusive=True)
    assert len(requests) == 4
    assert all(len(request.attributes) < 64 << 10 for request in requests)
    assert {request.flags for request in requests} == {wire.NLM_F_CREATE | wire.NLM_F_EXCL}
    assert [element for request in requests for element in parse_elements(request.attributes)] == elements


def test_deleting_needs_only_the_key() -> None:
    """Value, counter and timeout are left out; the end of an interval and its flag are not."""
    full = Element(b"abcd", b"wxyz", key_end=b"abce", counter=(1, 2), timeout=3, flags=sets.INTERVAL_END)
    (request,) = sets.delete_elements(SLOTS, [full])
    assert request.kind == Kind.DELSETELEM
    assert parse_elements(request.attributes) == [Element(b"abcd", key_end=b"abce", flags=sets.INTERVAL_END)]


def test_nothing_to_delete_is_no_request() -> None:
    """A request that deletes no elements would delete all of them: it is not made, except on purpose."""
    assert sets.delete_elements(SLOTS, []) == []
    assert sets.add_elements(SLOTS, []) == []
    assert parse_elements(sets.flush_elements(SLOTS).attributes) == []
    assert sets.flush_elements(SLOTS).kind == Kind.DELSETELEM


def test_some_elements_are_asked_for_by_their_keys() -> None:
    """Values and counters are for the kernel to say."""
    (request,) = sets.get_elements(SLOTS, [Element(b"\1" * 16, b"\2" * 8, counter=(3, 4)), Element(b"\3" * 16)])
    assert (request.kind, request.flags) == (Kind.GETSETELEM, 0)
    assert parse_elements(request.attributes) == [Element(b"\1" * 16), Element(b"\3" * 16)]


def test_verdicts_without_a_chain() -> None:
    """Accept, drop and return name no chain."""
    for code in (VerdictCode.ACCEPT, VerdictCode.DROP, VerdictCode.RETURN):
        element = Element(b"abcd", Verdict(code))
        (request,) = sets.add_elements(SLOTS, [element])
        assert parse_elements(request.attributes) == [element]
