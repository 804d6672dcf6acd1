"""Foreign texts cannot fool people, and numbers are readable."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from littlelb.core.shown.text import printable, render_bytes


@given(st.text(st.characters(), max_size=300), st.integers(16, 1024))
def test_printable(text: str, limit: int) -> None:
    """Whatever the text, the result is printable, within the limit, and printable texts that fit are unchanged."""
    shown = printable(text, limit)
    assert shown.isprintable()
    assert len(shown.encode()) <= limit
    if text.isprintable() and len(text.encode()) <= limit:
        assert shown == text


def test_printable_escapes_what_fools_people() -> None:
    """Terminal sequences, line breaks, bidi overrides, zero-width characters and lone surrogates are made visible."""
    assert printable("a\x1b[0m\n\u202e\u200b\ud800") == "a\\x1b[0m\\n\\u202e\\u200b\\ud800"


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 << 29, "1.5 GiB"), (5 << 50, "5120.0 TiB")],
)
def test_bytes(number: int, text: str) -> None:
    """Binary units with one decimal."""
    assert render_bytes(number) == text
