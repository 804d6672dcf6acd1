"""Frontend and Forward → elements."""

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from littlelb.core.model import Forward, Frontend, Net, Plane, Protocol
from littlelb.dataplane.netfilter.sets import Verdict
from littlelb.dataplane.nft.elements.layout import judge, render_rules, select_ranges
from littlelb.dataplane.nft.ruleset import class_sizes, frontend_sets, render_skeleton
from tests.unit.dataplane.nft.rules import DNS, RANGE, VIP4, WEB, WEB6, backends, forward, worlds

KEY = bytes.fromhex("cb007107 06000000 00500000")


def path(frontend: Frontend, rule: Forward) -> list[str]:
    """Sets, and maps with where they lead, in the order in which a packet meets them; no slots, nothing of backends."""
    return [
        f"{place[0]}: {value.code.name.lower()} {value.chain or ''}".strip() if isinstance(value, Verdict) else place[0]
        for place, value in render_rules(frontend, rule).items()
        if not isinstance(value, bytes) and place[0] not in {"kept4", "allowed4"}
    ]


def test_two_backends_are_two_slots() -> None:
    """Byte for byte as the kernel compares them: address . protocol . port . slot → address . port."""
    rules = render_rules(WEB, forward(*backends(2, 1)))
    assert [place for place, _ in rules.items()] == [
        ("services4", KEY, None),
        ("slots4", KEY + bytes(4), None),
        ("slots4", KEY + (1).to_bytes(4, "little"), None),
    ]
    assert list(rules.values())[1:] == [bytes.fromhex("0a010001 1f900000"), bytes.fromhex("0a010002 1f900000")]
    assert path(WEB, forward(*backends(2, 1))) == ["services4: goto random4-2"]


def test_a_range_has_intervals() -> None:
    """First and last port; the slot in network order, as nft has it there; the backend's port stays the client's."""
    rules = render_rules(RANGE, forward(*backends(1, 2, port=0)))
    first, last = bytes.fromhex("cb007107 11000000 13880000"), bytes.fromhex("cb007107 11000000 176f0000")
    assert list(rules) == [
        ("ranges4", first, last),
        ("range_slots4", first + bytes(4), last + bytes(4)),
        ("range_slots4", first + bytes((0, 0, 0, 1)), last + bytes((0, 0, 0, 1))),
    ]
    assert list(rules.values())[1:] == [bytes((10, 1, 0, 1)), bytes((10, 1, 0, 2))]


@pytest.mark.parametrize(
    ("rule", "steps"),
    [
        (forward(), ["services4: goto refuse4"]),
        (Forward(service="a", backends=backends(1)), ["services4: accept"]),
        (Forward(service="a", backends=()), ["services4: accept"]),
        (forward(*backends(1), source_ranges=()), ["services4: drop"]),
        (forward(*backends(1, keeps_source=True)), ["services4: goto hash4-1"]),
        (forward(*backends(1, weight=2), *backends(2)), ["services4: goto random4-67"]),
        (forward(*backends(1, 2, weight=2)), ["services4: goto random4-2"]),
        (
            forward(*backends(1), *backends(2, keeps_source=True)),
            ["staged4", "mixed4", "classes4: goto random4-2"],
        ),
        (
            forward(*backends(1, 2, keeps_source=True), affinity_seconds=60),
            ["staged4", "sticky_keep4", "classes4: goto hash4-2", "remember4: jump remember-60"],
        ),
        (
            forward(
                *backends(1),
                *backends(2, keeps_source=True),
                affinity_seconds=60,
                source_ranges=(ip_network("192.0.2.0/24"),),
            ),
            [
                "staged4",
                "guarded4",
                "mixed4",
                "sticky4",
                "classes4: goto random4-2",
                "remember4: jump remember-60",
            ],
        ),
    ],
)
def test_stages_in_their_order(rule: Forward, steps: list[str]) -> None:
    """Guarded, mixed, sticky, class; who needs no stage is found at once."""
    assert path(WEB, rule) == steps


def test_affinity_of_ipv6_is_a_hash_of_the_client() -> None:
    """Over a Maglev table, also for a single backend; nothing is remembered."""
    rule = forward(*backends(1, version=6), affinity_seconds=60)
    assert path(WEB6, rule) == ["services6: goto client6-67"]
    kept = forward(*backends(1, 2, version=6, keeps_source=True), affinity_seconds=60)
    assert path(WEB6, kept)[0].startswith("services6: goto client-keep6-")


