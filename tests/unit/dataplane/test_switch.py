"""One target over two planes: who is asked what, in which order, and what is observed of a frontend half-way."""

import asyncio
from collections.abc import Mapping
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from littlelb.core.errors import Permanent, Transient
from littlelb.core.interfaces import Phase, Target
from littlelb.core.model import Backend, Forward, Frontend, Plane, Protocol
from littlelb.core.plan import Changes, Failure, diff
from littlelb.core.reasons import Reason
from littlelb.core.state import DesiredState
from littlelb.dataplane.switch import PlaneSwitch, merge
from littlelb.testing.fake_target import FakeTarget

WEB, API = (Frontend(ip_address("203.0.113.7"), Protocol.TCP, port) for port in (80, 81))
PIPED = Forward(service="default/web", backends=(Backend(ip_address("10.1.0.1"), 80),), withdraw_seconds=7)
KERNEL = replace(PIPED, plane=Plane.NFT)
REFUSED = Failure(Reason.FAILED, "no")


class Carrier(FakeTarget[Frontend, Forward]):
    """One plane, which has a name in the transcript. A pipe takes nothing new of the other plane."""

    def __init__(self, name: str, transcript: list[str], *, pipe: bool = False) -> None:
        super().__init__(Phase.FORWARD, lambda state: state.forwards, transcript)
        self._name, self._pipe = name, pipe

    def __contains__(self, frontend: Frontend) -> bool:
        return frontend in self.world

    def _do(self, verb: str, key: Frontend, value: Forward) -> None:
        self.transcript.append(f"{self._name}: {verb} {key.port} {value.plane}")
        if verb == "remove":
            self.world.pop(key, None)
        elif not self._pipe or value.plane is Plane.PIPE or key in self.world:
            self.world[key] = value


class Stage:
    """Two planes and the switch over them."""

    def __init__(self, *, kernel: bool = True) -> None:
        self.transcript: list[str] = []
        self.pipe = Carrier("pipe", self.transcript, pipe=True)
        self.kernel = Carrier("kernel", self.transcript)
        self.troubles = 0
        self.switch = PlaneSwitch(self.pipe, self.kernel if kernel else None, self._trouble)

    def _trouble(self) -> None:
        self.troubles += 1

    async def become(self, wanted: Mapping[Frontend, Forward]) -> Mapping[Frontend, Failure]:
        """One full pass."""
        changes = diff(wanted, await self.switch.observe(None))
        failed = dict(await self.switch.apply(changes.tear_down())) if changes.remove else {}
        return {**failed, **await self.switch.apply(changes.bring_up())}


def test_it_is_a_target_of_the_first_phase() -> None:
    """The loop can use it as FORWARD, and what it wants are the forwards as they are."""
    target: Target[Frontend, Forward] = Stage().switch
    state = DesiredState(forwards={WEB: PIPED})
    assert target.phase is Phase.FORWARD
    assert target.wanted(state) is state.forwards


async def test_each_frontend_goes_to_its_plane() -> None:
    """The kernel hears of both, the pipe of its own only; what is observed is what was wanted."""
    stage = Stage()
    wanted = {WEB: PIPED, API: KERNEL}
    assert await stage.become(wanted) == {}
    assert stage.pipe.world == {WEB: PIPED}
    assert stage.kernel.world == wanted
    assert await stage.switch.observe(None) == wanted
    assert await stage.switch.observe(frozenset({API})) == {API: KERNEL}


async def test_from_the_kernel_to_the_pipe_the_listener_is_first() -> None:
    """New connections are let through to the pipe only when it serves."""
    stage = Stage()
    await stage.become({WEB: KERNEL})
    stage.transcript.clear()
    await stage.become({WEB: PIPED})
    assert stage.transcript == ["pipe: change 80 pipe", "kernel: change 80 pipe"]


async def test_from_the_pipe_to_the_kernel_the_listener_is_last() -> None:
    """The pipe is told to let go when the kernel takes the new connections; it is not asked to open anything."""
    stage = Stage()
    await stage.become({WEB: PIPED})
    stage.transcript.clear()
    await stage.become({WEB: KERNEL})
    assert stage.transcript == ["kernel: change 80 nft", "pipe: change 80 nft"]
    assert await stage.switch.observe(None) == {WEB: KERNEL}


