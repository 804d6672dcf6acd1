"""Which plane is used, who is told why not, and what becomes of it when that changes."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from ipaddress import ip_address
from typing import cast

import pytest
from structlog.testing import capture_logs

from littlelb.app.planes import Planes
from littlelb.config import Plane
from littlelb.core.counters import BackendCounters, ServiceCounters
from littlelb.core.errors import Permanent
from littlelb.core.interfaces import Phase
from littlelb.core.model import Backend, Forward, Frontend, Protocol
from littlelb.core.model import Plane as Carriers
from littlelb.core.plan import Changes
from littlelb.dataplane.pipe.codec import Counters
from littlelb.dataplane.pipe.plane import PipePlane
from littlelb.testing.fake_target import FakeTarget

WEB = Frontend(ip_address("203.0.113.7"), Protocol.TCP, 80)
RULE = Forward(service="default/web", backends=(Backend(ip_address("10.1.0.1"), 80),), plane=Carriers.NFT)


class Pipe(FakeTarget[Frontend, Forward]):
    """The pipe, as far as Planes asks it."""

    def __init__(self) -> None:
        super().__init__(Phase.FORWARD, lambda state: state.forwards)
        self.said: list[str] = []

    def __contains__(self, frontend: Frontend) -> bool:
        return frontend in self.world

    async def start(self) -> None:
        self.said.append("start")

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def counters(self) -> Mapping[Frontend, Counters]:
        return {WEB: Counters(accepted=3, active=1)}

    async def drain(self, _seconds: float) -> int:
        return 2

    async def look(self) -> Mapping[Frontend, Forward]:
        return dict(self.world)

    async def stop(self, *, keep: bool) -> None:
        self.said.append(f"stop keep={keep}")


class Kernel(FakeTarget[Frontend, Forward]):
    """The kernel plane, as far as Planes asks it."""

    def __init__(self) -> None:
        super().__init__(Phase.FORWARD, lambda state: state.forwards)
        self.said: list[str] = []
        self.ways: list[str] = []
        self.running = self.ended = False
        self.refuses: Permanent | None = None

    async def start(self) -> None:
        if self.refuses is not None:
            raise self.refuses
        self.said.append("start")

    async def run(self) -> None:
        self.running = True
        try:
            await asyncio.Event().wait()
        finally:
            self.ended = True

    async def look(self, _wanted: Mapping[Frontend, Forward]) -> Mapping[Frontend, Forward]:
        return dict(self.world)

    async def render(self, changes: Changes[Frontend, Forward]) -> str:
        return f"{len(changes.add)} to add"

    async def remove(self, *, dry_run: bool = False) -> bool:
        return not dry_run

    def counters(self) -> Mapping[Frontend, ServiceCounters]:
        return {WEB: ServiceCounters(BackendCounters(connections=4))}

    async def drain(self, _seconds: float) -> int:
        return 3

    async def stop(self, *, keep: bool) -> None:
        self.said.append(f"stop keep={keep}")

    async def prepare(self) -> None:
        self.ways.append("prepared")

    def forget(self) -> None:
        self.ways.append("forgotten")

    async def restore(self) -> None:
        self.ways.append("restored")


class Machine:
    """A machine whose kernel can, or cannot."""

    def __init__(self, asked: Plane, obstacle: str = "") -> None:
        self.pipe, self.kernel, self.obstacle = Pipe(), Kernel(), obstacle
        self.changes = 0
        self.planes = Planes(asked, cast("PipePlane", self.pipe), self.kernel, self.kernel, lambda: self.obstacle)
        self.planes.on_change = self._changed

    def _changed(self) -> None:
        self.changes += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Found out, started, running."""
        await self.planes.find_out()
        await self.planes.start()
        task = asyncio.create_task(self.planes.run())
        await asyncio.sleep(0)
        yield
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await self.planes.stop(keep=False)

    async def until_changed(self) -> None:
        """Wait until somebody was told of a change."""
        before = self.changes
        async with asyncio.timeout(5):
            while self.changes == before:
                await asyncio.sleep(0.001)