def test_more_than_64_share_a_table() -> None:
    """All of them, and every slot is taken."""
    rules = render_rules(WEB, forward(*backends(*range(1, 101))))
    slots = [value for place, value in rules.items() if place[0] == "slots4"]
    (step,) = path(WEB, forward(*backends(*range(1, 101))))
    assert step == f"services4: goto random4-{len(slots)}"
    assert len(set(slots)) == 100


def test_the_order_of_backends_does_not_matter() -> None:
    """Two machines that list them differently have the same slots."""
    some = (*backends(3, weight=2), *backends(1, 2))
    assert render_rules(WEB, forward(*some)) == render_rules(WEB, forward(*reversed(some)))


def test_only_kept_backends_are_in_the_set_of_kept() -> None:
    """Where all or none keep the client's address, the mark says so and the set is not needed."""
    some = (*backends(1), *backends(2, keeps_source=True))
    kept = [place for place in render_rules(WEB, forward(*some)) if place[0] == "kept4"]
    assert kept == [("kept4", KEY + bytes((10, 1, 0, 2)), None)]
    for rule in (forward(*backends(1, 2)), forward(*backends(1, 2, keeps_source=True))):
        assert not [place for place in render_rules(WEB, rule) if place[0] == "kept4"]


@pytest.mark.parametrize(
    ("ranges", "selected"),
    [
        (None, None),
        ((), ()),
        (("2001:db8::/32",), None),
        (("10.0.0.0/8", "0.0.0.0/0"), None),
        (("10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16"), ("10.0.0.0/8",)),
        (("192.0.2.1/32", "2001:db8::/32"), ("192.0.2.1/32",)),
    ],
)
def test_ranges_of_one_family(ranges: tuple[str, ...] | None, selected: tuple[str, ...] | None) -> None:
    """None is everybody, empty is nobody, a family without a range is open; overlaps and neighbours are merged."""

    def parse(texts: tuple[str, ...] | None) -> tuple[Net, ...] | None:
        return None if texts is None else tuple(map(ip_network, texts))

    assert select_ranges(parse(ranges), 4) == parse(selected)


@given(worlds())
def test_every_element_finds_its_set_and_every_verdict_its_chain(world: dict[Frontend, Forward]) -> None:
    """Whatever is asked for: the skeleton has the maps and the chains; only timeouts are made on demand."""
    text = render_skeleton()
    for frontend, rule in world.items():
        for place, value in render_rules(frontend, rule).items():
            assert place[0] in frontend_sets()
            if isinstance(value, Verdict) and value.chain and not value.chain.startswith("remember-"):
                assert f"\tchain {value.chain} {{\n" in text


@given(st.integers(1, 300), st.booleans())
def test_every_size_is_a_class(count: int, weighted: bool) -> None:
    """As many slots as the class has, and all numbers from 0."""
    some = (*backends(*range(2, count + 1)), *backends(1, weight=3 if weighted else 1))
    places = [place for place in render_rules(WEB, forward(*some)) if place[0] == "slots4"]
    assert len(places) in set(class_sizes())
    assert {int.from_bytes(place[1][12:], "little") for place in places} == set(range(len(places)))


@pytest.mark.parametrize(
    ("frontend", "rule", "words"),
    [
        (WEB, forward(*backends(1, version=6)), "IPv4"),
        (Frontend(VIP4, Protocol.SCTP, 80), forward(), "TCP and UDP only"),
        (WEB, forward(*(backends(1) * 65_522)), "65521"),
    ],
    ids=["family", "protocol", "too many"],
)
def test_what_cannot_be_an_element_is_refused(frontend: Frontend, rule: Forward, words: str) -> None:
    """With a sentence for the Service's owner."""
    failure = judge(frontend, rule)
    assert failure is not None
    assert words in failure.message


@pytest.mark.parametrize("more", [{}, {"plane": Plane.PIPE}])
def test_what_can_be_an_element_is_not(more: dict[str, Any]) -> None:
    """The pipe's frontends are let pass, whatever is behind them."""
    assert judge(DNS, Forward(service="a", backends=backends(1), **more)) is None
    assert judge(DNS, Forward(service="a", backends=backends(1, version=6), plane=Plane.PIPE)) is None
