"""Target ADDRESS: puts the addresses of Services on the link device, and takes away what bears our mark and no more.

    wanted, not there ──► already on the device, unmarked? ──yes──► used, never owned, never removed
                                   │ no
                          held by us before? ──yes──► add (a repair asks nobody)
                                   │ no
                          known to be free? ──not yet──► it waits, and the LAN is asked beside the passes (host.inquiry)
                                   │ yes        └─ somebody has it ──► Failure naming the MAC address
                                  add: host prefix, deprecated, no prefix route, marked (host.rtnl)

A host prefix, because an address with the subnet's own length can become the primary one when the host's address is
renewed, and take the connected route and the source of the host's traffic with it. A pass adds as many as a fraction of
a second allows; the others wait for the next pass, so that nothing else waits for them.
"""

import asyncio
import errno
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

import structlog

from littlelb.core.errors import Transient
from littlelb.core.interfaces import Phase, Prober
from littlelb.core.model import Ip, Placement
from littlelb.core.plan import Changes, Failure
from littlelb.core.state import DesiredState
from littlelb.host.inquiry import Inquiry
from littlelb.host.refusals import ABOUT_TO_BE_PUT, being_asked, conflict, explain, missing
from littlelb.host.rtnl import FOREVER, Address, Edit, Link, Put, Take

log = structlog.get_logger(__name__)

ALTERED = Placement(device="", prefix_length=0)
"""How an address of ours reads that somebody changed, or that is on two devices: like nothing that is ever wanted."""

_MANY = 32
"""From here on one dump of all addresses is cheaper than a lookup for each."""
_CHUNK = 256
"""So many addresses are thought about between two turns of the event loop."""
_BUDGET_SECONDS = 0.25
"""What one pass may spend on putting addresses on devices."""
_NAMED = 20
"""From more on the log counts addresses instead of naming each."""
_GONE = frozenset({0, errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENXIO})


class AddressTable(Protocol):
    """What this target needs of `host.netlink.Netlink`. All raise OSError with the kernel's errno."""

    async def read_links(self) -> list[Link]:
        """Return all devices."""
        ...

    async def read_addresses(self) -> list[Address]:
        """Return all addresses of all devices."""
        ...

    async def read_is_local(self, address: Ip) -> bool:
        """Is the address on this machine?"""
        ...

    async def edit(self, edits: Sequence[Edit], seconds: float | None = None) -> list[int]:
        """Put and take, in order; return an errno (0: done) for each that there was time for, at least one."""
        ...


@dataclass(frozen=True, slots=True)
class Removed:
    """One address that `remove_all` took away, or would."""

    address: Ip
    prefix_length: int
    device: str

    def __str__(self) -> str:
        """`203.0.113.7/32 on eth0`."""
        return f"{self.address}/{self.prefix_length} on {self.device}"


