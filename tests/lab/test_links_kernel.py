"""The link monitor against a real kernel: what goes wrong with a device is told, and what was ours is back."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from littlelb.announce.target import AnnounceTarget
from littlelb.core.model import Announcement, HostFacts, Ip, Listener, Placement, Protocol
from littlelb.core.plan import Changes, Severity, diff
from littlelb.host.address import AddressTarget
from littlelb.host.links import LinkMonitor, Reactions, open_notifications
from littlelb.host.listeners import ListenerScan
from littlelb.host.netlink import Netlink
from littlelb.testing.lan import Lan, lan_address, vip
from littlelb.testing.netns import Namespace

pytestmark = pytest.mark.lab

BOTH = pytest.mark.parametrize("family", [0, 1], ids=["IPv4", "IPv6"])
DEADLINE_SECONDS = 10
"""For the state to come; how fast it comes is for a bench to say."""


class NobodyAnswers:
    """A Prober on a LAN where every address is free."""

    async def probe(self, device: str, addresses: frozenset[Ip]) -> dict[Ip, str]:  # noqa: ARG002  (the seam)
        """Nobody has any of them."""
        return {}


@dataclass
class Daemon:
    """The least that a daemon does with the monitor: keep what was told, repair when hinted."""

    box: Namespace
    target: AddressTarget
    wanted: dict[Ip, Placement] = field(default_factory=dict)
    facts: list[HostFacts] = field(default_factory=list)
    hints: int = 0
    links_back: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, facts: HostFacts) -> None:
        """Keep the facts."""
        self.facts.append(facts)
        self.changed.set()

    def hint(self) -> None:
        """Count, and wake the loop."""
        self.hints += 1
        self.changed.set()

    def link_back(self) -> None:
        """Count."""
        self.links_back += 1
        self.changed.set()

    async def repair(self) -> None:
        """Make passes until nothing waits for the answers of the LAN."""
        while True:
            failures = await self.target.apply(diff(self.wanted, await self.target.observe(None)))
            if all(failure.severity is not Severity.WAITING for failure in failures.values()):
                return
            await asyncio.sleep(0.001)

    async def until(self, state: Callable[[], bool]) -> None:
        """Wait until the state is there, repairing at every wake; fail at the deadline."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not state():
                await self.changed.wait()
                self.changed.clear()
                await self.repair()

    def holds(self, address: Ip) -> bool:
        """Does the kernel have the address on eth0?"""
        return f" {address}/" in self.box.ip("addr", "show", "dev", "eth0")


def with_daemon(lan: Lan, script: Callable[[Daemon], Awaitable[None]], buffer: int = 1 << 20) -> None:
    """Run a script beside a running monitor, in the balancer's namespace."""

    async def main() -> None:
        async with Netlink() as netlink:
            daemon = Daemon(lan.balancer, AddressTarget(netlink, NobodyAnswers()))
            reactions = Reactions(daemon.tell, daemon.hint, daemon.link_back, daemon.target.expects)
            monitor = LinkMonitor("eth0", netlink, reactions, open_socket=lambda: open_notifications(buffer))
            running = asyncio.create_task(monitor.run())
            asking = asyncio.create_task(daemon.target.run())
            try:
                await daemon.until(lambda: bool(daemon.facts))
                await script(daemon)
                assert not running.done()
            finally:
                running.cancel()
                asking.cancel()
                await asyncio.gather(running, asking, return_exceptions=True)

    lan.balancer.call(lambda: asyncio.run(main()))


async def eventually(state: Callable[[], bool]) -> None:
    """Wait for something that nobody tells of; fail at the deadline."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not state():
            await asyncio.sleep(0.01)


def host_prefix(address: Ip) -> dict[Ip, Placement]:
    """Ask for the address as a host prefix on eth0."""
    return {address: Placement(device="eth0", prefix_length=address.max_prefixlen)}


def test_first_facts(lan: Lan) -> None:
    """Own addresses, networks, gateways, other devices' addresses and routes are told at the start; ours are not."""

    async def script(daemon: Daemon) -> None:
        daemon.wanted = host_prefix(vip(7)[0]) | host_prefix(vip(7)[1])
        await daemon.repair()
        (facts,) = daemon.facts
        assert facts.present
        assert facts.up
        assert facts.own == lan_address(2)
        assert {str(net) for net in facts.on_link} == {"192.0.2.0/24", "2001:db8:0:2::/64"}
        assert facts.gateways == set(lan_address(1))
        assert {str(address) for address, device in facts.elsewhere.items() if device == "eth1"} >= {
            "198.51.100.2",
            "2001:db8:0:51::2",
        }
        assert {str(net) for net in facts.routed} >= {"192.0.2.0/24", "198.51.100.0/24", "2001:db8:0:51::/64"}
        assert daemon.hints == 0

    with_daemon(lan, script)


@BOTH
def test_removed_by_hand_is_hinted_and_repaired(lan: Lan, family: int) -> None:
    """An address of ours that somebody removes is put back; what we do ourselves is hinted to nobody."""
    address = vip(7)[family]

    async def script(daemon: Daemon) -> None:
        daemon.wanted = host_prefix(address)
        await daemon.repair()
        assert daemon.holds(address)
        lan.balancer.ip("addr", "del", f"{address}/{address.max_prefixlen}", "dev", "eth0")
        assert not daemon.holds(address)
        await daemon.until(lambda: daemon.holds(address))
        assert daemon.hints == 1  # the removal; neither our first adding nor the repair
        assert len(daemon.facts) == 1

    with_daemon(lan, script)


