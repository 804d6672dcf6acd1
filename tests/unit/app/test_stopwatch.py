"""What a change of the kernel plane takes is heard."""

from ipaddress import ip_address

import pytest

from littlelb.app.stopwatch import Stopwatch
from littlelb.core.interfaces import Phase
from littlelb.core.model import Forward, Frontend, Protocol
from littlelb.core.plan import Changes
from littlelb.testing.fake_target import FakeTarget

HTTP = Frontend(ip_address("203.0.113.7"), Protocol.TCP, 80)
WEB = Forward(service="demo/web", backends=())


class Ticking:
    """A clock on which a quarter of a second goes by at each look."""

    def __init__(self) -> None:
        self._now = 0.0

    def now(self) -> float:
        """Not asked."""
        raise AssertionError

    def monotonic(self) -> float:
        """Go on."""
        self._now += 0.25
        return self._now

    async def sleep(self, seconds: float) -> None:
        """Not asked."""
        raise AssertionError(seconds)


async def test_a_change_is_timed_and_nothing_to_do_is_not() -> None:
    """The carrier does what it did before; one that fails is heard as well."""
    target = FakeTarget[Frontend, Forward](Phase.FORWARD, lambda state: state.forwards)
    watch = Stopwatch(target, Ticking())
    await watch.apply(Changes(add={HTTP: WEB}))  # nobody listens yet
    heard: list[float] = []
    watch.on_write = heard.append
    assert await watch.apply(Changes()) == {}
    assert heard == []
    assert await watch.apply(Changes(change={HTTP: WEB})) == {}
    assert await watch.observe(None) == {HTTP: WEB}
    target.poison[HTTP] = RuntimeError("a bug")
    with pytest.raises(RuntimeError):
        await watch.apply(Changes(remove={HTTP: WEB}))
    assert heard == [0.25, 0.25]
