"""FORWARD's target over both planes: each frontend is carried by the plane that its Forward names.

    nft  ─► the kernel plane alone
    pipe ─► a listener of the pipe, and an element of the kernel plane that lets its packets pass: on addresses of ours
            the kernel refuses all that it does not know

A live frontend changes planes without a refused connection, because who takes new ones over is ready before the other
lets go, and established ones end where they began:

    nft → pipe: the listener is open and served ─► elements: accept         (translated flows are conntrack's)
    pipe → nft: elements: translate ─► no more SYNs ─► the listener closes later      (its flows are the workers')

A step that fails ends the way there, so that the plane of before goes on. What is half done is observed as a value that
nobody wants, and so the next pass does it again. Where the kernel plane does not work, the pipe is all there is.
"""

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from msgspec.structs import replace

from littlelb.core.errors import Permanent
from littlelb.core.interfaces import Phase
from littlelb.core.model import Forward, Frontend, Plane
from littlelb.core.plan import Changes, Failure, Severity
from littlelb.core.reasons import Reason
from littlelb.core.state import DesiredState

_NEVER: Final = -1
"""Seconds that no drain has."""
_NO_KERNEL: Final = Failure(
    Reason.PLANE_UNAVAILABLE,
    "the nft plane does not work on this machine; `loadbalancer check` says why and what to do",
    Severity.PERMANENT,
)


class Carrier(Protocol):
    """What is asked of either plane: a target of FORWARD, without the rest."""

    async def observe(self, keys: frozenset[Frontend] | None) -> Mapping[Frontend, Forward]:
        """Return what it carries, as `core.interfaces.Target` says."""
        ...

    async def apply(self, changes: Changes[Frontend, Forward]) -> Mapping[Frontend, Failure]:
        """Make the changes, as `core.interfaces.Target` says."""
        ...


class Pipe(Carrier, Protocol):
    """What is asked of the pipe besides."""

    def __contains__(self, frontend: Frontend) -> bool:
        """Is there something of it: a listener, or flows?"""
        ...


class PlaneSwitch:
    """Keeps frontends served by one plane or the other."""

    def __init__(self, pipe: Pipe, kernel: Carrier | None, on_trouble: Callable[[], None]) -> None:
        """`kernel` None: it does not work here. `on_trouble` is called when it says that it never will."""
        self._pipe = pipe
        self._kernel = kernel
        self._on_trouble = on_trouble

    def use(self, kernel: Carrier | None) -> None:
        """Go on with this kernel plane, or without one; the next pass is to be a full one."""
        self._kernel = kernel

    @property
    def phase(self) -> Phase:
        """Stand first in bring-up."""
        return Phase.FORWARD

    def wanted(self, state: DesiredState) -> Mapping[Frontend, Forward]:
        """Select the forwards."""
        return state.forwards

    async def observe(self, keys: frozenset[Frontend] | None) -> Mapping[Frontend, Forward]:
        """Return what both planes say together. Raises Transient, Permanent."""
        piped = await self._pipe.observe(keys)
        if self._kernel is None:
            return piped
        try:
            return merge(piped, await self._kernel.observe(keys))
        except Permanent:
            self._on_trouble()
            raise

    async def apply(self, changes: Changes[Frontend, Forward]) -> Mapping[Frontend, Failure]:
        """Bring each frontend to its plane; one that fails stays where it was. Raises Transient, Permanent."""
        if self._kernel is None:
            return await self._apply_without(changes)
        failures = dict(await self._pipe.apply(_select(changes, _is_piped).bring_up()))
        able = _select(changes, lambda frontend, _: frontend not in failures)
        try:
            failures |= await self._kernel.apply(able)
        except Permanent:
            self._on_trouble()
            raise
        left = self._select_left(able, failures)
        return {**failures, **await self._pipe.apply(left)} if left else failures

    def _select_left(
        self, changes: Changes[Frontend, Forward], failures: Mapping[Frontend, Failure]
    ) -> Changes[Frontend, Forward]:
        """Take what the pipe still has of frontends that are no longer its own."""
        left = _select(
            changes, lambda one, rule: not _is_piped(one, rule) and one not in failures and one in self._pipe
        )
        return Changes(left.add, left.change, {one: rule for one, rule in left.remove.items() if one in self._pipe})

    async def _apply_without(self, changes: Changes[Frontend, Forward]) -> Mapping[Frontend, Failure]:
        """Let the pipe do what it can."""
        wanted = {**changes.add, **changes.change}
        impossible = {frontend: _NO_KERNEL for frontend, rule in wanted.items() if not _is_piped(frontend, rule)}
        return impossible | dict(await self._pipe.apply(_select(changes, lambda one, _: one not in impossible)))


def merge(piped: Mapping[Frontend, Forward], kernel: Mapping[Frontend, Forward]) -> dict[Frontend, Forward]:
    """Say what two planes carry together: a value that nobody wants where they do not agree."""
    merged = {}
    for frontend in {**kernel, **piped}:
        here, there = piped.get(frontend), kernel.get(frontend)
        if here is None and there is not None and there.plane is Plane.NFT:
            merged[frontend] = there
        elif here is not None and here == there:
            merged[frontend] = here
        else:
            merged[frontend] = _unsettled(here, there)
    return merged


def _unsettled(*said: Forward | None) -> Forward:
    """Tell for whom it is served, and how long its flows may go on, by a value that no Service asks for."""
    known = [forward for forward in said if forward is not None]
    named = next((forward for forward in known if forward.service), known[0])
    return replace(named, drain_seconds=_NEVER)


def is_settled(forward: Forward) -> bool:
    """Do both planes agree on what was observed?"""
    return forward.drain_seconds != _NEVER


def _is_piped(_frontend: Frontend, forward: Forward) -> bool:
    return forward.plane is Plane.PIPE


def _select(
    changes: Changes[Frontend, Forward], accept: Callable[[Frontend, Forward], bool]
) -> Changes[Frontend, Forward]:
    """Take those of the changes; what is removed has only its key to say."""
    return Changes(
        {one: rule for one, rule in changes.add.items() if accept(one, rule)},
        {one: rule for one, rule in changes.change.items() if accept(one, rule)},
        changes.remove,
    )
