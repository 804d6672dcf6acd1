"""A conntrack table and our sets, in memory, for what cuts and counts flows."""

import asyncio
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence

from littlelb.core.errors import Transient, WorldError
from littlelb.dataplane.netfilter.conntrack.filters import FlowFilter, Selection
from littlelb.dataplane.netfilter.conntrack.flows import Flow
from littlelb.dataplane.netfilter.conntrack.usage import Pair, Tally
from littlelb.dataplane.netfilter.sets import Element, SetName


class FakeConntrack:
    """Flows that are listed, counted and deleted by the same predicate as the real ones."""

    def __init__(self) -> None:
        self.table: list[Flow] = []
        self.deletions: list[tuple[float, int]] = []
        """When, and by how many filters."""
        self.broken = False
        self.delay = 0.0
        """Seconds that a deletion takes."""

    async def flows(self, filters: Sequence[FlowFilter]) -> AsyncIterator[list[Flow]]:
        self._check()
        selection = Selection(filters)
        yield [flow for flow in self.table if selection.matches(flow)]

    async def delete(self, filters: Sequence[FlowFilter]) -> None:
        self._check()
        await asyncio.sleep(self.delay)
        selection = Selection(filters)
        self.deletions.append((asyncio.get_running_loop().time(), len(filters)))
        self.table = [flow for flow in self.table if not selection.matches(flow)]

    async def count(self, filters: Sequence[FlowFilter]) -> Mapping[Pair, int]:
        self._check()
        tally, selection = Tally(), Selection(filters)
        tally.add(flow for flow in self.table if selection.matches(flow))
        return {pair: usage.live for pair, usage in tally.usage().items() if usage.live}

    def _check(self) -> None:
        if self.broken:
            raise Transient("the kernel is out of memory")


class FakeSets:
    """Maps of slots."""

    def __init__(self) -> None:
        self.slots: dict[str, list[Element]] = {}
        self.asked: list[int] = []
        """How many elements were asked for by themselves."""
        self.error: WorldError | None = None

    def skim_elements(self, where: SetName) -> Iterator[Collection[Element]]:
        if self.error is not None:
            raise self.error
        yield []
        yield self.slots.get(where.name, [])

    def get_elements(self, where: SetName, elements: Collection[Element]) -> Collection[Element]:
        self.asked.append(len(elements))
        if self.error is not None:
            raise self.error
        wanted = {(element.key, element.key_end) for element in elements}
        return [element for element in self.slots.get(where.name, []) if (element.key, element.key_end) in wanted]


class FakeWorld:
    """Both."""

    def __init__(self) -> None:
        self.conntrack, self.sets = FakeConntrack(), FakeSets()
        self.closed = False

    def close(self) -> None:
        self.closed = True
