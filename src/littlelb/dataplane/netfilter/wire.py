"""Builds and reads netlink messages of the netfilter subsystems: bytes to values and back, nothing else.

A datagram holds messages, a message a header, four bytes `nfgenmsg` and attributes; an attribute may hold attributes.

    nlmsghdr  length u32 · type u16 (subsystem << 8 | kind) · flags u16 · sequence u32 · port u32      host order
    nfgenmsg  family u8 · version u8 · resource u16                                                    network order
    nlattr    length u16 · type u16 (bit 15: nested, bit 14: network order) · value, padded to 4 bytes host order

Values inside nfnetlink attributes are in network order, those inside an acknowledgement in host order. RFC 3549;
linux/netlink.h, linux/netfilter/nfnetlink.h; extended acknowledgements came with Linux 4.12.
"""

import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import msgspec

from littlelb.core.errors import Transient

NETLINK_NETFILTER: Final = 12
"""The protocol of the socket."""

NLMSG_NOOP: Final = 1
NLMSG_ERROR: Final = 2
NLMSG_DONE: Final = 3

NLM_F_REQUEST: Final = 0x1
NLM_F_MULTI: Final = 0x2
NLM_F_ACK: Final = 0x4
NLM_F_DUMP_INTR: Final = 0x10
"""What was dumped changed meanwhile: the answer may lack some and hold others twice."""
NLM_F_REPLACE: Final = 0x100
NLM_F_EXCL: Final = 0x200
NLM_F_DUMP: Final = 0x300
NLM_F_CREATE: Final = 0x400
NLM_F_APPEND: Final = 0x800
_NLM_F_CAPPED: Final = 0x100
_NLM_F_ACK_TLVS: Final = 0x200

AF_UNSPEC: Final = 0
NFPROTO_INET: Final = 1
NFPROTO_IPV4: Final = 2
NFPROTO_IPV6: Final = 10

SUBSYSTEM_CONNTRACK: Final = 1
SUBSYSTEM_NFTABLES: Final = 10

HEADER_BYTES: Final = 20
"""nlmsghdr and nfgenmsg: what stands before the attributes."""
MAX_VALUE_BYTES: Final = 0xFFFF - 4
"""Of one attribute: its length is 16 bit wide and counts its own header."""

_NLMSGHDR = struct.Struct("=IHHII")
_NFGENMSG = struct.Struct("!BBH")
_NLATTR = struct.Struct("=HH")
_NESTED: Final = 0x8000
_KIND_MASK: Final = 0x3FFF
_MSGERR_TEXT, _MSGERR_OFFSET = 1, 2

_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


class Malformed(Transient):
    """What came from the kernel is cut short or contradicts itself; asking again on a new socket may help."""


class Message(msgspec.Struct, frozen=True, gc=False):
    """One netlink message as it came."""

    type: int
    """NLMSG_… or subsystem << 8 | kind."""
    flags: int
    sequence: int
    port: int
    """Port of the socket that it is for; in a notification, of the socket that caused it, 0: the kernel."""
    payload: bytes
    """Everything after nlmsghdr, without padding."""

    @property
    def family(self) -> int:
        """NFPROTO_…; of messages that have an nfgenmsg, that is all but NLMSG_…. Raises Malformed."""
        if len(self.payload) < 4:
            raise Malformed(f"netlink message of type {self.type:#x}: {len(self.payload)} bytes hold no nfgenmsg")
        return self.payload[0]

    def attributes(self) -> dict[int, bytes]:
        """Kind → value, of messages that have an nfgenmsg. Raises Malformed."""
        return parse_attributes(self.payload, 4)


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """What the kernel says about one request."""

    code: int
    """Errno as a positive number; 0: done."""
    sequence: int
    """Of the request."""
    text: str | None = None
    """The kernel's own words, where it has some."""
    offset: int | None = None
    """Of the attribute at fault, in bytes from the start of the request's message."""


def attribute(kind: int, value: bytes) -> bytes:
    """Build one attribute, padded. Raises ValueError above MAX_VALUE_BYTES."""
    return _attribute(kind, value)


def nested(kind: int, *parts: bytes) -> bytes:
    """Build an attribute that holds attributes. Raises ValueError above MAX_VALUE_BYTES."""
    return _attribute(kind | _NESTED, b"".join(parts))


def _attribute(kind: int, value: bytes) -> bytes:
    size = len(value)
    if size > MAX_VALUE_BYTES:
        raise ValueError(f"an attribute holds at most {MAX_VALUE_BYTES} bytes, not {size}")
    return _NLATTR.pack(size + 4, kind) + value + _PADDING[size & 3]


