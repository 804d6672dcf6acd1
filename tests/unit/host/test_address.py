"""The ADDRESS target against a kernel in memory: what is asked, added, used, removed, and how refusals read."""

import asyncio
import errno
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from littlelb.core.errors import Transient
from littlelb.core.interfaces import Phase
from littlelb.core.model import Ip, Placement
from littlelb.core.plan import Changes, Failure, Severity, diff
from littlelb.core.reasons import Reason
from littlelb.core.state import DesiredState
from littlelb.host.address import ALTERED, AddressTarget
from littlelb.host.inquiry import VALID_SECONDS
from littlelb.host.rtnl import Address, Edit, Link
from littlelb.testing.fake_kernel import ETH0, ETH1, FakeKernel

if TYPE_CHECKING:
    from collections.abc import Mapping

ONE, TWO, SIX = IPv4Address("203.0.113.7"), IPv4Address("203.0.113.8"), IPv6Address("2001:db8:0:113::7")
POOL: list[Ip] = [ONE, TWO, SIX]


@dataclass
class Lan:
    """A Prober that knows who has what, and remembers what it was asked."""

    taken: dict[Ip, str] = field(default_factory=dict)
    asked: list[frozenset[Ip]] = field(default_factory=list)

    async def probe(self, device: str, addresses: frozenset[Ip]) -> "Mapping[Ip, str]":
        """Answer from `taken`."""
        assert device in {"eth0", "eth1"}
        self.asked.append(addresses)
        return {ip: mac for ip, mac in self.taken.items() if ip in addresses}


def on(device: str, *addresses: Ip) -> dict[Ip, Placement]:
    """Ask for host prefixes on a device."""
    return {ip: Placement(device=device, prefix_length=ip.max_prefixlen) for ip in addresses}


async def one_pass(target: AddressTarget, wanted: "Mapping[Ip, Placement]") -> dict[Ip, str]:
    """Make one pass; return the failures' texts."""
    failures = await target.apply(diff(wanted, await target.observe(None)))
    return {ip: failure.message for ip, failure in failures.items()}


async def make_so(target: AddressTarget, wanted: "Mapping[Ip, Placement]") -> dict[Ip, str]:
    """Make passes until nothing waits any more; return the failures' texts of the last one."""
    asking = asyncio.create_task(target.run())
    try:
        async with asyncio.timeout(5):
            while True:
                failures = await target.apply(diff(wanted, await target.observe(None)))
                if all(failure.severity is not Severity.WAITING for failure in failures.values()):
                    return {ip: failure.message for ip, failure in failures.items()}
                await asyncio.sleep(0)
    finally:
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def test_held_observed_and_removed(kernel: FakeKernel) -> None:
    """What was applied is what the kernel has, belief agrees, and nothing is left when nothing is wanted."""
    lan = Lan()
    target = AddressTarget(kernel, lan)
    assert target.phase is Phase.ADDRESS
    state = DesiredState(placements=on("eth0", ONE, SIX))
    assert target.wanted(state) is state.placements
    assert await make_so(target, state.placements) == {}
    assert lan.asked == [frozenset({ONE, SIX})]
    assert await target.observe(None) == state.placements
    assert await target.observe(frozenset({SIX, TWO})) == on("eth0", SIX)
    assert target.expects(ONE)
    assert await make_so(target, {}) == {}
    assert kernel.addresses == []
    assert not target.expects(ONE)


async def test_conflict_stops_only_the_address_at_fault(kernel: FakeKernel) -> None:
    """All additions are asked for at once; the taken one names the MAC, is tried again, and served once it is free."""
    lan = Lan({ONE: "02:00:5e:00:53:99"})
    now = [1000.0]
    target = AddressTarget(kernel, lan, monotonic=lambda: now[0])
    assert await make_so(target, on("eth0", ONE, TWO)) == {
        ONE: "203.0.113.7 is already in use on the LAN by 02:00:5e:00:53:99"
    }
    failures = await target.apply(Changes(add=on("eth0", ONE)))
    assert failures[ONE].reason == Reason.ADDRESS_CONFLICT
    assert await target.observe(None) == on("eth0", TWO)
    lan.taken.clear()
    now[0] += VALID_SECONDS
    assert await make_so(target, on("eth0", ONE, TWO)) == {}
    assert lan.asked == [frozenset({ONE, TWO}), frozenset({ONE})]


async def test_repair_and_adoption_ask_nobody(kernel: FakeKernel) -> None:
    """What we held, or found with our mark at the start, is put back unasked; after a removal it is asked for again."""
    kernel.addresses = [Address(ONE, 32, 2, marked=True, deprecated=True, prefix_route=False)]
    lan = Lan({ONE: "02:00:5e:00:53:99"})
    target = AddressTarget(kernel, lan)
    assert await make_so(target, on("eth0", ONE)) == {}
    kernel.addresses = []
    assert await make_so(target, on("eth0", ONE)) == {}
    assert lan.asked == []
    await make_so(target, {})
    assert ONE in await make_so(target, on("eth0", ONE))


