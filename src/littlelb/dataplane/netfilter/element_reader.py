"""Reads the elements of sets and maps out of messages: 80,000 of them in a fraction of a second.

An element is a nest of attributes. Elements of one set look alike, so where key, value and counters stand is learnt
from the first one (`_Layout`); the others are taken by one `struct` each, and all that is not a value is compared. An
element that looks different is read attribute by attribute, and learnt in turn.
"""

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.batch import Request
from littlelb.dataplane.netfilter.sets import Element, Verdict, VerdictCode
from littlelb.dataplane.netfilter.wire import Malformed

_ELEMENTS: Final = 3
_LIST_ELEMENT: Final = 1
_COUNTER: Final = b"counter\0"

_ROLES: Final[Mapping[tuple[int, ...], str]] = {
    (1, 1): "key",
    (10, 1): "key_end",
    (2, 1): "value",
    (2, 2, 1): "code",
    (2, 2, 2): "chain",
    (3,): "flags",
    (4,): "timeout",
    (5,): "expires",
    (6,): "userdata",
    (7, 2, 1): "bytes",
    (7, 2, 2): "packets",
    (11, 1, 2, 1): "bytes",
    (11, 1, 2, 2): "packets",
}
"""Path of attributes within an element → what stands there (enum nft_set_elem_attributes and those nested in it)."""

_NESTS: Final = frozenset(path[:length] for path in _ROLES for length in range(1, len(path)))
_EXPRESSIONS: Final = frozenset({(7,), (11, 1)})
"""Where an expression stands; of others than counters nothing is read."""

_NUMBERS: Final = {"code": "i", "flags": "I", "timeout": "Q", "expires": "Q", "bytes": "Q", "packets": "Q"}
"""Role → its format; all else is bytes."""
_SIZES: Final = {"i": 4, "I": 4, "Q": 8}

_Span = tuple[str, int, int]
"""Role, start and end."""


def parse_elements(attributes: bytes, start: int = 0) -> list[Element]:
    """Read all elements out of the attributes of NEWSETELEM or DELSETELEM. Raises Malformed."""
    found: list[Element] = []
    for kind, first, last in wire.iterate_attributes(attributes, start):
        if kind == _ELEMENTS:
            _parse_list(attributes, first, last, found)
    return found


def element_at(request: Request, offset: int) -> Element | None:
    """Which element of a request the kernel means by `offset` bytes from the start of the message; None: none.

    Raises Malformed.
    """
    place = offset - wire.HEADER_BYTES
    for kind, first, last in wire.iterate_attributes(request.attributes):
        if kind == _ELEMENTS:
            for _, start, end in wire.iterate_attributes(request.attributes, first, last):
                if start - 4 <= place < end:
                    return _read(request.attributes, start, end)
    return None


def _parse_list(buffer: bytes, start: int, end: int, found: list[Element]) -> None:
    layouts: dict[int, _Layout] = {}
    for kind, first, last in wire.iterate_attributes(buffer, start, end):
        if kind != _LIST_ELEMENT:
            continue
        layout = layouts.get(last - first)
        element = None if layout is None else layout.read(buffer, first)
        if element is None:
            layout = layouts[last - first] = _Layout(buffer, first, last)
            element = layout.read(buffer, first)
            assert element is not None  # noqa: S101  (a layout fits what it was learnt from)
        found.append(element)


def _read(buffer: bytes, start: int, end: int) -> Element:
    element = _Layout(buffer, start, end).read(buffer, start)
    assert element is not None  # noqa: S101  (a layout fits what it was learnt from)
    return element


class _Layout:
    """Where the values of an element stand, learnt from one; fits all that differ in nothing but values."""

    __slots__ = ("_build", "_fixed", "_unpack_from")

    def __init__(self, buffer: bytes, start: int, end: int) -> None:
        """Learn from the element whose attributes are between `start` and `end`. Raises Malformed."""
        form, place = [">"], start
        fixed: list[bytes] = []
        roles: list[str] = []
        for role, first, last in _spans(buffer, start, end):
            form += [f"{first - place}s", _format(role, last - first)]
            fixed.append(buffer[place:first])
            roles.append(role)
            place = last
        fixed.append(buffer[place:end])
        self._unpack_from = struct.Struct("".join([*form, f"{end - place}s"])).unpack_from
        self._fixed = tuple(fixed)
        self._build = _BUILDERS.get(tuple(roles)) or (lambda values: _build(dict(zip(roles, values, strict=True))))

    def read(self, buffer: bytes, start: int) -> Element | None:
        """Read the element whose attributes begin there and are as long; None: it looks different."""
        parts = self._unpack_from(buffer, start)
        return self._build(parts[1::2]) if parts[::2] == self._fixed else None


def _spans(buffer: bytes, start: int, end: int, path: tuple[int, ...] = ()) -> Iterator[_Span]:
    for kind, first, last in wire.iterate_attributes(buffer, start, end):
        here = (*path, kind)
        if here in _EXPRESSIONS and wire.parse_attributes(buffer, first, last).get(1) != _COUNTER:
            continue
        if here in _NESTS:
            yield from _spans(buffer, first, last, here)
        elif here in _ROLES:
            yield _ROLES[here], first, last


def _format(role: str, size: int) -> str:
    form = _NUMBERS.get(role)
    if form is None:
        return f"{size}s"
    if size != _SIZES[form]:
        raise Malformed(f"{role} of a set's element: {size} bytes, {_SIZES[form]} expected")
    return form


def _build(values: Mapping[str, Any]) -> Element:
    data: bytes | Verdict | None = values.get("value")
    if "code" in values:
        data = _verdict(values["code"], values.get("chain"))
    counter = (values["packets"], values["bytes"]) if "packets" in values and "bytes" in values else None
    return Element(
        key=values.get("key", b""),
        data=data,
        key_end=values.get("key_end"),
        counter=counter,
        timeout=values.get("timeout"),
        expires=values.get("expires"),
        flags=values.get("flags", 0),
    )


def _verdict(code: int, chain: bytes | None) -> Verdict:
    try:
        return Verdict(VerdictCode(code), None if chain is None else wire.parse_text(chain))
    except ValueError as error:
        raise Malformed(f"verdict {code} of a set's element is none that we know") from error


_BUILDERS: Final[Mapping[tuple[str, ...], Callable[[Sequence[Any]], Element]]] = {
    ("key",): lambda v: Element(v[0]),
    ("key", "value"): lambda v: Element(v[0], v[1]),
    ("key", "key_end"): lambda v: Element(v[0], None, v[1]),
    ("key", "value", "bytes", "packets"): lambda v: Element(v[0], v[1], None, (v[3], v[2])),
}
"""Roles in their order → how to make the element: the common cases, without the detour over names."""
