"""One suite for the kernel's addresses and settings of devices, run on the double and on the real kernel."""

import asyncio
import errno
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from typing import Protocol

import pytest

from littlelb.core.model import Ip
from littlelb.host.address import AddressTable
from littlelb.host.forwarding.devconf import Setting
from littlelb.host.forwarding.switch import DeviceTable
from littlelb.host.netlink import Netlink
from littlelb.host.rtnl import Address, Edit, Link, Put, Take
from littlelb.testing.fake_kernel import FakeKernel
from littlelb.testing.lan import Lan, vip
from littlelb.testing.netns import unavailable

ADDRESSES = pytest.mark.parametrize("address", vip(7), ids=["IPv4", "IPv6"])


class Table(AddressTable, DeviceTable, Protocol):
    """Both seams; one thing stands behind them."""


Script = Callable[[Table], Awaitable[None]]
Play = Callable[[Script], None]


def play_double(script: Script) -> None:
    """Run it on the double."""

    async def main() -> None:
        await script(FakeKernel())

    asyncio.run(main())


def play_real(script: Script) -> None:
    """Run it in a network namespace."""
    reason = unavailable()
    if reason is not None:
        pytest.skip(reason)

    async def main() -> None:
        async with Netlink() as netlink:
            await script(netlink)

    with Lan(clients=0, backends=0) as lan:
        lan.balancer.call(lambda: asyncio.run(main()))


@pytest.fixture(params=[play_double, pytest.param(play_real, marks=pytest.mark.lab)], ids=["double", "real"])
def play(request: pytest.FixtureRequest) -> Play:
    """One of the two."""
    chosen: Play = request.param
    return chosen


async def eth0(table: Table) -> Link:
    """Return the link device."""
    return next(link for link in await table.read_links() if link.name == "eth0")


async def marked(table: Table) -> list[Address]:
    """Return what bears our mark."""
    return [entry for entry in await table.read_addresses() if entry.marked]


async def until_local(table: Table, address: Ip) -> None:
    """Wait for the address to be local: the kernel makes the route of an IPv6 address a little later."""
    async with asyncio.timeout(10):
        while not await table.read_is_local(address):
            await asyncio.sleep(0.001)


async def edit(table: Table, *edits: Edit) -> list[str]:
    """Make edits; return the names of their errnos, empty where they were done."""
    return [errno.errorcode[code] if code else "" for code in await table.edit(edits)]


@ADDRESSES
def test_added_address_reads_as_ours(play: Play, address: Ip) -> None:
    """It is marked, deprecated, usable at once, without a prefix route, local; and gone when removed."""

    async def script(table: Table) -> None:
        link = await eth0(table)
        assert not await table.read_is_local(address)
        assert await edit(table, Put(address, address.max_prefixlen, link)) == [""]
        assert await marked(table) == [
            Address(*(address, address.max_prefixlen, link.index), marked=True, deprecated=True, prefix_route=False)
        ]
        await until_local(table, address)
        assert await edit(table, Put(address, address.max_prefixlen, link, 3600, renew=True)) == [""]
        (found,) = await marked(table)
        assert await edit(table, Take(found)) == [""]
        assert await marked(table) == []
        assert not await table.read_is_local(address)

    play(script)


@ADDRESSES
def test_refusals_are_told_one_by_one(play: Play, address: Ip) -> None:
    """EEXIST for a second adding, EADDRNOTAVAIL for a second removal, ENODEV without the device; others are done."""
    other = address + 1

    async def script(table: Table) -> None:
        link = await eth0(table)
        put = Put(address, address.max_prefixlen, link)
        nowhere = Put(address, address.max_prefixlen, Link(999, "gone0", up=True, mac=b""))
        assert await edit(table, put, put, nowhere, Put(other, address.max_prefixlen, link)) == [
            *("", "EEXIST", "ENODEV", "")
        ]
        found = await marked(table)
        assert {entry.address for entry in found} == {address, other}
        assert await edit(table, *map(Take, found), Take(found[0])) == ["", "", "EADDRNOTAVAIL"]
        assert await edit(table) == []

    play(script)


def test_same_address_on_two_devices(play: Play) -> None:
    """Each device may have it; one is removed without the other, and put back in the same go."""
    address = ip_address("203.0.113.7")

    async def script(table: Table) -> None:
        links = {link.name: link for link in await table.read_links()}
        puts = [Put(address, 32, links[name]) for name in ("eth0", "eth1")]
        assert await edit(table, *puts) == ["", ""]
        first, second = await marked(table)
        assert await edit(table, Take(first)) == [""]
        assert await marked(table) == [second]
        assert await table.read_is_local(address)
        assert await edit(table, Take(second), *puts) == ["", "", ""]
        assert len(await marked(table)) == 2

    play(script)


def test_a_thousand_at_once(play: Play) -> None:
    """All of them are done, told of and read back; with a time limit only some, and these are the first."""
    addresses = [ip_address("10.9.0.1") + number for number in range(1000)]

    async def script(table: Table) -> None:
        link = await eth0(table)
        assert await edit(table, *(Put(address, 32, link) for address in addresses)) == [""] * 1000
        found = await marked(table)
        assert [entry.address for entry in found] == addresses
        codes = await table.edit([Take(entry) for entry in found], 1e-9)
        assert codes == [0] * len(codes)
        assert len(codes) > 0
        assert [entry.address for entry in await marked(table)] == addresses[len(codes) :]

    play(script)


def test_settings_of_a_device(play: Play) -> None:
    """One is set without the others; a device that is not there is named by errno, and has no index."""

    async def script(table: Table) -> None:
        index = table.read_index("eth0")
        assert index == (await eth0(table)).index
        assert table.read_index("gone0") is None
        await table.write_settings(index, {Setting.ARP_IGNORE: 2})
        assert await table.read_settings(index) == {Setting.FORWARDING: 0, Setting.ARP_IGNORE: 2}
        await table.write_settings(index, {Setting.FORWARDING: 1, Setting.ARP_IGNORE: 0})
        assert await table.read_settings(index) == {Setting.FORWARDING: 1, Setting.ARP_IGNORE: 0}
        for refused in (table.read_settings(999), table.write_settings(999, {Setting.FORWARDING: 1})):
            with pytest.raises(OSError, match="No such device") as refusal:
                await refused
            assert refusal.value.errno == errno.ENODEV

    play(script)
