"""The target without workers; with real ones it is tested in tests/lab/test_pipe_life.py."""

from ipaddress import ip_address
from pathlib import Path

import pytest
from msgspec.structs import replace

from littlelb.core.errors import Transient
from littlelb.core.interfaces import Phase, Target
from littlelb.core.model import Backend, Forward, Frontend, Plane, Protocol
from littlelb.core.plan import Changes
from littlelb.core.reasons import Reason
from littlelb.core.state import DesiredState
from littlelb.dataplane.pipe.crew import PipeSettings
from littlelb.dataplane.pipe.plane import PipePlane
from littlelb.dataplane.pipe.wire import MAX_BACKENDS

WEB = Frontend(ip_address("203.0.113.1"), Protocol.TCP, 18080)
RULE = Forward(service="default/web", backends=(Backend(ip_address("10.1.0.1"), 80),))


@pytest.fixture
def plane(tmp_path: Path) -> PipePlane:
    """A plane that was not started."""
    return PipePlane(PipeSettings(tmp_path / "run"), lambda _: "", lambda: None)


def test_it_is_a_target_of_the_first_phase(plane: PipePlane) -> None:
    """The loop can use it as FORWARD, and what it wants are the forwards as they are."""
    target: Target[Frontend, Forward] = plane
    state = DesiredState(forwards={WEB: RULE})
    assert target.phase is Phase.FORWARD
    assert target.wanted(state) is state.forwards


async def test_without_workers_nothing_is_claimed(plane: PipePlane) -> None:
    """A frontend that no worker took has failed, is not believed to be served, and can be removed."""
    failures = await plane.apply(Changes({WEB: RULE}))
    assert {frontend: failure.reason for frontend, failure in failures.items()} == {WEB: Reason.FAILED}
    assert await plane.observe(frozenset({WEB})) == {}
    with pytest.raises(Transient):
        await plane.observe(None)
    assert await plane.apply(Changes(remove={WEB: RULE})) == {}
    assert await plane.counters() == {}
    assert await plane.drain(0) == 0
    await plane.stop(keep=False)


async def test_more_backends_than_a_worker_can_be_told_fail_that_frontend_alone(plane: PipePlane) -> None:
    """One Service with a boundless number of endpoints gets a reason; no port is opened for it."""
    huge = Forward(service="default/huge", backends=RULE.backends * (MAX_BACKENDS + 1))
    failures = await plane.apply(Changes({WEB: huge}))
    assert "limit of 40000" in failures[WEB].message
    assert await plane.observe(frozenset({WEB})) == {}


async def test_what_the_other_plane_serves_is_none_of_its_business(plane: PipePlane) -> None:
    """A rule of the other plane opens no port, needs no worker, and is not remembered."""
    assert await plane.apply(Changes({WEB: replace(RULE, plane=Plane.NFT)})) == {}
    assert await plane.observe(frozenset({WEB})) == {}
    assert WEB not in plane
