"""Addresses on a real link device: marks, conflicts, addresses of others, and the host's own address renewed."""

import asyncio
import errno
import json
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from ipaddress import ip_address
from typing import Any

import pytest
from pyroute2 import AsyncIPRoute

from littlelb.announce.packets import ETHERTYPE_ARP, ETHERTYPE_IPV6, parse_arp, parse_frame, parse_neighbour
from littlelb.announce.probe import LanProber
from littlelb.core.model import Ip, Placement
from littlelb.core.plan import Changes, Failure, Severity, diff
from littlelb.core.reasons import Reason
from littlelb.host.address import AddressTarget
from littlelb.host.netlink import Netlink
from littlelb.host.rtnl import PROTOCOL
from littlelb.host.sysctl import find_obstacles
from littlelb.testing.lan import Lan, lan_address, vip
from littlelb.testing.netns import Namespace

pytestmark = pytest.mark.lab

BOTH = pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])


def host_prefix(*addresses: Ip) -> dict[Ip, Placement]:
    """Ask for the addresses as host prefixes on eth0."""
    return {address: Placement(device="eth0", prefix_length=address.max_prefixlen) for address in addresses}


def with_target(
    box: Namespace, script: Callable[[AddressTarget], Awaitable[None]], *, mark_by_protocol: bool | None = None
) -> None:
    """Run a script with the real target inside of a namespace, as a daemon there would."""

    async def main() -> None:
        async with Netlink(mark_by_protocol=mark_by_protocol) as netlink:
            target = AddressTarget(netlink, LanProber())
            asking = asyncio.create_task(target.run())
            await script(target)
            asking.cancel()

    box.call(lambda: asyncio.run(main()))


async def repair(target: AddressTarget, wanted: Mapping[Ip, Placement]) -> Mapping[Ip, Failure]:
    """Make passes (read the world, compare, apply) until nothing waits for the answers of the LAN any more."""
    async with asyncio.timeout(30):
        while True:
            failures = await target.apply(diff(wanted, await target.observe(None)))
            if all(failure.severity is not Severity.WAITING for failure in failures.values()):
                return failures
            await asyncio.sleep(0.01)


def shown(box: Namespace, address: Ip) -> list[dict[str, Any]]:
    """Return what `ip -json addr` says of the address: one entry for each device that has it."""
    devices = json.loads(box.ip("-json", "addr", "show"))
    return [
        {**entry, "device": device["ifname"]}
        for device in devices
        for entry in device["addr_info"]
        if entry.get("local") == str(address)
    ]


def source_towards(box: Namespace, destination: Ip) -> str:
    """Return the source address that the kernel picks for the host's own traffic."""
    found = json.loads(box.ip("-json", "route", "get", str(destination)))
    return str(found[0]["prefsrc"])


@BOTH
@pytest.mark.parametrize("mark_by_protocol", [True, False], ids=["protocol", "metric"])
def test_address_is_held_and_removed(lan: Lan, family: int, mark_by_protocol: bool) -> None:
    """A held address is a deprecated host prefix without a prefix route; a second pass finds nothing to do."""
    wanted = host_prefix(vip(7)[family])
    (address,) = wanted

    async def script(target: AddressTarget) -> None:
        assert await repair(target, wanted) == {}
        (entry,) = shown(lan.balancer, address)
        assert entry["device"] == "eth0"
        assert entry["prefixlen"] == address.max_prefixlen
        assert entry["noprefixroute"]
        assert entry["deprecated"]
        assert entry["valid_life_time"] == 2**32 - 1
        if family == 0:
            assert entry["label"] == "eth0:lb"
        assert not diff(wanted, await target.observe(None))
        await target.renew()
        assert not diff(wanted, await target.observe(None))
        assert await repair(target, {}) == {}
        assert shown(lan.balancer, address) == []

    with_target(lan.balancer, script, mark_by_protocol=mark_by_protocol)


