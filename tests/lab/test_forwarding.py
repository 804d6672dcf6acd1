"""Forwarding switched on per device: real packets pass, also where /proc/sys is read-only, and no longer afterwards."""

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from littlelb.host.forwarding.switch import Forwarding, State
from littlelb.host.netlink import Netlink
from littlelb.testing.lan import Lan, backend_address, lan_address

pytestmark = pytest.mark.lab

BOTH = pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
DEVICES = ("eth0", "eth1")
PORT = 8080


@pytest.fixture
def routed(lan: Lan) -> Lan:
    """The client sends what is for the backends to the balancer, which does not forward yet."""
    for net, router in (("198.51.100.0/24", lan_address(2)[0]), ("2001:db8:0:51::/64", lan_address(2)[1])):
        lan.client.ip("route", "add", net, "via", str(router))
    for key in ("net.ipv4.conf.eth0.forwarding", "net.ipv4.conf.eth1.forwarding", "net.ipv6.conf.all.forwarding"):
        lan.balancer.sysctl(key, "0")
    return lan


def knocks(lan: Lan, family: int, seconds: float) -> bool:
    """Does a connection from the client reach a backend through the balancer, within so many seconds?"""
    kind = (socket.AF_INET, socket.AF_INET6)[family]
    target = str(backend_address(11)[family])
    with lan.backends[0].socket(kind, socket.SOCK_STREAM) as listener:
        listener.bind((target, PORT))
        listener.listen()
        with lan.client.socket(kind, socket.SOCK_STREAM) as dialler:
            dialler.settimeout(seconds)
            try:
                dialler.connect((target, PORT))
            except OSError:
                return False
            return True


def with_switch(lan: Lan, record: Path, script: Callable[[Forwarding], Awaitable[None]]) -> None:
    """Run a script with the real switch in the balancer's namespace."""

    async def main() -> None:
        async with Netlink() as netlink:
            await script(Forwarding(netlink, record))

    lan.balancer.call(lambda: asyncio.run(main()))


@BOTH
def test_packets_pass_once_both_devices_forward(routed: Lan, family: int, tmp_path: Path) -> None:
    """Not before, not with one device only, and not after it was put back by another process."""
    record = tmp_path / "forwarding.json"
    forced = routed.balancer.call(lambda: Path("/proc/sys/net/ipv6/conf/eth0/force_forwarding").exists())
    if family and not forced:
        pytest.skip("this kernel has no force_forwarding")

    async def one(switch: Forwarding) -> None:
        assert all(finding.state is State.ENABLED for finding in await switch.enable(["eth0"]))

    async def both(switch: Forwarding) -> None:
        assert all(finding.forwards for finding in await switch.enable(DEVICES))

    async def back(switch: Forwarding) -> None:
        assert all(not restored.reason for restored in await switch.restore())
        assert not any(finding.forwards for finding in await switch.read(DEVICES))

    assert not knocks(routed, family, 1)
    with_switch(routed, record, one)
    assert not knocks(routed, family, 1)
    with_switch(routed, record, both)
    assert knocks(routed, family, 10)
    assert routed.balancer.sysctl("net.ipv6.conf.all.forwarding") == "0"
    with_switch(routed, record, back)
    assert not knocks(routed, family, 1)


SCRIPT = """
import asyncio, sys
from pathlib import Path
from littlelb.host.forwarding.switch import Forwarding
from littlelb.host.netlink import Netlink

async def main():
    try:
        Path("/proc/sys/net/ipv4/conf/eth0/forwarding").write_text("1")
    except OSError as error:
        print(error.strerror)
    async with Netlink() as netlink:
        for finding in await Forwarding(netlink, Path(sys.argv[1])).enable(["eth0", "eth1"]):
            print(finding.device, finding.family, finding.state, finding.remedy)

asyncio.run(main())
"""
READ_ONLY = 'mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys && exec "$@"'


def test_packets_pass_where_proc_sys_is_read_only(routed: Lan, tmp_path: Path) -> None:
    """As in most containers: IPv4 by netlink all the same; what IPv6 needs is named."""
    argv = ["unshare", "--mount", "sh", "-c", READ_ONLY, "sh", sys.executable, "-c", SCRIPT]
    done = routed.balancer.run(
        [*argv, str(tmp_path / "forwarding.json")], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    lines = done.stdout.splitlines()
    assert lines[0] == "Read-only file system"
    assert [line.strip() for line in lines if "IPv4" in line] == ["eth0 IPv4 enabled", "eth1 IPv4 enabled"]
    remedies = [line for line in lines if "IPv6" in line]
    assert len(remedies) == 2
    assert all("IPv6 off sysctl -w net/ipv6/conf/" in line for line in remedies)
    assert knocks(routed, 0, 10)
    assert not knocks(routed, 1, 1)


def test_arp_ignore_is_set_and_put_back(lan: Lan, tmp_path: Path) -> None:
    """The kernel's own words say so."""
    lan.balancer.sysctl("net.ipv4.conf.eth0.arp_ignore", "2")

    async def script(switch: Forwarding) -> None:
        assert await switch.answer_arp("eth0")
        assert lan.balancer.sysctl("net.ipv4.conf.eth0.arp_ignore") == "1"
        await switch.restore()

    with_switch(lan, tmp_path / "forwarding.json", script)
    assert lan.balancer.sysctl("net.ipv4.conf.eth0.arp_ignore") == "2"
