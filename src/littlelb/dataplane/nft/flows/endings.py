"""Resets flows whose time is up: their elements in `ending4` and `ending6`, and the chains that look at every packet.

The chains are there only while an element is (`ruleset.render_ending`), for what sees every packet costs every packet.
While there are some, what is in the kernel is looked at each time, so that nothing is believed that somebody else, or
an upgrade of the skeleton, has changed.
"""

import asyncio
from collections import defaultdict
from collections.abc import Collection
from typing import Protocol

from littlelb.dataplane.netfilter.sets import Element
from littlelb.dataplane.nft.elements.transaction import Transaction
from littlelb.dataplane.nft.flows.courses import ending_set, parse_ending_key, render_ending_key
from littlelb.dataplane.nft.flows.drains import Course
from littlelb.dataplane.nft.ruleset import ENDING_CHAINS, ENDING_SETS, render_ending


class Table(Protocol):
    """What is asked of `nft.kernel.Kernel`."""

    def elements(self, name: str) -> list[Element]:
        """All elements of a set. Raises WorldError."""
        ...

    def base_chains(self) -> frozenset[str]:
        """Names of the chains that hooks call. Raises WorldError."""
        ...

    async def write(self, transaction: Transaction) -> None:
        """Write all of it or nothing. Raises WorldError."""
        ...

    async def carry_out(self, text: str) -> None:
        """Have nft carry out a text, in one transaction. Raises WorldError."""
        ...


class Endings:
    """The flows that are reset at their next packet."""

    def __init__(self, table: Table, lock: asyncio.Lock) -> None:
        """`lock`: who has it may write to the table."""
        self._table = table
        self._lock = lock
        self._clean = False

    def read(self) -> set[Course]:
        """Return those that are in the kernel. Raises WorldError."""
        keys = [element.key for name in ENDING_SETS for element in self._table.elements(name)]
        return {course for key in keys if (course := parse_ending_key(key)) is not None}

    async def sync(self, wanted: Collection[Course]) -> None:
        """Make it these. Raises WorldError."""
        if self._clean and not wanted:  # the common case, a hundred times a second: nothing is read
            return
        self._clean = False
        async with self._lock:
            await self._sync_elements(wanted)
            missing = ENDING_CHAINS - self._table.base_chains()
            if wanted and missing:
                await self._table.carry_out(render_ending(on=True))
            elif not wanted and missing != ENDING_CHAINS:
                await self._table.carry_out(render_ending(on=False))
        self._clean = not wanted

    async def _sync_elements(self, wanted: Collection[Course]) -> None:
        keys: dict[str, set[bytes]] = defaultdict(set)
        for course in wanted:
            keys[ending_set(course[0])].add(render_ending_key(course))
        delete, add = {}, {}
        for name in ENDING_SETS:
            present = {element.key for element in self._table.elements(name)}
            if gone := present - keys[name]:
                delete[name] = [Element(key) for key in gone]
            if come := keys[name] - present:
                add[name] = [Element(key) for key in come]
        if delete or add:
            await self._table.write(Transaction(delete, add))
