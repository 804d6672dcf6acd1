"""What `trace` says of a packet is what becomes of a real one: backend, source seen, refusal, silence."""

import socket
from ipaddress import ip_network
from itertools import count

import pytest
from msgspec.structs import replace

from littlelb.core.model import Forward, Frontend, HostFacts, Plane, Protocol
from littlelb.core.state import DesiredState, Settings
from littlelb.core.trace.packet import Outcome, Packet, Trace
from littlelb.core.trace.walk import Facts, trace
from littlelb.testing.lan import lan_address
from littlelb.testing.netns import Namespace
from tests.lab.nft_world import REFUSED, SILENCE, TCP, UDP, VIP4, VIP6, Keeper, World, backends, forward, frontend

pytestmark = pytest.mark.lab

CLIENT, CLIENT6 = lan_address(10)
HERE = (ip_network("192.0.2.0/24"), ip_network("2001:db8:0:2::/64"))
FAR = (ip_network("198.18.0.0/15"), ip_network("2001:db8:ffff::/48"))
PORTS = count(40_000)


def services(version: int) -> dict[int, Forward]:
    """Services by their TCP and UDP port: everything that the kernel plane can be asked for."""
    kept = backends(11, 12, version=version, keeps_source=True)
    lost = backends(11, 12, version=version)
    heavy = (kept[0], replace(kept[1], weight=3))
    return {
        80: forward(*kept),
        81: forward(*lost),
        82: forward(*heavy),
        83: forward(kept[0], lost[1]),
        84: forward(*kept, source_ranges=HERE),
        85: forward(*kept, source_ranges=FAR),
        86: forward(*kept, source_ranges=()),
        87: forward(),
        88: forward(*kept, affinity_seconds=60),
        89: forward(*lost, affinity_seconds=60),
        90: forward(kept[0]),
        91: replace(forward(), plane=Plane.PIPE),
    }


def wanted() -> dict[Frontend, Forward]:
    """Those, for both families and protocols, and a range of UDP ports."""
    found = {
        frontend(address, protocol, port): served
        for address in (VIP4, VIP6)
        for protocol in (TCP, UDP)
        for port, served in services(address.version).items()
        if served.plane is Plane.NFT or protocol is TCP
    }
    for address in (VIP4, VIP6):
        ranged = backends(11, 12, version=address.version, port=0, keeps_source=True)
        found[frontend(address, UDP, 5000, 5009)] = forward(*ranged, source_ranges=HERE)
    return found


def send(client: Namespace, packet: Packet) -> list[str] | str:
    """Send the real one; what the backend told: its address, its port, whom it saw."""

    def knock() -> list[str] | str:
        kind = socket.SOCK_STREAM if packet.protocol is TCP else socket.SOCK_DGRAM
        with socket.socket(socket.AF_INET6 if packet.source.version == 6 else socket.AF_INET, kind) as sock:
            sock.settimeout(1)
            sock.bind((str(packet.source), packet.source_port or 0))
            try:
                sock.connect((str(packet.destination), packet.port))
                if packet.protocol is UDP:
                    sock.send(b"?")
                return sock.recv(200).decode().split()
            except ConnectionRefusedError:
                return REFUSED
            except TimeoutError:
                return SILENCE

    return client.call(knock)


def judge(said: Trace, heard: list[str] | str, packet: Packet) -> None:
    """Compare the two."""
    assert heard == {Outcome.REFUSED: REFUSED, Outcome.DROPPED: SILENCE}.get(said.outcome, heard), said
    if said.outcome is Outcome.FORWARDED:
        assert isinstance(heard, list), said
        backend, port, client = heard
        told = {(one.address, str(one.port)): one.sees for one in said.backends}
        assert (backend, port) in told, (said, heard)
        sees = told[backend, port]
        assert client == sees if sees else client != str(packet.source), (said, heard)


def packets(address_port: Frontend, *, times: int) -> list[Packet]:
    """Make packets to it from one source port after the other."""
    source = CLIENT if address_port.address.version == 4 else CLIENT6
    port = address_port.last_port or address_port.port
    return [Packet(source, next(PORTS), address_port.address, port, address_port.protocol) for _ in range(times)]


def test_a_trace_is_what_happens() -> None:
    """Each Service, each family and protocol, several source ports; and ports that no Service has."""
    host = HostFacts("eth0", on_link=(ip_network("192.0.2.0/24"), ip_network("2001:db8:0:2::/64")))
    settings = Settings(planes=(Plane.NFT, Plane.PIPE))
    followed = hashed = 0
    with World() as world:

        async def script(keeper: Keeper) -> None:
            nonlocal followed, hashed
            await keeper.serve(wanted())
            facts = Facts(DesiredState(forwards=wanted()), settings, host)
            asked = [*wanted(), *(Frontend(vip, protocol, 99) for vip in (VIP4, VIP6) for protocol in Protocol)]
            for one in asked:
                if one.protocol is Protocol.SCTP:
                    continue
                served = facts.desired.forwards.get(one, forward())
                remembered = one.address.version == 4 and served.affinity_seconds > 0  # from the first one on
                once = remembered or served.source_ranges in {FAR, ()}
                for packet in packets(one, times=1 if once else 6):
                    said = trace(packet, facts)
                    judge(said, send(world.lan.client, packet), packet)
                    followed += 1
                    hashed += said.slot is not None and (said.slots or 0) > 1

        world.play(script)
    assert followed > 200
    assert hashed > 80
