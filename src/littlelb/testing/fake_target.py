"""A target on a made-up world: it does what it is told, fails where it is told to, and writes down what it was asked.

Held to the real targets by `tests/contract/test_target.py`: what applying, observing and failing mean is the same.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Generic, TypeVar

from littlelb.core.interfaces import Phase
from littlelb.core.plan import Changes, Failure
from littlelb.core.state import DesiredState

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class FakeTarget(Generic[K, V]):
    """`core.interfaces.Target[K, V]` in memory."""

    def __init__(
        self, phase: Phase, select: Callable[[DesiredState], Mapping[K, V]], transcript: list[str] | None = None
    ) -> None:
        """`transcript` is shared by the targets of one test: `add FORWARD 203.0.113.7 port 80/TCP`."""
        self.phase = phase
        self._select = select
        self.world: dict[K, V] = {}
        self.transcript = transcript if transcript is not None else []
        self.fails: dict[K, Failure] = {}
        """Keys whose changes fail, and with what."""
        self.poison: dict[K, Exception] = {}
        """Keys at which a whole batch blows up."""
        self.blind: Exception | None = None
        """What observing raises."""
        self.full_observations = 0

    def wanted(self, state: DesiredState) -> Mapping[K, V]:
        """Select this target's part."""
        return self._select(state)

    async def observe(self, keys: frozenset[K] | None) -> Mapping[K, V]:
        """Show the made-up world, or some of it."""
        if self.blind is not None:
            raise self.blind
        if keys is None:
            self.full_observations += 1
            return dict(self.world)
        return {key: self.world[key] for key in keys if key in self.world}

    async def apply(self, changes: Changes[K, V]) -> Mapping[K, Failure]:
        """Change the made-up world; all of a poisoned batch is left undone."""
        asked = [*changes.remove, *changes.change, *changes.add]
        for key in asked:
            if key in self.poison:
                raise self.poison[key]
        failed = {key: self.fails[key] for key in asked if key in self.fails}
        for verb, part in (("remove", changes.remove), ("change", changes.change), ("add", changes.add)):
            for key, value in part.items():
                if key not in failed:
                    self._do(verb, key, value)
        return failed

    def _do(self, verb: str, key: K, value: V) -> None:
        self.transcript.append(f"{verb} {self.phase.name} {key}")
        if verb == "remove":
            self.world.pop(key, None)
        else:
            self.world[key] = value