@BOTH
def test_link_down_and_up(lan: Lan, family: int) -> None:
    """A device that went down and up again holds our address again, is told, and its announcements are asked for."""
    address = vip(7)[family]

    async def script(daemon: Daemon) -> None:
        daemon.wanted = host_prefix(address)
        await daemon.repair()
        lan.balancer.ip("link", "set", "eth0", "down")
        await daemon.until(lambda: not daemon.facts[-1].up)
        lan.balancer.ip("link", "set", "eth0", "up")
        await daemon.until(lambda: daemon.facts[-1].up and daemon.links_back > 0)
        await daemon.until(lambda: daemon.holds(address))
        assert daemon.hints >= 2

    with_daemon(lan, script)


@BOTH
def test_device_deleted_and_made_again(lan: Lan, family: int) -> None:
    """A device of the same name with a new index gets our addresses, and its own become the default addresses."""
    address = vip(7)[family]

    async def script(daemon: Daemon) -> None:
        daemon.wanted = host_prefix(address)
        await daemon.repair()
        lan.balancer.ip("link", "del", "eth0")
        await daemon.until(lambda: not daemon.facts[-1].present)
        assert not daemon.facts[-1].own
        lan.network.plug(lan.balancer, "eth0", lan.switch, "lan")
        lan.balancer.ip("addr", "add", "192.0.2.3/24", "dev", "eth0")
        await daemon.until(lambda: daemon.facts[-1].present and bool(daemon.facts[-1].own))
        await daemon.until(lambda: daemon.holds(address))
        assert str(daemon.facts[-1].own[0]) == "192.0.2.3"
        assert daemon.links_back > 0

    with_daemon(lan, script)


@BOTH
def test_default_address_changes(lan: Lan, family: int) -> None:
    """A new own address of the device is told; a deprecated one gives way as the default address."""
    own = lan_address(2)[family]
    new, length = lan_address(3)[family], (24, 64)[family]

    async def script(daemon: Daemon) -> None:
        lan.balancer.ip("addr", "add", f"{new}/{length}", "dev", "eth0", *(["nodad"] if family else []))
        await daemon.until(lambda: new in daemon.facts[-1].own)
        lan.balancer.ip("addr", "change", f"{own}/{length}", "dev", "eth0", "preferred_lft", "0")
        await daemon.until(lambda: [ip for ip in daemon.facts[-1].own if ip.version == own.version] == [new, own])
        lan.balancer.ip("addr", "del", f"{own}/{length}", "dev", "eth0")
        await daemon.until(lambda: own not in daemon.facts[-1].own)
        assert daemon.hints == 0

    with_daemon(lan, script)


def test_lost_notifications_cost_one_look(lan: Lan, capsys: pytest.CaptureFixture[str]) -> None:
    """When more happens at once than the socket holds, the world is read again and nothing stays unnoticed."""

    async def script(daemon: Daemon) -> None:
        flood = [f"addr add 10.9.{n // 250}.{n % 250 + 1}/32 dev eth1" for n in range(500)]
        lan.balancer.batch(*flood, "addr add 192.0.2.4/24 dev eth0")  # blocks the loop: nobody reads the socket
        await daemon.until(lambda: len(daemon.facts[-1].own) == 3)
        assert len(daemon.facts[-1].elsewhere) > 500
        assert daemon.hints > 0

    with_daemon(lan, script, buffer=4096)
    assert "links.notifications_lost" in capsys.readouterr().out


@BOTH
def test_announcement_moves_a_neighbours_entry(lan: Lan, family: int) -> None:
    """A client that knows another machine under the address speaks to us after one announcement."""
    address = vip(7)[family]
    mac = lan.balancer.mac("eth0")
    lan.client.ip("neigh", "add", str(address), "lladdr", "02:00:5e:00:53:99", "dev", "eth0", "nud", "stale")

    async def script(daemon: Daemon) -> None:
        daemon.wanted = host_prefix(address)
        await daemon.repair()
        announce = AnnounceTarget()
        wanted = {address: Announcement(device="eth0")}
        assert await announce.apply(Changes(add=wanted)) == {}
        await eventually(lambda: mac in lan.client.ip("neigh", "show", str(address), "dev", "eth0"))
        assert not diff(wanted, await announce.observe(None))
        announce.forget()
        assert diff(wanted, await announce.observe(None)).add == wanted

    with_daemon(lan, script)


def test_listeners_of_this_namespace(lan: Lan) -> None:
    """Sockets that wait on a port are seen with their process, here and nowhere else; ours are not."""
    server = "import socket, time; s = socket.create_server(('192.0.2.2', 8080)); print(flush=True); time.sleep(60)"
    process = lan.balancer.popen(["python3", "-c", server], stdout=-1)
    assert process.stdout is not None
    process.stdout.readline()
    theirs = lan.balancer.call(lambda: asyncio.run(ListenerScan(frozenset)()))
    assert [(found.protocol, str(found.address), found.port) for found in theirs] == [(Protocol.TCP, "192.0.2.2", 8080)]
    assert theirs[0].process.endswith(f"(pid {process.pid})")
    none: tuple[Listener, ...] = ()
    assert lan.balancer.call(lambda: asyncio.run(ListenerScan(lambda: frozenset({process.pid}))())) == none
    assert lan.client.call(lambda: asyncio.run(ListenerScan(frozenset)())) == none
