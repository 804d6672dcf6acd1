"""Rendezvous: stable, fair, and moving little."""

from collections import Counter

from littlelb.core.hashing import rendezvous

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
