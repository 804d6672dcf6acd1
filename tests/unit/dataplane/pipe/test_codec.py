"""Nouns to words and back."""

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from littlelb.core import counters
from littlelb.core.counters import ServiceCounters
from littlelb.core.model import Backend, Forward, Frontend, Plane, Protocol
from littlelb.dataplane.pipe.codec import (
    BackendCounters,
    Counters,
    add_counters,
    count_services,
    cut_batches,
    merge_rules,
    parse_frontend,
    parse_rule,
    render_frontend,
    render_rule,
)
from littlelb.dataplane.pipe.routes import Route
from littlelb.dataplane.pipe.wire import MAX_FDS, WireError, parse, render
from littlelb.dataplane.unsettled import UNSETTLED

addresses = st.ip_addresses()
frontends = st.builds(Frontend, addresses, st.just(Protocol.TCP), st.integers(1, 65535))
networks = st.sampled_from([ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"), ip_network("0.0.0.0/0")])
forwards = st.builds(
    Forward,
    service=st.just("default/web"),
    backends=st.lists(
        st.builds(Backend, st.ip_addresses(v=4), st.integers(1, 65535), st.integers(1, 1000), st.booleans()), max_size=5
    ).map(tuple),
    source_ranges=st.none() | st.lists(networks, max_size=3).map(tuple),
    plane=st.sampled_from(Plane),
    affinity_seconds=st.integers(0, 86_400),
    from_link_only=st.booleans(),
    held=st.booleans(),
    drain_seconds=st.none() | st.integers(0, 3600),
    withdraw_seconds=st.integers(0, 3600),
)


@given(frontends, forwards)
def test_a_rule_survives_the_way_to_the_worker_and_back(frontend: Frontend, forward: Forward) -> None:
    """What a worker says that it serves is equal to what it was told."""
    told = parse(render(render_rule(frontend, forward, lent=True))[1])
    kept = {"frontend": told["frontend"], **Route(told).rule}
    assert parse_rule(parse(render(kept)[1])) == (frontend, forward)


@given(frontends)
def test_a_frontend_survives(frontend: Frontend) -> None:
    """The text of a frontend is read as the same frontend."""
    assert parse_frontend(render_frontend(frontend)) == frontend


def test_workers_must_agree_on_what_they_serve() -> None:
    """One that serves by another rule, or not at all, unsettles a frontend; flows that are left may be in some only."""
    mine, others = Forward(service="default/web", backends=()), Forward(service="default/api", backends=())
    left = Forward(service="default/web", backends=(), plane=Plane.NFT)
    one, two, three, four = (Frontend(ip_address("203.0.113.1"), Protocol.TCP, port) for port in (1, 2, 3, 4))
    merged = merge_rules([{one: mine, two: mine, three: mine}, {one: mine, two: others, four: left}])
    assert merged == {one: mine, two: UNSETTLED, three: UNSETTLED, four: left}


def test_batches_are_bounded() -> None:
    """No message has more listeners than the kernel lets travel at once, nor is it much longer than agreed."""
    small = Forward(service="default/web", backends=())
    large = Forward(service="default/big", backends=(Backend(ip_address("10.1.0.1"), 80),) * 4000)
    rules = {
        Frontend(ip_address("203.0.113.1"), Protocol.TCP, port): large if port % 100 == 0 else small
        for port in range(1, 1001)
    }
    batches = list(cut_batches(rules, rules))
    assert all(len(travelling) <= MAX_FDS for _, travelling in batches)
    assert all(len(render({"rules": batch})[1]) < 1 << 20 for batch, _ in batches)
    assert [frontend for _, travelling in batches for frontend in travelling] == list(rules)


def test_only_what_is_lent_travels() -> None:
    """A rule whose listener the worker has already goes without one."""
    one, two = (Frontend(ip_address("203.0.113.1"), Protocol.TCP, port) for port in (80, 443))
    forward = Forward(service="default/web", backends=())
    ((batch, travelling),) = cut_batches({one: forward, two: forward}, [two])
    assert travelling == [two]
    assert [rule["lent"] for rule in batch] == [False, True]


def test_counters_of_several_workers_add_up() -> None:
    """Two answers give one sum per frontend and per backend."""
    total: dict[Frontend, Counters] = {}
    page = [["TCP 203.0.113.1 80", 5, 1, 2, 100, 200, [["10.1.0.1", 80, 4, 1]]]]
    add_counters(total, page)
    add_counters(total, page)
    backends = {Backend(ip_address("10.1.0.1"), 80): BackendCounters(8, 2)}
    frontend = Frontend(ip_address("203.0.113.1"), Protocol.TCP, 80)
    assert total == {frontend: Counters(10, 2, 4, 200, 400, backends)}
    counted = {(ip_address("10.1.0.1"), 80): counters.BackendCounters(8, 2)}
    shared = ServiceCounters(counters.BackendCounters(10, 2, None, 200, 400), counted)
    assert count_services(total) == {frontend: shared}


@pytest.mark.parametrize("page", [None, [["TCP 203.0.113.1 80"]], [["TCP 203.0.113.1 80", 1, 1, 1, 1, -1, []]]])
def test_broken_counters_are_refused(page: object) -> None:
    """What is not a page of counters raises the error of the wire."""
    with pytest.raises(WireError):
        add_counters({}, page)


@pytest.mark.parametrize("item", [None, {}, {"frontend": "TCP 203.0.113.1 80"}, {"frontend": "x", "service": ""}])
def test_a_broken_rule_is_refused(item: object) -> None:
    """What is not a rule raises the error of the wire."""
    with pytest.raises(WireError):
        parse_rule(item)
