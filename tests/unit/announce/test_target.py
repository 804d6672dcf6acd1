"""Announcing: once, again after `forget`, and what happens without the right or the device."""

import asyncio
import errno
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from littlelb.announce.pace import Pace
from littlelb.announce.packets import arp_announcements, parse_arp, unsolicited_advertisement
from littlelb.announce.port import Device
from littlelb.announce.target import AT_ONCE, AnnounceTarget
from littlelb.core.interfaces import Phase
from littlelb.core.model import Announcement, Ip
from littlelb.core.plan import Changes, diff
from littlelb.core.state import DesiredState

if TYPE_CHECKING:
    from tests.unit.announce.conftest import Wire

OWN = bytes.fromhex("02005e005301")
FOUR, SIX = IPv4Address("203.0.113.7"), IPv6Address("2001:db8:0:113::7")
WANTED: dict[Ip, Announcement] = {FOUR: Announcement(device="eth0"), SIX: Announcement(device="eth0")}


def target(wire: "Wire") -> AnnounceTarget:
    """The target on the wire."""
    return AnnounceTarget(open_port=wire.open, look=wire.look)


async def test_announced_once_until_forgotten(wire: "Wire") -> None:
    """Both families are told once; after `forget` everything is to be told again."""
    announce = target(wire)
    assert announce.phase is Phase.ANNOUNCE
    state = DesiredState(announcements=WANTED)
    assert announce.wanted(state) is state.announcements
    assert await announce.apply(diff(WANTED, await announce.observe(None))) == {}
    expected = [*arp_announcements(OWN, FOUR), unsolicited_advertisement(OWN, SIX)]
    assert wire.sent == [("eth0", frame) for frame in expected]
    assert not diff(WANTED, await announce.observe(None))
    assert await announce.observe(frozenset({SIX})) == {SIX: WANTED[SIX]}
    announce.forget()
    assert diff(WANTED, await announce.observe(None)).add == WANTED


async def test_withdrawn_is_forgotten(wire: "Wire") -> None:
    """An address that goes is announced anew when it comes back; nothing is sent for its going."""
    announce = target(wire)
    await announce.apply(Changes(add=WANTED))
    sent = len(wire.sent)
    assert await announce.apply(Changes(remove=WANTED)) == {}
    assert len(wire.sent) == sent
    assert await announce.observe(None) == {}


async def test_no_right_keeps_nobody_from_being_served(wire: "Wire") -> None:
    """Without CAP_NET_RAW the address counts as announced, and the notice says what is missing until it works."""
    announce = target(wire)
    wire.refusal = PermissionError(errno.EPERM, "Operation not permitted")
    assert await announce.apply(Changes(add=WANTED)) == {}
    assert await announce.observe(None) == WANTED
    assert "CAP_NET_RAW" in announce.notice
    wire.refusal = None
    announce.forget()
    await announce.apply(Changes(add=WANTED))
    assert announce.notice == ""


async def test_devices_without_arp_need_no_announcement(wire: "Wire") -> None:
    """On loopback and tunnels nothing is sent, and nothing is wrong."""
    wire.device = Device("eth0", bytes(6), asked=False)
    announce = target(wire)
    assert await announce.apply(Changes(add=WANTED)) == {}
    assert wire.sent == []
    assert await announce.observe(None) == WANTED


async def test_link_down_is_waited_for(wire: "Wire") -> None:
    """A link that is down is no failure of the address: whoever sees it come back calls `forget`."""
    wire.refusal = OSError(errno.ENETDOWN, "Network is down")
    assert await target(wire).apply(Changes(change=WANTED)) == {}


async def test_failures_name_the_device(wire: "Wire") -> None:
    """A missing device, or another error of the world, fails the addresses, which are then not believed told."""
    announce = target(wire)
    wire.device = None
    failures = await announce.apply(Changes(add=WANTED))
    assert {failure.message for failure in failures.values()} == {
        "cannot announce: the link device eth0 does not exist; it is awaited"
    }
    wire.device = Device("eth0", OWN, asked=True)
    wire.refusal = OSError(errno.EIO, "Input/output error")
    failures = await announce.apply(Changes(add=WANTED))
    assert failures[FOUR].message == "cannot announce on eth0: Input/output error"
    assert await announce.observe(None) == {}


async def test_many_are_announced_beside_the_pass(wire: "Wire") -> None:
    """All count as announced; a few are told at once, the others in bursts; what goes meanwhile is not told."""
    announce = AnnounceTarget(open_port=wire.open, look=wire.look, pace=Pace(1e9))
    many: dict[Ip, Announcement] = {IPv4Address("10.7.0.0") + n: Announcement(device="eth0") for n in range(1, 1001)}
    assert await announce.apply(Changes(add=many)) == {}
    assert await announce.observe(None) == many
    assert len(wire.sent) == 2 * AT_ONCE
    gone = dict(list(many.items())[-1:])
    await announce.apply(Changes(remove=gone))
    running = asyncio.create_task(announce.run())
    async with asyncio.timeout(5):
        while len(wire.sent) < 2 * 999 or wire.open_ports:
            await asyncio.sleep(0)
    running.cancel()
    told = {packet.sender for _, frame in wire.sent if (packet := parse_arp(frame.payload)) is not None}
    assert told == many.keys() - gone.keys()


async def test_what_goes_while_others_are_told_is_not_announced(wire: "Wire") -> None:
    """Another machine may have it by then: its neighbours would send to us."""
    pause = asyncio.Event()

    async def wait(_: float) -> None:
        await pause.wait()

    announce = AnnounceTarget(open_port=wire.open, look=wire.look, pace=Pace(sleep=wait))
    many: dict[Ip, Announcement] = {IPv4Address("10.7.0.0") + n: Announcement(device="eth0") for n in range(1, 301)}
    await announce.apply(Changes(add=many))
    running = asyncio.create_task(announce.run())
    async with asyncio.timeout(5):
        while not wire.open_ports:
            await asyncio.sleep(0)
        gone = list(many)[-1]
        await announce.apply(Changes(remove={gone: many[gone]}))
        pause.set()
        while len(wire.sent) < 2 * 299 or wire.open_ports:
            await asyncio.sleep(0)
    running.cancel()
    told = {packet.sender for _, frame in wire.sent if (packet := parse_arp(frame.payload)) is not None}
    assert told == many.keys() - {gone}


async def test_what_could_not_be_announced_later_is_not_believed(wire: "Wire") -> None:
    """The next full pass finds it missing, and announces it again."""
    announce = AnnounceTarget(open_port=wire.open, look=wire.look, pace=Pace(1e9))
    many: dict[Ip, Announcement] = {IPv4Address("10.7.0.0") + n: Announcement(device="eth0") for n in range(1, 101)}
    await announce.apply(Changes(add=many))
    wire.refusal = OSError(errno.EIO, "Input/output error")
    running = asyncio.create_task(announce.run())
    async with asyncio.timeout(5):
        while len(await announce.observe(None)) > AT_ONCE:
            await asyncio.sleep(0)
    running.cancel()
    wire.refusal = None
    assert len(diff(many, await announce.observe(None)).add) == 100 - AT_ONCE
