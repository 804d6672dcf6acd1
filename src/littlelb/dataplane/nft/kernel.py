"""Our table in the kernel: loads the skeleton, reads and writes elements, takes the table away. Decides nothing.

Elements go over netlink within the loop: a small transaction takes 0.1 ms, less than the way to a thread. Large ones,
and nft(8), run in a thread.
"""

import asyncio
import errno
import re
import socket
import struct
from collections.abc import Collection, Mapping, Sequence
from typing import Final

import structlog

from littlelb.core.errors import WorldError
from littlelb.core.model import Frontend
from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.batch import Kind, Request
from littlelb.dataplane.netfilter.chains import Table
from littlelb.dataplane.netfilter.errors import KernelRefusal
from littlelb.dataplane.netfilter.keys import parse_number
from littlelb.dataplane.netfilter.sets import Element, Verdict, delete_elements
from littlelb.dataplane.netfilter.socket import NfSocket
from littlelb.dataplane.nft.elements.affinity import Purge, select_stale
from littlelb.dataplane.nft.elements.census import Census
from littlelb.dataplane.nft.elements.text import render_transaction
from littlelb.dataplane.nft.elements.transaction import Transaction, encode_requests, set_name
from littlelb.dataplane.nft.ruleset import (
    DEFAULT_AFFINITY_SECONDS,
    ENDING_SETS,
    LAYOUT,
    TABLE,
    address_sets,
    count_rules,
    frontend_sets,
    is_extra_chain,
    render_affinity,
    render_ending,
    render_skeleton,
)
from littlelb.dataplane.nft.runner import run_nft
from littlelb.dataplane.nft.watch import Watch

_log = structlog.get_logger(__name__)
_LARGE: Final = 2000
"""Elements from which on a transaction is written in a thread."""
_NAME_BYTES: Final = 16
"""Of a device's name in a set (IFNAMSIZ)."""
_RULES: Final = count_rules()
_TIMEOUT: Final = re.compile(r"remember-(\d{1,6})")


