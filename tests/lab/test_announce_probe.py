"""Probes on a real LAN: answers of a real kernel, of our own other device, of a rival; and devices without ARP."""

import asyncio
import os
import sys
from collections.abc import Mapping
from ipaddress import ip_address

import pytest

from littlelb.announce.pace import BURST
from littlelb.announce.packets import ETHERTYPE_ARP, ETHERTYPE_IPV6, arp_probe, duplicate_solicitation
from littlelb.announce.port import Port, read_device, read_own_macs
from littlelb.announce.probe import LanProber
from littlelb.announce.target import AnnounceTarget
from littlelb.core.model import Announcement, Ip
from littlelb.core.plan import Changes
from littlelb.testing.lan import Lan, vip
from littlelb.testing.netns import Namespace

pytestmark = pytest.mark.lab

BOTH = pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])


def probe(box: Namespace, device: str, *addresses: Ip) -> Mapping[Ip, str]:
    """Ask from within a namespace."""
    return box.call(lambda: asyncio.run(LanProber().probe(device, frozenset(addresses))))


def hold(box: Namespace, address: Ip, device: str = "eth0") -> None:
    """Put an address on a device of another machine."""
    nodad = ["nodad"] if address.version == 6 else []
    box.ip("addr", "add", f"{address}/{address.max_prefixlen}", "dev", device, *nodad)


def test_all_addresses_are_asked_at_once(lan: Lan) -> None:
    """A hundred addresses of both families in one round: exactly those that others have come back."""
    asked: list[Ip] = [address for number in range(1, 51) for address in vip(number)]
    taken: set[Ip] = {vip(3)[0], vip(4)[1], vip(50)[0]}
    for address in taken:
        hold(lan.client, address)
    assert probe(lan.balancer, "eth0", *asked) == dict.fromkeys(taken, lan.client.mac("eth0"))


def test_ten_thousand_are_asked_in_one_round(lan: Lan) -> None:
    """Those that others have come back, first and last ones too; the event loop has its turns all the time."""
    asked: list[Ip] = [ip_address(first) + number for first in ("10.7.0.1", "2001:db8:7::1") for number in range(5000)]
    taken = {asked[at] for at in (0, 1, 2500, 4999, 5000, 7500, 9999)}
    for address in taken:
        hold(lan.client, address)
    turns = 0

    async def ask() -> Mapping[Ip, str]:
        nonlocal turns
        asking = asyncio.create_task(LanProber().probe("eth0", frozenset(asked)))
        while not asking.done():
            turns += 1
            await asyncio.sleep(0)
        return await asking

    found = lan.balancer.call(lambda: asyncio.run(ask()))
    assert found == dict.fromkeys(taken, lan.client.mac("eth0"))
    assert turns >= 3 * len(asked) / BURST


@BOTH
def test_own_devices_are_no_strangers(family: int) -> None:
    """Another device of this machine on the same LAN that answers is no conflict."""
    with Lan(one_link=True, backends=0) as lan:
        lan.network.plug(lan.balancer, "eth1", lan.switch, "lan")
        hold(lan.balancer, vip(7)[family], "eth1")
        assert lan.balancer.call(read_own_macs) == {
            bytes.fromhex(lan.balancer.mac(device).replace(":", "")) for device in ("eth0", "eth1")
        }
        assert probe(lan.balancer, "eth0", vip(7)[family]) == {}


@BOTH
def test_rival_that_asks_at_the_same_time(lan: Lan, family: int) -> None:
    """Two machines that ask for the same address at the same time each hear of the other."""
    address = vip(7)[family]

    async def ask_and_meet_a_rival() -> Mapping[Ip, str]:
        asking = asyncio.create_task(LanProber().probe("eth0", frozenset({address})))
        rival = lan.client.call(lambda: Port("eth0", (ETHERTYPE_ARP, ETHERTYPE_IPV6)[family]))
        mac = bytes.fromhex(lan.client.mac("eth0").replace(":", ""))
        question = duplicate_solicitation(mac, address) if address.version == 6 else arp_probe(mac, address)
        with rival:
            while not asking.done():
                await rival.send([question])
                await asyncio.sleep(0.02)
        return await asking

    found = lan.balancer.call(lambda: asyncio.run(ask_and_meet_a_rival()))
    assert found == {address: lan.client.mac("eth0")}


def test_devices_without_arp(lan: Lan) -> None:
    """Loopback, a missing device and a device that is down: nobody is asked, nothing fails."""
    lan.balancer.ip("link", "set", "eth1", "down")
    for device in ("lo", "eth9", "eth1"):
        assert probe(lan.balancer, device, *vip(7)) == {}
    announced: dict[Ip, Announcement] = dict.fromkeys(vip(7), Announcement(device="lo"))
    down: dict[Ip, Announcement] = dict.fromkeys(vip(8), Announcement(device="eth1"))
    assert lan.balancer.call(lambda: asyncio.run(AnnounceTarget().apply(Changes(add=announced | down)))) == {}
    loopback = lan.balancer.call(lambda: read_device("lo"))
    assert loopback is not None
    assert not loopback.asked


def test_without_the_right(lan: Lan) -> None:
    """A process without CAP_NET_RAW asks nobody and announces nothing; the address counts as free and as announced."""
    script = (
        "import asyncio, ipaddress\n"
        "from littlelb.announce.probe import LanProber\n"
        "from littlelb.announce.target import AnnounceTarget\n"
        "from littlelb.core.model import Announcement\n"
        "from littlelb.core.plan import Changes\n"
        "ip = ipaddress.ip_address('203.0.113.7')\n"
        "assert asyncio.run(LanProber().probe('eth0', frozenset({ip}))) == {}\n"
        "target = AnnounceTarget()\n"
        "assert asyncio.run(target.apply(Changes(add={ip: Announcement(device='eth0')}))) == {}\n"
        "assert 'CAP_NET_RAW' in target.notice\n"
    )
    bare = ["setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw"]
    done = lan.balancer.run(
        [*bare, sys.executable, "-c", script],
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert "probe.not_permitted" in done.stdout
