"""`trace`: what a packet would meet, by the daemon's own state, or without a daemon by what a run would decide now.

Nothing is sent and nothing is changed. The kernel's routes are read: a packet that leaves by the device by which it
came is masqueraded whatever was asked.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from littlelb.app.clock import SystemClock
from littlelb.app.commands.plan import list_in_time
from littlelb.app.parts import Parts, build_parts
from littlelb.config import Config
from littlelb.core.desired import compute
from littlelb.core.model import Frontend, Ip, Key
from littlelb.core.plan import Failure
from littlelb.core.state import DesiredState
from littlelb.core.trace.packet import Entering, Packet, Trace
from littlelb.core.trace.walk import Facts, find_forward
from littlelb.core.trace.walk import trace as walk
from littlelb.host.facts import read_world
from littlelb.host.netlink import Netlink
from littlelb.host.rtnl import Link, Route


async def trace(config: Config, packet: Packet) -> Trace:
    """Decide as `run` would, and follow the packet. Raises `ConfigError`, `Permanent`, `Transient`."""
    async with Netlink() as netlink:
        parts = await build_parts(config, SystemClock(), netlink)
        try:
            piped = await parts.planes.pipe.look()
            await parts.see_listeners()
            parts.recognise(piped)
            await list_in_time(parts)
            return await follow(parts, netlink, packet, compute(parts.store.peek()), {})
        finally:
            await parts.close()


async def follow(
    parts: Parts,
    netlink: Netlink,
    packet: Packet,
    state: DesiredState,
    failures: Mapping[Frontend | Ip | Key, Failure],
) -> Trace:
    """Follow a packet through a state that was decided. Raises `Transient`, `Permanent`."""
    snapshot = parts.store.peek()
    host = snapshot.host
    if packet.source in {*host.own, *host.elsewhere}:
        packet = replace(packet, entering=Entering.LOCAL)
    found = find_forward(packet, state)
    backends = [backend.address for backend in found[1].backends] if found is not None else []
    links, _, routes = await read_world(netlink)
    devices = select_devices(backends, routes, links)
    return walk(packet, Facts(state, snapshot.settings, host, devices, failures))


def select_devices(addresses: Iterable[Ip], routes: Sequence[Route], links: Iterable[Link]) -> dict[Ip, str]:
    """Find the device that leads to each address, by the longest prefix; those without a route are left out."""
    names = {link.index: link.name for link in links}
    found: dict[Ip, str] = {}
    for address in addresses:
        leading = [
            route
            for route in routes
            if route.destination.version == address.version and address in route.destination and route.index in names
        ]
        if leading:
            found[address] = names[max(leading, key=lambda route: route.destination.prefixlen).index]
    return found
