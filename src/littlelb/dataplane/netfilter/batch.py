"""Requests to nf_tables and the batch that makes one transaction of them: all take effect at once, or none does.

    BATCH_BEGIN [generation] · request · request … (the last asks for an acknowledgement) · BATCH_END

The kernel answers each request that it refuses, by its sequence number, and undoes the whole batch. BATCH_END is
acknowledged by Linux 6.10 and later only, the last request by all. linux/netfilter/nfnetlink.h.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import msgspec

from littlelb.dataplane.netfilter import wire

_BATCH_BEGIN: Final = 0x10
_BATCH_END: Final = 0x11
_BATCH_GENID: Final = 1
_SEQUENCES: Final = 1 << 32


class Kind(IntEnum):
    """What a message of nf_tables does (enum nf_tables_msg_types)."""

    NEWTABLE = 0
    GETTABLE = 1
    DELTABLE = 2
    NEWCHAIN = 3
    GETCHAIN = 4
    DELCHAIN = 5
    NEWRULE = 6
    GETRULE = 7
    DELRULE = 8
    NEWSET = 9
    GETSET = 10
    DELSET = 11
    NEWSETELEM = 12
    GETSETELEM = 13
    DELSETELEM = 14
    NEWGEN = 15
    GETGEN = 16
    NEWOBJ = 18
    DELOBJ = 20
    NEWFLOWTABLE = 22
    DELFLOWTABLE = 24


class Request(msgspec.Struct, frozen=True, gc=False):
    """One message to nf_tables, not yet numbered."""

    kind: Kind
    family: int
    """NFPROTO_…"""
    attributes: bytes
    flags: int = 0
    """NLM_F_…, beside NLM_F_REQUEST."""

    def header(self, sequence: int, more_flags: int = 0) -> bytes:
        """Build what stands before the attributes."""
        kind, flags = wire.SUBSYSTEM_NFTABLES << 8 | self.kind, self.flags | wire.NLM_F_REQUEST | more_flags
        return wire.header(kind, flags, sequence, self.family, len(self.attributes))


@dataclass(frozen=True, slots=True)
class Batch:
    """One transaction as it goes over the socket."""

    datagram: bytes
    sequence: int
    """Of BATCH_BEGIN; the requests have the numbers that follow."""
    count: int
    """Of the requests."""

    @property
    def next_sequence(self) -> int:
        """First number that this batch does not use."""
        return (self.sequence + self.count + 2) % _SEQUENCES

    def index(self, sequence: int) -> int | None:
        """Which request an answer speaks of; None: of the batch as a whole."""
        index = (sequence - self.sequence) % _SEQUENCES - 1
        return index if 0 <= index < self.count else None

    def covers(self, sequence: int) -> bool:
        """Does an answer with this number belong to this batch?"""
        return (sequence - self.sequence) % _SEQUENCES < self.count + 2


def encode_batch(requests: Sequence[Request], sequence: int, generation: int | None = None) -> Batch:
    """Make one transaction; with `generation` the kernel refuses it (ERESTART) when somebody committed since then.

    `requests` is not empty.
    """
    begin = b"" if generation is None else wire.u32(_BATCH_GENID, generation)
    nftables = wire.SUBSYSTEM_NFTABLES
    parts = [wire.message(_BATCH_BEGIN, wire.NLM_F_REQUEST, sequence, 0, begin, resource=nftables)]
    last = len(requests)
    for number, request in enumerate(requests, 1):
        acknowledged = wire.NLM_F_ACK if number == last else 0
        parts.append(request.header((sequence + number) % _SEQUENCES, acknowledged))
        parts.append(request.attributes)
    end = (sequence + last + 1) % _SEQUENCES
    parts.append(wire.message(_BATCH_END, wire.NLM_F_REQUEST, end, 0, resource=nftables))
    return Batch(b"".join(parts), sequence, last)
