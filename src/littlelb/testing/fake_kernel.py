"""A kernel's tables in memory: the double of host.netlink (tests/contract/test_address_table.py holds it to that)."""

import errno
import os
from dataclasses import dataclass, field, replace

from littlelb.core.model import Ip
from littlelb.host.netlink import FOREVER, Address, Link, Route

ETH0, ETH1 = Link(2, "eth0", up=True, mac=b"\x02\x00\x5e\x00\x53\x01"), Link(3, "eth1", up=True, mac=b"")


@dataclass
class FakeKernel:
    """Adds and removes as the kernel does: EEXIST, EADDRNOTAVAIL, ENODEV; `refusals` are raised by address."""

    links: list[Link] = field(default_factory=lambda: [ETH0, ETH1])
    addresses: list[Address] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    refusals: dict[Ip, int] = field(default_factory=dict)
    unreadable: int = 0
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

    async def add(
        self, address: Ip, prefix_length: int, link: Link, valid_seconds: int = FOREVER, *, renew: bool = False
    ) -> None:
        """Add it, marked."""
        self._permit(address)
        if link not in self.links:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
        made = Address(address, prefix_length, link.index, marked=True, deprecated=True, prefix_route=False)
        if renew:
            self.renewed.append((address, valid_seconds))
            return
        if any(_same(entry, made) for entry in self.addresses):
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        self.addresses.append(made)

    async def remove(self, found: Address) -> None:
        """Remove it."""
        self._permit(found.address)
        kept = [entry for entry in self.addresses if not _same(entry, found)]
        if len(kept) == len(self.addresses):
            raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        self.addresses = kept

    def _readable(self) -> None:
        if self.unreadable:
            raise OSError(self.unreadable, os.strerror(self.unreadable))

    def _permit(self, address: Ip) -> None:
        if address in self.refusals:
            code = self.refusals[address]
            raise OSError(code, os.strerror(code))


def _same(one: Address, other: Address) -> bool:
    return replace(one, marked=True, deprecated=True, prefix_route=False) == replace(
        other, marked=True, deprecated=True, prefix_route=False
    )
