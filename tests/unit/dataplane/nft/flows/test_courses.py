"""What changes mean for flows, and how flows are named: to conntrack, and in the set of those that end."""

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st

from littlelb.core.model import Forward, Frontend, Protocol
from littlelb.dataplane.netfilter.conntrack import flows as ct
from littlelb.dataplane.netfilter.conntrack.flows import Flow, Tuple
from littlelb.dataplane.netfilter.conntrack.usage import Pair
from littlelb.dataplane.nft.elements.layout import render_rules
from littlelb.dataplane.nft.elements.transitions import Arrival, Removal, Step
from littlelb.dataplane.nft.flows.courses import (
    Atlas,
    Turn,
    compute_turn,
    ending_set,
    filter_course,
    filter_older,
    parse_ending_key,
    render_ending_key,
)
from littlelb.dataplane.nft.flows.drains import Course
from littlelb.dataplane.nft.ruleset import MARK_KEEP, MARK_OURS
from tests.unit.dataplane.nft.rules import DNS, RANGE, VIP4, VIP6, WEB, WEB6, backends, forward

CLIENTS = {4: ip_address("192.0.2.10"), 6: ip_address("2001:db8:0:2::a")}


def step(frontend: Frontend, before: Forward | None, after: Forward | None) -> Step:
    """A change of one frontend, as the plane tells it."""
    old, new = (render_rules(frontend, one) if one is not None else {} for one in (before, after))
    return Step(frontend, old, new, before, after)


def course(frontend: Frontend, number: int = 1) -> Course:
    """The way to a backend of the frontend's family."""
    (backend,) = backends(number, version=frontend.address.version)
    return frontend, (backend.address, 0 if frontend.last_port else backend.port)


def flow(one: Course, mark: int = MARK_OURS, port: int = 0) -> Flow:
    """A flow on this course."""
    frontend, (address, backend_port) = one
    port, client = port or frontend.port, CLIENTS[frontend.address.version]
    return Flow(
        protocol=ct.NUMBERS[frontend.protocol],
        original=Tuple(client, frontend.address, 40000, port),
        reply=Tuple(address, client, backend_port or port, 40000),
        mark=mark,
    )


def test_a_change_of_backends_takes_one_away_and_brings_one() -> None:
    """The one that is gone drains as the rule says now; those that new flows go to are named."""
    before, after = forward(*backends(1, 2)), forward(*backends(2, 3), drain_seconds=30)
    turn = compute_turn([step(WEB, before, after)])
    assert turn.removals == (Removal(WEB, course(WEB, 1)[1], 30),)
    assert turn.serving == {WEB: frozenset({course(WEB, 2)[1], course(WEB, 3)[1]})}
    assert turn.departures == {}


def test_where_backends_only_go_nobody_comes_back() -> None:
    """Nothing has to be looked for among what drains."""
    assert compute_turn([step(WEB, forward(*backends(1, 2)), forward(*backends(1)))]).serving == {}


def test_a_frontend_that_goes_says_how_long_its_flows_may_go_on() -> None:
    """All of its backends go; one of a daemon before us, of which nothing is known, at once."""
    turn = compute_turn([step(WEB, forward(*backends(1), withdraw_seconds=5), None)])
    assert turn == Turn((Removal(WEB, course(WEB)[1], 5),), (), {WEB: 5}, {})
    unknown = Step(WEB, render_rules(WEB, forward(*backends(1))), {}, None, None)
    assert compute_turn([unknown]).departures == {WEB: 0}


def test_datagrams_from_before_a_frontend_are_told_of() -> None:
    """Once, when it comes; TCP has none, for only a SYN begins a connection."""
    new = forward(*backends(1))
    assert compute_turn([step(DNS, None, new), step(WEB, None, new)]).arrivals == (Arrival(DNS),)


def test_flows_of_a_course_are_those_that_we_translated() -> None:
    """By frontend, backend and our bit of the mark; other bits of the mark do not matter."""
    for one in (course(WEB), course(WEB6), course(DNS), course(RANGE)):
        asked = filter_course(one)
        assert asked.matches(flow(one))
        assert asked.matches(flow(one, mark=MARK_OURS | MARK_KEEP | 1))
        assert not asked.matches(flow(one, mark=0xFEFF_FFFF))
        assert not asked.matches(flow(course(one[0], 2)))
    assert filter_course(course(RANGE)).matches(flow(course(RANGE), port=5999))
    assert not filter_course(course(RANGE)).matches(flow(course(RANGE), port=6000))


def test_older_flows_are_those_that_nobody_of_us_translated() -> None:
    """Whoever answers them."""
    assert filter_older(DNS).matches(flow(course(DNS, 7), mark=0xFEFF_FFFF))
    assert not filter_older(DNS).matches(flow(course(DNS)))
    assert filter_older(RANGE).matches(flow(course(RANGE), mark=0, port=5500))


def test_a_flow_to_a_port_of_a_range_belongs_to_the_range() -> None:
    """Where there is a range of this address and protocol; else to the port."""
    atlas = Atlas([WEB, RANGE])
    backend = course(RANGE)[1][0]
    assert atlas.find(Pair(Protocol.UDP, VIP4, 5000, backend, 5000)) == (RANGE, (backend, 0))
    for protocol, port in ((Protocol.UDP, 4999), (Protocol.TCP, 5000)):
        assert atlas.find(Pair(protocol, VIP4, port, backend, 9)) == (Frontend(VIP4, protocol, port), (backend, 9))


@given(st.sampled_from([VIP4, VIP6]), st.integers(1, 65535), st.integers(0, 65535), st.integers(1, 200))
def test_elements_of_what_ends_are_read_as_they_were_written(vip: object, port: int, at: int, number: int) -> None:
    """So that the next daemon knows what this one was ending."""
    assert vip in {VIP4, VIP6}
    address = VIP4 if vip == VIP4 else VIP6
    (backend,) = backends(number, version=address.version)
    one = Frontend(address, Protocol.TCP, port), (backend.address, at)
    assert parse_ending_key(render_ending_key(one)) == one
    assert ending_set(one[0]) == f"ending{address.version}"


def test_elements_of_others_are_nobodys() -> None:
    """Another protocol, another length."""
    key = render_ending_key(course(WEB))
    assert parse_ending_key(key[:4] + b"\x11" + key[5:]) is None
    assert parse_ending_key(render_ending_key(course(WEB6))[:-4]) is None
