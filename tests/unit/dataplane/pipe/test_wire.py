"""Framing and validation of what daemon and workers say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from littlelb.dataplane.pipe.wire import MAX_BODY, MAX_FDS, Framer, Json, WireError, integer, parse, render, text


@given(st.lists(st.dictionaries(st.text(), st.integers() | st.text())), st.integers(1, 50))
def test_messages_survive_any_cutting(messages: list[Json], size: int) -> None:
    """However the stream is cut, the same messages come out in the same order."""
    messages = [{key: value for key, value in message.items() if key != "fds"} for message in messages]
    stream = b"".join(b"".join(render(message)) for message in messages)
    framer = Framer()
    out = [found for start in range(0, len(stream), size) for found in framer.feed(stream[start : start + size], [])]
    assert out == [(message, []) for message in messages]


def test_descriptors_go_to_the_message_that_announces_them() -> None:
    """Each message takes as many descriptors as it says, in order."""
    framer = Framer()
    stream = b"".join(render({"fds": 2})) + b"".join(render({})) + b"".join(render({"fds": 1}))
    assert [fds for _, fds in framer.feed(stream, [7, 8, 9, 10])] == [[7, 8], [], [9]]
    assert framer.leftovers() == [10]
    assert framer.leftovers() == []


@pytest.mark.parametrize(
    "stream",
    [
        (MAX_BODY + 1).to_bytes(4, "big"),
        b"\0\0\0\2{]",
        b"\0\0\0\2[]",
        b"\0\0\0\1\xff",
        b"".join(render({"fds": 1})),
        b"".join(render({"fds": MAX_FDS + 1})),
        b"".join(render({"fds": "x"})),
        (3000).to_bytes(4, "big") + b"[" * 3000,
    ],
)
def test_nonsense_is_refused(stream: bytes) -> None:
    """Too long, not JSON, not an object, descriptors that did not come: an error, and no memory is taken for it."""
    with pytest.raises(WireError):
        Framer().feed(stream, [])


def test_too_long_a_message_is_not_sent() -> None:
    """The sender keeps the limit of the receiver."""
    with pytest.raises(WireError):
        render({"text": "x" * MAX_BODY})


@pytest.mark.parametrize("value", [True, 1.0, "1", None, -1, 11])
def test_integer_is_strict(value: object) -> None:
    """Only a whole number within the bounds is one."""
    with pytest.raises(WireError):
        integer(value, 0, 10)


def test_text_is_bounded() -> None:
    """A text of more than 1,000 characters, or none at all, is refused."""
    assert text("x") == "x"
    for value in ("x" * 1001, 1, None):
        with pytest.raises(WireError):
            text(value)


def test_parse_reads_an_object() -> None:
    """A JSON object becomes a dict."""
    assert parse(b'{"do":"hello"}') == {"do": "hello"}
