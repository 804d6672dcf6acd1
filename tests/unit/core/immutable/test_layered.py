"""A mapping in layers is a mapping."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from littlelb.core.immutable.layered import Layered

KEYS = st.integers(0, 60)
CHANGES = st.tuples(st.dictionaries(KEYS, st.integers(0, 3), max_size=40), st.sets(KEYS, max_size=20))


@given(st.dictionaries(KEYS, st.integers(0, 3)), st.lists(CHANGES, max_size=6), st.booleans())
def test_it_is_what_a_dict_would_be(
    entries: dict[int, int], changes: list[tuple[dict[int, int], set[int]]], looked_at: bool
) -> None:
    """After whatever changes, walked over in between or not; and earlier versions stay as they were."""
    layered, plain = Layered(entries), dict(entries)
    versions = [(layered, dict(plain))]
    for put, drop in changes:
        layered = layered.changed(put, drop)
        plain = {key: value for key, value in plain.items() if key not in drop} | put
        assert not looked_at or set(layered) == set(plain)
        versions.append((layered, plain))
    for version, expected in versions:
        assert len(version) == len(expected)
        assert [version.get(key) for key in range(61)] == [expected.get(key) for key in range(61)]
        assert [key for key in range(61) if key in version] == sorted(expected)
        assert all(version[key] == value for key, value in expected.items())
        assert version == expected
        assert expected == version
        assert set(version.items()) == set(expected.items())
        assert (set(version.keys()), sorted(version.values())) == (set(expected), sorted(expected.values()))


def test_a_key_that_is_not_there_is_not_found() -> None:
    """Never been there, or gone."""
    layered = Layered({"a": 1, "b": 2}).changed({}, ["a"])
    for key in ("a", "z"):
        with pytest.raises(KeyError, match=key):
            layered[key]
    assert (layered.get("a", 7), layered.get("z", 7), layered.get("b", 7)) == (7, 7, 2)


def test_without_anything_new_it_is_the_same_object() -> None:
    """Those who compare by identity see at once that nothing changed."""
    value = ("x",)
    layered = Layered({"a": value})
    assert layered.changed({"a": value}, ["b"]) is layered
    grown = layered.changed({"b": value})
    assert grown is not layered
    assert grown.changed({"b": value}, ["c"]) is grown


def test_what_was_dropped_may_come_again() -> None:
    """In the same step too."""
    layered = Layered({"a": 1}).changed({"a": 2}, ["a"])
    assert layered == {"a": 2}
    assert layered.changed({}, ["a"]).changed({"a": 3}) == {"a": 3}
    assert len(layered.changed({}, ["a", "a"])) == 0


def test_it_compares_with_mappings_only() -> None:
    """By entries, and shows them."""
    layered = Layered({"a": 1})
    assert layered == layered  # noqa: PLR0124
    assert layered == Layered([("a", 1)])
    assert layered != Layered({"a": 2})
    assert layered != Layered()
    assert layered != [("a", 1)]
    assert repr(layered.changed({"b": 2})) == "{'a': 1, 'b': 2}"
