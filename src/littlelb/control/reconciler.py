"""The loop: compare what should be with what is, in order, and repair the difference. The only writer to the world.

    snapshot ─→ compute ─→ observe ─→ tear-down PUBLISH → ANNOUNCE → ADDRESS → FORWARD → CLAIM
                                      bring-up  CLAIM → FORWARD → ADDRESS → ANNOUNCE → PUBLISH ─→ report

A pass looks only at what is dirty; a *full* pass (at start, after a failure, after a hint that somebody touched ours,
and at every resync) reads the world and compares everything.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import structlog

from littlelb.control.apply import AnyTarget, Outcome, apply_changes, observe
from littlelb.control.linger import Linger
from littlelb.control.store import Store
from littlelb.core.desired import compute
from littlelb.core.interfaces import Clock, Phase
from littlelb.core.model import Frontend, Grant, Ip, Key
from littlelb.core.plan import Changes, Failure, PassReport, diff
from littlelb.core.publication import failure_of, withhold
from littlelb.core.reasons import Reason
from littlelb.core.state import DesiredState, Touched

Observed: TypeAlias = dict[Phase, tuple[Mapping[Any, Any], frozenset[Any] | None]]
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PassResult:
    """What one pass did and what is now the case, for Events, status and the state file."""

    report: PassReport
    before: DesiredState
    after: DesiredState
    """What should be, less what failed."""


@dataclass(frozen=True, slots=True)
class Look:
    """What all targets observed, for the full pass that follows at once."""

    observed: Observed
    unread: Mapping[str, Failure]


def keys_for(phase: Phase, touched: Touched | None) -> frozenset[Hashable] | None:
    """Which keys of a target may differ; None: all."""
    if touched is None:
        return None
    match phase:
        case Phase.CLAIM | Phase.PUBLISH:
            return frozenset(touched.services)
        case Phase.FORWARD:
            return frozenset(touched.frontends)
        case Phase.ADDRESS | Phase.ANNOUNCE:
            return frozenset(touched.addresses)


class Reconciler:
    """Runs passes over the targets, one at a time."""

    def __init__(self, store: Store, targets: Sequence[AnyTarget], clock: Clock) -> None:
        """`targets`: at most one for each phase."""
        self._store, self._clock = store, clock
        self._targets = sorted(targets, key=lambda target: target.phase)
        self._decided: DesiredState | None = None
        self._told: DesiredState | None = None
        """What the store knows of as granted, all of it; None: it may know less, or more."""
        self._shown = DesiredState()
        self._linger = Linger()
        self._outcome = Outcome()
        self._removing = True
        self._again: frozenset[Ip] = frozenset()
        self._number = 0

    def use(self, targets: Sequence[AnyTarget], *, removing: bool = True) -> None:
        """Work with these targets from the next pass on, which is to be a full one.

        Not `removing`: what is not known to be wanted stays, because what is known may be old.
        """
        self._targets = sorted(targets, key=lambda target: target.phase)
        self._removing, self._told = removing, None

    @property
    def state(self) -> DesiredState:
        """What should be, less what failed, as of the last pass."""
        return self._shown

    @property
    def next_deadline(self) -> float | None:
        """Monotonic time at which a draining address may go."""
        return self._linger.next_deadline

    def end_drains(self) -> None:
        """No flow is left: addresses that stayed for some need not."""
        self._linger.end()

    def look_again(self, addresses: Iterable[Ip]) -> None:
        """Something that these addresses waited for has happened: the next pass tries them again."""
        self._again |= frozenset(addresses)

    async def look(self) -> Look:
        """Read the whole world for a full pass that follows at once; may be cut off, for nothing is decided by it."""
        outcome = Outcome()
        observed = await self._observe(None, outcome)
        return Look(observed, outcome.unread)

    async def run_pass(self, *, full: bool, seen: Look | None = None) -> PassResult:
        """Bring the world to what the store says it should be; `seen`: what a full pass need not read any more."""
        state = compute(self._store.snapshot(), None if full and self._decided is None else self._decided)
        state = self._with_another_look(state)
        touched = None if full else state.touched
        self._outcome = outcome = Outcome() if touched is None else self._outcome.left_for(touched)
        started = self._clock.monotonic()
        if seen is not None and touched is None:
            outcome.unread.update(seen.unread)
            observed = seen.observed
        else:
            observed = await self._observe(touched, outcome)
        result = await self._apply(state, outcome, observed, started)
        self._decided = state
        self._tell_store(state, outcome.blocking, self._to_tell(state, touched))
        whole = touched is None or self._told is not None
        self._told = state if whole and self._removing and not outcome.blocking else None
        return result

    def _to_tell(self, state: DesiredState, touched: Touched | None) -> Iterable[Key]:
        """Find the Services of which the store may know something else than is so."""
        if touched is not None:
            return touched.services
        if self._told is None or self._outcome.blocking:
            return state.decisions.keys() | self._store.grants.keys()
        old, new = self._told.decisions, state.decisions
        return [*(k for k, one in new.items() if old.get(k) is not one), *(k for k in old if k not in new)]

    def _with_another_look(self, state: DesiredState) -> DesiredState:
        """Let an incremental pass touch what waited, too; of the Services, only those withheld can have done so."""
        again, self._again = self._again, frozenset()
        if state.touched is None or not again:
            return state
        touched, shown = state.touched, self._shown
        waited = {k for k in shown.withheld if any(ip in again for ip, _ in shown.decisions[k].placements)}
        wider = replace(touched, addresses=touched.addresses | again, services=touched.services | waited)
        return replace(state, touched=wider)

    async def withdraw(self) -> PassResult:
        """Take away everything that bears our mark, in order; the addresses of draining flows stay until they end."""
        self._decided, self._told, self._removing = None, None, True
        started, outcome = self._clock.monotonic(), Outcome()
        result = await self._apply(DesiredState(), outcome, await self._observe(None, outcome), started)
        self._store.tell_grants(dict.fromkeys(list(self._store.grants)))
        return result

    async def _apply(self, state: DesiredState, outcome: Outcome, observed: Observed, started: float) -> PassResult:
        before = self._shown
        if self._removing:
            await self._tear_down(state, observed, outcome)
        state = await self._bring_up(state, observed, outcome)
        self._number += 1
        self._shown = state
        report = PassReport(
            number=self._number,
            finished=self._clock.now(),
            duration_seconds=self._clock.monotonic() - started,
            changes=outcome.changes,
            failures=outcome.failures,
            unread=outcome.unread,
            standing=outcome.standing,
        )
        return PassResult(report, before, state)

    async def _observe(self, touched: Touched | None, outcome: Outcome) -> Observed:
        """Read what is there; a target that cannot be read sits this pass out."""
        observed: Observed = {}
        for target in self._targets:
            keys = keys_for(target.phase, touched)
            if keys is None or keys:
                seen = await observe(target, keys, outcome)
                if seen is not None:
                    observed[target.phase] = (seen, keys)
        return observed

    async def _tear_down(self, state: DesiredState, observed: Observed, outcome: Outcome) -> None:
        """Remove what is no longer wanted, from the outside in; a Service's claim goes only when all else has gone."""
        now = self._clock.monotonic()
        blocked: set[Key] = set()
        removals = {
            target.phase: diff(target.wanted(state), *observed[target.phase]).remove
            for target in self._targets
            if target.phase in observed
        }
        self._linger.start(removals.get(Phase.FORWARD, {}), lambda address: any(state.served_on(address)), now)
        for target in reversed(self._targets):
            remove = dict(removals.get(target.phase, {}))
            if target.phase is Phase.ADDRESS:
                remove = {address: value for address, value in remove.items() if not self._linger.holds(address, now)}
            if target.phase is Phase.CLAIM:
                blocked |= self._linger.services(now)
                remove = {key: value for key, value in remove.items() if key not in blocked and not outcome.unread}
            failed = await apply_changes(target, Changes({}, {}, remove), outcome)
            blocked |= self._services_of(failed)

    async def _bring_up(self, state: DesiredState, observed: Observed, outcome: Outcome) -> DesiredState:
        """Make what is wanted, from the inside out; what fails goes no further."""
        able = withhold(state, outcome.blocking, self._shown.publications)
        for target in self._targets:
            if target.phase.name in outcome.unread:
                break  # what stands before the later phases is not known: nothing new goes further
            if target.phase not in observed:
                continue
            seen, keys = observed[target.phase]
            wanted = target.wanted(able)
            if keys is not None and target.phase is Phase.PUBLISH and (able.withheld or self._shown.withheld):
                keys |= able.withheld | self._shown.withheld
                seen = await observe(target, keys, outcome) or seen
            failed = await apply_changes(target, diff(wanted, seen, keys).bring_up(), outcome)
            if failed and target.phase is not Phase.PUBLISH:
                outcome.blocking.update(failed)
                able = withhold(state, outcome.blocking, self._shown.publications)
        return able

    def _services_of(self, subjects: Mapping[Any, Failure]) -> set[Key]:
        """Find the Services that had a failed frontend or address, as of the previous pass."""
        found: set[Key] = set()
        for subject in subjects:
            match subject:
                case str():
                    found.add(subject)
                case Frontend():
                    forward = self._shown.forwards.get(subject)
                    found.update([forward.service] if forward is not None else [])
                case _:
                    found.update(self._shown.served_on(subject))
        return found

    def _tell_store(
        self, state: DesiredState, failures: Mapping[Frontend | Ip | Key, Failure], keys: Iterable[Key]
    ) -> None:
        """Remember who got what, and which addresses other machines have."""
        grants = {key: self._grant(key, state, failures) for key in keys}
        if not self._removing:
            grants = {key: grant for key, grant in grants.items() if grant is not None}
        waiting = [
            key
            for key in grants
            if key in state.decisions and (self._moved(key, state, grants) or self._gave_up(key, state))
        ]
        self._store.tell_grants(grants, waiting)
        for subject, failure in failures.items():
            if failure.reason == Reason.ADDRESS_CONFLICT and not isinstance(subject, str | Frontend):
                self._store.tell_conflict(subject, failure.message)

    def _grant(self, key: Key, state: DesiredState, failures: Mapping[Frontend | Ip | Key, Failure]) -> Grant | None:
        """What one Service now holds, and since when."""
        decision = state.decisions.get(key)
        if decision is None:
            return None
        got = frozenset(f for f, _ in decision.forwards if failure_of(f, key, failures) is None)
        if not got:
            return None
        old = self._store.grants.get(key)
        own = frozenset(state.world.host.own if state.world is not None else ())
        grant = Grant(got, self._clock.now(), own & {frontend.address for frontend in got})
        if old is not None and grant.addresses <= old.addresses:
            grant = replace(grant, since=old.since)
        return old if grant == old else grant  # the same object: nothing has to be decided again

    def _gave_up(self, key: Key, state: DesiredState) -> bool:
        """Did it hold something that it no longer asks for? Whoever was refused because of that gets its turn."""
        old = self._store.grants.get(key)
        return old is not None and not old.frontends.issubset(f for f, _ in state.decisions[key].forwards)

    def _moved(self, key: Key, state: DesiredState, grants: Mapping[Key, Grant | None]) -> bool:
        """Has it just got what it waited for? Then what it kept meanwhile can go."""
        decision, grant, old = state.decisions[key], grants[key], self._store.grants.get(key)
        return bool(decision.kept) and grant is not None and (old is None or grant.addresses != old.addresses)
