"""Target ADDRESS: puts the addresses of Services on the link device, and takes away what bears our mark and no more.

    wanted, not there ──► already on the device, unmarked? ──yes──► used, never owned, never removed
                                   │ no
                          held by us before? ──yes──► add (a repair asks nobody)
                                   │ no
                          ask the LAN (600 ms, all at once) ──somebody has it──► Failure naming the MAC address
                                   │ free
                                  add: host prefix, deprecated, no prefix route, marked (host.netlink)

A host prefix, because an address with the subnet's own length can become the primary one when the host's address is
renewed, and take the connected route and the source of the host's traffic with it.
"""

import errno
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Protocol

import structlog

from littlelb.core.errors import Transient
from littlelb.core.interfaces import Phase, Prober
from littlelb.core.model import Ip, Placement
from littlelb.core.plan import Changes, Failure, Severity
from littlelb.core.reasons import Reason
from littlelb.core.state import DesiredState
from littlelb.host.netlink import FOREVER, Address, Link

log = structlog.get_logger(__name__)

ALTERED = Placement(device="", prefix_length=0)
"""How an address of ours reads that somebody changed, or that is on two devices: like nothing that is ever wanted."""

_MANY = 32
"""From here on one dump of all addresses is cheaper than a lookup for each."""
_GONE = frozenset({errno.EADDRNOTAVAIL, errno.ENODEV, errno.ENXIO})


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

    async def add(
        self, address: Ip, prefix_length: int, link: Link, valid_seconds: int = FOREVER, *, renew: bool = False
    ) -> None:
        """Put it on the device, marked."""
        ...

    async def remove(self, found: Address) -> None:
        """Take it off."""
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

    def __init__(self, table: AddressTable, prober: Prober, *, valid_seconds: int = FOREVER) -> None:
        """`valid_seconds`: how long the kernel keeps an address that nobody renews (`renew`); default for ever."""
        self._table = table
        self._prober = prober
        self._valid_seconds = valid_seconds
        self._held: dict[Ip, Placement] = {}
        self._entries: dict[Ip, list[Address]] = {}
        self._used: dict[Ip, Placement] = {}
        self._known: set[Ip] = set()

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
        """Remove, then change and repair, then ask the LAN and add; each address by itself."""
        failures: dict[Ip, Failure] = {}
        for address in changes.remove:
            await self._attempt(address, None, failures)
        wanted = {**changes.change, **changes.add}
        if not wanted:
            return failures
        # A used address that is wanted otherwise (on another device) is looked at anew.
        anew = {address: want for address, want in changes.change.items() if self._used.pop(address, None)}
        try:
            links = {link.name: link for link in await self._table.read_links()}
            strangers = await self._find_strangers({**changes.add, **anew}, links)
            # What is put back does not wait for answers of the LAN.
            for address in [address for address in wanted if address not in strangers]:
                await self._settle(address, wanted.pop(address), links, failures)
            conflicts = await self._ask(strangers)
        except OSError as error:
            return failures | {address: explain(error, address, want.device) for address, want in wanted.items()}
        for address, want in wanted.items():
            if address in conflicts:
                failures[address] = _conflict(address, conflicts[address])
            else:
                await self._settle(address, want, links, failures)
        return failures

    async def renew(self) -> None:
        """Give every address of ours its full lifetime again; raises `Transient` when the kernel says no."""
        try:
            links = {link.name: link for link in await self._table.read_links()}
            for address, placement in self._held.items():
                if placement.device in links:
                    await self._table.add(
                        address, placement.prefix_length, links[placement.device], self._valid_seconds, renew=True
                    )
        except OSError as error:
            raise Transient(f"cannot renew the lifetime of our addresses: {error.strerror}") from error

    async def remove_all(self, *, dry_run: bool = False) -> tuple[Removed, ...]:
        """Remove every address that bears our mark, on any device; `dry_run` only lists them. Raises OSError."""
        names = {link.index: link.name for link in await self._table.read_links()}
        await self._read()
        gone: list[Removed] = []
        for entry in [entry for entries in self._entries.values() for entry in entries]:
            if not dry_run:
                await self._remove(entry)
            gone.append(Removed(entry.address, entry.prefix_length, names.get(entry.index, "?")))
        return tuple(gone)

    async def _read(self) -> None:
        try:
            names = {link.index: link.name for link in await self._table.read_links()}
            found = await self._table.read_addresses()
        except OSError as error:
            raise Transient(f"cannot read this machine's addresses: {error.strerror}") from error
        entries: dict[Ip, list[Address]] = {}
        for entry in found:
            if entry.marked:
                entries.setdefault(entry.address, []).append(entry)
        unmarked = {(entry.address, names.get(entry.index)) for entry in found if not entry.marked}
        self._entries = entries
        self._held = {address: _placement(ours, names) for address, ours in entries.items()}
        self._used = {ip: want for ip, want in self._used.items() if (ip, want.device) in unmarked}
        self._known |= self._held.keys()

    async def _settle(
        self, address: Ip, want: Placement, links: Mapping[str, Link], failures: dict[Ip, Failure]
    ) -> None:
        if want.device not in links:
            failures[address] = _missing(address, want.device)
        elif address not in self._used:
            await self._attempt(address, (want, links[want.device]), failures)

    async def _find_strangers(self, added: Mapping[Ip, Placement], links: Mapping[str, Link]) -> Mapping[Ip, Placement]:
        """Select those that we have never held and this machine has not: others may have them."""
        candidates = {ip: want for ip, want in added.items() if ip not in self._used and want.device in links}
        here = await self._read_local(candidates.keys())
        if here:
            await self._notice_used({address: added[address] for address in here}, links)
        return {ip: want for ip, want in candidates.items() if ip not in here and ip not in self._known}

    async def _ask(self, strangers: Mapping[Ip, Placement]) -> Mapping[Ip, str]:
        by_device: dict[str, set[Ip]] = {}
        for address, want in strangers.items():
            by_device.setdefault(want.device, set()).add(address)
        conflicts: dict[Ip, str] = {}
        for device, addresses in by_device.items():
            conflicts.update(await self._prober.probe(device, frozenset(addresses)))
        return conflicts

    async def _read_local(self, addresses: AbstractSet[Ip]) -> set[Ip]:
        if len(addresses) > _MANY:
            return {*addresses} & {entry.address for entry in await self._table.read_addresses()}
        return {address for address in addresses if await self._table.read_is_local(address)}

    async def _notice_used(self, local: Mapping[Ip, Placement], links: Mapping[str, Link]) -> None:
        for entry in await self._table.read_addresses():
            want = local.get(entry.address)
            if want is not None and not entry.marked and entry.index == links[want.device].index:
                self._used[entry.address] = want
                log.info("address.used", address=str(entry.address), device=want.device)

    async def _attempt(self, address: Ip, goal: tuple[Placement, Link] | None, failures: dict[Ip, Failure]) -> None:
        try:
            if goal is None:
                await self._withdraw(address)
            else:
                await self._place(address, *goal)
        except OSError as error:
            self._held.pop(address, None)
            failures[address] = explain(error, address, goal[0].device if goal else "its device")

    async def _withdraw(self, address: Ip) -> None:
        self._used.pop(address, None)
        self._known.discard(address)
        self._held.pop(address, None)  # before the kernel's own event says so: see `expects`
        for entry in self._entries.get(address, []):
            await self._remove(entry)
        if self._entries.pop(address, None):
            log.info("address.removed", address=str(address))

    async def _place(self, address: Ip, want: Placement, link: Link) -> None:
        self._held[address] = want  # before the kernel's own event says so: see `expects`
        for entry in self._entries.pop(address, []):
            await self._remove(entry)
        try:
            await self._table.add(address, want.prefix_length, link, self._valid_seconds)
        except FileExistsError:  # somebody was faster than our look: theirs
            del self._held[address]
            self._used[address] = want
            log.info("address.used", address=str(address), device=want.device)
            return
        self._entries[address] = [
            Address(address, want.prefix_length, link.index, marked=True, deprecated=True, prefix_route=False)
        ]
        self._known.add(address)
        log.info("address.added", address=str(address), device=want.device, prefix_length=want.prefix_length)

    async def _remove(self, entry: Address) -> None:
        try:
            await self._table.remove(entry)
        except OSError as error:
            if error.errno not in _GONE:
                raise