@pytest.mark.parametrize(("before", "after", "failing"), [(KERNEL, PIPED, "pipe"), (PIPED, KERNEL, "kernel")])
async def test_a_plane_that_fails_leaves_the_other_at_work(before: Forward, after: Forward, failing: str) -> None:
    """Where the new plane cannot, the old one is not touched; the next pass, when it can, ends the move."""
    stage = Stage()
    await stage.become({WEB: before, API: before})
    taker: Carrier = getattr(stage, failing)
    taker.fails[WEB] = REFUSED
    was = {name: getattr(stage, name).world.get(WEB) for name in ("pipe", "kernel")}
    assert await stage.become({WEB: after, API: after}) == {WEB: REFUSED}
    assert {name: getattr(stage, name).world.get(WEB) for name in ("pipe", "kernel")} == was
    assert (await stage.switch.observe(None))[API] == after
    taker.fails.clear()
    assert await stage.become({WEB: after, API: after}) == {}
    assert await stage.switch.observe(None) == {WEB: after, API: after}


async def test_what_stands_half_way_is_wanted_by_nobody_and_known_whose_it_is() -> None:
    """A kernel that fails after the listener was opened: the difference stays to be seen, for the next pass."""
    stage = Stage()
    await stage.become({WEB: KERNEL})
    stage.kernel.poison[WEB] = Transient("busy")
    with pytest.raises(Transient):
        await stage.become({WEB: PIPED})
    seen = (await stage.switch.observe(None))[WEB]
    assert seen not in {PIPED, KERNEL}
    assert (seen.service, seen.withdraw_seconds) == ("default/web", 7)
    stage.kernel.poison.clear()
    await stage.become({WEB: PIPED})
    assert await stage.switch.observe(None) == {WEB: PIPED}


async def test_removing_takes_it_from_both() -> None:
    """Also flows that the pipe has left of a frontend which is the kernel's by now."""
    stage = Stage()
    await stage.become({WEB: PIPED, API: KERNEL})
    await stage.become({WEB: KERNEL, API: KERNEL})
    stage.transcript.clear()
    await stage.become({})
    assert stage.pipe.world == stage.kernel.world == {}
    assert [line for line in stage.transcript if line.startswith("pipe")] == ["pipe: remove 80 nft"]


async def test_without_a_kernel_plane_the_pipe_carries_what_it_can() -> None:
    """What names the kernel plane fails with the reason; a frontend that was the kernel's is opened."""
    stage = Stage(kernel=False)
    failures = await stage.become({WEB: PIPED, API: KERNEL})
    assert {frontend: failure.reason for frontend, failure in failures.items()} == {API: Reason.PLANE_UNAVAILABLE}
    assert await stage.switch.observe(None) == {WEB: PIPED}
    stage.switch.use(stage.kernel)
    assert await stage.become({WEB: PIPED, API: KERNEL}) == {}
    assert await stage.switch.observe(None) == {WEB: PIPED, API: KERNEL}


async def test_a_kernel_that_never_will_is_reported() -> None:
    """Somebody has to find out whether the kernel plane works at all; an error that passes is no reason to ask."""
    stage = Stage()
    stage.kernel.blind = Transient("busy")
    with pytest.raises(Transient):
        await stage.switch.observe(None)
    stage.kernel.blind = Permanent("not permitted")
    with pytest.raises(Permanent):
        await stage.switch.observe(None)
    stage.kernel.blind = None
    stage.kernel.poison[WEB] = Permanent("not permitted")
    with pytest.raises(Permanent):
        await stage.switch.apply(Changes({WEB: KERNEL}))
    assert stage.troubles == 2


worlds = st.dictionaries(st.sampled_from([WEB, API]), st.sampled_from([PIPED, KERNEL]))


@given(worlds, worlds, worlds)
def test_whatever_was_there_one_pass_reaches_what_is_wanted(
    piped: dict[Frontend, Forward], kernel: dict[Frontend, Forward], wanted: dict[Frontend, Forward]
) -> None:
    """Any leftovers of either plane: after one pass both carry what they should, and the next diff is empty."""

    async def main() -> None:
        stage = Stage()
        stage.pipe.world, stage.kernel.world = dict(piped), dict(kernel)
        await stage.become(wanted)
        assert not diff(wanted, await stage.switch.observe(None))
        assert stage.kernel.world == wanted
        assert {one for one, rule in stage.pipe.world.items() if rule.plane is Plane.PIPE} == {
            one for one, rule in wanted.items() if rule.plane is Plane.PIPE
        }

    asyncio.run(main())


def test_planes_that_disagree_are_not_believed() -> None:
    """Two values for one frontend, and one that only the pipe or only the kernel's pass has, are nobody's wish."""
    other = replace(PIPED, backends=())
    for piped, kernel in (
        ({WEB: PIPED}, {WEB: other}),
        ({WEB: PIPED}, {}),
        ({}, {WEB: PIPED}),
        ({WEB: PIPED}, {WEB: KERNEL}),
    ):
        assert merge(piped, kernel)[WEB].drain_seconds == -1
