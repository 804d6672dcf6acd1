"""Deadlines of flows, as transcripts: what was said at which second, and what was due."""

from math import inf

from littlelb.core.model import Frontend, Protocol
from littlelb.dataplane.nft.flows.drains import ENDING_SECONDS, Course, Drains
from tests.unit.dataplane.nft.rules import DNS, VIP4, WEB, backends

RANGE = Frontend(VIP4, Protocol.TCP, 5000, 5999)


def course(number: int = 1, frontend: Frontend = WEB) -> Course:
    """The way to a backend."""
    (backend,) = backends(number)
    return frontend, (backend.address, 0 if frontend.last_port else backend.port)


def end_due(drains: Drains, now: float) -> list[Course]:
    """End all that is due, as if all had flows."""
    due = drains.due(now)
    for one in due:
        drains.end(one, now)
    return due


def test_a_drain_ends_with_a_minute_of_resets_and_then_a_cut() -> None:
    """30 s as before, 60 s in which each side is reset at its next packet, then nothing is left."""
    drains = Drains()
    drains.leave(course(), 30, now=100)
    assert (drains.next_deadline, drains.due(129.9), drains.draining) == (130, [], {course()})
    assert end_due(drains, 130) == [course()]
    assert (drains.ending, drains.draining, drains.next_deadline) == ({course()}, frozenset(), 130 + ENDING_SECONDS)
    assert drains.select_cuts(189.9) == []
    assert drains.select_cuts(190) == [course()]
    assert (drains.ending, drains.next_deadline) == (frozenset(), inf)
    assert drains.select_cuts(191) == [course()], "it is due until it was done"
    drains.done([course()])
    assert drains.select_cuts(192) == []


def test_without_a_deadline_nothing_is_ever_due() -> None:
    """Flows end by themselves; what is remembered of them goes with the last one."""
    drains = Drains()
    drains.leave(course(), None, now=0)
    assert (drains.next_deadline, drains.due(1e9), drains.draining) == (inf, [], {course()})
    drains.forget([course()])
    assert drains.draining == frozenset()


def test_no_time_at_all_is_due_at_once() -> None:
    """0 seconds: now."""
    drains = Drains()
    drains.leave(course(), 0, now=7)
    assert drains.due(7) == [course()]


def test_a_backend_that_comes_back_stops_whatever_was_under_way() -> None:
    """Draining, ending, or about to be cut; others go on."""
    drains = Drains()
    for number in (1, 2, 3):
        drains.leave(course(number), 0 if number < 3 else 9, now=0)
    drains.leave(course(frontend=DNS), None, now=0)
    end_due(drains, 0)
    drains.stay(WEB, [course(number)[1] for number in (1, 3)])
    drains.stay(DNS, [course()[1]])
    assert (drains.ending, drains.draining, drains.select_cuts(1)) == ({course(2)}, frozenset(), [])


def test_datagrams_are_cut_at_once() -> None:
    """Whatever drain was asked for: UDP has no end that one could wait for."""
    drains = Drains()
    drains.leave(course(frontend=DNS), 300, now=0)
    assert (drains.select_cuts(0), drains.draining) == ([course(frontend=DNS)], frozenset())


def test_flows_to_a_range_of_ports_are_cut_when_their_time_is_up() -> None:
    """No element could name all their ports, so nobody resets them."""
    drains = Drains()
    drains.leave(course(frontend=RANGE), 5, now=0)
    assert end_due(drains, 5) == [course(frontend=RANGE)]
    assert (drains.ending, drains.select_cuts(5)) == (frozenset(), [course(frontend=RANGE)])


def test_a_frontend_that_goes_shortens_the_drains_of_its_earlier_backends() -> None:
    """Nobody serves them any more; a deadline that is nearer stays, and so do other frontends'."""
    drains = Drains()
    other = Frontend(VIP4, Protocol.TCP, 81)
    drains.leave(course(1), None, now=0)
    drains.leave(course(2), 3, now=0)
    drains.leave(course(3, other), None, now=0)
    drains.depart({WEB: 10}, now=1)
    assert (drains.due(3), drains.due(11)) == ([course(2)], [course(1), course(2)])


def test_what_is_told_twice_keeps_the_nearer_deadline() -> None:
    """And what is being ended already does not drain again."""
    drains = Drains()
    drains.leave(course(), 10, now=0)
    drains.leave(course(), 30, now=1)
    assert drains.next_deadline == 10
    end_due(drains, 10)
    drains.leave(course(), None, now=11)
    assert (drains.ending, drains.draining) == ({course()}, frozenset())


def test_after_a_restart_endings_are_finished() -> None:
    """They have another minute, for nobody knows since when they end."""
    drains = Drains([course()], now=5)
    assert (drains.ending, drains.select_cuts(64.9), drains.select_cuts(65)) == ({course()}, [], [course()])


def test_flows_that_should_not_be_there_are_found() -> None:
    """Of a frontend that is served they go on, of one that is not they end; datagrams are cut; endings stay endings."""
    drains = Drains([course(9)], now=0)
    drains.leave(course(8), 4, now=0)
    for number in (1, 8, 9):
        drains.discover(course(number), 1, served=True)
    drains.discover(course(2), 1, served=False)
    drains.discover(course(3, DNS), 1, served=True)
    assert (drains.due(1), drains.due(4)) == ([course(2)], [course(8), course(2)])
    assert (drains.draining, drains.ending) == ({course(n) for n in (1, 2, 8)}, {course(9)})
    assert drains.select_cuts(1) == [course(3, DNS)]