def _placement(entries: list[Address], names: Mapping[int, str]) -> Placement:
    entry = entries[0]
    if len(entries) > 1 or not entry.deprecated or entry.prefix_route:
        return ALTERED
    return Placement(device=names.get(entry.index, ""), prefix_length=entry.prefix_length)


def _missing(address: Ip, device: str) -> Failure:
    return Failure(Reason.FAILED, f"{address} cannot be held: the link device {device} does not exist; it is awaited")


def _conflict(address: Ip, mac: str) -> Failure:
    return Failure(Reason.ADDRESS_CONFLICT, f"{address} is already in use on the LAN by {mac}")


def explain(error: OSError, address: Ip, device: str) -> Failure:
    """Turn the kernel's refusal into a sentence for the owner of the Service."""
    match error.errno:
        case errno.EPERM:
            text = f"not permitted to change {address} on {device}: grant the capability CAP_NET_ADMIN, or run as root"
            return Failure(Reason.NOT_PERMITTED, text, Severity.PERMANENT)
        case errno.EACCES if address.version == 6:
            text = f"{address} cannot be held: IPv6 is off on {device}; set net.ipv6.conf.{device}.disable_ipv6 to 0"
            return Failure(Reason.FAILED, text, Severity.PERMANENT)
        case errno.ENODEV | errno.ENXIO:
            return _missing(address, device)
        case _:
            return Failure(Reason.FAILED, f"the kernel refused {address} on {device}: {error.strerror}")
