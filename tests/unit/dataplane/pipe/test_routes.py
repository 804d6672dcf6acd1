"""Who may connect, and to which backend."""

from collections import Counter
from ipaddress import ip_address

import pytest

from littlelb.dataplane.pipe.flow import Backend
from littlelb.dataplane.pipe.routes import Route, parse_frontend, rendezvous
from littlelb.dataplane.pipe.wire import Json, WireError

BACKENDS: list[object] = [["10.1.0.1", 80], ["10.1.0.2", 80], ["10.1.0.3", 80]]


def rule(**fields: object) -> Json:
    """A rule with three backends and what the test says."""
    return {"service": "default/web", "backends": BACKENDS, "ranges": None, "affinity": False, "drain": None} | fields


def packed(address: str) -> bytes:
    """An address as the kernel writes it."""
    return ip_address(address).packed


def test_round_robin_begins_where_it_is_told() -> None:
    """Each backend is chosen in turn, and two workers begin at different ones."""
    first, second = Route(rule(), start=0), Route(rule(), start=1)
    turns = [first.choose(b"", 0) for _ in range(6)]
    assert sorted(Counter(turns).values()) == [2, 2, 2]
    assert second.choose(b"", 0) == turns[1]


def test_a_suspect_is_tried_last_for_a_while() -> None:
    """A backend that did not answer is chosen only when its time is over, yet stays in the order."""
    route = Route(rule())
    route.suspect(("10.1.0.2", 80), until=10.0)
    assert {route.choose(b"", 5.0) for _ in range(6)} == {("10.1.0.1", 80), ("10.1.0.3", 80)}
    assert route.order(b"", 5.0)[-1] == ("10.1.0.2", 80)
    assert ("10.1.0.2", 80) in {route.choose(b"", 11.0) for _ in range(6)}


def test_affinity_follows_the_client_and_not_the_worker() -> None:
    """The same client gets the same backend from every worker; a backend that goes moves only its own clients."""
    clients = [packed(f"192.0.2.{number}") for number in range(200)]
    one, other = Route(rule(affinity=True), start=0), Route(rule(affinity=True), start=2)
    before = [one.choose(client, 0) for client in clients]
    assert before == [other.choose(client, 0) for client in clients]
    assert min(Counter(before).values()) > 40
    fewer = Route(rule(affinity=True, backends=BACKENDS[:2]))
    assert all(
        then == now
        for then, now in zip(before, (fewer.choose(client, 0) for client in clients), strict=True)
        if then != ("10.1.0.3", 80)
    )


def test_rendezvous_orders_all_names_alike_in_every_process() -> None:
    """The order is a fixed function of key and names, whatever order they come in."""
    assert rendezvous("c0000201", {"a": 1, "b": 1, "c": 1}) == rendezvous("c0000201", {"c": 1, "b": 1, "a": 1})
    assert sorted(rendezvous("c0000201", {"a": 1, "b": 1, "c": 1})) == ["a", "b", "c"]
    assert rendezvous("c0000201", {"10.1.0.1 80": 1, "10.1.0.2 80": 1}) == ["10.1.0.2 80", "10.1.0.1 80"]


def test_weights_are_followed_smoothly() -> None:
    """Of each seven connections five, one and one; never more than four in a row, and workers begin differently."""
    weighted: list[object] = [["10.1.0.1", 80, 5, False], ["10.1.0.2", 80, 1, False], ["10.1.0.3", 80, 1, False]]
    route, other = Route(rule(backends=weighted)), Route(rule(backends=weighted), start=2)
    turns = [route.choose(b"", 0) for _ in range(14)]
    for seven in (turns[:7], turns[7:]):
        assert Counter(seven) == {("10.1.0.1", 80): 5, ("10.1.0.2", 80): 1, ("10.1.0.3", 80): 1}
    assert not any(len(set(turns[at : at + 5])) == 1 for at in range(10))
    assert [other.choose(b"", 0) for _ in range(12)] == turns[2:]


def test_affinity_follows_weights() -> None:
    """Clients are shared as the weights say, and a weight that grows moves clients to its backend only."""
    clients = [packed(f"192.0.2.{number}") for number in range(256)]

    def choices(weight: int) -> list[Backend | None]:
        weighted: list[object] = [["10.1.0.1", 80, weight, False], ["10.1.0.2", 80, 10, False]]
        route = Route(rule(backends=weighted, affinity=True))
        return [route.choose(client, 0) for client in clients]

    even, more = choices(10), choices(30)
    assert 100 < Counter(even)[("10.1.0.1", 80)] < 156
    assert 165 < Counter(more)[("10.1.0.1", 80)] < 220
    assert {after for before, after in zip(even, more, strict=True) if before != after} == {("10.1.0.1", 80)}


@pytest.mark.parametrize(
    ("ranges", "client", "admitted"),
    [
        (None, "192.0.2.1", True),
        ([], "192.0.2.1", False),
        (["192.0.2.0/25"], "192.0.2.127", True),
        (["192.0.2.0/25"], "192.0.2.128", False),
        (["192.0.2.0/25"], "2001:db8::1", True),
        (["0.0.0.0/0"], "198.51.100.1", True),
        (["2001:db8::/32", "192.0.2.0/24"], "2001:db9::1", False),
        (["2001:db8::/32"], "2001:db8:1::1", True),
    ],
)
def test_source_ranges(ranges: list[str] | None, client: str, admitted: bool) -> None:
    """No list admits all, an empty one nobody, and a family without a range of its own is unrestricted."""
    assert Route(rule(ranges=ranges)).admits(packed(client)) is admitted


@pytest.mark.parametrize(
    "broken",
    [
        {"backends": [["10.1.0.1", 0]]},
        {"backends": [["10.1.0.1"]]},
        {"backends": [["example", 80]]},
        {"backends": [["10.1.0.1", 80, 0]]},
        {"backends": None},
        {"ranges": ["10.0.0.1/8"]},
        {"ranges": "10.0.0.0/8"},
        {"drain": -1},
        {"drain": "soon"},
    ],
)
def test_a_broken_rule_is_refused(broken: Json) -> None:
    """What is not a rule raises the error of the wire."""
    with pytest.raises(WireError):
        Route(rule(**broken))


def test_without_backends_there_is_no_choice() -> None:
    """An empty frontend chooses nobody, with and without affinity."""
    assert Route(rule(backends=[])).choose(packed("192.0.2.1"), 0) is None
    assert Route(rule(backends=[], affinity=True)).choose(packed("192.0.2.1"), 0) is None


@pytest.mark.parametrize(
    "text", ["", "TCP", "UDP 192.0.2.1 80", "TCP 192.0.2.256 80", "TCP 192.0.2.1 0", "TCP ::1 -1", 7]
)
def test_a_broken_frontend_is_refused(text: object) -> None:
    """Only `TCP ADDRESS PORT` names a frontend."""
    with pytest.raises(WireError):
        parse_frontend(text)


def test_a_frontend_is_canonical() -> None:
    """Two spellings of one IPv6 address are one frontend."""
    assert parse_frontend("TCP 2001:db8:0:0::1 80") == ("TCP 2001:db8::1 80", ("2001:db8::1", 80))
