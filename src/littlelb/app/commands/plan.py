"""`plan`: the same parts as the daemon's, looked at and compared, but never run.

    folder or API, listed once ─┐
    workers, asked beside the   ├─ compute ─ diff, phase by phase ─→ PlanDocument
    daemon; netlink; state file ┘

Nothing is written, started or removed, and nothing is sent to the LAN: whether another machine has an address shows
only when a run asks for it. Announcements cannot be read back, so they are no part of a plan.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from littlelb.app.clock import SystemClock
from littlelb.app.commands.check import may_administer
from littlelb.app.commands.wording import render_key, render_value
from littlelb.app.parts import Parts, build_parts
from littlelb.config import Config, Plane
from littlelb.control.apply import failure_from
from littlelb.core.desired import compute
from littlelb.core.errors import Transient, WorldError
from littlelb.core.interfaces import Phase
from littlelb.core.model import Key, Publication
from littlelb.core.plan import Changes, diff
from littlelb.core.shown.plan_document import PlanDocument, PlanLine, Verb
from littlelb.core.state import DesiredState
from littlelb.host.netlink import Netlink
from littlelb.kube.marks import read_marks, would_change

SYNC_SECONDS = 60.0


async def plan(config: Config) -> PlanDocument:
    """Compute what `run` would change. Raises `ConfigError`, `Permanent`, `Transient` where nothing can be said."""
    async with Netlink() as netlink:
        parts = await build_parts(config, SystemClock(), netlink)
        try:
            return await compute_plan(parts)
        finally:
            await parts.close()


async def compute_plan(parts: Parts) -> PlanDocument:
    """Hear everything once, decide, compare; what cannot be read is an error of the plan, a refused Service is not."""
    piped = await parts.planes.pipe.look()
    await parts.see_listeners()
    parts.recognise(piped)
    await list_in_time(parts)
    state = compute(parts.store.peek())
    lines: list[PlanLine] = []
    errors = [*parts.source.errors, *_blind(parts)]
    text = ""
    for phase, differ in _differs(parts, state):
        try:
            changes, observed = await differ()
            lines.extend(render_lines(phase, changes, observed))
            if phase is Phase.FORWARD and changes:
                text = await parts.planes.render(changes)
        except WorldError as error:
            errors.append(f"{phase.name}: {failure_from(error).message}")
    return PlanDocument(lines=tuple(lines), refused=tuple(render_refusals(state)), errors=tuple(errors), nft=text)


def _blind(parts: Parts) -> list[str]:
    """Say that the kernel plane, which a run may use, is not seen by who is not permitted to look."""
    if not parts.planes.no_nft or parts.config.plane is Plane.PIPE or may_administer():
        return []
    return ["FORWARD: planned for the pipe alone: the kernel plane cannot be looked at without CAP_NET_ADMIN; try sudo"]


async def list_in_time(parts: Parts) -> None:
    """Let the source tell the store everything once. Raises `Transient`, `Permanent`."""
    try:
        async with asyncio.timeout(SYNC_SECONDS):
            await parts.source.list_once()
    except TimeoutError:
        raise Transient(f"{parts.source.name} did not list everything within {SYNC_SECONDS:.0f} s") from None


Difference = tuple[Changes[Any, Any], Mapping[Any, Any]]  # each phase has keys and values of its own
Differ = Callable[[], Awaitable[Difference]]


def _differs(parts: Parts, state: DesiredState) -> list[tuple[Phase, Differ]]:
    """Say, in the order of bring-up, how each phase is compared."""

    async def forwards() -> Difference:
        served = await parts.planes.look(state.forwards)
        return diff(state.forwards, served), served

    async def addresses() -> Difference:
        seen = await parts.address.observe(None)
        return diff(state.placements, seen), seen

    found: list[tuple[Phase, Differ]] = [(Phase.FORWARD, forwards), (Phase.ADDRESS, addresses)]
    if parts.speech is None:
        return found
    speech = parts.speech

    async def claims() -> Difference:
        seen = await speech.claim.observe(None)
        changes = diff(state.claims, seen)
        marks = await read_marks(speech.writer, changes.remove)
        ours = {key: claim for key, claim in changes.remove.items() if marks[key].finalizer}
        return Changes(changes.add, {}, ours), seen

    async def publications() -> Difference:
        seen = await speech.publish.observe(None)
        changes = diff(state.publications, seen)
        marks = await read_marks(speech.writer, changes.remove)
        ours = {key: shown for key, shown in changes.remove.items() if marks[key].shown}
        return Changes(_written(parts, changes.add), _written(parts, changes.change), ours), seen

    return [(Phase.CLAIM, claims), *found, (Phase.PUBLISH, publications)]


def _written(parts: Parts, wanted: Mapping[Key, Publication]) -> Mapping[Key, Publication]:
    """Leave out what a run would compare and find to be there."""
    services = parts.store.services.items
    return {key: value for key, value in wanted.items() if key in services and would_change(services[key], value)}


def render_lines(phase: Phase, changes: Changes[Any, Any], observed: Mapping[Any, Any]) -> list[PlanLine]:
    """Make one line for each change, sorted by what it concerns."""
    found = [
        *((Verb.ADD, key, None, value) for key, value in changes.add.items()),
        *((Verb.CHANGE, key, observed[key], value) for key, value in changes.change.items()),
        *((Verb.REMOVE, key, value, None) for key, value in changes.remove.items()),
    ]
    lines = [
        PlanLine(
            phase=phase.name.lower(),
            verb=verb,
            key=render_key(key),
            before=render_value(before) if before is not None else "",
            after=render_value(after) if after is not None else "",
        )
        for verb, key, before, after in found
    ]
    return sorted(lines, key=lambda line: line.key)


def render_refusals(state: DesiredState) -> list[str]:
    """Say what will not be served, and why: `demo/rival: AddressInUse: …`."""
    return [
        f"{key}: {refusal.reason}: {refusal.message}"
        for key in sorted(state.decisions)
        for refusal in state.decisions[key].refusals
    ]
