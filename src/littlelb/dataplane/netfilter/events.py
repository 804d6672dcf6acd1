"""What the kernel tells of changes to nf_tables: enough to see that somebody who is not us touched a table.

A transaction is told as one notification for each table, chain, rule, set and element that came or went, in this order,
and NEWGEN at the end, which alone names the process. The port in a notification is that of the socket that committed.
A table that ends with its owner's socket is not told at all. Multicast group NFNLGRP_NFTABLES of linux/nfnetlink.h.
"""

import struct
import sys
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.batch import Kind
from littlelb.dataplane.netfilter.wire import Message

GROUP: Final = 7
"""NFNLGRP_NFTABLES."""

_TABLE, _SECOND, _CHAIN_NAME = 1, 2, 3
_GENERATION, _PROCESS, _PROGRAM = 1, 2, 3
_KINDS: Final = frozenset(Kind) - {
    *(Kind.GETTABLE, Kind.GETCHAIN, Kind.GETRULE, Kind.GETSET, Kind.GETSETELEM, Kind.GETGEN)
}
_NAMED_BY_TABLE: Final = frozenset({Kind.NEWTABLE, Kind.DELTABLE})
_CHAINS: Final = frozenset({Kind.NEWCHAIN, Kind.DELCHAIN})


@dataclass(frozen=True, slots=True)
class Change:
    """Something in a table came or went."""

    kind: Kind
    family: int
    """NFPROTO_… of the table."""
    table: str
    name: str | None
    """The chain (of a rule: its chain), or the set or map (also of its elements); None: the table itself."""
    port: int
    """Of the socket that did it; 0: the kernel."""


@dataclass(frozen=True, slots=True)
class Commit:
    """The transaction that the changes before belong to is complete."""

    generation: int
    process: int
    """Its id, as seen from the first process namespace."""
    program: str
    """Name of the process, at most 15 bytes."""
    port: int


@dataclass(frozen=True, slots=True)
class Lost:
    """More happened than the socket could hold: look at everything."""


Event = Change | Commit | Lost


def parse_event(message: Message) -> Change | Commit | None:
    """Read one notification; None: it is of another kind. Raises Malformed."""
    number = message.type - (wire.SUBSYSTEM_NFTABLES << 8)
    if number not in _KINDS:
        return None
    kind, found = Kind(number), message.attributes()
    if kind == Kind.NEWGEN:
        return Commit(
            wire.parse_number(found.get(_GENERATION, b"")),
            wire.parse_number(found.get(_PROCESS, b"")),
            wire.parse_text(found.get(_PROGRAM, b"")),
            message.port,
        )
    place = _CHAIN_NAME if kind in _CHAINS else _SECOND
    name = None if kind in _NAMED_BY_TABLE else wire.parse_text(found.get(place, b""))
    return Change(kind, message.family, wire.parse_text(found.get(_TABLE, b"")), name, message.port)


def render_filter(ports: Collection[int]) -> bytes:
    """Program of a socket filter (classic BPF) that drops what comes from these ports; the rest passes.

    The port is the last word of the first header of a datagram, which holds changes of one transaction only.
    """
    load, equal, give = 0x20, 0x15, 0x06
    swapped = [int.from_bytes(port.to_bytes(4, sys.byteorder)) for port in ports]  # as the filter loads a word
    program = [
        (load, 0, 0, 12),
        *((equal, len(swapped) - place, 0, port) for place, port in enumerate(swapped)),
        (give, 0, 0, 0xFFFFFFFF),
        (give, 0, 0, 0),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
