"""From things to keys."""

from typing import TypeAlias

from hypothesis import given
from hypothesis import strategies as st

from littlelb.core.immutable.index import Index, reindex
from littlelb.core.immutable.layered import Layered

Pairs: TypeAlias = list[tuple[int, str]]
PAIRS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from("abc")), max_size=8)


@given(st.lists(st.tuples(PAIRS, PAIRS), max_size=4))
def test_an_index_holds_the_pairs_that_came_and_did_not_go(steps: list[tuple[Pairs, Pairs]]) -> None:
    """Each key once, and no thing without keys."""
    index: Index[int] = Layered()
    pairs: set[tuple[int, str]] = set()
    for gone, come in steps:
        index = reindex(index, gone, come)
        pairs = (pairs - set(gone)) | set(come)
    assert {(thing, key) for thing, keys in index.items() for key in keys} == pairs
    assert all(keys and len(set(keys)) == len(keys) for keys in index.values())