@BOTH
def test_next_daemon_adopts_and_cleans_up(lan: Lan, family: int) -> None:
    """Marks are read from the kernel: a new process sees what the last one left, on another device too."""
    address, other = vip(7)[family], vip(8)[family]

    async def first(target: AddressTarget) -> None:
        await repair(target, host_prefix(address, other))

    async def second(target: AddressTarget) -> None:
        moved = {address: Placement(device="eth1", prefix_length=address.max_prefixlen)}
        assert set(await target.observe(None)) == {address, other}
        assert await repair(target, moved) == {}
        assert [entry["device"] for entry in shown(lan.balancer, address)] == ["eth1"]
        assert shown(lan.balancer, other) == []
        listed = await target.remove_all(dry_run=True)
        assert [str(entry) for entry in listed] == [f"{address}/{address.max_prefixlen} on eth1"]
        assert await target.remove_all() == listed
        assert shown(lan.balancer, address) == []

    with_target(lan.balancer, first)
    with_target(lan.balancer, second)
    assert shown(lan.balancer, lan_address(2)[family])


@BOTH
def test_foreign_address_is_used_and_never_removed(lan: Lan, family: int) -> None:
    """An address that an administrator put there stays as it is, whatever is wanted of it, and after clean-up."""
    address = vip(7)[family]
    length = (24, 64)[family]
    lan.balancer.ip("addr", "add", f"{address}/{length}", "dev", "eth0")

    async def script(target: AddressTarget) -> None:
        assert await repair(target, host_prefix(address)) == {}
        assert not diff(host_prefix(address), await target.observe(None))
        assert await repair(target, {}) == {}
        assert await target.remove_all() == ()
        (entry,) = shown(lan.balancer, address)
        assert entry["prefixlen"] == length
        assert "deprecated" not in entry

    with_target(lan.balancer, script)


