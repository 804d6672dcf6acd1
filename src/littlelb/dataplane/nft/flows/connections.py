"""Counters of slots → how many connections each backend of each frontend got, in sums that only grow. Pure.

A slot counts the connections that were translated by it, since it was written; a backend has one slot or many. When
backends change, slots are written anew and begin at 0. So what is added up is what each slot has grown by since it was
last seen, in the look before or the one before that (a list may lack some), and of a new one all. The clients of
`affinity4` ask a slot the first time only: `books` knows of the rest.
"""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from littlelb.core.model import Frontend
from littlelb.dataplane.netfilter.keys import address_field, parse_port, port_field
from littlelb.dataplane.netfilter.sets import Element
from littlelb.dataplane.nft.elements.census import parse_frontend
from littlelb.dataplane.nft.elements.layout import frontend_fields
from littlelb.dataplane.nft.flows.drains import Course

_SLOT_BYTES = 4


def slot_name(element: Element) -> bytes:
    """Return what is common to all slots of one course: frontend and backend, as they stand in the element."""
    last = b"" if element.key_end is None else element.key_end[:-_SLOT_BYTES]
    value = element.data if isinstance(element.data, bytes) else b""
    return element.key[:-_SLOT_BYTES] + last + value


def course_name(course: Course) -> bytes:
    """Return the same, out of nouns."""
    frontend, (address, port) = course
    first, last = frontend_fields(frontend)
    return first + (last or b"") + address_field(address) + (port_field(port) if last is None else b"")


def parse_slot(element: Element) -> Course | None:
    """Read to which course a slot belongs; None: it was not written by us."""
    key, end, value = element.key, element.key_end, element.data
    frontend = parse_frontend(key[:-_SLOT_BYTES], None if end is None else end[:-_SLOT_BYTES])
    if frontend is None or not isinstance(value, bytes):
        return None
    size = 4 if frontend.address.version == 4 else 16
    address = IPv4Address(value[:4]) if size == 4 else IPv6Address(value[:16])
    return frontend, (address, parse_port(value[size:]) if end is None else 0)


def _number(element: Element, name: bytes) -> int:
    """Tell a slot of a course from its others, in few bytes."""
    return hash((name, element.key[-_SLOT_BYTES:]))


class Connections:
    """Sums over slots."""

    def __init__(self) -> None:
        """Begin at nothing: what slots counted before is counted at the first look."""
        self.totals: dict[Course, int] = {}
        self.ranges: set[Frontend] = set()
        """Frontends with a range of ports, as of the last look."""
        self.names: set[bytes] = set()
        """Of the courses in `watched`, and of those with a count, those that have a slot."""
        self._before: dict[int, int] = {}
        self._last: dict[int, int] = {}
        self._fresh: dict[int, int] = {}
        self._courses: dict[bytes, Course] = {}
        self._noted: list[Element] = []

    def begin(self) -> None:
        """Look at all slots from here on, after those that were noted."""
        self._before, self._last, self._fresh = self._last, self._fresh, {}
        self.ranges, self.names = set(), set()
        noted, self._noted = self._noted, []
        for element in noted:
            self._grow(element, slot_name(element))

    def note(self, elements: Iterable[Element]) -> None:
        """Take slots that are about to be deleted; they are read at the next look."""
        self._noted += [element for element in elements if element.counter is not None and element.counter[0]]

    def take(self, elements: Iterable[Element], watched: frozenset[bytes] = frozenset()) -> None:
        """Take elements of a map of slots; `watched`: courses of which one wants to know whether they have a slot."""
        for element in elements:
            name = slot_name(element)
            if name in watched:
                self.names.add(name)
            if element.key_end is not None and (course := parse_slot(element)) is not None:
                self.ranges.add(course[0])
                self.names.add(name)
            if element.counter is not None and element.counter[0]:
                self.names.add(name)
                if _number(element, name) not in self._fresh:  # a list that is changed under our eyes gives some twice
                    self._grow(element, name)

    def _grow(self, element: Element, name: bytes) -> None:
        number, (count, _) = _number(element, name), element.counter or (0, 0)
        before = self._fresh.get(number) or self._last.get(number) or self._before.get(number) or 0
        self._fresh[number] = count
        grown = count - before if count >= before else count
        course = self._courses.get(name) or parse_slot(element)
        if grown and course is not None:
            self._courses[name] = course
            self.totals[course] = self.totals.get(course, 0) + grown

    def forget(self, course: Course) -> None:
        """Nobody asks for it any more."""
        self.totals.pop(course, None)
        self._courses.pop(course_name(course), None)
