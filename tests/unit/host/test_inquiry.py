"""Questions to the LAN: who waits for which, for how long an answer holds, and how many are under way."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import pytest

from littlelb.core.model import Ip, Placement
from littlelb.host.inquiry import AT_ONCE, VALID_SECONDS, Inquiry, Verdicts

ONE, TWO, THREE = (IPv4Address("203.0.113.0") + n for n in (7, 8, 9))
MAC = "02:00:5e:00:53:99"


def on(*addresses: Ip, device: str = "eth0") -> dict[Ip, Placement]:
    """Want them on a device."""
    return {ip: Placement(device=device, prefix_length=32) for ip in addresses}


@dataclass
class SlowLan:
    """Answers when it is told to."""

    taken: dict[Ip, str] = field(default_factory=dict)
    asked: list[tuple[str, frozenset[Ip]]] = field(default_factory=list)
    silence_ends: asyncio.Event = field(default_factory=asyncio.Event)

    async def probe(self, device: str, addresses: frozenset[Ip]) -> Mapping[Ip, str]:
        self.asked.append((device, addresses))
        await self.silence_ends.wait()
        return {ip: mac for ip, mac in self.taken.items() if ip in addresses}


class Begun(Inquiry):
    """Asks at once for what it finds unknown."""

    def judge(self, wanted: Mapping[Ip, Placement]) -> Verdicts:
        verdicts = super().judge(wanted)
        self.begin()
        return verdicts


@dataclass
class Room:
    """An inquiry, its LAN, its time and whom it woke."""

    lan: SlowLan = field(default_factory=SlowLan)
    now: float = 1000.0
    woken: list[frozenset[Ip]] = field(default_factory=list)

    @asynccontextmanager
    async def asking(self) -> AsyncIterator[Inquiry]:
        inquiry = Begun(self.lan, self.woken.append, lambda: self.now)
        running = asyncio.create_task(inquiry.run())
        try:
            yield inquiry
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def until(state: Callable[[], bool]) -> None:
    """Wait for a state; fail after five seconds."""
    async with asyncio.timeout(5):
        while not state():
            await asyncio.sleep(0)


async def test_all_that_wait_are_asked_together_and_woken_by_name() -> None:
    """One question for a batch; who asks for the same meanwhile joins it; then the answers are there."""
    room = Room(SlowLan({TWO: MAC}))
    async with room.asking() as inquiry:
        assert not inquiry.knows("eth0", ONE)
        assert inquiry.judge(on(ONE, TWO)).waiting == [ONE, TWO]
        assert inquiry.knows("eth0", ONE)
        await until(lambda: len(room.lan.asked) == 1)
        assert inquiry.judge(on(ONE)).waiting == [ONE]
        room.lan.silence_ends.set()
        await until(lambda: bool(room.woken))
        verdicts = inquiry.judge(on(ONE, TWO))
        assert (verdicts.waiting, verdicts.taken) == ([], {TWO: MAC})
        assert inquiry.knows("eth0", TWO)
    assert room.lan.asked == [("eth0", frozenset({ONE, TWO}))]
    assert room.woken == [frozenset({ONE, TWO})]


async def test_a_long_list_is_one_question() -> None:
    """It is judged part by part, so that others have their turn, and asked for as a whole."""
    room = Room()
    async with room.asking() as inquiry:
        for address in (ONE, TWO, THREE):
            Inquiry.judge(inquiry, on(address))
            await asyncio.sleep(0)
        inquiry.begin()
        await until(lambda: len(room.lan.asked) == 1)
    assert room.lan.asked == [("eth0", frozenset({ONE, TWO, THREE}))]


async def test_a_new_address_does_not_wait_for_the_answers_about_others() -> None:
    """Questions overlap, up to a number; what is too many is asked together when one has ended."""
    room = Room()
    many = [IPv4Address("203.0.113.100") + n for n in range(AT_ONCE + 2)]
    async with room.asking() as inquiry:
        for number, address in enumerate(many):
            inquiry.judge(on(address))
            await until(lambda number=number: len(room.lan.asked) == min(number + 1, AT_ONCE))  # type: ignore[misc]
        room.lan.silence_ends.set()
        await until(lambda: len(room.woken) == AT_ONCE + 1)
    assert room.lan.asked[AT_ONCE] == ("eth0", frozenset(many[AT_ONCE:]))


async def test_an_answer_holds_for_a_while_and_for_one_device() -> None:
    """Then the LAN is asked again; so it is for another device, and for what was let go."""
    room = Room()
    room.lan.silence_ends.set()
    async with room.asking() as inquiry:
        inquiry.judge(on(ONE, TWO, THREE))
        await until(lambda: len(room.woken) == 1)
        room.now += VALID_SECONDS - 1
        assert inquiry.judge(on(ONE)).waiting == []
        assert inquiry.judge(on(ONE, device="eth1")).waiting == [ONE]
        inquiry.forget([("eth0", TWO)])
        assert inquiry.judge(on(TWO, THREE)).waiting == [TWO]
        await until(lambda: len(room.woken) == 3)
        room.now += 1
        assert inquiry.judge(on(ONE)).waiting == [ONE]


async def test_a_bug_of_the_prober_is_not_swallowed() -> None:
    """It ends the task, and with it the process."""

    class Broken(SlowLan):
        async def probe(self, device: str, addresses: frozenset[Ip]) -> Mapping[Ip, str]:  # noqa: ARG002  (the seam)
            raise ZeroDivisionError

    inquiry = Inquiry(Broken(), lambda _: None)
    inquiry.judge(on(ONE))
    inquiry.begin()
    with pytest.raises(ExceptionGroup) as failed:
        await inquiry.run()
    assert failed.group_contains(ZeroDivisionError)