class AddressTarget:
    """`core.interfaces.Target[Ip, Placement]` for the addresses of this network namespace."""

    phase = Phase.ADDRESS

    def __init__(
        self,
        table: AddressTable,
        prober: Prober,
        wake: Callable[[frozenset[Ip]], None] = lambda _addresses: None,
        *,
        valid_seconds: int = FOREVER,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """`wake` is called with addresses that waited and are to be tried again.

        `valid_seconds`: how long the kernel keeps an address that nobody renews (`renew`); default for ever.
        """
        self._table, self._wake, self._monotonic = table, wake, monotonic
        self._inquiry = Inquiry(prober, wake, monotonic)
        self._valid_seconds = valid_seconds
        self._held: dict[Ip, Placement] = {}
        self._entries: dict[Ip, list[Address]] = {}
        self._used: dict[Ip, Placement] = {}
        self._known: set[Ip] = set()

    async def run(self) -> None:
        """Ask the LAN what has to be asked, for ever."""
        await self._inquiry.run()

    def wanted(self, state: DesiredState) -> Mapping[Ip, Placement]:
        """Select the placements."""
        return state.placements

    def expects(self, address: Ip) -> bool:
        """Should it be there, as far as we know? A netlink event that says otherwise was not our doing."""
        return address in self._held or address in self._used

    async def observe(self, keys: frozenset[Ip] | None) -> Mapping[Ip, Placement]:
        """Read every address that bears our mark, on any device; with `keys`, answer from what was last applied.

        A used address (somebody else put it on the device) reads as held for as long as it is there.
        """
        if keys is None:
            await self._read()
            return {**self._used, **self._held}
        return {key: value for key in keys if (value := self._held.get(key) or self._used.get(key)) is not None}

    async def apply(self, changes: Changes[Ip, Placement]) -> Mapping[Ip, Failure]:
        """Remove, then change, repair and add; each address by itself. Never waits for the LAN."""
        failures = await self._withdraw(changes.remove)
        wanted = {**changes.change, **changes.add}
        if not wanted:
            return failures
        # A used address that is wanted otherwise (on another device) is looked at anew.
        anew = {address: want for address, want in changes.change.items() if self._used.pop(address, None)}
        try:
            links = {link.name: link for link in await self._table.read_links()}
            failures |= {ip: missing(ip, want.device) for ip, want in wanted.items() if want.device not in links}
            failures |= await self._ask(await self._find_strangers({**changes.add, **anew}, links))
            ready = {ip: want for ip, want in wanted.items() if ip not in failures and ip not in self._used}
            failures |= await self._place(ready, links)
        except OSError as error:
            failed = {address: explain(error, address, want.device) for address, want in wanted.items()}
            return failed | failures
        return failures

    async def renew(self) -> None:
        """Give every address of ours its full lifetime again; raises `Transient` when the kernel says no."""
        try:
            links = {link.name: link for link in await self._table.read_links()}
            held = [(ip, want, links[want.device]) for ip, want in self._held.items() if want.device in links]
            puts = [Put(ip, want.prefix_length, link, self._valid_seconds, renew=True) for ip, want, link in held]
            _raise_first(await self._table.edit(puts))
        except OSError as error:
            raise Transient(f"cannot renew the lifetime of our addresses: {error.strerror}") from error

    async def remove_all(self, *, dry_run: bool = False) -> tuple[Removed, ...]:
        """Remove every address that bears our mark, on any device; `dry_run` only lists them. Raises OSError."""
        names = {link.index: link.name for link in await self._table.read_links()}
        await self._read()
        entries = [entry for entries in self._entries.values() for entry in entries]
        if not dry_run:
            codes = await self._table.edit([Take(entry) for entry in entries])
            _raise_first(code for code in codes if code not in _GONE)
        return tuple(Removed(entry.address, entry.prefix_length, names.get(entry.index, "?")) for entry in entries)

    async def _read(self) -> None:
        try:
            names = {link.index: link.name for link in await self._table.read_links()}
            found = await self._table.read_addresses()
        except OSError as error:
            raise Transient(f"cannot read this machine's addresses: {error.strerror}") from error
        entries: dict[Ip, list[Address]] = {}
        for at, entry in enumerate(found):
            if entry.marked:
                entries.setdefault(entry.address, []).append(entry)
            if at % _CHUNK == 0:
                await asyncio.sleep(0)
        unmarked = {(entry.address, names.get(entry.index)) for entry in found if not entry.marked}
        self._entries = entries
        self._held = {address: _placement(ours, names) for address, ours in entries.items()}
        self._used = {ip: want for ip, want in self._used.items() if (ip, want.device) in unmarked}
        self._known |= self._held.keys()

    async def _find_strangers(self, added: Mapping[Ip, Placement], links: Mapping[str, Link]) -> Mapping[Ip, Placement]:
        """Select those that we have never held and this machine has not: others may have them."""
        candidates = {ip: want for ip, want in added.items() if ip not in self._used and want.device in links}
        # Those that the LAN was asked about were looked for here just before.
        unseen = {ip: want for ip, want in candidates.items() if not self._inquiry.knows(want.device, ip)}
        here = await self._notice_local(unseen, links)
        return {ip: want for ip, want in candidates.items() if ip not in here and ip not in self._known}

    async def _ask(self, strangers: Mapping[Ip, Placement]) -> dict[Ip, Failure]:
        """Find those of which it is not known that they are free, and have them asked for."""
        failures: dict[Ip, Failure] = {}
        for start in range(0, len(strangers), _CHUNK):
            verdicts = self._inquiry.judge(dict(islice(strangers.items(), start, start + _CHUNK)))
            failures |= {address: conflict(address, mac) for address, mac in verdicts.taken.items()}
            failures |= {address: being_asked(address) for address in verdicts.waiting}
            await asyncio.sleep(0)
        self._inquiry.begin()
        return failures

    async def _notice_local(self, candidates: Mapping[Ip, Placement], links: Mapping[str, Link]) -> set[Ip]:
        """Find those that this machine has already; what somebody else put on the wanted device is used."""
        if len(candidates) <= _MANY and not [ip for ip in candidates if await self._table.read_is_local(ip)]:
            return set()
        here: set[Ip] = set()
        used: dict[Ip, Placement] = {}
        for entry in await self._table.read_addresses():
            want = candidates.get(entry.address)
            if want is not None:
                here.add(entry.address)
                if not entry.marked and entry.index == links[want.device].index:
                    used[entry.address] = want
        self._used |= used
        _report("address.used", used)
        return here

    async def _place(self, ready: Mapping[Ip, Placement], links: Mapping[str, Link]) -> dict[Ip, Failure]:
        """Put as many on their devices as there is time for; the others wait for the next pass."""
        deadline = self._monotonic() + _BUDGET_SECONDS
        failures: dict[Ip, Failure] = {}
        late: list[Ip] = []
        for start in range(0, len(ready), _CHUNK):
            chunk = dict(islice(ready.items(), start, start + _CHUNK))
            left = deadline - self._monotonic()
            if left > 0:
                late += await self._place_chunk(chunk, links, left, failures)
            else:
                late += chunk
        if late:
            failures |= dict.fromkeys(late, ABOUT_TO_BE_PUT)
            self._wake(frozenset(late))
        return failures

    async def _place_chunk(
        self, chunk: Mapping[Ip, Placement], links: Mapping[str, Link], seconds: float, failures: dict[Ip, Failure]
    ) -> list[Ip]:
        """Return those for which there was no time."""
        edits: list[Edit] = []
        for address, want in chunk.items():
            edits += [Take(entry) for entry in self._entries.pop(address, ())]
            edits.append(Put(address, want.prefix_length, links[want.device], self._valid_seconds))
        self._held |= chunk  # before the kernel's own events say so: see `expects`
        try:
            codes = await self._table.edit(edits, seconds)
        except OSError:
            self._doubt(chunk)
            raise
        late: list[Ip] = []
        placed: dict[Ip, Placement] = {}
        for at, edit in enumerate(edits):
            match edit:
                case Put(address=address) if at >= len(codes):
                    late.append(address)
                case Put(address=address) if address not in failures:
                    self._enter(edit, codes[at], placed, failures)
                case Take(found=found) if at < len(codes) and codes[at] not in _GONE:
                    failures[found.address] = explain(_error(codes[at]), found.address, chunk[found.address].device)
        self._doubt([*late, *(address for address in chunk if address in failures)])
        self._used |= (used := {ip: want for ip, want in placed.items() if ip not in self._entries})
        _report("address.used", used)
        _report("address.added", {ip: want for ip, want in placed.items() if ip in self._entries})
        return late

    def _enter(self, put: Put, code: int, placed: dict[Ip, Placement], failures: dict[Ip, Failure]) -> None:
        address, index = put.address, put.link.index
        match code:
            case 0:
                placed[address] = self._held[address]
                self._known.add(address)
                self._entries[address] = [
                    Address(address, put.prefix_length, index, marked=True, deprecated=True, prefix_route=False)
                ]
            case errno.EEXIST:  # somebody was faster than our look: theirs
                placed[address] = self._held.pop(address)
            case _:
                failures[address] = explain(_error(code), address, put.link.name)

    async def _withdraw(self, removed: Mapping[Ip, Placement]) -> dict[Ip, Failure]:
        failures: dict[Ip, Failure] = {}
        for start in range(0, len(removed), _CHUNK):
            chunk = list(islice(removed, start, start + _CHUNK))
            self._inquiry.forget((removed[address].device, address) for address in chunk)
            for address in chunk:
                self._used.pop(address, None)
                self._known.discard(address)
            self._doubt(chunk)  # before the kernel's own events say so: see `expects`
            edits = [Take(entry) for address in chunk for entry in self._entries.get(address, ())]
            try:
                codes = await self._table.edit(edits)
            except OSError as error:
                codes = [error.errno or errno.EIO] * len(edits)
            failed = {
                edit.found.address: explain(_error(code), edit.found.address, "its device")
                for edit, code in zip(edits, codes, strict=True)
                if code not in _GONE
            }
            failures |= failed
            gone = {ip: removed[ip] for ip in chunk if ip not in failed and self._entries.pop(ip, [])}
            _report("address.removed", gone)
        return failures

    def _doubt(self, addresses: Iterable[Ip]) -> None:
        """Nothing is believed to be there."""
        for address in addresses:
            self._held.pop(address, None)


def _error(code: int) -> OSError:
    return OSError(code, os.strerror(code))


def _raise_first(codes: Iterable[int]) -> None:
    """Raise OSError for the first edit that was refused."""
    for code in codes:
        if code:
            raise _error(code)


def _report(event: str, addresses: Mapping[Ip, Placement]) -> None:
    """Write a line for each, or one for many."""
    if len(addresses) > _NAMED:
        first = next(iter(addresses))
        log.info(event, count=len(addresses), first=str(first), device=addresses[first].device)
        return
    for address, placement in addresses.items():
        log.info(event, address=str(address), device=placement.device, prefix_length=placement.prefix_length)


def _placement(entries: list[Address], names: Mapping[int, str]) -> Placement:
    entry = entries[0]
    if len(entries) > 1 or not entry.deprecated or entry.prefix_route:
        return ALTERED
    return Placement(device=names.get(entry.index, ""), prefix_length=entry.prefix_length)
