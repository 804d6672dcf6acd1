"""Diffs, as properties."""

from hypothesis import given
from hypothesis import strategies as st

from littlelb.core.plan import Changes, Failure, PassReport, Severity, diff

WORLDS = st.dictionaries(st.integers(0, 20), st.text(max_size=2), max_size=12)


def _apply(observed: dict[int, str], changes: Changes[int, str]) -> dict[int, str]:
    world = observed | dict(changes.add) | dict(changes.change)
    return {key: value for key, value in world.items() if key not in changes.remove}


@given(WORLDS, WORLDS)
def test_applying_a_diff_reaches_the_wanted_state(wanted: dict[int, str], observed: dict[int, str]) -> None:
    """And the next diff is empty."""
    reached = _apply(observed, diff(wanted, observed))
    assert reached == wanted
    assert not diff(wanted, reached)


@given(WORLDS, WORLDS, st.frozensets(st.integers(0, 20)))
def test_a_diff_of_some_keys_changes_only_those(
    wanted: dict[int, str], observed: dict[int, str], keys: frozenset[int]
) -> None:
    """Keys that were not named stay as they are."""
    reached = _apply(observed, diff(wanted, observed, keys))
    for key in range(21):
        assert reached.get(key) == (wanted if key in keys else observed).get(key)


@given(WORLDS, WORLDS)
def test_bring_up_and_tear_down_are_the_two_halves(wanted: dict[int, str], observed: dict[int, str]) -> None:
    """Together they are the whole, and neither has a part of the other."""
    changes = diff(wanted, observed)
    up, down = changes.bring_up(), changes.tear_down()
    assert (up.add, up.change, up.remove) == (changes.add, changes.change, {})
    assert (down.add, down.change, down.remove) == ({}, {}, changes.remove)


def test_a_report_with_anything_to_try_again_has_failed() -> None:
    """A failed key and an unreadable phase both count."""
    failure = Failure("Failed", "no")
    assert not PassReport(1, 0.0, 0.0, 0).failed
    assert PassReport(1, 0.0, 0.0, 0, failures={"default/web": failure}).failed
    assert PassReport(1, 0.0, 0.0, 0, unread={"ADDRESS": failure}).failed
    waiting = Failure("Pending", "soon", Severity.WAITING)
    assert not PassReport(1, 0.0, 0.0, 0, failures={"default/web": waiting}).failed
    assert PassReport(1, 0.0, 0.0, 0, failures={"default/web": waiting, "default/api": failure}).failed
