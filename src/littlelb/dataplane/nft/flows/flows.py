"""What becomes of flows that are under way: cut, drained, ended, counted; beside the passes, never in one.

    transaction ──take──► drains ──► at once: UDP of removed backends, UDP from before a frontend: conntrack forgets it
    (`plane`)               │
                            └──► at a deadline: RST for who still speaks (`endings`), for the rest conntrack, later

A pass only leaves its steps here; what they mean is found out, and done, by a task that begins at once. Where the
kernel says no, the same is tried again every second: nothing that was to be done is forgotten.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, Protocol

import structlog

from littlelb.core.counters import ServiceCounters
from littlelb.core.errors import WorldError
from littlelb.core.model import Frontend
from littlelb.dataplane.netfilter.conntrack.filters import FlowFilter
from littlelb.dataplane.netfilter.conntrack.probe import Support
from littlelb.dataplane.netfilter.conntrack.socket import ConntrackSocket
from littlelb.dataplane.netfilter.conntrack.usage import Pair
from littlelb.dataplane.netfilter.sets import Element
from littlelb.dataplane.netfilter.socket import NfSocket
from littlelb.dataplane.nft.elements.transitions import Step
from littlelb.dataplane.nft.flows.counting import Counting, Listing, Lists
from littlelb.dataplane.nft.flows.courses import OURS, Atlas, Turn, compute_turn, filter_course, filter_older
from littlelb.dataplane.nft.flows.drains import Course, Drains
from littlelb.dataplane.nft.flows.endings import Endings

_log = structlog.get_logger(__name__)
RETRY_SECONDS: Final = 1.0
FAREWELL_SECONDS: Final = 1.0
"""What clients have, at a withdrawal without a drain, to say something and hear an RST."""
_POLL_SECONDS: Final = 0.1
_LARGE: Final = 500
"""Steps from which on they are read in a thread."""


class Conntrack(Listing, Protocol):
    """What is asked of `netfilter.conntrack.socket.ConntrackSocket` besides."""

    async def delete(self, filters: Sequence[FlowFilter]) -> None:
        """Delete every flow that any of the filters means. Raises WorldError."""
        ...

    async def count(self, filters: Sequence[FlowFilter]) -> Mapping[Pair, int]:
        """Count the live ones of them. Raises WorldError."""
        ...


class World(Protocol):
    """Where flows and slots are seen."""

    @property
    def conntrack(self) -> Conntrack:
        """The flows."""
        ...

    @property
    def sets(self) -> Lists:
        """Our sets and maps."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class Sockets:
    """The world: this network namespace."""

    def __init__(self, support: Support | None = None) -> None:
        """Open the sockets; `support` as for `ConntrackSocket`. Raises Permanent where there is no conntrack."""
        self.conntrack = ConntrackSocket(support)
        self.sets = NfSocket()

    def close(self) -> None:
        """Close them."""
        self.conntrack.close()
        self.sets.close()


