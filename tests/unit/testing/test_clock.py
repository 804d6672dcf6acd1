"""Virtual time: nobody waits in real time, and nothing that is on its way is overtaken by a jump."""

import asyncio
import time

import pytest

from littlelb.testing.clock import EPOCH, LoopClock, run_virtual


def test_sleeping_takes_no_real_time() -> None:
    """An hour of sleep passes on the loop's clock and not on the wall."""

    async def scenario() -> float:
        await LoopClock().sleep(3_600)
        return LoopClock().monotonic()

    started = time.monotonic()
    assert run_virtual(scenario()) == pytest.approx(3_600, abs=0.01)
    assert time.monotonic() - started < 5


def test_timers_fire_in_order() -> None:
    """Two sleepers wake in the order of their times, each at its own time."""
    woken: list[tuple[str, float]] = []

    async def sleeper(name: str, seconds: float) -> None:
        await asyncio.sleep(seconds)
        woken.append((name, round(LoopClock().monotonic(), 3)))

    async def scenario() -> None:
        await asyncio.gather(sleeper("late", 20), sleeper("early", 10))

    run_virtual(scenario())
    assert woken == [("early", 10.0), ("late", 20.0)]


def test_now_starts_at_the_epoch() -> None:
    """`now` and `monotonic` move together."""

    async def scenario() -> tuple[float, float]:
        clock = LoopClock()
        first = clock.now()
        await clock.sleep(5)
        return first, clock.now()

    first, second = run_virtual(scenario())
    assert first == pytest.approx(EPOCH, abs=0.1)
    assert second == pytest.approx(EPOCH + 5, abs=0.1)


def test_bytes_on_loopback_beat_a_timer() -> None:
    """A server that answers at once is heard before a time-out of virtual seconds fires."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        await writer.drain()
        writer.close()

    async def scenario() -> tuple[bytes, float]:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname()[:2])
            writer.write(b"ping\n")
            async with asyncio.timeout(30):
                line = await reader.readline()
            writer.close()
            await writer.wait_closed()
        return line, LoopClock().monotonic()

    line, elapsed = run_virtual(scenario())
    assert line == b"ping\n"
    assert elapsed < 30


def test_threads_are_waited_for() -> None:
    """No virtual time passes while a thread works."""

    async def scenario() -> float:
        async with asyncio.timeout(1_000):
            await asyncio.to_thread(time.sleep, 0.05)
        return LoopClock().monotonic()

    assert run_virtual(scenario()) < 1