async def test_no_pass_waits_for_the_lan(kernel: FakeKernel) -> None:
    """What has to be asked for waits, with its reason and without being a failure; what we held is back already."""
    target = AddressTarget(kernel, Lan())
    await make_so(target, on("eth0", ONE))
    kernel.addresses = []
    failures = await target.apply(diff(on("eth0", ONE, TWO), await target.observe(None)))
    assert failures == {TWO: Failure(Reason.PENDING, f"asking the LAN whether {TWO} is free", Severity.WAITING)}
    assert [entry.address for entry in kernel.addresses] == [ONE]
    assert not target.expects(TWO)


async def test_more_than_there_is_time_for_waits_for_the_next_pass(kernel: FakeKernel) -> None:
    """It is tried again at once, by name; meanwhile other things have their turn."""
    kernel.in_time = 10
    woken: list[frozenset[Ip]] = []
    many = on("eth0", *(IPv4Address("203.0.113.0") + n for n in range(1, 26)))
    kernel.addresses = [Address(ip, 32, 2, marked=True, deprecated=True, prefix_route=False) for ip in many]
    target = AddressTarget(kernel, Lan(), woken.append)
    await target.observe(None)
    kernel.addresses = []
    left = [len(await one_pass(target, many)) for _ in range(3)]
    assert left == [15, 5, 0]
    assert [len(addresses) for addresses in woken] == [15, 5]
    assert all(ip in many and ip not in list(many)[:10] for ip in woken[0])


async def test_a_long_list_is_placed_chunk_by_chunk_until_the_time_is_over() -> None:
    """A pass ends within its budget, whatever is left."""
    now = [1000.0]

    class Slow(FakeKernel):
        async def edit(self, edits: Sequence[Edit], seconds: float | None = None) -> list[int]:
            now[0] += 0.1
            return await super().edit(edits, seconds)

    slow = Slow()
    many = on("eth0", *(IPv4Address("10.7.0.0") + n for n in range(1, 1001)))
    slow.addresses = [Address(ip, 32, 2, marked=True, deprecated=True, prefix_route=False) for ip in many]
    target = AddressTarget(slow, Lan(), monotonic=lambda: now[0])
    await target.observe(None)
    slow.addresses = []
    waiting = await one_pass(target, many)
    assert (len(slow.addresses), len(waiting)) == (768, 232)
    assert set(waiting.values()) == {"about to be put on its device, after others"}
    assert await one_pass(target, many) == {}


async def test_foreign_address_is_used(kernel: FakeKernel) -> None:
    """It reads as held as long as it is there, is never removed, and is replaced by ours when it goes."""
    theirs = Address(ONE, 24, 2, marked=False)
    kernel.addresses = [theirs]
    lan = Lan()
    target = AddressTarget(kernel, lan)
    assert await make_so(target, on("eth0", ONE)) == {}
    assert await target.observe(None) == on("eth0", ONE)
    assert target.expects(ONE)
    assert await make_so(target, {}) == {}
    assert kernel.addresses == [theirs]
    await make_so(target, on("eth0", ONE))
    kernel.addresses = []
    assert await make_so(target, on("eth0", ONE)) == {}
    assert kernel.addresses[0].marked


async def test_same_host_prefix_of_somebody_else() -> None:
    """An address that turns up between our look and our adding is theirs (EEXIST), not ours."""

    class Hasty(FakeKernel):
        async def read_is_local(self, address: Ip) -> bool:  # noqa: ARG002  (it looks too early)
            return False

    theirs = Address(ONE, 32, 2, marked=False)
    hasty = Hasty(addresses=[theirs])
    target = AddressTarget(hasty, Lan())
    assert await make_so(target, on("eth0", ONE)) == {}
    assert await target.observe(frozenset({ONE})) == on("eth0", ONE)
    assert await make_so(target, {}) == {}
    assert hasty.addresses == [theirs]


async def test_changed_device_and_altered_flags(kernel: FakeKernel) -> None:
    """Addresses on a former device, on two devices, or without our flags read as altered and end up right."""
    ours = Address(ONE, 32, 3, marked=True, deprecated=True, prefix_route=False)
    kernel.addresses = [ours, replace(ours, address=TWO), replace(ours, address=TWO, index=2)]
    kernel.addresses += [Address(SIX, 128, 2, marked=True, deprecated=False, prefix_route=False)]
    target = AddressTarget(kernel, Lan())
    assert await target.observe(None) == on("eth1", ONE) | {TWO: ALTERED, SIX: ALTERED}
    assert await make_so(target, on("eth0", ONE, TWO, SIX)) == {}
    assert await target.observe(None) == on("eth0", ONE, TWO, SIX)
    assert len(kernel.addresses) == 3


async def test_many_are_looked_up_by_one_dump(kernel: FakeKernel) -> None:
    """From a certain number on the table is read once instead of once for each."""
    many = on("eth0", *(IPv4Address("203.0.113.0") + n for n in range(1, 100)))
    kernel.addresses = [Address(ONE, 24, 2, marked=False)]
    lan = Lan()
    assert await make_so(AddressTarget(kernel, lan), many) == {}
    assert lan.asked == [frozenset(many) - {ONE}]


