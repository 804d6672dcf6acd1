"""FORWARD's target of the userspace plane: listeners here, connections in worker processes that outlive this one.

    apply ─► listeners (bind, listen, refuse) ─► set/drop to every worker
    observe ─► what every worker says that it serves; where they disagree, a value that nobody wants
    a Forward of the other plane ─► nothing new is opened; a listener that is there closes when every handshake that
               began with it has ended, and workers follow the rule for the flows that they have

After a crash or `stop(keep=True)` the next `start` borrows the listeners back from the workers. Workers of another
version lend theirs too, go on serving until each of those frontends has been applied or removed here, then retire.
"""

import asyncio
import os
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from littlelb.core.errors import Transient
from littlelb.core.interfaces import Phase
from littlelb.core.model import Forward, Frontend, Plane
from littlelb.core.plan import Changes, Failure
from littlelb.core.reasons import Reason
from littlelb.core.state import DesiredState
from littlelb.dataplane.pipe.codec import (
    Counters,
    cut_batches,
    parse_frontend,
    render_frontend,
)
from littlelb.dataplane.pipe.crew import Crew, Member, PipeSettings
from littlelb.dataplane.pipe.listeners import Listeners, raise_descriptor_limit
from littlelb.dataplane.pipe.wire import MAX_BACKENDS, WireError, sequence
from littlelb.dataplane.unsettled import UNSETTLED

_log = structlog.get_logger(__name__)
_BACKOFF_SECONDS: Final = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
_STABLE_SECONDS: Final = 30.0
_BREATH: Final = 500
"""Sockets made before other tasks have their turn."""
_POLL_SECONDS: Final = 0.1


