"""Flows as conntrack lists them → packets and bytes of each course in sums that only grow, and how many live. Pure.

Conntrack counts for each flow, and forgets the count with the flow. What is added up is what each flow has grown by
since the last list. The end of a flow is seen, too: TCP stays in the table for two minutes after its end (ten seconds
after an RST), UDP for half a minute after its last packet; lists are as a rule five seconds apart. Lost is what a flow
carried after the last list before it was cut. Remembered are some 130 bytes a flow.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final, TypeAlias

from littlelb.dataplane.netfilter.conntrack.flows import PROTOCOLS, Counters, Flow
from littlelb.dataplane.netfilter.conntrack.usage import Pair

_WIDTH: Final = 64
"""Bits of one of the kernel's counters."""
_MASK: Final = (1 << _WIDTH) - 1
_Number: TypeAlias = tuple[int, int, int, int, int, int]
_NOTHING: Final = Counters(0, 0)


@dataclass(slots=True)
class Sums:
    """All flows of one pair since the start."""

    pair: Pair
    begun: int = 0
    """Flows that were seen for the first time."""
    live: int = 0
    """Of the last list."""
    packets: int = 0
    """Both ways."""
    bytes_in: int = 0
    """From clients."""
    bytes_out: int = 0
    """To clients."""


class Traffic:
    """Takes lists of flows, one after the other."""

    def __init__(self) -> None:
        """Begin at nothing: what flows carried before is counted at the first list."""
        self._sums: dict[_Number, Sums] = {}
        self._last: dict[int, int] = {}
        self._fresh: dict[int, int] = {}

    def begin(self) -> None:
        """A list begins."""
        self._fresh = {}
        for sums in self._sums.values():
            sums.live = 0

    def take(self, flows: Iterable[Flow]) -> None:
        """Take a slice of it."""
        for flow in flows:
            sums = self._find(flow)
            if sums is not None:
                sums.live += flow.live
                self._grow(sums, flow)

    def _find(self, flow: Flow) -> Sums | None:
        original, reply = flow.original, flow.reply
        one, other = original.destination, reply.source
        number = (flow.protocol, one.version, int(one), int(other), original.destination_port, reply.source_port)
        found = self._sums.get(number)
        if found is None and flow.protocol in PROTOCOLS:
            pair = Pair(PROTOCOLS[flow.protocol], one, number[4], other, number[5])
            found = self._sums[number] = Sums(pair)
        return found

    def _grow(self, sums: Sums, flow: Flow) -> None:
        sent, received = flow.sent or _NOTHING, flow.received or _NOTHING
        name = flow.id or hash((flow.protocol, flow.original))
        now = sent.packets + received.packets, sent.octets, received.octets
        packed = now[0] << 2 * _WIDTH | now[1] << _WIDTH | now[2]
        before = self._last.get(name)
        self._last[name] = self._fresh[name] = packed
        if before is None:
            sums.begun += 1
            before = 0
        was = before >> 2 * _WIDTH, before >> _WIDTH & _MASK, before & _MASK
        if any(one < other for one, other in zip(now, was, strict=True)):  # another flow with the id of one that ended
            sums.begun += 1
            was = 0, 0, 0
        sums.packets += now[0] - was[0]
        sums.bytes_in += now[1] - was[1]
        sums.bytes_out += now[2] - was[2]

    def end(self) -> None:
        """The list is complete: forget flows that are gone."""
        self._last = self._fresh

    def sums(self) -> Iterator[Sums]:
        """Return all pairs that ever had a flow, but for those that were forgotten."""
        yield from self._sums.values()

    def forget(self, pairs: Iterable[Pair]) -> None:
        """Nobody asks for them any more."""
        gone = set(pairs)
        self._sums = {number: sums for number, sums in self._sums.items() if sums.pair not in gone}
