"""Speaks rtnetlink(7): links, addresses and routes of this network namespace as values, and two changes to addresses.

The only module that knows pyroute2. The kernel's refusals come out as OSError with its errno. Our mark on an address:
IFA_PROTO = 108 (kernel 5.18 and later keep it); before that, the metric IFA_RT_PRIORITY = 0x6c62 (kernel 4.18), which
has no effect on an address without a prefix route. The label `eth0:lb` on IPv4 addresses is for people: `ip addr`.
"""

import asyncio
import errno
import os
import re
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from types import TracebackType
from typing import Any, Self

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from littlelb.core.model import Ip, Net

PROTOCOL = 108
METRIC = 0x6C62
FOREVER = 0xFFFFFFFF
"""A lifetime without end (RFC 4861 section 4.6.2)."""
LABEL_LIMIT = 15
"""IFNAMSIZ less the closing zero."""

_PERMANENT, _NODAD, _NOPREFIXROUTE = 0x80, 0x02, 0x200
_DEPRECATED, _TENTATIVE, _DADFAILED = 0x20, 0x40, 0x08
_SCOPE_GLOBAL, _SCOPE_LINK = 0, 253
_RTN_UNICAST, _RTN_LOCAL = 1, 2
_TABLE_MAIN = 254
_FAMILIES = frozenset({socket.AF_INET, socket.AF_INET6})
_IFF_UP, _IFF_LOOPBACK, _IFF_NOARP = 0x1, 0x8, 0x80
_ATTEMPTS = 5
_ANSWER_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Link:
    """One network device."""

    index: int
    name: str
    up: bool
    """Administratively up and with a carrier."""
    mac: bytes
    """Empty where there is none, or where nobody is asked for it (loopback, tunnels, NOARP)."""


@dataclass(frozen=True, slots=True)
class Address:
    """One address on one device."""

    address: Ip
    prefix_length: int
    index: int
    marked: bool
    """It bears our mark."""
    deprecated: bool = False
    usable: bool = True
    """Neither tentative nor found to be a duplicate."""
    scope_global: bool = True
    prefix_route: bool = True


@dataclass(frozen=True, slots=True)
class Route:
    """One unicast route of the main table."""

    destination: Net
    index: int
    gateways: tuple[Ip, ...]
    on_link: bool


def keeps_protocol(release: str) -> bool:
    """Does a kernel of this release (`uname -r`) keep IFA_PROTO? It came with 5.18."""
    version = re.match(r"(\d+)\.(\d+)", release)
    return version is not None and (int(version[1]), int(version[2])) >= (5, 18)


def render_label(device: str) -> str:
    """Return `eth0:lb`, or the bare name where that would exceed the 15 characters of the kernel."""
    return f"{device}:lb" if len(device) + 3 <= LABEL_LIMIT else device