class PipePlane:
    """Keeps frontends served by workers."""

    def __init__(
        self, settings: PipeSettings, name_listener: Callable[[Frontend], str], on_change: Callable[[], None]
    ) -> None:
        """Do nothing yet; `on_change` asks the loop for a full pass because something changed by itself.

        `name_listener` names the process that has a port which we cannot get, or returns "".
        """
        self._settings = settings
        self._on_change = on_change
        self._listeners = Listeners(name_listener)
        self._applied: dict[Frontend, Forward] = {}
        self._crew: Crew | None = None
        self._met: frozenset[int] = frozenset()
        self._lock = asyncio.Lock()  # between the loop's pass and the replacement of a lost worker
        self._lost = asyncio.Event()
        self._left = asyncio.Event()

    def __contains__(self, frontend: Frontend) -> bool:
        """Is there something of it here: a listener, or flows?"""
        return frontend in self._applied or frontend in self._listeners

    @property
    def phase(self) -> Phase:
        """Stand first in bring-up."""
        return Phase.FORWARD

    @property
    def pids(self) -> frozenset[int]:
        """Process ids of the workers, adopted ones included, or of those that `look` met: their sockets are ours."""
        return self._met if self._crew is None else self._crew.pids

    def wanted(self, state: DesiredState) -> Mapping[Frontend, Forward]:
        """Select the forwards."""
        return state.forwards

    async def start(self) -> None:
        """Adopt what an earlier daemon left, start what is missing. Raises Permanent, Transient."""
        raise_descriptor_limit()
        async with self._lock:
            crew = self._crew = Crew(self._settings, self._loss)
            await crew.find()
            for member in [*crew.members, *crew.elders]:
                await self._borrow(member)
            self._applied = {
                frontend: forward for frontend, forward in (await crew.ask_rules()).items() if forward.service
            }
            self._leave(self._applied)
            await self._fill(crew)
            await self._settle(crew)
            if not crew.members:
                raise Transient("no worker process could be started; the log says why")

    async def run(self) -> None:
        """Replace workers that die, close listeners that leave; runs until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._replace_lost(), name="pipe losses")
            tasks.create_task(self._close_left(), name="pipe leaving")

    async def _close_left(self) -> None:
        """Close each listener whose frontend the other plane serves, once nobody can be on the way to it any more."""
        loop = asyncio.get_running_loop()
        while True:
            await self._left.wait()
            self._left.clear()
            while (end := self._listeners.next_end) is not None:
                await asyncio.sleep(max(0.0, end - loop.time()))
                async with self._lock:
                    await self._part(self._listeners.over(loop.time()))

    async def _part(self, over: list[Frontend]) -> None:
        for frontend in over:
            self._listeners.close(frontend)
        if over and self._crew is not None:
            await self._crew.tell("part", [render_frontend(frontend) for frontend in over], over)

    def _leave(self, rules: Mapping[Frontend, Forward]) -> None:
        """Begin the farewell of listeners that only the rules of the other plane still name."""
        until = asyncio.get_running_loop().time() + self._settings.leave_seconds
        for frontend, forward in rules.items():
            if forward.plane is not Plane.PIPE:
                self._listeners.leave(frontend, until)
        self._left.set()

    async def _replace_lost(self) -> None:
        loop = asyncio.get_running_loop()
        attempt, last = 0, loop.time()
        while True:
            await self._lost.wait()
            self._lost.clear()
            attempt = 0 if loop.time() - last > _STABLE_SECONDS else attempt
            await asyncio.sleep(_BACKOFF_SECONDS[min(attempt, len(_BACKOFF_SECONDS) - 1)])
            attempt, last = attempt + 1, loop.time()
            async with self._lock:
                if self._crew is not None:
                    await self._fill(self._crew)
            self._on_change()

    def _loss(self) -> None:
        self._lost.set()
        self._on_change()

    async def observe(self, keys: frozenset[Frontend] | None) -> Mapping[Frontend, Forward]:
        """Return what every worker serves, or for some keys what was last applied. Raises Transient."""
        if keys is not None:
            return {key: self._applied[key] for key in keys if key in self._applied}
        async with self._lock:
            if self._crew is None or not self._crew.members:
                raise Transient("no worker process is running")
            observed = await self._crew.ask_rules()
            over = [known for known, rule in self._applied.items() if rule.plane is not Plane.PIPE]
            for frontend in over:
                if frontend not in observed and frontend not in self._listeners:
                    del self._applied[frontend]  # its last flow has ended
            observed.update({frontend: UNSETTLED for frontend in self._listeners if frontend not in observed})
            return observed

    async def apply(self, changes: Changes[Frontend, Forward]) -> Mapping[Frontend, Failure]:
        """Make the changes in all workers; one frontend that fails leaves the others alone."""
        async with self._lock:
            if changes.remove:
                await self._remove(changes.remove)
            failures = await self._serve({**changes.add, **changes.change})
            if self._crew is not None:
                await self._settle(self._crew)
            return failures

    async def _serve(self, wanted: Mapping[Frontend, Forward]) -> dict[Frontend, Failure]:
        failures: dict[Frontend, Failure] = {}
        rules: dict[Frontend, Forward] = {}
        carried = {frontend: rule for frontend, rule in wanted.items() if rule.plane is not Plane.PIPE}
        await self._carry({frontend: rule for frontend, rule in carried.items() if frontend in self})
        for number, (frontend, forward) in enumerate(wanted.items()):
            if frontend in carried:
                continue
            failure = _judge(forward) or self._listeners.open(frontend, accepting=bool(forward.backends))
            if failure is None:
                rules[frontend] = forward
            else:
                failures[frontend] = failure
            if number % _BREATH == _BREATH - 1:
                await asyncio.sleep(0)
        members = [] if self._crew is None else list(self._crew.members)
        refused = set().union(*await asyncio.gather(*(self._give(member, rules) for member in members)))
        if rules and not any(not member.link.closed for member in members):
            refused = set(rules)
        for frontend in refused:
            failures[frontend] = Failure(Reason.FAILED, f"no worker process took {frontend}; the log says why")
        self._applied.update({frontend: rules[frontend] for frontend in rules if frontend not in refused})
        return failures

    async def _carry(self, rules: Mapping[Frontend, Forward]) -> None:
        """Have workers follow these rules for the flows they have; who has none, and no listener, says so."""
        if not rules:
            return
        self._leave(rules)
        self._applied.update(rules)
        for member in [] if self._crew is None else list(self._crew.members):
            for batch, _ in cut_batches(rules, ()):
                try:
                    await member.link.ask({"do": "set", "rules": batch})
                except Transient as error:  # its flows end by the rule of before
                    _log.warning("pipe.worker_unreachable", pid=member.hello.pid, error=str(error))

    async def _give(self, member: Member, rules: Mapping[Frontend, Forward]) -> set[Frontend]:
        """Send rules, and listeners that it lacks; return those refused. A worker that dies meanwhile is replaced."""
        refused: set[Frontend] = set()
        fresh = [frontend for frontend in rules if frontend not in member.holding]
        for batch, travelling in cut_batches(rules, fresh):
            fds = [self._listeners.fileno(frontend) for frontend in travelling]
            frontends = [parse_frontend(rule["frontend"]) for rule in batch]
            try:
                answer, _ = await member.link.ask({"do": "set", "rules": batch}, fds)
            except Transient as error:
                _log.error("pipe.worker_refused", pid=member.hello.pid, error=str(error))
                if member.link.closed:
                    return set()
                refused.update(frontends)
                continue
            member.holding.update(travelling)
            missing = [parse_frontend(item) for item in sequence(answer.get("missing"))]
            member.holding.difference_update(missing)
            if missing:
                refused |= await self._give(member, {frontend: rules[frontend] for frontend in missing})
        return refused

    async def _remove(self, removed: Mapping[Frontend, Forward]) -> None:
        for frontend in removed:
            self._listeners.close(frontend)
            self._applied.pop(frontend, None)
        drops: list[object] = [
            [render_frontend(frontend), forward.withdraw_seconds] for frontend, forward in removed.items()
        ]
        if self._crew is not None:
            await self._crew.tell("drop", drops, removed)

    async def _settle(self, crew: Crew) -> None:
        """Send elders away as soon as nothing depends on them."""
        if crew.elders and crew.members and all(frontend in self._applied for frontend in self._listeners):
            await crew.retire_elders()

    async def _fill(self, crew: Crew) -> None:
        for member in await crew.hire():
            await self._give(member, {known: rule for known, rule in self._applied.items() if known in self._listeners})
            crew.join(member)
        await crew.settle_lost()
        if len(crew.members) < self._settings.workers:
            self._lost.set()

    async def _borrow(self, member: Member) -> None:
        """Take copies of the listeners of a worker of whatever version."""
        count, more = 0, True
        while more:
            try:
                answer, fds = await member.link.ask({"do": "lend", "from": count})
                keys = [parse_frontend(item) for item in sequence(answer.get("frontends"))]
            except (Transient, WireError) as error:
                _log.error("pipe.worker_refused", pid=member.hello.pid, error=str(error))
                return
            for frontend, fd in zip(keys, fds, strict=False):
                self._listeners.adopt(frontend, fd)
            for fd in fds[len(keys) :]:
                os.close(fd)
            member.holding.update(keys)
            count += len(keys)
            more = answer.get("more") is True and bool(keys)

    async def counters(self) -> Mapping[Frontend, Counters]:
        """Return the sums over all workers since each began. Raises Transient."""
        return {} if self._crew is None else (await self._crew.count())[0]

    async def drain(self, seconds: float) -> int:
        """Wait until no flow is left, at most so long; return how many are (workers of before count as one)."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            try:
                flows = 0
                if self._crew is not None:
                    flows = (await self._crew.count())[1] or int(self._crew.has_others)
            except Transient:  # a worker has just gone, and its flows with it: ask the others
                flows = 1
            if not flows or loop.time() >= deadline:
                return flows
            await asyncio.sleep(_POLL_SECONDS)

    async def look(self) -> Mapping[Frontend, Forward]:
        """Return what workers serve, changing nothing: for commands beside a daemon, or without one. Raises Permanent.

        Where none has ever run there is nothing; workers of another version are known by their frontends only.
        """
        async with self._lock:
            if self._crew is not None:
                return await self._crew.ask_rules()
            if not self._settings.run_directory.exists():
                return {}
            crew = self._crew = Crew(self._settings, lambda: None)
            try:
                await crew.find(tidy=False)
                self._met = crew.pids
                for elder in crew.elders:
                    await self._borrow(elder)
                seen = await crew.ask_rules()
                seen.update({frontend: UNSETTLED for frontend in self._listeners if frontend not in seen})
                return seen
            finally:
                self._listeners.release()
                await crew.end(keep=True)
                self._crew = None

    async def end_workers(self) -> None:
        """Cut all flows and end all workers of this network namespace, without a `start`. Raises Permanent."""
        async with self._lock:
            if self._crew is None and self._settings.run_directory.exists():
                crew = Crew(self._settings, lambda: None)
                await crew.find()
                await crew.end(keep=False)

    async def stop(self, *, keep: bool) -> None:
        """Leave workers, listeners and flows for the next daemon; or refuse, cut (RST) and end everything."""
        async with self._lock:
            if self._crew is not None:
                if keep:
                    self._listeners.release()
                else:
                    for frontend in self._listeners:
                        self._listeners.close(frontend)
                await self._crew.end(keep=keep)
                self._crew = None


def _judge(forward: Forward) -> Failure | None:
    if len(forward.backends) <= MAX_BACKENDS:
        return None
    return Failure(Reason.FAILED, f"{len(forward.backends)} backends are more than the pipe's limit of {MAX_BACKENDS}")
