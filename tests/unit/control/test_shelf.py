"""Objects that are written all the time, and shown to snapshots that never change."""

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from littlelb.control.shelf import Ledger, Shelf
from littlelb.core.model import Service
from tests.worlds import service

WRITES = st.lists(st.tuples(st.integers(0, 30), st.one_of(st.none(), st.integers(0, 3))), max_size=40)


@given(st.lists(WRITES, max_size=5))
def test_what_was_shown_never_changes_and_what_is_shown_is_so_now(rounds: list[list[tuple[int, int | None]]]) -> None:
    """Whatever is written between two looks; None forgets."""
    ledger: Ledger[int, int] = Ledger()
    plain: dict[int, int] = {}
    shown: list[tuple[Mapping[int, int], dict[int, int]]] = []
    for writes in rounds:
        for key, value in writes:
            if value is None:
                ledger.drop(key)
                plain.pop(key, None)
            else:
                ledger.put(key, value)
                plain[key] = value
        assert ledger.now == plain
        shown.append((ledger.share(), dict(plain)))
    assert all(was == expected for was, expected in shown)
    assert ledger.share() is ledger.share()


def test_only_real_changes_are_passed_on() -> None:
    """New, other and gone; the same again is none, nor is what was never there."""
    told: list[tuple[str, str]] = []
    listed: list[str] = []

    def changed(old: Service | None, new: Service | None) -> None:
        told.append((old.uid if old is not None else "", new.uid if new is not None else ""))

    shelf: Shelf[Service] = Shelf(changed, lambda: listed.append("listed"))
    shelf.upsert(service("web", uid="1"))
    shelf.upsert(service("web", uid="1"))
    shelf.upsert(service("web", uid="2"))
    shelf.supplement([service("web", uid="0"), service("api", uid="3")])
    shelf.remove("default/nobody")
    shelf.retain(frozenset({"default/api"}))
    assert told == [("", "1"), ("1", "2"), ("", "3"), ("2", "")]
    assert listed == ["listed"]
    assert shelf.items.keys() == shelf.share().keys() == {"default/api"}