class Flows:
    """The flows of one plane, from its start to its end."""

    def __init__(
        self, endings: Endings, world: World, is_served: Callable[[Frontend], bool], *, octets: bool = True
    ) -> None:
        """Finish what a daemon before us began to end. `octets`: conntrack counts packets and bytes.

        `is_served` says whether the plane has this frontend, with backends or without. Raises Permanent, Transient.
        """
        self._endings = endings
        self._world = world
        self._conntrack = world.conntrack
        self._is_served = is_served
        self._counting = Counting(world.sets, world.conntrack, octets=octets)
        self._drains = Drains(endings.read(), _now())
        self._inbox: list[Sequence[Step]] = []
        self._older: dict[Frontend, None] = {}
        self._woken = asyncio.Event()
        self._turn = asyncio.Lock()
        self._again = False

    def take(self, steps: Sequence[Step]) -> None:
        """Hear of a transaction; what it means for flows follows at once, but not in this call."""
        self._inbox.append(steps)
        self._woken.set()

    def note(self, leaving: Mapping[str, Sequence[Element]]) -> None:
        """Look at slots that a transaction is about to delete: what they counted goes with them."""
        self._counting.note(leaving)

    @property
    def counters(self) -> Mapping[Frontend, ServiceCounters]:
        """What was counted, as of the last look."""
        return self._counting.counters

    async def run(self) -> None:
        """Do what is due, and count, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._work(), name="flows")
            tasks.create_task(self._count(), name="flow counters")

    async def _count(self) -> None:
        failed = False
        while True:
            try:
                await self.count()
            except WorldError as error:
                if not failed:
                    _log.warning("flows.not_counted", error=str(error), effect="the counters stand still")
                failed = True
            else:
                failed = False
            await asyncio.sleep(self._counting.pause)

    async def count(self) -> None:
        """Count now; what is found that should not be there drains or is cut. Raises Transient, Permanent."""
        drains = self._drains
        before = drains.ending | drains.draining  # whoever began to drain since may have flows that were not listed
        odd = await self._counting.look(self._is_served)
        drains.forget(before - self._counting.live.keys())
        for course in odd:
            drains.discover(course, _now(), served=self._is_served(course[0]))
        self._woken.set()

    async def _work(self) -> None:
        while True:
            await self._wait()
            await self._try()

    async def _wait(self) -> None:
        """Sleep until there is news, or a deadline."""
        until = _now() + RETRY_SECONDS if self._again else self._drains.next_deadline
        with suppress(TimeoutError):  # it is time
            async with asyncio.timeout_at(min(until, _now() + 3600.0)):
                await self._woken.wait()
        self._woken.clear()

    async def _try(self) -> None:
        before, self._again = self._again, False
        try:
            await self.settle()
        except WorldError as error:
            self._again = True
            if not before:
                _log.warning("flows.not_settled", error=str(error), effect="flows of before go on; tried again")
        else:
            if before:
                _log.info("flows.settled")

    async def settle(self) -> None:
        """Do all that is due now. Raises Transient, Permanent: it is not done, and still due."""
        async with self._turn:
            await self._hear()
            await self._cut()
            if due := self._drains.due(_now()):
                await self._end(due)
                await self._cut()
            await self._endings.sync(self._drains.ending)

    async def _hear(self) -> None:
        """Read what transactions mean, in their order: what one takes away another may bring back."""
        while self._inbox:
            steps = self._inbox.pop(0)
            turn = compute_turn(steps) if len(steps) < _LARGE else await asyncio.to_thread(compute_turn, steps)
            enter_turn(self._drains, turn, _now())
            self._older.update((arrival.frontend, None) for arrival in turn.arrivals)
            await asyncio.sleep(0)

    async def _cut(self) -> None:
        """Let conntrack forget the flows whose time is over."""
        courses, older = self._drains.select_cuts(_now()), list(self._older)
        filters = [*map(filter_course, courses), *map(filter_older, older)]
        if filters:
            await self._conntrack.delete(filters)
            self._drains.done(courses)
            for frontend in older:
                self._older.pop(frontend, None)
            _log.debug("flows.cut", courses=len(courses), older=len(older))

    async def _end(self, due: Sequence[Course]) -> None:
        """Begin to reset the flows of these courses, where there are any."""
        live = await self._find_live(due)
        for course in due:
            if course in live:
                self._drains.end(course, _now())
        self._drains.forget(course for course in due if course not in live)
        if live:
            _log.info("flows.ending", frontends=len({frontend for frontend, _ in live}), flows=sum(live.values()))

    async def _find_live(self, courses: Sequence[Course]) -> dict[Course, int]:
        """Count the flows of some courses; those without any are not in it."""
        atlas = Atlas(frontend for frontend, _ in courses)
        live: dict[Course, int] = {}
        for pair, count in (await self._conntrack.count([filter_course(course) for course in courses])).items():
            course = atlas.find(pair)
            live[course] = live.get(course, 0) + count
        return live

    async def drain(self, seconds: float) -> int:
        """Wait until none of our flows is left, at most so long; return how many are (1: that could not be read)."""
        deadline = _now() + seconds
        while True:
            began = _now()
            try:
                await self.settle()
                left = sum((await self._conntrack.count([OURS])).values())
            except WorldError as error:
                _log.warning("flows.not_counted", error=str(error))
                left = 1
            if not left or _now() >= deadline:
                return left
            pause = max(_POLL_SECONDS, 5 * (_now() - began))  # a long list is not read all the time
            await asyncio.sleep(min(pause, deadline - _now()))

    async def finish(self) -> None:
        """Everything of ours goes: reset who speaks within a second, forget the rest. Raises Transient, Permanent."""
        await self._hear()
        self._drains.depart({frontend: 0.0 for frontend, _ in self._drains.draining}, _now())
        await self.settle()
        if self._drains.ending:
            await self.drain(FAREWELL_SECONDS)
        await self._conntrack.delete([OURS])

    def close(self) -> None:
        """Leave everything as it is."""
        self._world.close()


async def forget_all(connect: Callable[[], World]) -> None:
    """Cut every flow that bears our mark, without a plane. Raises Transient, Permanent."""
    world = connect()
    try:
        await world.conntrack.delete([OURS])
    finally:
        world.close()


def enter_turn(drains: Drains, turn: Turn, now: float) -> None:
    """Let deadlines follow from a transaction."""
    for removal in turn.removals:
        drains.leave((removal.frontend, removal.backend), removal.drain_seconds, now)
    drains.depart(turn.departures, now)
    for frontend, backends in turn.serving.items():
        drains.stay(frontend, backends)


def _now() -> float:
    return asyncio.get_running_loop().time()
