"""What a change means for flows."""

from littlelb.core.model import Forward, Frontend, Plane
from littlelb.dataplane.nft.elements.layout import render_rules
from littlelb.dataplane.nft.elements.transitions import (
    Arrival,
    Removal,
    Step,
    compute_flows,
    guess_forward,
    select_backends,
)
from tests.unit.dataplane.nft.rules import DNS, RANGE, WEB, WEB6, backends, forward

ONE, TWO = backends(1, 2)


def step(frontend: Frontend, before: Forward | None, after: Forward | None) -> Step:
    """A step between two forwards."""
    old, new = ({} if rule is None else render_rules(frontend, rule) for rule in (before, after))
    return Step(frontend, old, new, before, after)


def test_a_backend_that_goes_is_drained_as_the_new_rule_says() -> None:
    """For as long as the Service says now."""
    removals, _ = compute_flows([step(WEB, forward(ONE, TWO), forward(ONE, drain_seconds=30))])
    assert removals == [Removal(WEB, (TWO.address, TWO.port), 30)]


def test_a_frontend_that_goes_takes_all_its_backends() -> None:
    """For as long as it said when it was there; of one that nobody here applied, at once."""
    removals, _ = compute_flows([step(WEB, forward(ONE, TWO, withdraw_seconds=5), None)])
    assert [(removal.backend[0], removal.drain_seconds) for removal in removals] == [(ONE.address, 5), (TWO.address, 5)]
    stranger = Step(WEB, render_rules(WEB, forward(ONE)), {}, None, None)
    assert compute_flows([stranger]) == ([Removal(WEB, (ONE.address, ONE.port), 0)], [])


def test_a_weight_is_not_a_removal_nor_is_another_plane() -> None:
    """Flows end where they began."""
    heavy = backends(2, weight=2)
    piped = Forward(service="default/web", backends=(ONE, TWO), plane=Plane.PIPE)
    for after in (forward(ONE, *heavy), piped):
        assert compute_flows([step(WEB, forward(ONE, TWO), after)]) == ([], [])


def test_a_frontend_for_udp_arrives_once() -> None:
    """When there was nothing of it; a change of its backends is no arrival."""
    assert compute_flows([step(DNS, None, forward(ONE))]) == ([], [Arrival(DNS)])
    assert compute_flows([step(DNS, forward(), forward(ONE))]) == ([], [])
    assert compute_flows([step(WEB, None, forward(ONE))]) == ([], [])


def test_backends_are_read_out_of_slots() -> None:
    """Of both families, with and without ports."""
    assert select_backends(render_rules(WEB, forward(ONE))) == {(ONE.address, 8080)}
    six = backends(1, version=6)
    assert select_backends(render_rules(WEB6, forward(*six))) == {(six[0].address, 8080)}
    assert select_backends(render_rules(RANGE, forward(*backends(1, port=0)))) == {(ONE.address, 0)}
    assert select_backends(render_rules(WEB, forward())) == frozenset()


def test_elements_tell_people_what_they_do_but_not_for_whom() -> None:
    """Backends, or that the pipe serves; no Service."""
    assert guess_forward(render_rules(WEB, forward(ONE, TWO))) == Forward(
        service="", backends=(ONE, TWO), plane=Plane.NFT
    )
    piped = Forward(service="default/web", backends=(ONE,), plane=Plane.PIPE)
    assert guess_forward(render_rules(WEB, piped)) == Forward(service="", backends=(), plane=Plane.PIPE)
