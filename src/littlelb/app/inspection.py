"""`plan`, `check`, `cleanup`: the same parts as the daemon's, looked at or cleared, but never run."""

import asyncio
from collections.abc import Mapping
from typing import Any

from littlelb.app.clock import SystemClock
from littlelb.app.parts import Parts, build_parts
from littlelb.app.sources import Folder
from littlelb.config import Config
from littlelb.control.apply import failure_from
from littlelb.core.desired import compute
from littlelb.core.errors import Transient, WorldError
from littlelb.core.interfaces import Phase
from littlelb.core.plan import diff
from littlelb.core.report import PlanDocument, PlanLine, Verb
from littlelb.core.state import DesiredState
from littlelb.host.netlink import Netlink

SYNC_SECONDS = 60.0


async def plan(config: Config) -> PlanDocument:
    """Compute what `run` would change; start, write and send nothing but questions."""
    async with Netlink() as netlink:
        parts = await build_parts(config, SystemClock(), netlink)
        try:
            await _listen_once(parts)
            return await _compare(parts, compute(parts.store.peek()))
        finally:
            await parts.close()


async def _listen_once(parts: Parts) -> None:
    """Hear everything once. Raises `Transient`."""
    if isinstance(parts.source, Folder):
        await asyncio.to_thread(parts.source.source.load_once)
        return
    tasks = [asyncio.create_task(work, name=name) for name, work in parts.source.tasks().items()]
    try:
        async with asyncio.timeout(SYNC_SECONDS):
            while not parts.source.synced:
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise Transient(f"{parts.source.name} did not list everything within {SYNC_SECONDS:.0f} s") from None
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _compare(parts: Parts, state: DesiredState) -> PlanDocument:
    """Diff every phase; what cannot be read is an error of the plan."""
    lines: list[PlanLine] = []
    errors = [f"{key}: {refusal.message}" for key, d in state.decisions.items() for refusal in d.refusals]
    errors.extend(parts.source.errors)
    targets: list[Any] = [parts.plane, parts.address]  # each has keys and values of its own
    if parts.speech is not None:
        targets += [parts.speech.claim, parts.speech.publish]
    for target in sorted(targets, key=lambda one: one.phase):
        try:
            seen = await (parts.plane.look() if target is parts.plane else target.observe(None))
        except WorldError as error:
            errors.append(f"{target.phase.name}: {failure_from(error).message}")
            continue
        lines.extend(_lines(target.phase, target.wanted(state), seen))
    return PlanDocument(lines=tuple(lines), errors=tuple(errors))


def _lines(phase: Phase, wanted: Mapping[Any, Any], observed: Mapping[Any, Any]) -> list[PlanLine]:
    changes = diff(wanted, observed)
    found = [
        *((Verb.ADD, key, "", value) for key, value in changes.add.items()),
        *((Verb.CHANGE, key, observed[key], value) for key, value in changes.change.items()),
        *((Verb.REMOVE, key, value, "") for key, value in changes.remove.items()),
    ]
    return [
        PlanLine(phase=phase.name.lower(), verb=verb, key=str(key), before=_text(before), after=_text(after))
        for verb, key, before, after in sorted(found, key=lambda line: str(line[1]))
    ]


def _text(value: object) -> str:
    return str(value) if value != "" else ""


async def cleanup(config: Config, *, dry_run: bool) -> list[str]:
    """Remove everything that bears our mark: workers with their listeners, addresses, and on the API what is ours.

    Raises `Permanent` while a daemon runs here: it would put everything back.
    """
    clock = SystemClock()
    with InstanceLock(clock.now):
        async with Netlink() as netlink:
            plane = PipePlane(pipe_settings(config), lambda _frontend: "", lambda: None)
            lines = [f"listener {frontend}" for frontend in await plane.look()]
            lines += [str(found) for found in await AddressTarget(netlink, LanProber()).remove_all(dry_run=dry_run)]
            if not dry_run and lines:
                await plane.end_workers()
    if config.kubernetes and (config.kubeconfig or config.service_host):
        lines += await _clean_api(config, dry_run=dry_run)
    return lines
