"""Counts what the kernel plane carries: lists the slots, lists conntrack, every five seconds or less often.

50,000 flows beside 10,000 Services take 0.66 s of a CPU (bench/conntrack.py). So that counting never takes more than a
twentieth of one, the pause after a look grows with what it took: 5 s up to some 13,000 flows, 13 s with 50,000. Who
shows the counters asks for them every five seconds, so that as a rule they are never older than ten.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from typing import Final, Protocol

import structlog

from littlelb.core.counters import ServiceCounters
from littlelb.core.errors import WorldError
from littlelb.core.model import Frontend
from littlelb.dataplane.netfilter.conntrack.filters import FlowFilter
from littlelb.dataplane.netfilter.conntrack.flows import Flow
from littlelb.dataplane.netfilter.sets import Element, SetName
from littlelb.dataplane.nft.elements.transaction import set_name
from littlelb.dataplane.nft.flows.books import Books
from littlelb.dataplane.nft.flows.courses import OURS
from littlelb.dataplane.nft.flows.drains import Course

_log = structlog.get_logger(__name__)
COUNT_SECONDS: Final = 5.0
SHARE: Final = 0.05
"""Of a CPU, at most."""
_NOTED: Final = 500
"""Slots that are read before they are deleted: 1 ms. Where more go at once, what they got since a look is lost."""
_RANGES: Final = ("range_slots4", "range_slots6")
_SLOTS: Final = ("slots4", "slots6")


class Lists(Protocol):
    """What is asked of `netfilter.socket.NfSocket`."""

    def skim_elements(self, where: SetName) -> Iterator[Collection[Element]]:
        """All elements of a set, in slices; some may be missing where it changes meanwhile. Raises WorldError."""
        ...

    def get_elements(self, where: SetName, elements: Collection[Element]) -> Collection[Element]:
        """Some elements of a set as they are. Raises WorldError."""
        ...


class Listing(Protocol):
    """What is asked of `netfilter.conntrack.socket.ConntrackSocket`."""

    def flows(self, filters: Sequence[FlowFilter]) -> AsyncIterator[list[Flow]]:
        """Flows that any of the filters means, in slices. Raises WorldError."""
        ...


class Counting:
    """The counters of one plane."""

    def __init__(self, lists: Lists, conntrack: Listing, *, octets: bool) -> None:
        """`octets`: conntrack counts packets and bytes."""
        self._lists = lists
        self._conntrack = conntrack
        self._books = Books()
        self._octets = octets
        self._odd: frozenset[Course] = frozenset()
        self._looking = asyncio.Lock()
        self.pause = COUNT_SECONDS
        """Seconds until it is worth to look again."""

    @property
    def counters(self) -> Mapping[Frontend, ServiceCounters]:
        """As of the last look."""
        return self._books.counters

    @property
    def live(self) -> Mapping[Course, int]:
        """Flows of the last look."""
        return self._books.live

    def note(self, leaving: Mapping[str, Collection[Element]]) -> None:
        """Read slots that a transaction is about to delete, with what they count; of very many only what is known."""
        slots = {name: elements for name, elements in leaving.items() if name in {*_RANGES, *_SLOTS}}
        if sum(map(len, slots.values())) > _NOTED:
            return
        for name, elements in slots.items():
            try:
                self._books.connections.note(self._lists.get_elements(set_name(name), elements))
            except WorldError as error:  # the transaction will find it, and say so
                _log.debug("flows.slots_unread", error=str(error))

    async def look(self, is_served: Callable[[Frontend], bool]) -> frozenset[Course]:
        """Count; return courses that no new flow takes, and on which flows were seen twice running. Raises WorldError.

        Once is not enough: a change may have come between the two lists.
        """
        async with self._looking:
            began = time.thread_time()
            await self._list()
            odd, more = await asyncio.to_thread(self._close, is_served)
            self._odd, before = odd, self._odd
            self.pause = max(COUNT_SECONDS, (time.thread_time() - began + more) / SHARE)
            return odd & before

    def _close(self, is_served: Callable[[Frontend], bool]) -> tuple[frozenset[Course], float]:
        """Close the books, and say how many seconds of a CPU that took: it is not the loop's thread."""
        began = time.thread_time()
        return self._books.close(is_served, octets=self._octets), time.thread_time() - began

    async def _list(self) -> None:
        connections, traffic = self._books.connections, self._books.traffic
        connections.begin()
        await self._take(_RANGES, frozenset())
        traffic.begin()
        async for flows in self._conntrack.flows([OURS]):
            traffic.take(flows)
        traffic.end()
        await self._take(_SLOTS, self._books.watched())

    async def _take(self, names: Collection[str], watched: frozenset[bytes]) -> None:
        for name in names:
            for part in self._lists.skim_elements(set_name(name)):
                self._books.connections.take(part, watched)
                await asyncio.sleep(0)
