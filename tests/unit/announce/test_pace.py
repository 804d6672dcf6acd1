"""Bursts, and the time between them."""

from collections.abc import Iterable
from ipaddress import IPv4Address

import pytest

from littlelb.announce.pace import BURST, Pace
from littlelb.announce.packets import Frame, arp_probe

FRAME = arp_probe(bytes(6), IPv4Address("203.0.113.7"))


class Room:
    """A port on which sending takes its time, and a clock."""

    def __init__(self, seconds_per_burst: float = 0.0) -> None:
        self.now = 1000.0
        self.sent: list[tuple[float, int]] = []
        self._takes = seconds_per_burst

    async def send(self, frames: Iterable[Frame]) -> None:
        """Note when, and how many."""
        self.sent.append((self.now - 1000.0, len(list(frames))))
        self.now += self._takes

    async def sleep(self, seconds: float) -> None:
        """Let the time pass."""
        self.now += seconds


@pytest.mark.parametrize("seconds_per_burst", [0.0, 0.001], ids=["at once", "slow"])
async def test_the_rate_holds_however_long_sending_takes(seconds_per_burst: float) -> None:
    """No more than a burst is ahead of the rate, and the slowness of the port does not add to the pauses."""
    room = Room(seconds_per_burst)
    await Pace(32_000, sleep=room.sleep, monotonic=lambda: room.now).send(room, [FRAME] * 3200)
    assert sum(count for _, count in room.sent) == 3200
    assert [round(when, 6) for when, _ in room.sent] == [round(n * BURST / 32_000, 6) for n in range(50)]


async def test_a_port_that_is_slower_than_the_rate_is_not_waited_for() -> None:
    """There are no pauses then, only turns for others."""
    room = Room(0.01)
    await Pace(32_000, sleep=room.sleep, monotonic=lambda: room.now).send(room, [FRAME] * 640)
    assert room.now - 1000.0 == pytest.approx(0.1)


async def test_the_rate_is_that_of_all_together() -> None:
    """Who sends second waits for what the first one has used up."""
    room = Room()
    pace = Pace(32_000, sleep=room.sleep, monotonic=lambda: room.now)
    await pace.send(room, [FRAME] * BURST)
    await pace.send(room, [FRAME] * BURST)
    assert [round(when, 6) for when, _ in room.sent] == [0.0, BURST / 32_000]


async def test_a_burst_or_less_goes_out_at_once() -> None:
    """Nothing waits behind the last burst."""
    room = Room()
    await Pace(10, sleep=room.sleep, monotonic=lambda: room.now).send(room, [FRAME] * BURST)
    await Pace(10, sleep=room.sleep, monotonic=lambda: room.now).send(room, [])
    assert (room.now, room.sent) == (1000.0, [(0.0, BURST)])
