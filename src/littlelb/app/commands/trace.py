"""`trace`: what a packet would meet, by the daemon's own state, or without a daemon by what a run would decide now.

Nothing is sent and nothing is changed. The kernel's routes are read: a packet that leaves by the device by which it
came is masqueraded whatever was asked.
"""

from collections.abc import Mapping
from dataclasses import replace

from littlelb.app.clock import SystemClock
from littlelb.app.commands.plan import list_in_time
from littlelb.app.parts import Parts, build_parts
from littlelb.app.ways import RouteTable
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
    table = RouteTable(links, routes)
    devices = {address: min(leading) for address in backends if (leading := table.devices(address))}
    return walk(packet, Facts(state, snapshot.settings, host, devices, failures))
