"""Asking the LAN: who counts as another machine, and what is asked."""

import asyncio
import errno
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from littlelb.announce.packets import (
    ADVERTISEMENT,
    ALL_NODES,
    BROADCAST,
    ETHERTYPE_ARP,
    ETHERTYPE_IPV6,
    REPLY,
    REQUEST,
    SOLICITATION,
    UNSPECIFIED,
    Arp,
    Frame,
    Neighbour,
    arp_probe,
    duplicate_solicitation,
    parse_arp,
    parse_neighbour,
    render_arp,
    render_neighbour,
)
from littlelb.announce.port import Device
from littlelb.announce.probe import QUESTIONS, LanProber, find_conflict
from littlelb.core.model import Ip

if TYPE_CHECKING:
    from tests.unit.announce.conftest import Wire

OWN = bytes.fromhex("02005e005301")
OTHER = bytes.fromhex("02005e005399")
FOUR, FOUR2 = IPv4Address("203.0.113.7"), IPv4Address("203.0.113.8")
SIX = IPv6Address("2001:db8:0:113::7")
CLIENT = IPv4Address("192.0.2.10")


def arp(operation: int, sender: IPv4Address, target: IPv4Address, mac: bytes = OTHER) -> Frame:
    """Make an ARP frame of another machine."""
    return Frame(BROADCAST, mac, ETHERTYPE_ARP, render_arp(Arp(operation, mac, sender, OWN, target)))


def neighbour(kind: int, source: str, target: IPv6Address, mac: bytes = OTHER) -> Frame:
    """Make a neighbour discovery frame of another machine."""
    message = Neighbour(kind, IPv6Address(source), ALL_NODES, target, mac if kind == ADVERTISEMENT else b"")
    return Frame(BROADCAST, mac, ETHERTYPE_IPV6, render_neighbour(message))


@pytest.mark.parametrize(
    ("frame", "claimed"),
    [
        pytest.param(arp(REPLY, FOUR, UNSPECIFIED), FOUR, id="it answers our question"),
        pytest.param(arp(REQUEST, FOUR, CLIENT), FOUR, id="it speaks from that address"),
        pytest.param(arp(REQUEST, UNSPECIFIED, FOUR), FOUR, id="it is just asking for it too"),
        pytest.param(arp(REQUEST, CLIENT, FOUR), None, id="a client looks for the address"),
        pytest.param(arp(REPLY, FOUR2, UNSPECIFIED), None, id="another address"),
        pytest.param(arp(REPLY, FOUR, UNSPECIFIED, OWN), None, id="a device of this machine"),
        pytest.param(neighbour(ADVERTISEMENT, str(SIX), SIX), SIX, id="it advertises it"),
        pytest.param(neighbour(SOLICITATION, "::", SIX), SIX, id="it searches for duplicates of it"),
        pytest.param(neighbour(SOLICITATION, str(SIX), IPv6Address("2001:db8::1")), SIX, id="it asks from it"),
        pytest.param(neighbour(SOLICITATION, "2001:db8::1", SIX), None, id="a client looks for it"),
        pytest.param(neighbour(ADVERTISEMENT, str(SIX), SIX, OWN), None, id="this machine advertises it"),
        pytest.param(Frame(BROADCAST, OTHER, ETHERTYPE_ARP, b"short"), None, id="garbage"),
        pytest.param(Frame(BROADCAST, OTHER, ETHERTYPE_IPV6, b"short"), None, id="garbage of IPv6"),
    ],
)
def test_who_has_it(frame: Frame, claimed: Ip | None) -> None:
    """Only another machine that has an asked address, or is about to take it, is a conflict."""
    found = find_conflict(frame, frozenset({FOUR, SIX}), frozenset({OWN}))
    assert found == (None if claimed is None else (claimed, OTHER))


async def no_time(_: float) -> None:
    """Let the loop turn, and no time pass."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def prober(wire: "Wire") -> LanProber:
    """A prober on the wire, in no time."""
    return LanProber(open_port=wire.open, look=wire.look, own_macs=lambda: frozenset({OWN}), sleep=no_time)


async def test_silence_means_free(wire: "Wire") -> None:
    """Each address is asked three times, with nobody as the sender; without an answer none is taken."""
    assert await prober(wire).probe("eth0", frozenset({FOUR, SIX})) == {}
    frames = [frame for _, frame in wire.sent]
    assert frames.count(arp_probe(OWN, FOUR)) == QUESTIONS
    assert frames.count(duplicate_solicitation(OWN, SIX)) == QUESTIONS
    assert len(frames) == 2 * QUESTIONS


async def test_answer_names_the_mac(wire: "Wire") -> None:
    """An answered address is not asked for again, and its owner's MAC address is returned as text."""

    def answer(frame: Frame) -> list[Frame]:
        packet, message = parse_arp(frame.payload), parse_neighbour(frame.payload)
        if packet is not None and packet.target == FOUR:
            return [arp(REPLY, FOUR, UNSPECIFIED)]
        return [neighbour(ADVERTISEMENT, str(SIX), SIX)] if message is not None else []

    wire.answer = answer
    found = await prober(wire).probe("eth0", frozenset({FOUR, FOUR2, SIX}))
    assert found == {FOUR: "02:00:5e:00:53:99", SIX: "02:00:5e:00:53:99"}
    assert [frame for _, frame in wire.sent].count(arp_probe(OWN, FOUR)) == 1


@pytest.mark.parametrize("device", [None, Device("eth0", bytes(6), asked=False)], ids=["missing", "without ARP"])
async def test_nobody_to_ask(wire: "Wire", device: Device | None) -> None:
    """On a device without ARP, or without the device, nothing is opened and nothing is taken."""
    wire.device = device
    wire.refusal = OSError(errno.EIO, "must not be opened")
    assert await prober(wire).probe("eth0", frozenset({FOUR})) == {}


async def test_no_right_is_said_once(wire: "Wire") -> None:
    """Without CAP_NET_RAW addresses are taken unasked; the log holds the remedy, once."""
    wire.refusal = PermissionError(errno.EPERM, "Operation not permitted")
    asking = prober(wire)
    with capture_logs() as logs:
        for _ in range(2):
            assert await asking.probe("eth0", frozenset({FOUR})) == {}
    (line,) = logs
    assert line["event"] == "probe.not_permitted"
    assert "CAP_NET_RAW" in line["remedy"]


async def test_device_down_is_no_conflict(wire: "Wire") -> None:
    """A device that went down cannot ask; that is logged and takes nothing away."""
    wire.refusal = OSError(errno.ENETDOWN, "Network is down")
    with capture_logs() as logs:
        assert await prober(wire).probe("eth0", frozenset({FOUR})) == {}
    assert [line["event"] for line in logs] == ["probe.failed"]
