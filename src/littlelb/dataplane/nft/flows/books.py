"""Connections and traffic, put together in the form of `core.counters`. Pure.

Clients that are remembered (`affinity4`) pass by the slots: what is begun is the larger of what slots counted and what
was seen among the flows. The former is exact, the latter misses flows that were cut, or reset long before a look.
A backend that is gone, and that has no flow any more, leaves the books with the second look that does not find it; what
it counted stays in its frontend's total.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from littlelb.core.counters import BackendCounters, BackendKey, ServiceCounters, add
from littlelb.core.model import Frontend
from littlelb.dataplane.nft.flows.connections import Connections, course_name
from littlelb.dataplane.nft.flows.courses import Atlas
from littlelb.dataplane.nft.flows.drains import Course
from littlelb.dataplane.nft.flows.traffic import Sums, Traffic


class Books:
    """What was counted since the plane began."""

    def __init__(self) -> None:
        """Begin at nothing."""
        self.connections = Connections()
        self.traffic = Traffic()
        self.counters: dict[Frontend, ServiceCounters] = {}
        """As of the last `close`; frontends of which nothing was counted are not in it."""
        self.live: dict[Course, int] = {}
        """Flows of now."""
        self._retired: dict[Frontend, BackendCounters] = {}
        self._gone: frozenset[Course] = frozenset()

    def watched(self) -> frozenset[bytes]:
        """Return the courses of which one has to know whether new flows take them."""
        atlas = Atlas(self.connections.ranges)
        courses = {atlas.find(sums.pair) for sums in self.traffic.sums()} | self.connections.totals.keys()
        return frozenset(map(course_name, courses))

    def close(self, is_served: Callable[[Frontend], bool], *, octets: bool) -> frozenset[Course]:
        """Put together what was taken; return the courses with flows that no new ones take.

        `octets`: were packets and bytes counted at all?
        """
        grown = self._grown()
        self.live = {course: sum(one.live for one in sums) for course, sums in grown.items()}
        self.live = {course: count for course, count in self.live.items() if count}
        known = grown.keys() | self.connections.totals.keys()
        gone = frozenset(course for course in known if course_name(course) not in self.connections.names)
        over = (gone & self._gone) - self.live.keys()  # once is not enough: a list may lack some
        self._gone = gone
        self._retire({course: grown.get(course, []) for course in over}, octets=octets)
        entries: dict[Frontend, dict[BackendKey, BackendCounters]] = {}
        for course in known - over:
            entries.setdefault(course[0], {})[course[1]] = self._count(course, grown.get(course, []), octets=octets)
        self._drop_retired(
            frontend for frontend in self._retired if frontend not in entries and not is_served(frontend)
        )
        self.counters = {
            frontend: ServiceCounters(self._total(frontend, backends, octets=octets), backends)
            for frontend, backends in {**{frontend: {} for frontend in self._retired}, **entries}.items()
        }
        return gone & self.live.keys()

    def _grown(self) -> dict[Course, list[Sums]]:
        """Sort what conntrack counts by courses: one of a range of ports has many pairs."""
        atlas = Atlas(self.connections.ranges)
        grown: dict[Course, list[Sums]] = {}
        for sums in self.traffic.sums():
            grown.setdefault(atlas.find(sums.pair), []).append(sums)
        return grown

    def _count(self, course: Course, grown: list[Sums], *, octets: bool) -> BackendCounters:
        return BackendCounters(
            connections=max(self.connections.totals.get(course, 0), sum(one.begun for one in grown)),
            active=sum(one.live for one in grown),
            packets=sum(one.packets for one in grown) if octets else None,
            bytes_in=sum(one.bytes_in for one in grown) if octets else None,
            bytes_out=sum(one.bytes_out for one in grown) if octets else None,
        )

    def _retire(self, gone: Mapping[Course, list[Sums]], *, octets: bool) -> None:
        for course, grown in gone.items():
            last = replace(self._count(course, grown, octets=octets), active=None)
            frontend = course[0]
            self._retired[frontend] = add(self._retired.get(frontend, BackendCounters()), last)
            self.connections.forget(course)
        self.traffic.forget(one.pair for grown in gone.values() for one in grown)

    def _drop_retired(self, frontends: Iterator[Frontend]) -> None:
        for frontend in list(frontends):
            del self._retired[frontend]

    def _total(
        self, frontend: Frontend, backends: Mapping[BackendKey, BackendCounters], *, octets: bool
    ) -> BackendCounters:
        nothing = BackendCounters(0, 0, 0, 0, 0) if octets else BackendCounters(0, 0)
        total = add(nothing, self._retired.get(frontend, BackendCounters()))
        for one in backends.values():
            total = add(total, one)
        return total
