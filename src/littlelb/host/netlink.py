"""Speaks rtnetlink(7): links, addresses and routes of this network namespace as values, and changes to addresses.

The only module that knows pyroute2, for what is asked for in ones: links, and where a route leads. What there can be
ten thousand of goes by `host.conversation`. The kernel's refusals come out as errno.
"""

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Self

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from littlelb.core.model import Ip
from littlelb.host.conversation import Conversation
from littlelb.host.forwarding.devconf import Setting, get_settings, parse_settings, set_settings
from littlelb.host.rtnl import (
    Address,
    Edit,
    Link,
    Route,
    address_dump,
    keeps_protocol,
    parse_address,
    parse_route,
    render_edit,
    route_dump,
)

_RTN_LOCAL = 2
_IFF_UP, _IFF_LOOPBACK, _IFF_NOARP = 0x1, 0x8, 0x80
_ATTEMPTS = 5
_ANSWER_SECONDS = 10.0


class Netlink:
    """The rtnetlink of one network namespace, to be used by one event loop: `async with Netlink() as netlink`."""

    def __init__(self, *, mark_by_protocol: bool | None = None) -> None:
        """`mark_by_protocol` None: as the running kernel can."""
        self._by_protocol = keeps_protocol(os.uname().release) if mark_by_protocol is None else mark_by_protocol
        self._route: Any = None
        self._conversation = Conversation()
        self._dumping = asyncio.Lock()  # the kernel runs one dump on a socket at a time, and refuses others as busy

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._conversation.close()
        self._drop_route()

    async def read_links(self) -> list[Link]:
        """Return all devices, in the kernel's order."""
        for _ in range(_ATTEMPTS):
            try:
                async with self._dumping, self._talk() as route:
                    return [decode_link(message) async for message in await route.link("dump")]
            except NetlinkDumpInterrupted:
                continue  # the table changed under the dump, which may be torn: read it again
        raise OSError(errno.EAGAIN, "the kernel's table changes faster than it can be read")

    async def read_addresses(self) -> list[Address]:
        """Return all addresses of all devices, in the kernel's order."""
        return await self._conversation.dump(address_dump(), parse_address)

    async def read_routes(self) -> list[Route]:
        """Return the unicast routes of the main table."""
        routes: list[Route] = []
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                routes += await self._conversation.dump(route_dump(family), parse_route)
            except FileNotFoundError:  # the table is made with its first route
                continue
        return routes

    async def read_is_local(self, address: Ip) -> bool:
        """Is the address on this machine, on whatever device? Costs one lookup, however many addresses there are."""
        try:
            async with self._talk() as route:
                found = await route.route("get", dst=str(address), family=_family(address))
        except OSError as error:
            if error.errno in {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL}:
                return False  # no route at all, or a route that says no: not local in any case
            raise
        return any(message["type"] == _RTN_LOCAL for message in found)

    async def edit(self, edits: Sequence[Edit], seconds: float | None = None) -> list[int]:
        """Put and take addresses, in order; return an errno (0: done) for each that there was time for, at least one.

        EEXIST (it is there, whosever it is), EADDRNOTAVAIL or ENODEV (gone already), EPERM, EACCES (IPv6 is switched
        off on the device). Raises OSError where the socket fails: then nobody knows what was done.
        """
        requests = [render_edit(edit, by_protocol=self._by_protocol) for edit in edits]
        return await self._conversation.change(requests, seconds)

    def read_index(self, device: str) -> int | None:
        """Return the index of a device of this network namespace; None: there is none of this name."""
        try:
            return socket.if_nametoindex(device)
        except OSError:  # ENODEV, and nothing else
            return None

    async def read_settings(self, index: int) -> Mapping[Setting, int]:
        """Read a device's IPv4 settings; empty where it has no IPv4. Raises OSError."""
        found = await self._conversation.dump(get_settings(index), parse_settings)
        return found[0] if found else {}

    async def write_settings(self, index: int, values: Mapping[Setting, int]) -> None:
        """Set some of a device's IPv4 settings. Raises OSError: EPERM, ENODEV."""
        for code in await self._conversation.change([set_settings(index, values)]):
            if code:
                raise OSError(code, os.strerror(code))

    async def _open(self) -> None:
        self._route = AsyncIPRoute()
        await self._route.setup_endpoint()

    @asynccontextmanager
    async def _talk(self) -> AsyncIterator[Any]:
        """Give the socket for one question. A lost answer ends the wait; the next question gets a new socket."""
        if self._route is None:
            await self._open()
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                yield self._route
        except NetlinkDumpInterrupted:
            raise
        except NetlinkError as error:
            raise OSError(error.code, os.strerror(error.code)) from error
        except asyncio.CancelledError:  # what is left of the answer would be read by the next one who asks
            self._drop_route()
            raise
        except OSError as error:  # of the socket itself, TimeoutError included: it is of no use any more
            self._drop_route()
            code = error.errno or errno.ETIMEDOUT
            raise OSError(code, os.strerror(code)) from error

    def _drop_route(self) -> None:
        route, self._route = self._route, None
        if route is not None:
            with suppress(OSError):  # it is broken; that is why it is closed
                route.close()


def _family(address: Ip) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def decode_link(message: Any) -> Link:
    """Turn an RTM_NEWLINK message into a value."""
    mac = message.get_attr("IFLA_ADDRESS") or ""
    flags = message["flags"]
    silent = flags & (_IFF_LOOPBACK | _IFF_NOARP) or len(mac) != 17
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME") or "",
        up=bool(flags & _IFF_UP) and message.get_attr("IFLA_CARRIER") != 0,
        mac=b"" if silent else bytes.fromhex(mac.replace(":", "")),
    )
