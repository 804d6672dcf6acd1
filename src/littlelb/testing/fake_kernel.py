"""A kernel's tables in memory: the double of host.netlink (tests/contract/test_address_table.py holds it to that)."""

import errno
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from littlelb.core.model import Ip
from littlelb.host.forwarding.devconf import Setting
from littlelb.host.rtnl import Address, Edit, Link, Put, Route

ETH0, ETH1 = Link(2, "eth0", up=True, mac=b"\x02\x00\x5e\x00\x53\x01"), Link(3, "eth1", up=True, mac=b"")


@dataclass
class FakeKernel:
    """Puts and takes as the kernel does: EEXIST, EADDRNOTAVAIL, ENODEV; `refusals` are errnos by address."""

    links: list[Link] = field(default_factory=lambda: [ETH0, ETH1])
    addresses: list[Address] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    refusals: dict[Ip, int] = field(default_factory=dict)
    unreadable: int = 0
    in_time: int | None = None
    """How many edits there is time for in one go; None: any number."""
    settings: dict[int, dict[Setting, int]] = field(default_factory=dict)
    unwritable: int = 0
    """The errno with which settings are refused."""
    renewed: list[tuple[Ip, int]] = field(default_factory=list)

    async def read_links(self) -> list[Link]:
        """Return the devices."""
        self._readable()
        return list(self.links)

    async def read_addresses(self) -> list[Address]:
        """Return the addresses."""
        self._readable()
        return list(self.addresses)

    async def read_routes(self) -> list[Route]:
        """Return the routes."""
        self._readable()
        return list(self.routes)

    async def read_is_local(self, address: Ip) -> bool:
        """Is it on any device?"""
        self._readable()
        return any(entry.address == address for entry in self.addresses)

    async def edit(self, edits: Sequence[Edit], seconds: float | None = None) -> list[int]:
        """Put and take; with a time given, only the first `in_time` of them."""
        self._readable()
        done = list(edits) if seconds is None else list(edits)[: self.in_time]
        return [self._put(edit) if isinstance(edit, Put) else self._take(edit.found) for edit in done]

    def read_index(self, device: str) -> int | None:
        """Find a device by its name."""
        return next((link.index for link in self.links if link.name == device), None)

    async def read_settings(self, index: int) -> Mapping[Setting, int]:
        """Return its IPv4 settings, all 0 at first."""
        self._present(index)
        return dict.fromkeys(Setting, 0) | self.settings.get(index, {})

    async def write_settings(self, index: int, values: Mapping[Setting, int]) -> None:
        """Set some of them."""
        self._present(index)
        if self.unwritable:
            raise OSError(self.unwritable, os.strerror(self.unwritable))
        self.settings[index] = {**self.settings.get(index, {}), **values}

    def _present(self, index: int) -> None:
        if all(link.index != index for link in self.links):
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))

    def _put(self, put: Put) -> int:
        if put.address in self.refusals:
            return self.refusals[put.address]
        if put.link not in self.links:
            return errno.ENODEV
        made = Address(put.address, put.prefix_length, put.link.index, marked=True, deprecated=True, prefix_route=False)
        if put.renew:
            self.renewed.append((put.address, put.valid_seconds))
            return 0
        if any(_same(entry, made) for entry in self.addresses):
            return errno.EEXIST
        self.addresses.append(made)
        return 0

    def _take(self, found: Address) -> int:
        if found.address in self.refusals:
            return self.refusals[found.address]
        kept = [entry for entry in self.addresses if not _same(entry, found)]
        if len(kept) == len(self.addresses):
            return errno.EADDRNOTAVAIL
        self.addresses = kept
        return 0

    def _readable(self) -> None:
        if self.unreadable:
            raise OSError(self.unreadable, os.strerror(self.unreadable))


def _same(one: Address, other: Address) -> bool:
    return replace(one, marked=True, deprecated=True, prefix_route=False) == replace(
        other, marked=True, deprecated=True, prefix_route=False
    )
