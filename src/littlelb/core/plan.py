"""Desired and observed → Changes; failures of one phase → what later phases must leave out.

    wanted ─┐
            ├─ diff ─→ Changes { add, change, remove }
    observed┘

`withhold` is the rule «an address that fails goes no further; others do».
"""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

from littlelb.core.model import Frontend, Ip, Key

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Changes(Generic[K, V]):
    """What one target has to do. A key is in at most one of the three."""

    add: Mapping[K, V] = field(default_factory=dict)
    change: Mapping[K, V] = field(default_factory=dict)
    """Key → the new value."""
    remove: Mapping[K, V] = field(default_factory=dict)
    """Key → the value that was observed."""

    def __bool__(self) -> bool:
        """Is there anything to do?"""
        return bool(self.add or self.change or self.remove)

    def bring_up(self) -> "Changes[K, V]":
        """Only what comes or changes."""
        return Changes(self.add, self.change, {})

    def tear_down(self) -> "Changes[K, V]":
        """Only what goes."""
        return Changes({}, {}, self.remove)


class Severity(StrEnum):
    """Will a failure pass by itself?"""

    WAITING = "waiting"
    """Nothing is wrong: the target does its part beside the passes, and wakes the loop for this key when it is done."""
    TRANSIENT = "transient"
    PERMANENT = "permanent"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a target could not do one of its changes: a value for the report, the Event and the condition."""

    reason: str
    """CamelCase, one of `core.model.Reason`."""
    message: str
    """A sentence for the Service's owner: what, why, what to do next."""
    severity: Severity = Severity.TRANSIENT


def diff(wanted: Mapping[K, V], observed: Mapping[K, V], keys: Iterable[K] | None = None) -> Changes[K, V]:
    """Compare two worlds, or only the named keys of them.

    Applying the result to `observed` gives `wanted` (on `keys`), and the next diff is empty.
    """
    if keys is None:
        if wanted == observed:
            return Changes()  # most often, at a resync
        keys = [*wanted, *(key for key in observed if key not in wanted)]
    add: dict[K, V] = {}
    change: dict[K, V] = {}
    remove: dict[K, V] = {}
    for key in keys:
        want, have = wanted.get(key), observed.get(key)
        if want is have or want == have:
            continue
        if want is None:
            assert have is not None  # noqa: S101  (both None was caught above)
            remove[key] = have
        elif have is None:
            add[key] = want
        else:
            change[key] = want
    return Changes(add, change, remove)


@dataclass(frozen=True, slots=True)
class PassReport:
    """What one pass of the loop did. Failures are named by what failed: a Frontend, an address, or a Service key."""

    number: int
    finished: float
    """Seconds since the epoch."""
    duration_seconds: float
    changes: int
    """How many single changes were applied, over all targets."""
    failures: Mapping[Frontend | Ip | Key, Failure] = field(default_factory=dict)
    unread: Mapping[str, Failure] = field(default_factory=dict)
    """Phases whose part of the world could not be read, so that the pass went no further than them."""
    standing: Mapping[Frontend | Ip | Key, Failure] = field(default_factory=dict)
    """Failures of earlier passes that this one, which looked at other things only, did not try again."""

    @property
    def known(self) -> Mapping[Frontend | Ip | Key, Failure]:
        """Everything that is wrong, whichever pass found it."""
        return {**self.standing, **self.failures}

    @property
    def failed(self) -> bool:
        """Is there anything to try again?"""
        return bool(self.unread) or any(f.severity is not Severity.WAITING for f in self.failures.values())
