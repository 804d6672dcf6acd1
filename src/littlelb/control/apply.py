"""The target boundary: the one place where whatever a target raises becomes a `Failure`.

A batch that fails as a whole is halved until the key at fault stands alone; it gets the error, the others go on.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeAlias

import structlog

from littlelb.core.errors import Permanent, Transient
from littlelb.core.interfaces import Target
from littlelb.core.model import Frontend, Ip, Key
from littlelb.core.plan import Changes, Failure, Severity
from littlelb.core.reasons import Reason
from littlelb.core.state import Touched

AnyTarget: TypeAlias = Target[Any, Any]  # each target has keys and values of its own
AnyChanges: TypeAlias = Changes[Any, Any]
SHOWN_KEYS = 20
"""So many keys of a batch are named in the debug log."""
log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Outcome:
    """What a pass has done so far."""

    changes: int = 0
    failures: dict[Frontend | Ip | Key, Failure] = field(default_factory=dict)
    blocking: dict[Frontend | Ip | Key, Failure] = field(default_factory=dict)
    """Those that keep something from being served: all but PUBLISH's, which only keeps it from being known."""
    unread: dict[str, Failure] = field(default_factory=dict)
    """Targets that could not be observed, by phase name."""
    standing: dict[Frontend | Ip | Key, Failure] = field(default_factory=dict)
    """What failed in earlier passes and is not tried again in this one."""

    def left_for(self, touched: Touched) -> "Outcome":
        """Begin the outcome of an incremental pass: what it does not touch is as this one left it."""
        again = touched.services | touched.frontends | touched.addresses
        known = {**self.standing, **self.failures}
        standing = {subject: failure for subject, failure in known.items() if subject not in again}
        blocking = {subject: failure for subject, failure in self.blocking.items() if subject not in again}
        return Outcome(blocking=blocking, standing=standing)


async def observe(target: AnyTarget, keys: frozenset[Any] | None, outcome: Outcome) -> Mapping[Any, Any] | None:
    """Read a target's part of the world; None when it cannot be read now."""
    try:
        return await target.observe(keys)
    except Exception as error:  # noqa: BLE001  (the target boundary; bugs are logged with their trace)
        outcome.unread[target.phase.name] = failure_from(error)
        return None


async def apply_changes(target: AnyTarget, changes: AnyChanges, outcome: Outcome) -> Mapping[Any, Failure]:
    """Apply, and enter what came of it; never raises for what a target did."""
    if not changes:
        return {}
    failed = await _apply_halving(target, changes)
    _show(target.phase.name, changes, failed)
    outcome.changes += _size(changes) - len(failed)
    outcome.failures.update(failed)
    return failed


def _show(phase: str, changes: AnyChanges, failed: Mapping[Any, Failure]) -> None:
    """Let who debugs see each batch."""
    parts = {"add": changes.add, "change": changes.change, "remove": changes.remove, "failed": failed}
    log.debug("target.applied", phase=phase, **{verb: _names(keys) for verb, keys in parts.items() if keys})


def _names(keys: Iterable[Any]) -> list[str]:
    return [str(key) for key in islice(keys, SHOWN_KEYS)]


async def _apply_halving(target: AnyTarget, changes: AnyChanges) -> Mapping[Any, Failure]:
    """Apply a batch; if it is refused as a whole, its halves."""
    try:
        return await target.apply(changes)
    except Exception as error:  # noqa: BLE001  (the target boundary; bugs are logged with their trace)
        failure = failure_from(error)
        if _size(changes) == 1:
            return dict.fromkeys((*changes.add, *changes.change, *changes.remove), failure)
        failed: dict[Any, Failure] = {}
        for half in _halves(changes):
            failed.update(await _apply_halving(target, half))
        return failed


def failure_from(error: Exception) -> Failure:
    """Turn what was raised into a value; what is not of the world is our bug and leaves its trace in the log."""
    match error:
        case Permanent():
            return Failure(Reason.NOT_PERMITTED, str(error), Severity.PERMANENT)
        case Transient() | TimeoutError():
            return Failure(Reason.FAILED, str(error) or "timed out")
        case _:
            log.error("target.bug", exc_info=error)
            return Failure(Reason.FAILED, f"internal error: {type(error).__name__}; see the log")


def _size(changes: AnyChanges) -> int:
    return len(changes.add) + len(changes.change) + len(changes.remove)


def _halves(changes: AnyChanges) -> tuple[AnyChanges, AnyChanges]:
    """Split a batch of two or more changes in two."""
    entries = [
        *(("add", key, value) for key, value in changes.add.items()),
        *(("change", key, value) for key, value in changes.change.items()),
        *(("remove", key, value) for key, value in changes.remove.items()),
    ]
    middle = len(entries) // 2
    return _collect(entries[:middle]), _collect(entries[middle:])


def _collect(entries: list[tuple[str, Any, Any]]) -> AnyChanges:
    """Put single changes back together."""
    parts: dict[str, dict[Any, Any]] = {"add": {}, "change": {}, "remove": {}}
    for verb, key, value in entries:
        parts[verb][key] = value
    return Changes(**parts)
