"""Turns what netlink tells of this machine into `HostFacts`."""

from collections.abc import Sequence
from typing import Protocol

from littlelb.core.errors import Transient
from littlelb.core.model import HostFacts, Ip, Listener
from littlelb.host.rtnl import Address, Link, Route


class Tables(Protocol):
    """What of `host.netlink.Netlink` is read here. All raise OSError."""

    async def read_links(self) -> list[Link]:
        """Return all devices."""
        ...

    async def read_addresses(self) -> list[Address]:
        """Return all addresses of all devices."""
        ...

    async def read_routes(self) -> list[Route]:
        """Return the unicast routes of the main table."""
        ...


async def read_world(tables: Tables) -> tuple[list[Link], list[Address], list[Route]]:
    """Read all three tables; raises `Transient`."""
    try:
        return await tables.read_links(), await tables.read_addresses(), await tables.read_routes()
    except OSError as error:
        raise Transient(f"cannot read this machine's devices, addresses and routes: {error.strerror}") from error


async def read_host_facts(tables: Tables, device: str, listeners: tuple[Listener, ...] = ()) -> HostFacts:
    """Read the facts once, for `plan` and `check`; a missing device is a fact (`present`), no error."""
    links, addresses, routes = await read_world(tables)
    return compute_facts(device, links, addresses, routes, listeners)


def compute_facts(
    device: str,
    links: Sequence[Link],
    addresses: Sequence[Address],
    routes: Sequence[Route],
    listeners: tuple[Listener, ...] = (),
) -> HostFacts:
    """Select what decisions depend on. Addresses that bear our mark are nowhere in it."""
    names = {link.index: link.name for link in links}
    mine = next((link for link in links if link.name == device), None)
    index = mine.index if mine is not None else None
    theirs = [entry for entry in addresses if not entry.marked]
    routed = {route.destination: None for route in routes if route.destination.prefixlen}
    return HostFacts(
        device=device,
        present=mine is not None,
        up=mine is not None and mine.up,
        own=_own([entry for entry in theirs if entry.index == index]),
        on_link=tuple(
            dict.fromkeys(
                route.destination
                for route in routes
                if route.on_link and route.index == index and not route.destination.is_link_local
            )
        ),
        gateways=frozenset(gateway for route in routes for gateway in route.gateways),
        elsewhere={entry.address: names.get(entry.index, "?") for entry in theirs if entry.index != index},
        routed=tuple(routed),
        listeners=listeners,
    )


def _own(entries: Sequence[Address]) -> tuple[Ip, ...]:
    # The first of each family becomes the default address: an address that its owner wants to retire comes last.
    usable = [entry for entry in entries if entry.scope_global and entry.usable]
    return tuple(entry.address for entry in sorted(usable, key=lambda entry: entry.deprecated))