async def test_the_table_is_read_once_for_a_question() -> None:
    """Not again when the answers have come, nor for what a pass had no time for: that is seconds ago at most."""
    looks = 0

    class Counting(FakeKernel):
        async def read_addresses(self) -> list[Address]:
            nonlocal looks
            looks += 1
            return await super().read_addresses()

    counting = Counting(in_time=40)
    target = AddressTarget(counting, Lan())
    many = on("eth0", *(IPv4Address("203.0.113.0") + n for n in range(1, 100)))
    asking = asyncio.create_task(target.run())
    left = many
    async with asyncio.timeout(5):
        while left:
            failures = await target.apply(Changes(add=left))
            left = {ip: many[ip] for ip in failures}
            await asyncio.sleep(0)
    asking.cancel()
    assert (looks, len(counting.addresses)) == (1, 99)


async def test_removing_the_gone_is_success_and_refusals_are_kept_apart(kernel: FakeKernel) -> None:
    """A missing address counts as removed; a refused one fails by itself."""
    target = AddressTarget(kernel, Lan())
    await make_so(target, on("eth0", ONE, TWO, SIX))
    kernel.addresses = [entry for entry in kernel.addresses if entry.address != ONE]
    kernel.refusals[SIX] = errno.EPERM
    failures = await target.apply(Changes(remove=on("eth0", ONE, TWO, SIX)))
    assert set(failures) == {SIX}
    assert failures[SIX].reason == Reason.NOT_PERMITTED
    assert failures[SIX].severity is Severity.PERMANENT
    assert "CAP_NET_ADMIN" in failures[SIX].message
    assert [entry.address for entry in kernel.addresses] == [SIX]


async def test_missing_device(kernel: FakeKernel) -> None:
    """Nothing is asked or added on a device that does not exist; addresses on another one go on."""
    lan = Lan()
    failures = await make_so(AddressTarget(kernel, lan), on("eth9", ONE) | on("eth0", TWO))
    assert failures == {ONE: "203.0.113.7 cannot be held: the link device eth9 does not exist; it is awaited"}
    assert lan.asked == [frozenset({TWO})]


async def test_unreadable_kernel(kernel: FakeKernel) -> None:
    """Observing raises Transient; applying fails each address; renewing raises Transient."""
    target = AddressTarget(kernel, Lan())
    kernel.unreadable = errno.ENOBUFS
    with pytest.raises(Transient, match="cannot read"):
        await target.observe(None)
    with pytest.raises(Transient, match="cannot renew"):
        await target.renew()
    failures = await target.apply(Changes(add=on("eth0", ONE)))
    assert failures[ONE].severity is Severity.TRANSIENT


async def test_lifetime_is_renewed(kernel: FakeKernel) -> None:
    """With a finite lifetime every address of ours gets it again; those on a missing device are left out."""
    target = AddressTarget(kernel, Lan(), valid_seconds=30)
    await make_so(target, on("eth0", ONE) | on("eth1", TWO))
    kernel.links.remove(ETH1)
    await target.renew()
    assert kernel.renewed == [(ONE, 30)]


async def test_clean_up_lists_and_removes_only_ours(kernel: FakeKernel) -> None:
    """`remove_all` takes every marked address on any device; the dry run takes none."""
    theirs = Address(TWO, 24, 2, marked=False)
    kernel.addresses = [theirs, Address(ONE, 32, 3, marked=True), Address(SIX, 128, 9, marked=True)]
    target = AddressTarget(kernel, Lan())
    listed = await target.remove_all(dry_run=True)
    assert [str(entry) for entry in listed] == ["203.0.113.7/32 on eth1", "2001:db8:0:113::7/128 on ?"]
    assert len(kernel.addresses) == 3
    assert await target.remove_all() == listed
    assert kernel.addresses == [theirs]


entries = st.builds(
    Address,
    st.sampled_from(POOL),
    st.just(32),
    st.sampled_from([2, 3]),
    marked=st.booleans(),
    deprecated=st.booleans(),
    prefix_route=st.booleans(),
)
placements = st.dictionaries(
    st.sampled_from(POOL), st.sampled_from([Placement(device=name, prefix_length=32) for name in ("eth0", "eth1")])
)


@given(st.lists(entries, max_size=4, unique_by=lambda entry: (entry.address, entry.index)), placements, placements)
async def test_any_world_becomes_the_wanted_one(
    start: list[Address], first: dict[Ip, Placement], second: dict[Ip, Placement]
) -> None:
    """From any start, after one pass the next diff is empty; unmarked addresses stay untouched, ours do not stay."""
    kernel = FakeKernel(addresses=start)
    target = AddressTarget(kernel, Lan())
    for wanted in (first, second, {}):
        assert await make_so(target, wanted) == {}
        assert not diff(wanted, await target.observe(None))
        assert not diff(wanted, await target.observe(frozenset(POOL)))
    assert kernel.addresses == [entry for entry in start if not entry.marked]


def test_links_are_values() -> None:
    """A device is known by all of its traits: one that was made again is another one."""
    assert replace(ETH0, index=7) != ETH0
    assert Link(2, "eth0", up=True, mac=ETH0.mac) == ETH0
