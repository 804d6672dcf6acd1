"""Which remembered clients are forgotten."""

import pytest

from littlelb.core.model import Backend, Forward, Frontend
from littlelb.dataplane.netfilter.keys import port_field
from littlelb.dataplane.netfilter.sets import Element
from littlelb.dataplane.nft.elements.affinity import compute_purges, select_stale
from littlelb.dataplane.nft.elements.layout import frontend_fields, render_rules
from littlelb.dataplane.nft.elements.transitions import Step
from tests.unit.dataplane.nft.rules import DNS, RANGE, WEB, backends, forward

ONE, TWO = backends(1, 2)


def step(before: Forward | None, after: Forward | None, frontend: Frontend = WEB) -> Step:
    """A step between two forwards."""
    old, new = ({} if rule is None else render_rules(frontend, rule) for rule in (before, after))
    return Step(frontend, old, new, before, after)


def client(number: int, frontend: Frontend, backend: Backend, port: int = 0) -> Element:
    """A client that is remembered."""
    key, _ = frontend_fields(frontend)
    at = key[:8] + port_field(port or frontend.port)
    value = backend.address.packed + port_field(port or backend.port)
    return Element(bytes((192, 0, 2, number)) + at, value, timeout=60_000)


def test_clients_of_a_backend_that_is_gone_are_forgotten() -> None:
    """Those of the others are not, nor are those of other frontends."""
    purges = compute_purges([step(forward(ONE, TWO, affinity_seconds=60), forward(ONE, affinity_seconds=60))])
    gone = client(11, WEB, TWO)
    assert list(select_stale([client(10, WEB, ONE), gone, client(12, DNS, TWO)], purges)) == [gone]


@pytest.mark.parametrize("after", [None, forward(), forward(ONE, TWO)], ids=["gone", "no backends", "not sticky"])
def test_a_frontend_that_no_longer_remembers_forgets_all(after: Forward | None) -> None:
    """Else its clients would come back to where they were before, after the Service asked for it again."""
    purges = compute_purges([step(forward(ONE, TWO, affinity_seconds=60), after)])
    clients = [client(10, WEB, ONE), client(11, WEB, TWO)]
    assert list(select_stale(clients, purges)) == clients


def test_nothing_is_looked_for_where_nothing_goes() -> None:
    """A backend more, another timeout, a Service without affinity."""
    sticky = forward(ONE, affinity_seconds=60)
    for after in (forward(ONE, TWO, affinity_seconds=60), forward(ONE, affinity_seconds=90)):
        assert compute_purges([step(sticky, after)]) == []
    assert compute_purges([step(forward(ONE, TWO), forward(ONE))]) == []


def test_clients_of_a_range_of_ports() -> None:
    """Each port is remembered by itself; the backend is known by its address."""
    one, two = backends(1, 2, port=0)
    before, after = forward(one, two, affinity_seconds=60), forward(one, affinity_seconds=60)
    purges = compute_purges([step(before, after, RANGE)])
    gone = client(11, RANGE, two, 5999)
    clients = [client(10, RANGE, one, 5001), gone, client(12, RANGE, two, 6000), client(13, RANGE, two, 4999)]
    assert list(select_stale(clients, purges)) == [gone]
