"""ICMP errors that belong to a translated flow reach who has to know, with the addresses that they know."""

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from littlelb.testing.netns import unavailable
from tests.lab.nft_world import REFUSED, UDP, VIP4, VIP6, Keeper, World, backends, forward, frontend

pytestmark = pytest.mark.lab

NARROW = 1280
"""MTU of the wire towards the backends, in bytes; RFC 8200 allows no less."""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """One LAN for all of them."""
    reason = unavailable()
    if reason is not None:
        pytest.skip(reason)
    with World() as made:
        made.box.ip("link", "set", "eth1", "mtu", str(NARROW))
        yield made


def every_way(**more: Any) -> dict[Any, Any]:
    """TCP port 80 to 8080; UDP port 54 to a port on which no backend listens."""
    wanted = {}
    for version, vip in ((4, VIP4), (6, VIP6)):
        wanted[frontend(vip)] = forward(*backends(11, 12, version=version, **more))
        wanted[frontend(vip, UDP, 54)] = forward(*backends(11, version=version, port=54, **more))
    return wanted


@pytest.mark.parametrize("keeps", [False, True], ids=["masquerade", "keep"])
def test_a_client_learns_of_a_narrow_wire_behind_us(world: World, keeps: bool) -> None:
    """«Packet too big» and «fragmentation needed» name the Service's address: the client sends smaller segments."""

    async def script(keeper: Keeper) -> None:
        await keeper.serve(every_way(keeps_source=keeps))
        for vip in (VIP4, VIP6):
            with world.connection(frontend(vip)) as sock:
                sock.settimeout(5)
                heard = 0
                sock.sendall(b"x" * 30_000)
                while heard < 30_000:
                    heard += len(sock.recv(65_536))
                level, option = (socket.IPPROTO_IP, 14) if vip.version == 4 else (socket.IPPROTO_IPV6, 24)  # *_MTU
                assert sock.getsockopt(level, option) == NARROW

    world.play(script)


@pytest.mark.parametrize("keeps", [False, True], ids=["masquerade", "keep"])
def test_a_backend_that_refuses_a_datagram_is_heard(world: World, keeps: bool) -> None:
    """Its «port unreachable» reaches the client's socket, although that knows the Service's address only."""

    async def script(keeper: Keeper) -> None:
        await keeper.serve(every_way(keeps_source=keeps))
        for vip in (VIP4, VIP6):
            assert world.ask(frontend(vip, UDP, 54)) == REFUSED

    world.play(script)