class Netlink:
    """One rtnetlink socket, to be used by one event loop: `async with Netlink() as netlink`."""

    def __init__(self, *, mark_by_protocol: bool | None = None) -> None:
        """`mark_by_protocol` None: as the running kernel can."""
        self._by_protocol = keeps_protocol(os.uname().release) if mark_by_protocol is None else mark_by_protocol
        self._route: Any = None
        self._dumping = asyncio.Lock()  # the kernel runs one dump on a socket at a time, and refuses others as busy

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    async def read_links(self) -> list[Link]:
        """Return all devices, in the kernel's order."""
        return [decode_link(message) for message in await self._dump(lambda route: route.link)]

    async def read_addresses(self) -> list[Address]:
        """Return all addresses of all devices, in the kernel's order."""
        messages = await self._dump(lambda route: route.addr)
        return [decode_address(message) for message in messages if message["family"] in _FAMILIES]

    async def read_routes(self) -> list[Route]:
        """Return the unicast routes of the main table."""
        messages = await self._dump(lambda route: route.route, table=_TABLE_MAIN)
        return [decode_route(message) for message in messages if is_unicast(message)]

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

    async def add(
        self, address: Ip, prefix_length: int, link: Link, valid_seconds: int = FOREVER, *, renew: bool = False
    ) -> None:
        """Put the address on the device with our mark: deprecated, no prefix route, no asking for duplicates.

        `renew`: it is there and ours, and gets a new lifetime. OSError otherwise: EEXIST (whosever it is), ENODEV,
        EPERM, EACCES (IPv6 is switched off on the device).
        """
        request = {
            "index": link.index,
            "address": str(address),
            "prefixlen": prefix_length,
            "family": _family(address),
            "flags": _NOPREFIXROUTE | (_NODAD if address.version == 6 else 0),
            "preferred_lft": 0,
            "valid_lft": valid_seconds,
        }
        request |= {"proto": PROTOCOL} if self._by_protocol else {"rt_priority": METRIC}
        if address.version == 4:
            request["label"] = render_label(link.name)
        async with self._talk() as route:
            await route.addr("replace" if renew else "add", **request)

    async def remove(self, found: Address) -> None:
        """Take the address off its device; OSError EADDRNOTAVAIL or ENODEV where it is gone already."""
        async with self._talk() as route:
            await route.addr(
                "del",
                index=found.index,
                address=str(found.address),
                prefixlen=found.prefix_length,
                family=_family(found.address),
            )

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
        except OSError as error:  # of the socket itself, TimeoutError included: it is of no use any more
            self._close()
            code = error.errno or errno.ETIMEDOUT
            raise OSError(code, os.strerror(code)) from error

    def _close(self) -> None:
        route, self._route = self._route, None
        if route is not None:
            with suppress(OSError):  # it is broken; that is why it is closed
                route.close()

    async def _dump(self, ask: Callable[[Any], Callable[..., Any]], **criteria: int) -> list[Any]:
        for _ in range(_ATTEMPTS):
            try:
                async with self._dumping, self._talk() as route:
                    return [message async for message in await ask(route)("dump", **criteria)]
            except NetlinkDumpInterrupted:
                continue  # the table changed under the dump, which may be torn: read it again
        raise OSError(errno.EAGAIN, "the kernel's table changes faster than it can be read")


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


def decode_address(message: Any) -> Address:
    """Turn an RTM_NEWADDR or RTM_DELADDR message into a value."""
    flags = message.get_attr("IFA_FLAGS") or message["flags"]
    return Address(
        address=ip_address(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")),
        prefix_length=message["prefixlen"],
        index=message["index"],
        marked=message.get_attr("IFA_PROTO") == PROTOCOL or message.get_attr("IFA_RT_PRIORITY") == METRIC,
        deprecated=bool(flags & _DEPRECATED),
        usable=not flags & (_TENTATIVE | _DADFAILED),
        scope_global=message["scope"] == _SCOPE_GLOBAL,
        prefix_route=not flags & _NOPREFIXROUTE,
    )


def is_unicast(message: Any) -> bool:
    """Is it a unicast route of IPv4 or IPv6? A dump of all families holds MPLS labels too."""
    return message["type"] == _RTN_UNICAST and message["family"] in _FAMILIES


def decode_route(message: Any) -> Route:
    """Turn an RTM_NEWROUTE message into a value; the gateways of a multipath route are all named."""
    default = "0.0.0.0" if message["family"] == socket.AF_INET else "::"  # noqa: S104  (a destination, no binding)
    destination = ip_network(f"{message.get_attr('RTA_DST') or default}/{message['dst_len']}")
    hops = message.get_attr("RTA_MULTIPATH") or [message]
    gateways = tuple(ip_address(text) for hop in hops if (text := hop.get_attr("RTA_GATEWAY")))
    return Route(
        destination=destination,
        index=message.get_attr("RTA_OIF") or 0,
        gateways=gateways,
        on_link=not gateways and message.get_attr("RTA_MULTIPATH") is None,
    )
