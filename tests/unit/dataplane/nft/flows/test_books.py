"""Connections and traffic of each backend in one form; what is gone stays in the totals."""

from collections.abc import Iterable

from littlelb.core.counters import BackendCounters, ServiceCounters
from littlelb.core.model import Frontend
from littlelb.dataplane.netfilter.conntrack.flows import Flow
from littlelb.dataplane.netfilter.sets import Element
from littlelb.dataplane.nft.flows.books import Books
from littlelb.dataplane.nft.flows.drains import Course
from tests.unit.dataplane.nft.flows.test_connections import course, slots
from tests.unit.dataplane.nft.flows.test_traffic import flow
from tests.unit.dataplane.nft.rules import RANGE, WEB

ONE, TWO = course(WEB, 1), course(WEB, 2)


def look(
    books: Books, elements: Iterable[Element], flows: Iterable[Flow] = (), *, served: bool = True, octets: bool = True
) -> frozenset[Course]:
    """Look at all slots and all flows."""
    books.connections.begin()
    books.traffic.begin()
    books.traffic.take(flows)
    books.traffic.end()
    books.connections.take(elements, books.watched())
    return books.close(lambda _frontend: served, octets=octets)


def test_both_are_put_together() -> None:
    """Connections from slots; flows and what they carry from conntrack; the total is their sum."""
    books = Books()
    assert look(books, slots(WEB, (1, 3), (2, 4)), [flow(1, 100), flow(2, 300)]) == frozenset()
    one, two = BackendCounters(3, 2, 6, 400, 200), BackendCounters(4, 0, 0, 0, 0)
    assert books.counters == {
        WEB: ServiceCounters(BackendCounters(7, 2, 6, 400, 200), {ONE[1]: one, TWO[1]: two}),
    }
    assert books.live == {ONE: 2}


def test_remembered_clients_are_counted_by_their_flows() -> None:
    """They ask a slot the first time only; a flow is counted once, however often it is seen."""
    books = Books()
    for _ in range(2):
        look(books, slots(WEB, (1, 1)), [flow(1, 100), flow(2, 100), flow(3)])
    assert books.counters[WEB].total.connections == 3


def test_what_nobody_counts_is_not_zero() -> None:
    """Without accounting packets and bytes are unknown."""
    books = Books()
    look(books, slots(WEB, (1, 3)), [flow(1)], octets=False)
    assert books.counters[WEB].total == BackendCounters(3, 1)


def test_a_frontend_that_nobody_asked_is_not_in_the_books() -> None:
    """Ten thousand Services at rest cost nothing."""
    books = Books()
    look(books, slots(WEB, (1, 0), (2, 0)))
    assert books.counters == {}


def test_flows_to_a_backend_without_a_slot_are_odd() -> None:
    """They drain, and are shown; when the last one has ended, what they counted stays in the total."""
    books = Books()
    look(books, slots(WEB, (1, 3)), [flow(1, 100)])
    assert look(books, slots(WEB, (2, 1)), [flow(1, 200)]) == {ONE}
    assert books.counters[WEB].backends.keys() == {ONE[1], TWO[1]}
    assert books.counters[WEB].backends[ONE[1]].active == 1
    for _ in range(2):
        assert look(books, slots(WEB, (2, 1))) == frozenset()
    assert books.counters[WEB].backends.keys() == {TWO[1]}
    assert books.counters[WEB].total == BackendCounters(4, 0, 3, 200, 100)


def test_the_total_stays_as_long_as_the_frontend_is_served() -> None:
    """Also while it has no backend at all; then it is forgotten."""
    books = Books()
    look(books, slots(WEB, (1, 3)))
    for _ in range(2):
        look(books, [])
    assert books.counters == {WEB: ServiceCounters(BackendCounters(3, 0, 0, 0, 0), {})}
    look(books, [], served=False)
    assert books.counters == {}


def test_flows_to_ports_of_a_range_are_those_of_the_range() -> None:
    """All its ports are one frontend, and the backend's port is none."""
    books = Books()
    frontend = Frontend(RANGE.address, WEB.protocol, 79, 81)
    assert look(books, slots(frontend, (1, 5)), [flow(1, 100)]) == frozenset()
    assert books.counters[frontend].backends == {(ONE[1][0], 0): BackendCounters(5, 1, 2, 100, 50)}
