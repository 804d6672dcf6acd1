"""Rendezvous and Maglev: stable, fair, and moving little."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from littlelb.core.hashing import TABLE_SIZES, maglev, maglev_size, rendezvous

NAMES = [f"node-{number}" for number in range(10)]


def test_order_is_the_same_in_every_process() -> None:
    """The ranking is fixed by the texts alone, so that two balancers choose alike."""
    assert rendezvous("uid-1", NAMES, 3) == ["node-0", "node-6", "node-5"]
    assert rendezvous("uid-1", list(reversed(NAMES)), 3) == rendezvous("uid-1", NAMES, 3)


def test_each_name_is_preferred_about_equally_often() -> None:
    """Over 5,000 keys the most and the least preferred of ten names differ by less than a third."""
    first = Counter(rendezvous(f"key-{number}", NAMES, 1)[0] for number in range(5_000))
    assert len(first) == 10
    assert max(first.values()) < 1.33 * min(first.values())


def test_a_lost_name_moves_only_the_keys_that_had_it() -> None:
    """Without its first choice a key takes its second; all other keys stay."""
    rest = NAMES[1:]
    for number in range(500):
        ranking = rendezvous(f"key-{number}", NAMES)
        expected = ranking[1] if ranking[0] == NAMES[0] else ranking[0]
        assert rendezvous(f"key-{number}", rest, 1) == [expected]


def test_without_a_count_all_names_are_ranked() -> None:
    """The whole list comes back, in order of preference."""
    assert sorted(rendezvous("key", NAMES)) == sorted(NAMES)


WEIGHTED = st.dictionaries(st.text("abcdef0123456789.:", min_size=1), st.integers(1, 1000), min_size=1, max_size=40)
SIZES = st.sampled_from(TABLE_SIZES[:6])


def _held(names: list[tuple[str, int]], size: int) -> list[str]:
    """Who has each slot, by name."""
    return [names[index][0] for index in maglev(names, size)]


def test_a_table_is_the_same_in_every_process() -> None:
    """It is fixed by the texts and weights alone."""
    assert maglev([("10.1.0.1:80", 1), ("10.1.0.2:80", 1), ("10.1.0.3:80", 2)], 67)[:12] == [
        1, 1, 1, 2, 2, 2, 2, 2, 0, 0, 2, 0,
    ]  # fmt: skip


@given(WEIGHTED, SIZES, st.randoms(use_true_random=False))
def test_the_order_of_names_does_not_matter(weights: dict[str, int], size: int, random: Random) -> None:
    """Two balancers that list the same backends differently fill the same table."""
    names = list(weights.items())
    shuffled = names.copy()
    random.shuffle(shuffled)
    assert _held(names, size) == _held(shuffled, size)


@given(WEIGHTED, SIZES)
def test_every_slot_is_held_and_shares_follow_the_weights(weights: dict[str, int], size: int) -> None:
    """Everybody has a slot, nobody more than the next whole number above the fair share."""
    held = Counter(_held(list(weights.items()), size))
    assert held.total() == size
    assert held.keys() == weights.keys()
    total = sum(weights.values())
    assert all(count <= -(-size * weights[name] // total) for name, count in held.items())


@settings(max_examples=40)  # large tables take a while
@given(st.lists(st.integers(1, 100), min_size=1, max_size=40))
def test_the_size_is_the_smallest_that_is_fair(weights: list[int]) -> None:
    """In it nobody has more than 1.1 times its share, if any size can do that; in a smaller one somebody has."""

    def fair(size: int) -> bool:
        counts = Counter(maglev([(str(index), weight) for index, weight in enumerate(weights)], size))
        return all(10 * counts[i] * sum(weights) <= 11 * size * weight for i, weight in enumerate(weights))

    size = maglev_size(weights)
    assert fair(size) or size == TABLE_SIZES[-1]
    smaller = [candidate for candidate in TABLE_SIZES if len(weights) <= candidate < size]
    assert not smaller or not fair(smaller[-1])


@pytest.mark.parametrize(
    ("weights", "size"),
    [([1], 67), ([1] * 3, 67), ([1] * 64, 127), ([1] * 200, 2039), ([9, 1], 67), ([1] * 9_000, 16_381)],
)
def test_sizes_of_common_services(weights: list[int], size: int) -> None:
    """The more backends, the more slots; ten thousand are no burden."""
    assert maglev_size(weights) == size


def test_more_backends_than_slots_leave_some_without() -> None:
    """The lightest have none, and nothing breaks."""
    held = Counter(maglev([(str(n), 2 if n < 60 else 1) for n in range(80)], 67))
    assert held == Counter({**dict.fromkeys(range(60), 1), **{n: 1 for n in held if n >= 60}})
    assert len(held) == 67
    assert maglev_size([1] * 70_000) == TABLE_SIZES[-1]


def _moved(names: list[tuple[str, int]], gone: int, size: int) -> float:
    """Share of all slots that pass from one backend that stays to another one."""
    lost = names[gone][0]
    before, after = _held(names, size), _held(names[:gone] + names[gone + 1 :], size)
    return sum(old not in (lost, new) for old, new in zip(before, after, strict=True)) / size


@settings(max_examples=30)
@given(st.integers(2, 100), st.data())
def test_one_backend_less_moves_little_more_than_its_own_slots(count: int, data: st.DataObject) -> None:
    """Even shares cost something in the smallest table; in a larger one hardly any other slot moves."""
    names = [(f"10.1.{number // 250}.{number % 250}:8080", 1) for number in range(count)]
    gone = data.draw(st.integers(0, count - 1))
    assert _moved(names, gone, maglev_size([1] * count)) < 0.25
    assert _moved(names, gone, 4_093) < 0.06
