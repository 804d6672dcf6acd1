"""Elements of nf_tables sets and maps, and the requests that add, delete and list them.

    NFTA_SET_ELEM_LIST_TABLE, _SET, _ELEMENTS
        └── NFTA_LIST_ELEM, one for each element
              ├── NFTA_SET_ELEM_KEY, _KEY_END  → NFTA_DATA_VALUE
              ├── NFTA_SET_ELEM_DATA           → NFTA_DATA_VALUE, or NFTA_DATA_VERDICT → code, chain
              ├── NFTA_SET_ELEM_FLAGS, _TIMEOUT
              └── NFTA_SET_ELEM_EXPR           → `counter` → bytes, packets

Elements of one set look alike: what stands around key and value is built once for each pair of sizes (`_frame`), so
that 80,000 elements take a tenth of a second. linux/netfilter/nf_tables.h; KEY_END came with Linux 5.6.
"""

from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Final

import msgspec

from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.batch import Kind, Request

CHUNK_BYTES: Final = 60_000
"""Elements of one message: they are the value of one attribute, which is less than 64 KiB long."""

INTERVAL_END: Final = 1
"""Flag of an element that ends an interval, in sets whose keys are not concatenated."""

_TABLE, _SET, _ELEMENTS = 1, 2, 3
_LIST_ELEMENT: Final = 1
_KEY, _DATA, _FLAGS, _TIMEOUT, _EXPRESSION, _KEY_END = 1, 2, 3, 4, 7, 10
_VALUE, _VERDICT = 1, 2
_VERDICT_CODE, _VERDICT_CHAIN = 1, 2
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2
_COUNTER_BYTES, _COUNTER_PACKETS = 1, 2


class VerdictCode(IntEnum):
    """What becomes of the packet (enum nft_verdicts)."""

    DROP = 0
    ACCEPT = 1
    CONTINUE = -1
    BREAK = -2
    JUMP = -3
    GOTO = -4
    RETURN = -5


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """The value of an element of a verdict map."""

    code: VerdictCode
    chain: str | None = None
    """Of JUMP and GOTO."""


def goto(chain: str) -> Verdict:
    """`goto CHAIN`."""
    return Verdict(VerdictCode.GOTO, chain)


class Element(msgspec.Struct, frozen=True, gc=False):
    """One element of a set or map."""

    key: bytes
    """Fields of `keys`, side by side; empty in an element that stands for all other keys."""
    data: bytes | Verdict | None = None
    """The value in a map; None in a set."""
    key_end: bytes | None = None
    """Last key of an interval, in sets of concatenated keys."""
    counter: tuple[int, int] | None = None
    """Packets and bytes."""
    timeout: int | None = None
    """Milliseconds that it lives."""
    expires: int | None = None
    """Milliseconds that it has left; only the kernel says so."""
    flags: int = 0
    """INTERVAL_END."""


class SetName(msgspec.Struct, frozen=True, gc=False):
    """Which set or map."""

    family: int
    """NFPROTO_… of the table."""
    table: str
    name: str

    def attributes(self) -> bytes:
        """Its name in a message about elements."""
        return wire.text(_TABLE, self.table) + wire.text(_SET, self.name)


def add_elements(where: SetName, elements: Iterable[Element], *, exclusive: bool = False) -> list[Request]:
    """Requests that add elements. One that is there is let be, or with `exclusive` refused (EEXIST).

    An element whose value changes is deleted and added again, in the same transaction.
    """
    flags = wire.NLM_F_CREATE | (wire.NLM_F_EXCL if exclusive else 0)
    return list(_requests(Kind.NEWSETELEM, flags, where, elements))


def delete_elements(where: SetName, elements: Iterable[Element]) -> list[Request]:
    """Requests that delete elements; only keys and flags count. One that is not there is refused (ENOENT)."""
    bare = (Element(key=e.key, key_end=e.key_end, flags=e.flags) for e in elements)
    return list(_requests(Kind.DELSETELEM, 0, where, bare))


def flush_elements(where: SetName) -> Request:
    """Request that deletes all elements."""
    return Request(Kind.DELSETELEM, where.family, where.attributes())


