"""Elements out of messages: round trips, elements of all shapes in one message, and messages that lie."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.element_reader import element_at, parse_elements
from littlelb.dataplane.netfilter.sets import Element, SetName, Verdict, VerdictCode, add_elements, encode_element
from littlelb.dataplane.netfilter.wire import Malformed

WHERE = SetName(wire.NFPROTO_INET, "ll", "map")
U64 = st.integers(0, (1 << 64) - 1)
KEYS = st.binary(min_size=4, max_size=8)
CHAINS = st.sampled_from(["c1", "c2", "class-8", "class-16"])
VERDICTS = st.builds(Verdict, st.sampled_from([VerdictCode.GOTO, VerdictCode.JUMP]), CHAINS) | st.builds(
    Verdict, st.sampled_from([VerdictCode.ACCEPT, VerdictCode.DROP, VerdictCode.RETURN, VerdictCode.CONTINUE])
)
ELEMENTS = st.builds(
    Element,
    key=KEYS,
    data=st.none() | st.binary(min_size=4, max_size=8) | VERDICTS,
    key_end=st.none() | KEYS,
    counter=st.none() | st.tuples(U64, U64),
    timeout=st.none() | U64,
    flags=st.sampled_from([0, 0, 0, 1]),
)


@given(st.lists(ELEMENTS))
def test_round_trip(elements: list[Element]) -> None:
    """Elements of all shapes, mixed, are read back as they were written."""
    requests = add_elements(WHERE, elements)
    assert [element for request in requests for element in parse_elements(request.attributes)] == elements


def listed(*parts: bytes) -> bytes:
    """Attributes of a message with one element of these parts, which our encoder does not make."""
    return wire.nested(3, wire.nested(1, wire.nested(1, wire.attribute(1, b"abcd")), *parts))


def expression(name: str, *values: bytes) -> bytes:
    """One expression."""
    return wire.text(1, name) + wire.nested(2, *values)


def test_what_only_the_kernel_says() -> None:
    """The time that is left is read; comments (user data) and attributes of later kernels are passed over."""
    attributes = listed(
        wire.u64(4, 30_000), wire.u64(5, 29_000), wire.attribute(6, b"\0\3hi"), wire.attribute(99, b"x")
    )
    assert parse_elements(attributes) == [Element(b"abcd", timeout=30_000, expires=29_000)]


def test_counter_in_a_list_of_expressions() -> None:
    """Kernels list several expressions of an element side by side: the counter is found among them."""
    quota = wire.nested(1, expression("quota", wire.u64(1, 5), wire.u64(2, 6)))
    counter = wire.nested(1, expression("counter", wire.u64(1, 180), wire.u64(2, 3)))
    assert parse_elements(listed(wire.nested(11, quota, counter))) == [Element(b"abcd", counter=(3, 180))]


def test_other_expressions_are_no_counters() -> None:
    """A limit has numbers too, but they count nothing."""
    limit = wire.nested(7, expression("limit", wire.u64(1, 5), wire.u64(2, 6)))
    assert parse_elements(listed(limit)) == [Element(b"abcd")]


@pytest.mark.parametrize(
    "part",
    [
        wire.nested(2, wire.nested(2, wire.u32(1, 3))),
        wire.nested(2, wire.nested(2, wire.attribute(1, b"\0"))),
        wire.attribute(4, b"\0\0\0\1"),
        wire.attribute(2, b"\xff\xff\xff\xff"),
    ],
    ids=["unknown verdict", "short verdict", "short timeout", "no attribute inside"],
)
def test_contradictions_are_refused(part: bytes) -> None:
    """What cannot be an element of a set raises Malformed."""
    with pytest.raises(Malformed):
        parse_elements(listed(part))


@given(st.lists(ELEMENTS, min_size=1, max_size=4), st.data())
def test_hostile_bytes_raise_only_malformed(elements: list[Element], data: st.DataObject) -> None:
    """Whatever bytes are turned, the reader returns elements or raises Malformed."""
    (request,) = add_elements(WHERE, elements)
    spoilt = bytearray(request.attributes)
    for _ in range(data.draw(st.integers(1, 4))):
        spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = parse_elements(bytes(spoilt[: data.draw(st.integers(0, len(spoilt)))]))
    except Malformed:
        return
    assert all(isinstance(element, Element) for element in read)


@given(st.lists(ELEMENTS, min_size=1, max_size=6), st.data())
def test_place_of_a_fault_names_the_element(elements: list[Element], data: st.DataObject) -> None:
    """From the offset in the kernel's answer comes the element that it refused."""
    (request,) = add_elements(WHERE, elements)
    wanted = data.draw(st.integers(0, len(elements) - 1))
    tail = sum(len(encode_element(element)) for element in elements[wanted:])
    offset = wire.HEADER_BYTES + len(request.attributes) - tail
    assert element_at(request, offset) == elements[wanted]


def test_fault_outside_of_elements() -> None:
    """A fault in the name of the table names no element."""
    (request,) = add_elements(WHERE, [Element(b"abcd")])
    assert element_at(request, wire.HEADER_BYTES) is None
    assert element_at(request, 1 << 20) is None
