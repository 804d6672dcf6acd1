"""Watches the link device and this machine's addresses and routes by netlink, and tells what became of them.

    kernel ──notification──► a mark on an address of ours that we did not do ──► hint(): read the world, repair it
                        └──► anything else ──20 ms──► read everything again ──► tell(HostFacts), if it differs
                                                                           └──► link_back(): up again, new MAC or index

A notification is never evidence, only a reason to look: lost ones (ENOBUFS) cost one more look, and at most one in some
seconds, for a look at ten thousand addresses can itself be the reason why the next ones are lost.
"""

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeAlias

import structlog

from littlelb.core.errors import Transient
from littlelb.core.model import HostFacts, Ip, Listener
from littlelb.host.events import AddressEvent, Event, parse_events
from littlelb.host.facts import Tables, compute_facts, read_world
from littlelb.host.rtnl import Link

log = structlog.get_logger(__name__)

DEBOUNCE_SECONDS = 0.02
LISTENERS_SECONDS = 5.0
LOSS_SECONDS = 5.0
"""So long nothing more is looked at for lost notifications."""
REFRESH_PAUSES = 5
"""Reading everything again takes at most a sixth of the time, however much happens to devices and routes."""
_RETRY_SECONDS = 1.0
_GROUPS = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
"""RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE."""
_DATAGRAM_LIMIT = 65536
_RECEIVE_BUFFER = 4 << 20
_DATAGRAMS_AT_ONCE = 512
"""More than one turn of ours can cause: each address is two of them."""
_SO_RCVBUFFORCE = 33

Scan: TypeAlias = Callable[[], Awaitable[tuple[Listener, ...]]]


@dataclass(frozen=True, slots=True)
class Reactions:
    """Who hears of what."""

    tell: Callable[[HostFacts], None]
    """The facts, at the start and when they differ from the last ones."""
    hint: Callable[[], None]
    """Somebody else touched what is ours, or it may have gone: read the world, not belief."""
    link_back: Callable[[], None]
    """The device is up again, or is another one (index, MAC address): announce everything again."""
    expects: Callable[[Ip], bool]
    """Should this address be on the machine, as far as the ADDRESS target knows?"""


def open_notifications(buffer: int = _RECEIVE_BUFFER) -> socket.socket:
    """Open a netlink socket that hears of links, addresses and routes; needs no right. `buffer` in bytes."""
    notifications = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    )
    try:
        notifications.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer)
    except PermissionError:  # without CAP_NET_ADMIN as much as everybody gets
        notifications.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    notifications.bind((0, _GROUPS))
    return notifications


async def no_listeners() -> tuple[Listener, ...]:
    """Look at no socket: for tests, and where nobody shares the default address."""
    return ()


class LinkMonitor:
    """Keeps the facts of this machine current; `run` in a task of its own."""

    def __init__(
        self,
        device: str,
        tables: Tables,
        reactions: Reactions,
        scan: Scan = no_listeners,
        open_socket: Callable[[], socket.socket] = open_notifications,
    ) -> None:
        """`scan` reads the listening sockets; it is called at the start and every five seconds."""
        self._open_socket = open_socket
        self._device = device
        self._tables = tables
        self._reactions = reactions
        self._scan = scan
        self._listeners: tuple[Listener, ...] = ()
        self._facts: HostFacts | None = None
        self._link: Link | None = None
        self._dirty = asyncio.Event()
        self._asked = asyncio.Event()
        self._lost = asyncio.Event()

    async def run(self) -> None:
        """Tell the facts once, and from then on what changes; for ever."""
        notifications = self._open_socket()  # before the first look, so that nothing falls between
        loop = asyncio.get_running_loop()
        loop.add_reader(notifications.fileno(), self._hear, notifications)
        try:
            self._listeners = await self._scan()
            self._dirty.set()
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._follow_links(), name="host links")
                tasks.create_task(self._follow_listeners(), name="host listeners")
                tasks.create_task(self._follow_losses(), name="host notifications")
        finally:
            loop.remove_reader(notifications.fileno())
            notifications.close()

    def look_at_listeners(self) -> None:
        """Read the listening sockets now: somebody has a port of which the facts know nothing."""
        self._asked.set()

    def hear(self, events: list[Event]) -> None:
        """Take in what the kernel said; never waits."""
        touched = False
        for event in events:
            if isinstance(event, AddressEvent):
                expected = self._reactions.expects(event.address)
                touched |= (event.gone and expected) or (event.marked and not event.gone and not expected)
                if event.marked:
                    continue  # no fact
            self._dirty.set()
        if touched:
            self._reactions.hint()

    def _hear(self, notifications: socket.socket) -> None:
        for _ in range(_DATAGRAMS_AT_ONCE):
            try:
                datagram = notifications.recv(_DATAGRAM_LIMIT)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                self._lost.set()
                continue
            self.hear(parse_events(datagram))

    async def _follow_losses(self) -> None:
        while True:
            await self._lost.wait()
            self._lost.clear()
            log.warning("links.notifications_lost", reason="more at once than the socket's buffer holds")
            self._dirty.set()
            self._reactions.hint()
            await asyncio.sleep(LOSS_SECONDS)

    async def _follow_links(self) -> None:
        clock, took = asyncio.get_running_loop(), 0.0
        while True:
            await self._dirty.wait()
            if self._facts is not None:
                await asyncio.sleep(max(DEBOUNCE_SECONDS, min(1.0, REFRESH_PAUSES * took)))
            self._dirty.clear()
            began = clock.time()
            try:
                await self.refresh()
                took = clock.time() - began
            except Transient as error:
                log.warning("links.unreadable", error=str(error))
                await asyncio.sleep(_RETRY_SECONDS)
                self._dirty.set()

    async def _follow_listeners(self) -> None:
        while True:
            with suppress(TimeoutError):  # nobody asked: it is time anyhow
                async with asyncio.timeout(LISTENERS_SECONDS):
                    await self._asked.wait()
            self._asked.clear()
            listeners = await self._scan()
            if listeners != self._listeners:
                self._listeners = listeners
                self._dirty.set()

    async def refresh(self) -> None:
        """Read everything, and tell it if it differs from what was told. Raises `Transient`."""
        links, addresses, routes = await read_world(self._tables)
        facts = compute_facts(self._device, links, addresses, routes, self._listeners)
        link = next((link for link in links if link.name == self._device), None)
        known, before = self._facts is not None, self._link
        self._link = link
        if facts != self._facts:
            _report(self._facts, facts)
            self._facts = facts
            self._reactions.tell(facts)
        if known and link != before:
            self._react(link)

    def _react(self, link: Link | None) -> None:
        # A device that came back has lost our addresses: IPv6 ones when it went down, all of them if it is a new one.
        if link is not None and link.up:
            self._reactions.link_back()
        self._reactions.hint()


def _report(before: HostFacts | None, now: HostFacts) -> None:
    if not now.present and (before is None or before.present):
        log.error("link.missing", device=now.device, remedy="name an existing device with --linkdevice; it is awaited")
    elif before is not None and now.present and not before.present:
        log.info("link.back", device=now.device)
    elif before is not None and before.up != now.up:
        log.warning("link.changed", device=now.device, up=now.up)
    if before is not None and before.own != now.own:
        log.info("link.addresses_changed", device=now.device, own=[str(address) for address in now.own])
