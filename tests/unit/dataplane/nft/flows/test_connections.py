"""Sums of what slots count: they only grow, whatever becomes of the slots."""

from littlelb.core.model import Frontend, Protocol
from littlelb.dataplane.netfilter.sets import Element
from littlelb.dataplane.nft.elements.layout import render_rules
from littlelb.dataplane.nft.flows.connections import Connections, course_name, parse_slot, slot_name
from littlelb.dataplane.nft.flows.drains import Course
from tests.unit.dataplane.nft.rules import RANGE, VIP6, WEB, WEB6, backends, forward

RANGE6 = Frontend(VIP6, Protocol.UDP, 5000, 5999)


def slots(frontend: Frontend, *counted: tuple[int, int]) -> list[Element]:
    """Slots as the kernel lists them: pairs of a backend's number and what it counted."""
    port = 0 if frontend.last_port else 8080
    served = [backends(number, version=frontend.address.version, port=port)[0] for number, _ in counted]
    rules = {place: value for place, value in render_rules(frontend, forward(*served)).items() if "slots" in place[0]}
    return [
        Element(key, value, last, (count, 0))
        for ((_, key, last), value), (_, count) in zip(rules.items(), counted, strict=True)
    ]


def course(frontend: Frontend, number: int) -> Course:
    """The way to a backend."""
    (backend,) = backends(number, version=frontend.address.version)
    return frontend, (backend.address, 0 if frontend.last_port else backend.port)


def look(connections: Connections, *elements: Element) -> dict[Course, int]:
    """Look at all slots there are."""
    connections.begin()
    connections.take(elements)
    return dict(connections.totals)


def test_slots_are_read_as_they_were_written() -> None:
    """One port or a range, IPv4 or IPv6; the name is the same from either side."""
    for frontend in (WEB, WEB6, RANGE, RANGE6):
        (element,) = slots(frontend, (7, 1))
        assert parse_slot(element) == course(frontend, 7)
        assert slot_name(element) == course_name(course(frontend, 7))
    assert parse_slot(Element(b"\0" * 16, b"\0" * 8)) is None


def test_all_slots_of_a_backend_are_one_sum() -> None:
    """As in a Maglev table."""
    (one,) = slots(WEB, (1, 5))
    other = Element(one.key[:-4] + b"\x09\0\0\0", one.data, None, (2, 0))
    assert look(Connections(), one, other) == {course(WEB, 1): 7}


def test_only_what_grew_is_added() -> None:
    """Look by look."""
    connections = Connections()
    for counted, total in ((3, 3), (3, 3), (10, 10)):
        assert look(connections, *slots(WEB, (1, counted))) == {course(WEB, 1): total}


def test_a_slot_that_was_written_anew_begins_at_nothing() -> None:
    """For another backend, or for the same one: what it counts now is new."""
    connections = Connections()
    look(connections, *slots(WEB, (1, 3), (2, 4)))
    assert look(connections, *slots(WEB, (1, 9), (3, 2))) == {course(WEB, 1): 9, course(WEB, 2): 4, course(WEB, 3): 2}
    assert look(connections, *slots(WEB, (1, 1)))[course(WEB, 1)] == 10


def test_a_slot_that_is_seen_before_it_is_deleted_is_counted_to_its_end() -> None:
    """Once, also where the look before had seen most of it."""
    connections = Connections()
    look(connections, *slots(WEB, (1, 3), (2, 4)))
    connections.note(slots(WEB, (1, 5), (2, 0)))
    assert look(connections, *slots(WEB, (3, 1))) == {course(WEB, 1): 5, course(WEB, 2): 4, course(WEB, 3): 1}


def test_a_list_that_was_changed_under_our_eyes_does_no_harm() -> None:
    """One that is missing is not new by the next look; one that comes twice is counted once."""
    connections = Connections()
    (one,) = slots(WEB, (1, 3))
    look(connections, one)
    assert look(connections) == {course(WEB, 1): 3}
    assert look(connections, one, one) == {course(WEB, 1): 3}
    assert look(connections, *slots(WEB, (1, 4))) == {course(WEB, 1): 4}


def test_a_look_says_who_has_a_slot() -> None:
    """Of those that were asked for, counted or not; and which frontends are ranges."""
    connections = Connections()
    watched = frozenset(course_name(course(WEB, number)) for number in (1, 2))
    connections.begin()
    connections.take([*slots(WEB, (1, 0), (3, 0)), *slots(RANGE, (4, 0))], watched)
    assert connections.names == {course_name(course(WEB, 1)), course_name(course(RANGE, 4))}
    assert connections.ranges == {RANGE}


def test_what_nobody_asks_for_is_forgotten() -> None:
    """A backend that is gone."""
    connections = Connections()
    look(connections, *slots(WEB, (1, 3)))
    connections.forget(course(WEB, 1))
    assert connections.totals == {}
