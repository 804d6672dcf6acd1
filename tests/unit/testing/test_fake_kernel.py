"""The kernel in memory: what only it can do. How it must behave, tests/contract/test_address_table.py says."""

import errno
from ipaddress import IPv4Address

import pytest

from littlelb.host.rtnl import Put
from littlelb.testing.fake_kernel import ETH0, FakeKernel

ADDRESS = IPv4Address("203.0.113.7")


async def test_refusals_on_demand() -> None:
    """A test can make it refuse an address, or every reading."""
    kernel = FakeKernel(refusals={ADDRESS: errno.EPERM})
    assert await kernel.edit([Put(ADDRESS, 32, ETH0)]) == [errno.EPERM]
    assert kernel.addresses == []
    kernel.unreadable = errno.ENOBUFS
    for read in (kernel.read_links, kernel.read_addresses, kernel.read_routes):
        with pytest.raises(OSError, match="buffer"):
            await read()


async def test_renewals_are_remembered() -> None:
    """A renewal changes nothing but the list of renewals."""
    kernel = FakeKernel()
    assert await kernel.edit([Put(ADDRESS, 32, ETH0)]) == [0]
    before = list(kernel.addresses)
    assert await kernel.edit([Put(ADDRESS, 32, ETH0, 30, renew=True)]) == [0]
    assert kernel.renewed == [(ADDRESS, 30)]
    assert kernel.addresses == before