def text(kind: int, value: str) -> bytes:
    """Build an attribute with a name, closed by a zero byte. Raises ValueError for a zero byte within it."""
    if "\0" in value:
        raise ValueError(f"{value!r} cannot be a name: it holds a zero byte")
    return _attribute(kind, value.encode() + b"\0")


def u32(kind: int, value: int) -> bytes:
    """Build an attribute with a number of 32 bits in network order."""
    return _attribute(kind, value.to_bytes(4))


def u64(kind: int, value: int) -> bytes:
    """Build an attribute with a number of 64 bits in network order."""
    return _attribute(kind, value.to_bytes(8))


def header(kind: int, flags: int, sequence: int, family: int, size: int, *, resource: int = 0) -> bytes:
    """Build nlmsghdr and nfgenmsg of a request whose attributes take `size` bytes (the kernel fills in the port)."""
    return _NLMSGHDR.pack(HEADER_BYTES + size, kind, flags, sequence, 0) + _NFGENMSG.pack(family, 0, resource)


def message(kind: int, flags: int, sequence: int, family: int, attributes: bytes = b"", *, resource: int = 0) -> bytes:
    """Build a whole request; `kind` is subsystem << 8 | kind."""
    return header(kind, flags, sequence, family, len(attributes), resource=resource) + attributes


def iterate_messages(datagram: bytes) -> Iterator[Message]:
    """Read the messages of one datagram, in order. Raises Malformed where it is cut short."""
    offset, end = 0, len(datagram)
    while offset < end:
        if end - offset < 16:
            raise Malformed(f"netlink datagram of {end} bytes: {end - offset} bytes at {offset} are no header")
        length, kind, flags, sequence, port = _NLMSGHDR.unpack_from(datagram, offset)
        if not 16 <= length <= end - offset:
            raise Malformed(f"netlink datagram of {end} bytes: the message at {offset} claims {length} bytes")
        yield Message(kind, flags, sequence, port, datagram[offset + 16 : offset + length])
        offset += length + 3 & ~3


def iterate_attributes(buffer: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int, int]]:
    """Walk over attributes side by side: (kind, start of its value, end of its value). Raises Malformed.

    The padding after the last one may be missing.
    """
    limit = len(buffer) if end is None else end
    while start < limit:
        if limit - start < 4:
            raise Malformed(f"netlink attributes: {limit - start} bytes at {start} are no header")
        length, kind = _NLATTR.unpack_from(buffer, start)
        if not 4 <= length <= limit - start:
            raise Malformed(f"netlink attributes: the one at {start} claims {length} of {limit - start} bytes")
        yield kind & _KIND_MASK, start + 4, start + length
        start += length + 3 & ~3


def parse_attributes(buffer: bytes, start: int = 0, end: int | None = None) -> dict[int, bytes]:
    """Kind → value; of a kind that comes twice, the last. Raises Malformed."""
    return {kind: buffer[first:last] for kind, first, last in iterate_attributes(buffer, start, end)}


def parse_text(value: bytes) -> str:
    """Read a name; what is no UTF-8 is escaped, since others choose their names as they like."""
    return value.rstrip(b"\0").decode(errors="backslashreplace")


def parse_number(value: bytes) -> int:
    """Read a number in network order, of whatever width."""
    return int.from_bytes(value)


def parse_acknowledgement(answer: Message) -> Acknowledgement:
    """Read NLMSG_ERROR: errno, the request's header, and what the kernel adds to it. Raises Malformed."""
    payload = answer.payload
    if len(payload) < 20:
        raise Malformed(f"netlink acknowledgement: {len(payload)} bytes, at least 20 expected")
    negative, length, _, _, sequence, _ = struct.unpack_from("=iIHHII", payload)
    if not answer.flags & _NLM_F_ACK_TLVS:
        return Acknowledgement(-negative, sequence)
    start = 20 if answer.flags & _NLM_F_CAPPED else 4 + (length + 3 & ~3)
    found = parse_attributes(payload, start)
    reason, offset = found.get(_MSGERR_TEXT), found.get(_MSGERR_OFFSET)
    return Acknowledgement(
        -negative,
        sequence,
        None if reason is None else parse_text(reason),
        None if offset is None else int.from_bytes(offset, sys.byteorder),
    )


def parse_done(answer: Message) -> int:
    """Read NLMSG_DONE, the end of a dump: errno as a positive number, 0: complete."""
    return -int.from_bytes(answer.payload[:4], sys.byteorder, signed=True)
