"""What is written to reset flows, and that nothing is written where all is as it should be; against a double."""

import asyncio
from collections.abc import Iterable

import pytest

from littlelb.dataplane.netfilter.sets import Element
from littlelb.dataplane.nft.elements.transaction import Transaction
from littlelb.dataplane.nft.flows.courses import render_ending_key
from littlelb.dataplane.nft.flows.drains import Course
from littlelb.dataplane.nft.flows.endings import Endings
from littlelb.dataplane.nft.ruleset import ENDING_CHAINS, render_ending
from tests.unit.dataplane.nft.rules import WEB, WEB6, backends

ONE: Course = (WEB, (backends(1)[0].address, 8080))
TWO: Course = (WEB, (backends(2)[0].address, 8080))
SIX: Course = (WEB6, (backends(1, version=6)[0].address, 8080))


class Table:
    """Two sets and some chains; tells what was done to it."""

    def __init__(self, courses: Iterable[Course] = (), chains: Iterable[str] = ()) -> None:
        self.sets: dict[str, set[bytes]] = {"ending4": set(), "ending6": set()}
        for course in courses:
            self.sets[f"ending{course[0].address.version}"].add(render_ending_key(course))
        self.chains = frozenset(chains)
        self.reads = self.writes = 0
        self.texts: list[str] = []

    def elements(self, name: str) -> list[Element]:
        self.reads += 1
        return [Element(key) for key in self.sets[name]]

    def base_chains(self) -> frozenset[str]:
        return self.chains | {"prerouting"}

    async def write(self, transaction: Transaction) -> None:
        self.writes += 1
        for name, elements in transaction.delete.items():
            self.sets[name] -= {element.key for element in elements}
        for name, elements in transaction.add.items():
            self.sets[name] |= {element.key for element in elements}

    async def carry_out(self, text: str) -> None:
        self.texts.append(text)
        self.chains = ENDING_CHAINS if text == render_ending(on=True) else frozenset()


@pytest.fixture
def lock() -> asyncio.Lock:
    """The plane's."""
    return asyncio.Lock()


async def test_chains_are_there_while_something_ends(lock: asyncio.Lock) -> None:
    """They come with the first, stay, and go with the last; elements of both families in one transaction."""
    table = Table()
    endings = Endings(table, lock)
    await endings.sync([ONE, SIX])
    assert (endings.read(), table.chains, table.writes) == ({ONE, SIX}, ENDING_CHAINS, 1)
    await endings.sync([TWO, SIX])
    assert (endings.read(), len(table.texts), table.writes) == ({TWO, SIX}, 1, 2)
    await endings.sync([])
    assert (endings.read(), table.chains, len(table.texts)) == (set(), frozenset(), 2)


async def test_where_nothing_differs_nothing_is_written(lock: asyncio.Lock) -> None:
    """Neither where all is there, nor where nothing is to be there."""
    for table, wanted in ((Table(), []), (Table([ONE], ENDING_CHAINS), [ONE])):
        await Endings(table, lock).sync(wanted)
        assert (table.writes, table.texts) == (0, [])


async def test_where_nothing_ends_nothing_is_read(lock: asyncio.Lock) -> None:
    """Once it is known that nothing is there; every change of every Service comes by here."""
    table = Table([ONE], ENDING_CHAINS)
    endings = Endings(table, lock)
    for _ in range(3):
        await endings.sync([])
    assert (table.reads, table.chains, endings.read()) == (2, frozenset(), set())
    await endings.sync([ONE])
    assert endings.read() == {ONE}


async def test_what_others_took_away_comes_back(lock: asyncio.Lock) -> None:
    """A chain that is missing, and an element."""
    table = Table([ONE], {"ending-forward"})
    await Endings(table, lock).sync([ONE, TWO])
    assert (table.chains, table.writes) == (ENDING_CHAINS, 1)


async def test_nobody_else_writes_meanwhile(lock: asyncio.Lock) -> None:
    """The lock is that of the passes."""
    table = Table()
    async with lock:
        task = asyncio.create_task(Endings(table, lock).sync([ONE]))
        await asyncio.sleep(0)
        assert table.writes == 0
    await task
    assert table.writes == 1
