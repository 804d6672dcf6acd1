"""The first signal says how to go, the second one goes at once."""

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from littlelb.app.signals import AT_ONCE, Stop, StopSignals

NUMBERS = {signal.SIGTERM: Stop.TERMINATE, signal.SIGINT: Stop.INTERRUPT, signal.SIGUSR2: Stop.KEEP}


@pytest.fixture
def restored() -> Iterator[None]:
    """Signals of this process as they were before the test."""
    before = {number: signal.getsignal(number) for number in (*NUMBERS, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize(("number", "stop"), NUMBERS.items())
async def test_each_signal_has_its_way_to_go(number: signal.Signals, stop: Stop) -> None:
    """The first one is told to whoever waits, and to whoever asks later."""
    ended: list[int] = []
    heard = StopSignals(asyncio.get_running_loop(), ended.append)
    os.kill(os.getpid(), number)
    assert await heard.wait() is stop
    assert await heard.wait() is stop
    assert ended == []


@pytest.mark.usefixtures("restored")
async def test_a_reload_in_the_middle_of_a_start_ends_nothing() -> None:
    """SIGHUP is ignored until the settings are followed; its default would end the process."""
    heard = StopSignals(asyncio.get_running_loop())
    os.kill(os.getpid(), signal.SIGHUP)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await heard.wait() is Stop.TERMINATE


@pytest.mark.usefixtures("restored")
async def test_a_second_signal_goes_at_once(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever the first one asked for: the process ends, and the kernel's state stays."""
    ended: list[int] = []
    heard = StopSignals(asyncio.get_running_loop(), ended.append)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await heard.wait() is Stop.TERMINATE
    os.kill(os.getpid(), signal.SIGINT)
    while not ended:
        await asyncio.sleep(0)
    assert ended == [AT_ONCE]
    assert await heard.wait() is Stop.TERMINATE
    assert not caplog.records
