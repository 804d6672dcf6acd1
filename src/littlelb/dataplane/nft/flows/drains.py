"""How long flows may go on whose backend, or frontend, is gone: deadlines and nothing else.

    served ──leave──► draining ──deadline──► ending ──60 s──► cut
       ▲                 │                      │ no flow is left: over
       └─────return──────┴──────────────────────┘

A draining flow goes on as if nothing had happened. An ending one gets an RST at the next packet of either side; what
said nothing for a minute is cut, that is, forgotten. UDP is cut at once: it has no end to wait for, and its clients
find another backend by their next datagram. So are, when their time is up, flows to a range of ports: the kernel would
need an element for each port to reset them.

A drain without a deadline is kept, too: when the whole frontend goes, its flows to backends of before end with it.
"""

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from math import inf
from typing import Final, TypeAlias

from littlelb.core.counters import BackendKey
from littlelb.core.model import Frontend, Protocol

ENDING_SECONDS: Final = 60.0

Course: TypeAlias = tuple[Frontend, BackendKey]
"""The way of some flows: where clients knocked, and who answers."""


class Drains:
    """Times are seconds of a clock that never steps."""

    def __init__(self, ending: Iterable[Course] = (), now: float = 0.0) -> None:
        """Nothing drains; `ending`: what a daemon before us began to end is finished."""
        self._draining: dict[Course, float] = {}
        self._ending = dict.fromkeys(ending, now + ENDING_SECONDS)
        self._cut: dict[Course, None] = {}

    def leave(self, course: Course, seconds: float | None, now: float) -> None:
        """No new flow takes this course; None: those that do may go on until they end by themselves."""
        if course[0].protocol is Protocol.UDP:
            self._cut[course] = None
        elif course not in self._ending:
            until = inf if seconds is None else now + seconds
            self._draining[course] = min(until, self._draining.get(course, inf))

    def depart(self, gone: Mapping[Frontend, float], now: float) -> None:
        """Frontends are gone, with so many seconds left: flows to backends of before have no more time than others."""
        for course, until in self._draining.items():
            if course[0] in gone:
                self._draining[course] = min(until, now + gone[course[0]])

    def stay(self, frontend: Frontend, backends: Iterable[BackendKey]) -> None:
        """New flows go to these backends, and so their old ones may go on."""
        courses = [(frontend, backend) for backend in backends]
        self.forget(courses)
        self.done(courses)

    def discover(self, course: Course, now: float, *, served: bool) -> None:
        """Flows were found on a course that new ones do not take; those of a frontend that is `served` may go on.

        Their backend went before our time, with a deadline that nobody knows any more.
        """
        if course[0].protocol is Protocol.UDP:
            self._cut[course] = None
        elif course not in self._ending:
            self._draining.setdefault(course, inf if served else now)

    def due(self, now: float) -> list[Course]:
        """Courses whose drain is over, but not yet ended: `end` or `forget` them."""
        return [course for course, until in self._draining.items() if until <= now]

    def end(self, course: Course, now: float) -> None:
        """Its flows are to be reset, or where that cannot be, cut."""
        self._draining.pop(course, None)
        if course[0].last_port:
            self._cut[course] = None
        else:
            self._ending[course] = now + ENDING_SECONDS

    def forget(self, courses: Iterable[Course]) -> None:
        """No flow is left on them."""
        for course in courses:
            self._draining.pop(course, None)
            self._ending.pop(course, None)

    def select_cuts(self, now: float) -> list[Course]:
        """Courses whose flows are to be deleted; they stay so until `done`."""
        for course in [course for course, until in self._ending.items() if until <= now]:
            del self._ending[course]
            self._cut[course] = None
        return list(self._cut)

    def done(self, courses: Iterable[Course]) -> None:
        """They were deleted."""
        for course in courses:
            self._cut.pop(course, None)

    @property
    def draining(self) -> AbstractSet[Course]:
        """Courses whose flows go on for a while."""
        return frozenset(self._draining)

    @property
    def ending(self) -> AbstractSet[Course]:
        """Courses whose flows are reset at their next packet."""
        return frozenset(self._ending)

    @property
    def next_deadline(self) -> float:
        """When there is something to do; infinite: never."""
        return min((*self._draining.values(), *self._ending.values()), default=inf)
