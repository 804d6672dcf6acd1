"""Texts for people: foreign ones made safe to show, numbers made readable."""

FIELD_BYTES = 1024
"""No text that came from an object is shown longer than this."""


def printable(text: str, limit: int = FIELD_BYTES) -> str:
    """Make a foreign text safe to show: unprintable characters (controls, bidi marks) escaped, cut at `limit` bytes."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    octets = text.encode("utf-8", "backslashreplace")
    if len(octets) <= limit:
        return text
    return octets[: limit - 3].decode("utf-8", "ignore") + "…"


def render_bytes(number: int) -> str:
    """`712 B`, `1.5 KiB`, `2.0 GiB`."""
    size, unit = float(number), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{number} B" if unit == "B" else f"{size:.1f} {unit}"