class Kernel:
    """One table, in the network namespace of the thread that opens it."""

    def __init__(self, opened: NfSocket, watch: Watch | None = None) -> None:
        """Do nothing yet; `watch` is told to look away while nft works for us."""
        self._socket = opened
        self._watch = watch
        self._timeouts: set[int] = set()

    def close(self) -> None:
        """Leave everything as it is."""
        self._socket.close()

    def elements(self, name: str) -> list[Element]:
        """All elements of a set; of one that is not there none. Raises WorldError."""
        try:
            return [element for part in self._socket.dump_elements(set_name(name)) for element in part]
        except KernelRefusal as error:
            if error.code == errno.ENOENT:
                return []
            raise

    def base_chains(self) -> frozenset[str]:
        """Names of those of our chains that hooks call. Raises WorldError."""
        return frozenset(c.name for c in self._socket.chains(wire.NFPROTO_INET) if c.table == TABLE)

    def is_intact(self) -> bool:
        """Is our skeleton loaded, awake, and are all its rules there? Raises KernelRefusal."""
        if [parse_number(element.key) for element in self.elements("layout")] != [LAYOUT]:
            return False
        if Table(wire.NFPROTO_INET, TABLE) not in self._socket.tables(wire.NFPROTO_INET):  # without flags: dormant
            return False
        if any(c.table == TABLE and c.policy != "accept" for c in self._socket.chains(wire.NFPROTO_INET)):
            return False
        chains = self._socket.rules(wire.NFPROTO_INET, TABLE)
        return sum(not is_extra_chain(chain) for chain in chains) == _RULES

    async def load(self) -> None:
        """Load the skeleton, or replace what there is of it: one transaction; elements stay. Raises WorldError."""
        carried = await self._carry()
        try:
            await self.carry_out(render_skeleton() + carried)
        except WorldError as error:
            if not carried:
                raise
            _log.warning("nft.elements_lost", error=str(error))
            self._timeouts = set()
            await self.carry_out(render_skeleton())
        self._timeouts.add(DEFAULT_AFFINITY_SECONDS)
        _log.info("nft.skeleton_loaded", layout=LAYOUT, carried=carried.count("\n"))

    async def _carry(self) -> str:
        """Return all elements as text, and the chains that they lead to."""
        present: dict[str, list[Element]] = {}
        for name in (*frontend_sets(), *address_sets(), "affinity4", *ENDING_SETS):
            elements = self.elements(name)
            if elements:
                present[name] = elements
            await asyncio.sleep(0)
        chains = {_chain(element) for elements in present.values() for element in elements}
        ours = (_TIMEOUT.fullmatch(chain) for chain in chains)
        self._timeouts = {int(found[1]) for found in ours if found is not None}
        ending = render_ending(on=True) if present.keys() & set(ENDING_SETS) else ""
        return render_affinity(self._timeouts) + ending + render_transaction(Transaction({}, present))

    async def ensure_timeouts(self, seconds: Collection[int]) -> None:
        """Make the chains for these timeouts of affinity. Raises WorldError."""
        missing = set(seconds) - self._timeouts
        if missing:
            await self.carry_out(render_affinity(missing))
            self._timeouts |= missing

    async def carry_out(self, text: str) -> None:
        """Have nft carry out a text, in one transaction. Raises WorldError."""
        if self._watch is None:
            await asyncio.to_thread(run_nft, text)
            return
        self._watch.pause()
        own = 0
        try:
            own = await asyncio.to_thread(run_nft, text)
        finally:
            self._watch.resume(own)

    async def read(self, asked: Collection[Frontend] = ()) -> Census:
        """List all elements that belong to frontends and addresses; the loop breathes. Raises WorldError."""
        census = Census(asked)
        for name in frontend_sets():
            for part in self._socket.dump_elements(set_name(name)):
                census.take(name, part)
                await asyncio.sleep(0)
        for name in address_sets():
            for part in self._socket.dump_elements(set_name(name)):
                census.take_addresses(name, part)
                await asyncio.sleep(0)
        return census

    async def write(self, transaction: Transaction) -> None:
        """Write all of it or nothing. Raises WorldError."""
        if transaction.size < _LARGE:
            self._socket.commit(encode_requests(transaction))
        else:
            await asyncio.to_thread(lambda: self._socket.commit(encode_requests(transaction)))

    async def name_links(self, device: str) -> None:
        """Tell the table which device is the link, and which devices there are. Raises WorldError."""
        pairs = [struct.pack("=II", index, index) for index, _ in socket.if_nameindex()]
        wanted = {"link": {device.encode().ljust(_NAME_BYTES, b"\0")}, "same_link": set(pairs)}
        delete, add = {}, {}
        for name, keys in wanted.items():
            present = {element.key for element in self.elements(name)}
            delete[name] = [Element(key) for key in present - keys]
            add[name] = [Element(key) for key in keys - present]
        await self.write(Transaction(_filled(delete), _filled(add)))

    async def forget_clients(self, purges: Sequence[Purge]) -> None:
        """Delete remembered clients; those that end by themselves meanwhile do not matter. Raises WorldError."""
        where = set_name("affinity4")
        stale: list[Element] = []
        for part in self._socket.dump_elements(where):
            stale += select_stale(part, purges)
            await asyncio.sleep(0)
        if not self._is_done(delete_elements(where, stale)):
            for element in stale:
                self._is_done(delete_elements(where, [element]))

    def _is_done(self, requests: Sequence[Request]) -> bool:
        """Commit; False: something of it is no longer there. Raises WorldError."""
        try:
            self._socket.commit(requests)
        except KernelRefusal as error:
            if error.code != errno.ENOENT:
                raise
            return False
        return True

    def remove(self, *, dry_run: bool = False) -> bool:
        """Delete the table and all that is in it; False: there was none. Raises WorldError."""
        if not any(table.name == TABLE for table in self._socket.tables(wire.NFPROTO_INET)):
            return False
        if not dry_run:
            self._socket.commit([Request(Kind.DELTABLE, wire.NFPROTO_INET, wire.text(1, TABLE))])
        return True


def _chain(element: Element) -> str:
    """Where a verdict leads to, if it is one that leads anywhere."""
    return (element.data.chain or "") if isinstance(element.data, Verdict) else ""


def _filled(elements: Mapping[str, list[Element]]) -> dict[str, list[Element]]:
    return {name: some for name, some in elements.items() if some}