def get_elements(where: SetName, elements: Iterable[Element]) -> list[Request]:
    """Requests for some elements as they are; only keys and flags count. One that is not there is refused (ENOENT)."""
    bare = (Element(key=e.key, key_end=e.key_end, flags=e.flags) for e in elements)
    return list(_requests(Kind.GETSETELEM, 0, where, bare))


def list_elements(where: SetName) -> Request:
    """Request that dumps all elements."""
    return Request(Kind.GETSETELEM, where.family, where.attributes(), wire.NLM_F_DUMP)


def _requests(kind: Kind, flags: int, where: SetName, elements: Iterable[Element]) -> Iterator[Request]:
    head = where.attributes()
    chunk: list[bytes] = []
    size = 0
    for encoded in _encode_all(elements):
        if size + len(encoded) > CHUNK_BYTES and chunk:
            yield Request(kind, where.family, head + wire.nested(_ELEMENTS, *chunk), flags)
            chunk, size = [], 0
        chunk.append(encoded)
        size += len(encoded)
    if chunk:  # without elements DELSETELEM would delete them all
        yield Request(kind, where.family, head + wire.nested(_ELEMENTS, *chunk), flags)


def _encode_all(elements: Iterable[Element]) -> Iterator[bytes]:
    frames: dict[tuple[int, int | Verdict | None], tuple[bytes, bytes, bytes]] = {}
    for element in elements:
        key, data = element.key, element.data
        if not key or element.key_end is not None or _adorned(element):
            yield encode_element(element)
            continue
        value, kind = (data, len(data)) if isinstance(data, bytes) else (b"", data)
        form = len(key), kind
        frame = frames.get(form)
        if frame is None:
            frame = frames[form] = _frame(*form)
        before, between, after = frame
        yield before + key + between + value + after


def _adorned(element: Element) -> bool:
    return element.counter is not None or element.timeout is not None or element.flags != 0


def _frame(key_size: int, data: int | Verdict | None) -> tuple[bytes, bytes, bytes]:
    """What stands before, between and after a key and a value of these sizes; verdicts, which are few, belong to it."""
    key_end = 12 + key_size
    if not isinstance(data, int):
        sample = encode_element(Element(b"\0" * key_size, data))
        return sample[:12], b"", sample[key_end:]
    sample = encode_element(Element(b"\0" * key_size, b"\0" * data))
    data_start = 12 + (key_size + 3 & ~3) + 8
    return sample[:12], sample[key_end:data_start], sample[data_start + data :]


def encode_element(element: Element) -> bytes:
    """Build one list element, its parts in the order in which nft sends them."""
    parts: list[bytes] = []
    if element.flags:
        parts.append(wire.u32(_FLAGS, element.flags))
    if element.timeout is not None:
        parts.append(wire.u64(_TIMEOUT, element.timeout))
    if element.key:
        parts.append(wire.nested(_KEY, wire.attribute(_VALUE, element.key)))
    if element.key_end is not None:
        parts.append(wire.nested(_KEY_END, wire.attribute(_VALUE, element.key_end)))
    if element.data is not None:
        parts.append(wire.nested(_DATA, _encode_data(element.data)))
    if element.counter is not None:
        parts.append(_encode_counter(*element.counter))
    return wire.nested(_LIST_ELEMENT, *parts)


def _encode_data(value: bytes | Verdict) -> bytes:
    return _encode_verdict(value) if isinstance(value, Verdict) else wire.attribute(_VALUE, value)


def _encode_verdict(verdict: Verdict) -> bytes:
    code = wire.u32(_VERDICT_CODE, verdict.code & 0xFFFFFFFF)
    chain = b"" if verdict.chain is None else wire.text(_VERDICT_CHAIN, verdict.chain)
    return wire.nested(_VERDICT, code, chain)


def _encode_counter(packets: int, size: int) -> bytes:
    values = wire.nested(_EXPRESSION_DATA, wire.u64(_COUNTER_BYTES, size), wire.u64(_COUNTER_PACKETS, packets))
    return wire.nested(_EXPRESSION, wire.text(_EXPRESSION_NAME, "counter"), values)
