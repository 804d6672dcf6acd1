"""Target ANNOUNCE: tells the LAN once, by gratuitous ARP or unsolicited advertisement, that an address is here now.

Nothing of it can be read back, so what is observed is belief: what was told since the link came up (`forget`).
Announcing is a courtesy to caches that hold an older answer: without the right to do so (CAP_NET_RAW) an address is
served all the same, for the kernel answers ARP by itself; then `notice` says what is missing.

    apply ─► a few: told at once ─► many: queued ─► run: told in bursts, at a bounded rate (announce.pace)
"""

import asyncio
import errno
from collections.abc import Awaitable, Callable, Iterable, Mapping
from ipaddress import IPv4Address
from typing import TypeAlias

import structlog

from littlelb.announce.pace import Pace
from littlelb.announce.packets import (
    ETHERTYPE_ARP,
    ETHERTYPE_IPV6,
    Frame,
    arp_announcements,
    unsolicited_advertisement,
)
from littlelb.announce.port import Device, open_sender, read_device
from littlelb.announce.probe import RawPort
from littlelb.core.interfaces import Phase
from littlelb.core.model import Announcement, Ip
from littlelb.core.plan import Changes, Failure
from littlelb.core.reasons import Reason
from littlelb.core.state import DesiredState

log = structlog.get_logger(__name__)

AT_ONCE = 64
"""So many addresses are told within the pass; more take their time beside it."""
ANNOUNCEMENTS_PER_SECOND = 20_000
_NAMED = 20
"""From more on the log counts addresses instead of naming each."""
_NOTICE = "neighbours are not told when an address moves here: grant the capability CAP_NET_RAW"


Send: TypeAlias = Callable[[RawPort, Iterable[Frame]], Awaitable[None]]
"""At once, or at a bounded rate."""


class AnnounceTarget:
    """`core.interfaces.Target[Ip, Announcement]` on packet sockets."""

    phase = Phase.ANNOUNCE

    def __init__(
        self,
        *,
        open_port: Callable[[str, int], RawPort] = open_sender,
        look: Callable[[str], Device | None] = read_device,
        pace: Pace | None = None,
    ) -> None:
        """The defaults are the real world; tests give their own."""
        self._open_port = open_port
        self._look = look
        self._pace = pace or Pace(ANNOUNCEMENTS_PER_SECOND)
        self._queue: dict[str, dict[Ip, None]] = {}
        self._woken = asyncio.Event()
        self._announced: dict[Ip, Announcement] = {}
        self.notice = ""
        """What keeps announcements from being sent, with the remedy; empty: nothing."""

    def wanted(self, state: DesiredState) -> Mapping[Ip, Announcement]:
        """Select the announcements."""
        return state.announcements

    def forget(self) -> None:
        """The link came back, or has another MAC address: the next pass announces everything again."""
        self._announced.clear()

    async def observe(self, keys: frozenset[Ip] | None) -> Mapping[Ip, Announcement]:
        """Answer what was announced since the last `forget`; there is nothing to read."""
        if keys is None:
            return dict(self._announced)
        return {key: self._announced[key] for key in keys if key in self._announced}

    async def apply(self, changes: Changes[Ip, Announcement]) -> Mapping[Ip, Failure]:
        """Announce what comes or changes, each address once; forget what goes (there is no way to take it back).

        Many count as announced when they are queued, for it takes a second at most until ten thousand are told.
        """
        for address, gone in changes.remove.items():
            self._announced.pop(address, None)
            self._queue.get(gone.device, {}).pop(address, None)
        by_device: dict[str, list[Ip]] = {}
        for address, wanted in {**changes.change, **changes.add}.items():
            by_device.setdefault(wanted.device, []).append(address)
        failures: dict[Ip, Failure] = {}
        for name, addresses in by_device.items():
            self._announced.update(dict.fromkeys(addresses, Announcement(device=name)))
            failure = await self._announce(name, addresses[:AT_ONCE], _send_at_once)
            if failure is None:
                self._defer(name, addresses[AT_ONCE:])
            else:
                failures.update(dict.fromkeys(addresses, failure))
                self._doubt(addresses)
        return failures

    async def run(self) -> None:
        """Announce what is queued, for ever."""
        while True:
            await self._woken.wait()
            self._woken.clear()
            queue, self._queue = self._queue, {}
            for name, addresses in queue.items():
                failure = await self._announce(name, list(addresses), self._pace.send)
                if failure is not None:  # not announced, then: the next full pass does it again
                    log.warning("address.not_announced", device=name, count=len(addresses), reason=failure.message)
                    self._doubt(addresses)

    def _doubt(self, addresses: Iterable[Ip]) -> None:
        for address in addresses:
            self._announced.pop(address, None)

    def _defer(self, name: str, addresses: list[Ip]) -> None:
        if addresses:
            self._queue.setdefault(name, {}).update(dict.fromkeys(addresses))
            self._woken.set()

    async def _announce(self, name: str, addresses: list[Ip], send: Send) -> Failure | None:
        try:
            device = self._look(name)
            if device is None:
                return Failure(Reason.FAILED, f"cannot announce: the link device {name} does not exist; it is awaited")
            if device.asked:
                await self._send(device, addresses, send)
        except PermissionError:
            self._report_refusal(name)
        except OSError as error:
            if error.errno == errno.ENETDOWN:  # announced when the link is back: whoever watches it calls `forget`
                log.info("address.not_announced", device=name, reason="the link is down")
                return None
            return Failure(Reason.FAILED, f"cannot announce on {name}: {error.strerror}")
        return None

    async def _send(self, device: Device, addresses: list[Ip], send: Send) -> None:
        for ethertype, version in ((ETHERTYPE_ARP, 4), (ETHERTYPE_IPV6, 6)):
            told = [address for address in addresses if address.version == version]
            if not told:
                continue
            port = self._open_port(device.name, ethertype)
            try:
                # What goes while others are told is not announced any more: it may be another machine's by now.
                still = (address for address in told if address in self._announced)
                frames = (frame for address in still for frame in render_announcement(device.mac, address))
                await send(port, frames)
            finally:  # in a thread, because the kernel takes its time, up to 15 ms, and nobody waits for it
                asyncio.get_running_loop().run_in_executor(None, port.close)
            _report(told, device.name)
        self.notice = ""

    def _report_refusal(self, device: str) -> None:
        if not self.notice:
            log.warning("announce.not_permitted", device=device, remedy=_NOTICE)
        self.notice = _NOTICE


async def _send_at_once(port: RawPort, frames: Iterable[Frame]) -> None:
    await port.send(frames)


def _report(told: list[Ip], device: str) -> None:
    if len(told) > _NAMED:
        log.info("address.announced", count=len(told), first=str(told[0]), device=device)
        return
    for address in told:
        log.info("address.announced", address=str(address), device=device)


def render_announcement(mac: bytes, address: Ip) -> tuple[Frame, ...]:
    """Return the frames that move every neighbour's cache: ARP in both its forms, or one advertisement."""
    if isinstance(address, IPv4Address):
        return arp_announcements(mac, address)
    return (unsolicited_advertisement(mac, address),)
