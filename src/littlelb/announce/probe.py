"""Asks the LAN whether addresses are free: the Prober of core.interfaces, by ARP and neighbour discovery.

Three questions for each address within 600 ms, all addresses at the same time (RFC 5227 section 2.1.1 and RFC 4862
section 5.4, with shorter pauses); ten thousand take a second, because of `announce.pace`. Nobody's cache changes by
them: the sender is 0.0.0.0 or `::`. An address is taken when another machine says so, and when another machine is just
asking for it too.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from ipaddress import IPv4Address
from typing import Protocol

import structlog

from littlelb.announce.pace import Pace
from littlelb.announce.packets import (
    ADVERTISEMENT,
    ETHERTYPE_ARP,
    ETHERTYPE_IPV6,
    UNSPECIFIED,
    UNSPECIFIED6,
    Frame,
    arp_probe,
    duplicate_solicitation,
    parse_arp,
    parse_neighbour,
)
from littlelb.announce.port import Device, Port, read_device, read_own_macs
from littlelb.core.model import Ip

log = structlog.get_logger(__name__)

QUESTIONS = 3
PAUSE_SECONDS = 0.2


class RawPort(Protocol):
    """What a prober and an announcer need of `announce.port.Port`."""

    def fileno(self) -> int:
        """Descriptor that the event loop can wait on."""
        ...

    async def send(self, frames: Iterable[Frame]) -> None:
        """Send in order."""
        ...

    def receive(self) -> list[Frame]:
        """Return what has arrived."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


def find_conflict(frame: Frame, asked: frozenset[Ip], own_macs: frozenset[bytes]) -> tuple[Ip, bytes] | None:
    """Does the frame say that another machine has (or is about to take) an asked address? Return address and MAC."""
    if frame.source in own_macs:
        return None
    found = _claimed_by_arp(frame) if frame.ethertype == ETHERTYPE_ARP else _claimed_by_neighbour(frame)
    if found is None or found[0] not in asked or found[1] in own_macs:
        return None
    return found


def _claimed_by_arp(frame: Frame) -> tuple[Ip, bytes] | None:
    packet = parse_arp(frame.payload)
    if packet is None:
        return None
    # A sender address of 0.0.0.0 is another machine's probe: it claims what it asks for.
    return (packet.target if packet.sender == UNSPECIFIED else packet.sender), packet.sender_mac


def _claimed_by_neighbour(frame: Frame) -> tuple[Ip, bytes] | None:
    message = parse_neighbour(frame.payload)
    if message is None:
        return None
    if message.type == ADVERTISEMENT:
        return message.target, message.mac or frame.source
    # From the unspecified address: another machine's own search for duplicates. Other questions claim their source.
    claimed = message.target if message.source == UNSPECIFIED6 else message.source
    return claimed, message.mac or frame.source


class LanProber:
    """`core.interfaces.Prober` on packet sockets. Without CAP_NET_RAW nobody is asked, and the log says so once."""

    def __init__(
        self,
        *,
        open_port: Callable[[str, int], RawPort] = Port,
        look: Callable[[str], Device | None] = read_device,
        own_macs: Callable[[], frozenset[bytes]] = read_own_macs,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """The defaults are the real world; tests give their own."""
        self._open_port = open_port
        self._look = look
        self._own_macs = own_macs
        self._sleep = sleep
        self._pace = Pace(sleep=sleep)
        self._refused = False

    async def probe(self, device: str, addresses: frozenset[Ip]) -> Mapping[Ip, str]:
        """Return the addresses that another machine has → its MAC address, `02:00:5e:00:53:01`.

        Nobody is asked on a device without ARP (loopback, tunnels), or on one that is missing or down.
        """
        conflicts: dict[Ip, str] = {}
        try:
            seen = self._look(device)
            if addresses and seen is not None and seen.asked:
                await self._ask(seen, addresses, conflicts)
        except PermissionError:
            self._report_refusal(device)
        except OSError as error:  # the device went away or is down: then nobody can answer, and nobody is served either
            log.warning("probe.failed", device=device, error=error.strerror)
        return conflicts

    async def _ask(self, device: Device, addresses: frozenset[Ip], conflicts: dict[Ip, str]) -> None:
        own = self._own_macs()

        def read(port: RawPort) -> None:
            for frame in port.receive():
                found = find_conflict(frame, addresses, own)
                if found is not None:
                    conflicts.setdefault(found[0], found[1].hex(":"))

        async with AsyncExitStack() as opened:
            ports: list[tuple[RawPort, list[Ip]]] = []
            questions: dict[Ip, Frame] = {}
            for ethertype, version in ((ETHERTYPE_ARP, 4), (ETHERTYPE_IPV6, 6)):
                asked = sorted((ip for ip in addresses if ip.version == version), key=int)
                if asked:
                    ports.append((self._listen(opened, device.name, ethertype, read), asked))
            for left in reversed(range(QUESTIONS)):
                began = time.monotonic()
                for port, asked in ports:
                    open_ones = (ip for ip in asked if ip not in conflicts)
                    await self._pace.send(port, (_question(device.mac, ip, questions) for ip in open_ones))
                took = time.monotonic() - began if left else 0.0
                await self._sleep(max(0.0, PAUSE_SECONDS - took))

    def _listen(self, opened: AsyncExitStack, device: str, ethertype: int, read: Callable[[RawPort], None]) -> RawPort:
        loop = asyncio.get_running_loop()
        port = self._open_port(device, ethertype)
        # In a thread: the kernel takes its time, up to 15 ms.
        opened.push_async_callback(asyncio.to_thread, port.close)
        loop.add_reader(port.fileno(), read, port)
        opened.callback(loop.remove_reader, port.fileno())
        return port

    def _report_refusal(self, device: str) -> None:
        if not self._refused:
            self._refused = True
            log.warning(
                "probe.not_permitted",
                device=device,
                remedy="grant the capability CAP_NET_RAW; until then addresses are taken without asking the LAN",
            )


def _question(mac: bytes, address: Ip, rendered: dict[Ip, Frame]) -> Frame:
    """Ask who has the address, without telling anybody that we want it; built once, when its turn comes."""
    if address not in rendered:
        if isinstance(address, IPv4Address):
            rendered[address] = arp_probe(mac, address)
        else:
            rendered[address] = duplicate_solicitation(mac, address)
    return rendered[address]
