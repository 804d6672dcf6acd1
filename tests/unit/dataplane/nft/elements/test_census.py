"""Elements as the kernel lists them → whose they are."""

import random
from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from littlelb.core.model import Forward, Frontend
from littlelb.dataplane.netfilter.sets import Element
from littlelb.dataplane.nft.elements.census import Census, digest
from littlelb.dataplane.nft.elements.layout import Place, Value, render_rules
from tests.unit.dataplane.nft.rules import VIP4, VIP6, WEB, backends, forward, worlds


def count(rules: dict[Place, Value], census: Census) -> Census:
    """Take all elements, set by set."""
    ordered = sorted(rules, key=lambda place: place[0])
    for name, places in groupby(ordered, key=lambda place: place[0]):
        census.take(name, [Element(key, rules[name, key, last], last) for _, key, last in places])
    return census


@given(worlds(), st.randoms(use_true_random=False))
def test_what_was_written_is_found_again(world: dict[Frontend, Forward], chance: random.Random) -> None:
    """Each frontend with the digest of its own elements, in whatever order they are listed."""
    every = [item for frontend, rule in world.items() for item in render_rules(frontend, rule).items()]
    chance.shuffle(every)
    census = count(dict(every), Census(world))
    assert census.digests == {frontend: digest(render_rules(frontend, rule)) for frontend, rule in world.items()}
    assert census.rules == {frontend: render_rules(frontend, rule) for frontend, rule in world.items()}
    assert not census.strays


def test_one_element_less_is_another_digest() -> None:
    """And so is another value."""
    rules = dict(render_rules(WEB, forward(*backends(1, 2))))
    other = {**rules, next(iter(rules)): b"other"}
    rules.popitem()
    assert len({digest(rules), digest(other), digest(render_rules(WEB, forward(*backends(1, 2))))}) == 3


def test_elements_of_those_not_asked_for_are_not_kept() -> None:
    """Memory does not grow with the number of Services."""
    assert count(dict(render_rules(WEB, forward(*backends(1)))), Census()).rules == {}


def test_what_no_frontend_can_have_is_a_stray() -> None:
    """Another protocol, an interval of addresses: somebody else wrote that."""
    sctp = VIP4.packed + bytes((132, 0, 0, 0, 0, 80, 0, 0))
    low, high = (bytes((203, 0, 113, last, 6, 0, 0, 0, 0, 80, 0, 0)) for last in (7, 9))
    census = Census()
    census.take("services4", [Element(sctp, b"")])
    census.take("ranges4", [Element(low, b"", high)])
    assert census.strays == {("services4", sctp, None): b"", ("ranges4", low, high): b""}
    assert not census.digests


def test_addresses() -> None:
    """Of both families."""
    census = Census()
    census.take_addresses("held4", [Element(VIP4.packed)])
    census.take_addresses("held6", [Element(VIP6.packed)])
    census.take_addresses("alive6", [Element(VIP6.packed)])
    assert (census.held, census.alive) == ({VIP4, VIP6}, {VIP6})