@BOTH
def test_conflict_names_the_other_machine(lan: Lan, family: int) -> None:
    """An address that another machine has is refused with its MAC; others go on; nobody's cache is touched."""
    taken, free = vip(7)[family], vip(8)[family]
    other = lan.add_client()
    other.ip("addr", "add", f"{taken}/{taken.max_prefixlen}", "dev", "eth0", *(["nodad"] if family else []))
    watcher = lan.client.call(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
    claims: list[Ip] = []

    async def script(target: AddressTarget) -> None:
        async with asyncio.timeout(5):
            failures = await repair(target, host_prefix(taken, free))
        assert failures == {
            taken: Failure(Reason.ADDRESS_CONFLICT, f"{taken} is already in use on the LAN by {other.mac('eth0')}")
        }
        assert shown(lan.balancer, taken) == []
        assert shown(lan.balancer, free)

    with watcher:
        watcher.settimeout(0)
        with_target(lan.balancer, script)
        own = bytes.fromhex(lan.balancer.mac("eth0").replace(":", ""))
        while True:
            try:
                frame = parse_frame(watcher.recv(2048))
            except BlockingIOError:
                break
            assert frame is not None
            if frame.source != own:
                continue
            if frame.ethertype == ETHERTYPE_ARP and (packet := parse_arp(frame.payload)):
                claims.append(packet.sender)
            elif frame.ethertype == ETHERTYPE_IPV6 and (message := parse_neighbour(frame.payload)):
                claims.append(message.source)
    assert len(claims) >= 3  # the questions were seen
    assert taken not in claims


@BOTH
def test_repair_asks_nobody(lan: Lan, family: int) -> None:
    """An address that we held and that vanished is put back without a question, even if another machine took it."""
    address = vip(7)[family]

    async def script(target: AddressTarget) -> None:
        await repair(target, host_prefix(address))
        lan.balancer.ip("addr", "del", f"{address}/{address.max_prefixlen}", "dev", "eth0")
        lan.client.ip(
            "addr", "add", f"{address}/{address.max_prefixlen}", "dev", "eth0", *(["nodad"] if family else [])
        )
        assert await repair(target, host_prefix(address)) == {}
        assert shown(lan.balancer, address)

    with_target(lan.balancer, script)


@BOTH
def test_altered_address_is_put_right(lan: Lan, family: int) -> None:
    """An address of ours that somebody made a candidate source again is seen as changed, and repaired."""
    address = vip(7)[family]

    async def script(target: AddressTarget) -> None:
        await repair(target, host_prefix(address))
        index = socket.if_nametoindex("eth0")
        async with AsyncIPRoute() as route:
            length = address.max_prefixlen
            await route.addr(
                "replace", index=index, address=str(address), prefixlen=length, proto=PROTOCOL, flags=0x200
            )
        assert "deprecated" not in shown(lan.balancer, address)[0]
        assert diff(host_prefix(address), await target.observe(None)).change
        assert await repair(target, host_prefix(address)) == {}
        assert shown(lan.balancer, address)[0]["deprecated"]

    with_target(lan.balancer, script)


def test_missing_device_and_ipv6_off_are_explained(lan: Lan) -> None:
    """The reason and the remedy stand in the failure; other addresses of the same pass are held."""
    four, six = vip(7)
    lan.balancer.sysctl("net.ipv6.conf.eth0.disable_ipv6", "1")

    async def script(target: AddressTarget) -> None:
        nowhere: dict[Ip, Placement] = {vip(8)[0]: Placement(device="eth9", prefix_length=32)}
        failures = await repair(target, host_prefix(four, six) | nowhere)
        assert failures[six].message.endswith("set net.ipv6.conf.eth0.disable_ipv6 to 0")
        assert "link device eth9 does not exist" in failures[vip(8)[0]].message
        assert set(failures) == {six, vip(8)[0]}
        assert shown(lan.balancer, four)

    with_target(lan.balancer, script)


def test_gone_addresses_are_no_failure(lan: Lan) -> None:
    """What somebody removed before us, or what went with its device, counts as removed."""
    four, six = vip(7)

    async def script(target: AddressTarget) -> None:
        await repair(target, host_prefix(four, six))
        observed = await target.observe(frozenset({four, six}))
        lan.balancer.ip("addr", "del", f"{four}/32", "dev", "eth0")
        lan.balancer.ip("link", "del", "eth0")
        assert await target.apply(Changes(remove=observed)) == {}

    with_target(lan.balancer, script)


@pytest.mark.parametrize("repaired", ["before", "after"], ids=["repair before it returns", "repair after it returned"])
@pytest.mark.parametrize("promote", ["0", "1"], ids=["promote_secondaries=0", "promote_secondaries=1"])
@BOTH
def test_own_address_can_be_renewed(lan: Lan, family: int, promote: str, repaired: str) -> None:
    """The host's own address goes and comes back: connected and default route stay right, the source is its own."""
    box = lan.balancer
    for scope in ("all", "eth0"):
        box.sysctl(f"net.ipv4.conf.{scope}.promote_secondaries", promote)
    own, router, length = lan_address(2)[family], lan_address(1)[family], (24, 64)[family]
    neighbour, elsewhere = lan_address(10)[family], ip_address(("192.0.2.99", "2001:db8:f::1")[family])
    wanted = host_prefix(vip(7)[family], lan_address(77)[family])
    ip = ("-6",) if family else ("-4",)

    def add_own() -> None:
        box.ip("addr", "add", f"{own}/{length}", "dev", "eth0", *(["nodad"] if family else []))
        box.ip(*ip, "route", "replace", "default", "via", str(router))

    async def script(target: AddressTarget) -> None:
        assert await repair(target, wanted) == {}
        box.ip("addr", "del", f"{own}/{length}", "dev", "eth0")
        if repaired == "before":
            assert await repair(target, wanted) == {}
        add_own()
        assert await repair(target, wanted) == {}
        assert not diff(wanted, await target.observe(None))
        routes = json.loads(box.ip(*ip, "-json", "route", "show", "dev", "eth0"))
        destinations = {route["dst"] for route in routes}
        assert "default" in destinations
        assert any(destination.endswith(f"/{length}") for destination in destinations)
        assert source_towards(box, neighbour) == str(own)
        assert source_towards(box, elsewhere) == str(own)

    with_target(box, script)


def test_why_not_the_prefix_of_the_link(lan: Lan) -> None:
    """With the subnet's length the renewed own address becomes a secondary, and the VIP the host's source.

    The fact behind the default of host prefixes; if a kernel ever changes it, the default may be judged again.
    """
    box, own, address = lan.balancer, lan_address(2)[0], lan_address(77)[0]
    for scope in ("all", "eth0"):
        box.sysctl(f"net.ipv4.conf.{scope}.promote_secondaries", "1")

    async def script(target: AddressTarget) -> None:
        await repair(target, {address: Placement(device="eth0", prefix_length=24)})
        box.ip("addr", "del", f"{own}/24", "dev", "eth0")
        box.ip("addr", "add", f"{own}/24", "dev", "eth0")
        (entry,) = shown(box, own)
        assert entry["secondary"]
        routes = json.loads(box.ip("-4", "-json", "route", "show", "dev", "eth0"))
        assert not any(route["dst"] == "192.0.2.0/24" for route in routes)

    with_target(box, script)


def test_broken_netlink_socket_is_replaced(lan: Lan) -> None:
    """An error of a netlink socket itself costs one reading, not all that follow."""

    async def main() -> None:
        async with Netlink() as netlink:
            before = await netlink.read_addresses(), await netlink.read_links()
            broken = netlink._route
            broken.status["error"] = OSError(errno.ENOBUFS, "No buffer space available")
            broken._error_event.set()
            with pytest.raises(OSError, match="buffer"):
                await netlink.read_links()
            channel = netlink._conversation._socket
            assert channel is not None
            channel.close()
            with pytest.raises(OSError, match="Bad file descriptor"):
                await netlink.read_addresses()
            assert (await netlink.read_addresses(), await netlink.read_links()) == before
            assert netlink._route is not broken

    lan.balancer.call(lambda: asyncio.run(main()))


@pytest.mark.parametrize(("arp_ignore", "found"), [("0", True), ("1", True), ("2", False), ("8", False)])
def test_which_arp_ignore_hides_a_host_prefix(lan: Lan, arp_ignore: str, found: bool) -> None:
    """Values above 1 keep a host prefix from being found on the LAN, and that is what `find_obstacles` says."""
    address = vip(7)[0]
    lan.balancer.sysctl("net.ipv4.conf.eth0.arp_ignore", arp_ignore)

    async def script(target: AddressTarget) -> None:
        await repair(target, host_prefix(address))
        subjects = [obstacle.subject for obstacle in find_obstacles("eth0", link_prefix=False)]
        assert subjects == ([] if found else [f"net/ipv4/conf/eth0/arp_ignore = {arp_ignore}"])

    with_target(lan.balancer, script)
    with lan.balancer.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
        listener.bind((str(address), 80))
        listener.listen()
        with lan.client.socket(socket.AF_INET, socket.SOCK_STREAM) as dialler:
            dialler.settimeout(10)
            if found:
                dialler.connect((str(address), 80))
            else:
                with pytest.raises(OSError, match="No route to host"):
                    dialler.connect((str(address), 80))


NO_RIGHT = """
import asyncio, ipaddress
from littlelb.announce.probe import LanProber
from littlelb.core.model import Placement
from littlelb.core.plan import Changes
from littlelb.host.address import AddressTarget
from littlelb.host.netlink import Netlink

async def main():
    async with Netlink() as netlink:
        target = AddressTarget(netlink, LanProber())
        asking = asyncio.create_task(target.run())
        held = await target.observe(None)
        new = {ipaddress.ip_address("203.0.113.8"): Placement(device="eth0", prefix_length=32)}
        failures = dict(await target.apply(Changes(add=new, remove=held)))
        async with asyncio.timeout(10):
            while any(failure.severity == "waiting" for failure in failures.values()):
                await asyncio.sleep(0.01)
                failures |= await target.apply(Changes(add=new))
        for address, failure in failures.items():
            print(address, failure.reason, failure.severity, "CAP_NET_ADMIN" in failure.message)

asyncio.run(main())
"""


def test_without_the_right(lan: Lan) -> None:
    """A process without CAP_NET_ADMIN reads what is held, and each change fails with the remedy."""

    async def hold(target: AddressTarget) -> None:
        await repair(target, host_prefix(vip(7)[0]))

    with_target(lan.balancer, hold)
    done = lan.balancer.run(
        ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", sys.executable, "-c", NO_RIGHT],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("203.0.113.")]
    assert sorted(lines) == [f"203.0.113.{number} NotPermitted permanent True" for number in (7, 8)]
    assert shown(lan.balancer, vip(7)[0])