@pytest.mark.parametrize("asked", [Plane.AUTO, Plane.NFT])
async def test_the_kernel_plane_is_used_where_it_works(asked: Plane) -> None:
    """Both planes live and end together, and nothing is said about it."""
    machine = Machine(asked)
    with capture_logs() as logs:
        async with machine.running():
            assert machine.planes.no_nft == ""
            assert await machine.planes.switch.apply(Changes({WEB: RULE})) == {}
            assert (machine.kernel.world, machine.pipe.world) == ({WEB: RULE}, {})
            await asyncio.sleep(0)
            assert machine.kernel.running
    assert machine.kernel.said == machine.pipe.said == ["start", "stop keep=False"]
    assert machine.kernel.ended
    assert machine.kernel.ways == ["prepared", "restored"]
    assert logs == []


@pytest.mark.parametrize(("asked", "level"), [(Plane.AUTO, "warning"), (Plane.NFT, "error")])
async def test_without_it_the_pipe_serves_and_the_reason_is_said_once(asked: Plane, level: str) -> None:
    """No kernel plane is no reason not to serve; who asked for it by name is told louder."""
    machine = Machine(asked, "the command nft is missing")
    with capture_logs() as logs:
        async with machine.running():
            await machine.planes.find_out()
            assert machine.planes.no_nft == "the command nft is missing"
            assert WEB in await machine.planes.switch.apply(Changes({WEB: RULE}))
    assert [(entry["event"], entry["log_level"], entry["reason"]) for entry in logs] == [
        ("plane.no_nft", level, "the command nft is missing")
    ]
    assert machine.kernel.said == []


async def test_a_start_that_fails_is_no_end() -> None:
    """What the probe did not see, the start does: the pipe serves."""
    machine = Machine(Plane.AUTO)
    machine.kernel.refuses = Permanent("not permitted")
    async with machine.running():
        assert machine.planes.no_nft == "not permitted"
        assert machine.pipe.said == ["start"]


async def test_a_kernel_that_begins_to_work_is_taken_and_one_that_ends_is_left() -> None:
    """Both ways somebody is told, so that Services move; what is left of the table is left alone."""
    machine = Machine(Plane.AUTO, "no module")
    async with machine.running():
        machine.obstacle = ""
        machine.planes.doubt()
        await machine.until_changed()
        assert machine.planes.no_nft == ""
        assert await machine.planes.switch.apply(Changes({WEB: RULE})) == {}
        machine.obstacle = "not permitted"
        machine.kernel.blind = Permanent("EPERM")
        with pytest.raises(Permanent):
            await machine.planes.switch.observe(None)
        await machine.until_changed()
        assert machine.planes.no_nft == "not permitted"
        assert not await machine.planes.switch.observe(None)
    assert machine.kernel.said == ["start", "stop keep=True"]


async def test_who_wants_the_pipe_gets_no_kernel_plane_unless_there_is_a_table() -> None:
    """A table of an earlier life would take the pipe's connections: then it is told to let them through."""
    machine = Machine(Plane.PIPE)
    async with machine.running():
        assert machine.kernel.said == []
        machine.planes.ask(Plane.AUTO)
        await machine.until_changed()
        assert machine.kernel.said == ["start"]
    left = Machine(Plane.PIPE)
    left.kernel.world[WEB] = RULE
    async with left.running():
        assert left.kernel.said == ["start"]


async def test_a_look_a_drain_and_counters_are_of_both() -> None:
    """What one carries that the other should let through is not as it should be; flows are added up."""
    machine = Machine(Plane.AUTO)
    await machine.planes.find_out()
    machine.kernel.world[WEB] = RULE
    assert await machine.planes.look({}) == {WEB: RULE}
    machine.pipe.world[WEB] = Forward(service="default/web", backends=())
    assert (await machine.planes.look({}))[WEB] not in {RULE, machine.pipe.world[WEB]}
    assert (await machine.planes.counters())[WEB].total.connections == 3
    assert await machine.planes.drain(1.0) == 2
    async with machine.running():
        assert await machine.planes.drain(1.0) == 5
        assert (await machine.planes.counters())[WEB].total.connections == 7


async def test_a_plan_has_the_kernels_text_where_it_carries() -> None:
    """Where the pipe does it all there is none."""
    changes = Changes(add={WEB: Forward(service="default/web", backends=())})
    able, unable = Machine(Plane.AUTO), Machine(Plane.AUTO, "there is no nft")
    for machine in (able, unable):
        await machine.planes.find_out()
    assert await able.planes.render(changes) == "1 to add"
    assert await unable.planes.render(changes) == ""
