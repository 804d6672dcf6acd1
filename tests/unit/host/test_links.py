"""What the monitor makes of notifications and of changed tables."""

import asyncio
import errno
import os
import socket
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any

import pytest

from littlelb.core.model import HostFacts, Ip, Listener, Protocol
from littlelb.host.events import AddressEvent, TopologyEvent
from littlelb.host.links import LinkMonitor, Reactions, no_listeners
from littlelb.host.rtnl import Address
from littlelb.testing.fake_kernel import ETH0, ETH1, FakeKernel

OURS, THEIRS = ip_address("203.0.113.7"), ip_address("192.0.2.2")


@dataclass
class Told:
    """Who hears of what, written down."""

    facts: list[HostFacts] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    expected: set[Ip] = field(default_factory=lambda: {OURS})

    def reactions(self) -> Reactions:
        """Return it as the monitor wants it."""
        return Reactions(
            self.facts.append,
            lambda: self.heard.append("hint"),
            lambda: self.heard.append("link back"),
            lambda address: address in self.expected,
        )


@pytest.fixture
def told() -> Told:
    """Nothing was told yet."""
    return Told()


@pytest.mark.parametrize(
    ("event", "hinted"),
    [
        pytest.param(AddressEvent(OURS, marked=True, gone=True), True, id="somebody removed ours"),
        pytest.param(AddressEvent(OURS, marked=True, gone=False), False, id="we added ours"),
        pytest.param(AddressEvent(THEIRS, marked=True, gone=False), True, id="somebody put our mark on something"),
        pytest.param(AddressEvent(THEIRS, marked=True, gone=True), False, id="we removed ours"),
        pytest.param(AddressEvent(OURS, marked=False, gone=True), True, id="an address that we use went"),
        pytest.param(AddressEvent(THEIRS, marked=False, gone=False), False, id="the host got an address"),
        pytest.param(TopologyEvent(), False, id="a route changed"),
    ],
)
def test_hints_are_for_what_is_ours(told: Told, kernel: FakeKernel, event: AddressEvent, hinted: bool) -> None:
    """Only what contradicts our belief about our own addresses is a reason to distrust it; once a batch."""
    LinkMonitor("eth0", kernel, told.reactions()).hear([event, event])
    assert told.heard == (["hint"] if hinted else [])


async def test_facts_are_told_when_they_differ(told: Told, kernel: FakeKernel) -> None:
    """The first look is told; the same again is not; a new own address is."""
    monitor = LinkMonitor("eth0", kernel, told.reactions())
    await monitor.refresh()
    await monitor.refresh()
    assert len(told.facts) == 1
    kernel.addresses.append(Address(THEIRS, 24, 2, marked=False))
    await monitor.refresh()
    assert [facts.own for facts in told.facts] == [(), (THEIRS,)]
    assert told.heard == []


async def test_transcript_of_a_device_that_comes_and_goes(told: Told, kernel: FakeKernel) -> None:
    """Down, up, gone, back with another index, another MAC address: each with its reaction."""
    monitor = LinkMonitor("eth0", kernel, told.reactions())
    transcript = []
    for links in (
        [ETH0, ETH1],
        [replace(ETH0, up=False), ETH1],
        [ETH0, ETH1],
        [ETH1],
        [replace(ETH0, index=9), ETH1],
        [replace(ETH0, index=9, mac=b"\x02\x00\x5e\x00\x53\x02"), ETH1],
    ):
        kernel.links = links
        told.heard.clear()
        await monitor.refresh()
        transcript.append((told.facts[-1].present, told.facts[-1].up, list(told.heard)))
    assert transcript == [
        (True, True, []),
        (True, False, ["hint"]),
        (True, True, ["link back", "hint"]),
        (False, False, ["hint"]),
        (True, True, ["link back", "hint"]),
        (True, True, ["link back", "hint"]),
    ]


async def test_listeners_are_looked_at_when_somebody_asks(told: Told, kernel: FakeKernel) -> None:
    """A port that turned out to be taken is looked up at once, not at the next of the regular looks."""
    sshd = Listener(Protocol.TCP, None, 22, "sshd (pid 812)")
    found = iter([(), (sshd,)])
    here, there = socket.socketpair()

    async def scan() -> tuple[Listener, ...]:
        return next(found)

    monitor = LinkMonitor("eth0", kernel, told.reactions(), scan, lambda: here)
    here.settimeout(0)
    monitor.look_at_listeners()
    running = asyncio.create_task(monitor.run())
    with there:
        async with asyncio.timeout(5):
            while len(told.facts) < 2:
                await asyncio.sleep(0.001)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert [facts.listeners for facts in told.facts] == [(), (sshd,)]


class Overrun(socket.socket):
    """A socket whose buffer was too small, several times over, before anybody read it."""

    times = 3

    def recv(self, *_: Any) -> bytes:
        """Say so, and then that there is nothing."""
        if self.times:
            self.times -= 1
            raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        raise BlockingIOError


async def test_lost_notifications_are_one_reason_to_look(told: Told, kernel: FakeKernel) -> None:
    """However many were lost: a look at ten thousand addresses costs seconds, and may lose some itself."""
    here, there = socket.socketpair()
    there.send(b"!")
    overrun = Overrun(fileno=here.detach())
    monitor = LinkMonitor("eth0", kernel, told.reactions(), open_socket=lambda: overrun)
    running = asyncio.create_task(monitor.run())
    with there:
        async with asyncio.timeout(5):
            while "hint" not in told.heard or overrun.times:
                await asyncio.sleep(0.001)
        overrun.times = 3
        async with asyncio.timeout(5):
            while overrun.times:
                await asyncio.sleep(0.001)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert told.heard == ["hint"]


async def test_nobody_listens_where_nobody_looks() -> None:
    """The default scan finds nothing."""
    assert await no_listeners() == ()
