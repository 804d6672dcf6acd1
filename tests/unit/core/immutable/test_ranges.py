"""A set of numbers as ranges."""

from hypothesis import given
from hypothesis import strategies as st

from littlelb.core.immutable.ranges import Ranges

RANGES = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 5)).map(lambda pair: (pair[0], sum(pair))), max_size=8)


@given(RANGES)
def test_a_number_is_in_it_if_it_is_in_one_of_the_ranges(ranges: list[tuple[int, int]]) -> None:
    """Whether they overlap, touch or neither."""
    found = Ranges(ranges)
    for number in range(-1, 50):
        assert (number in found) is any(first <= number <= last for first, last in ranges)


def test_what_is_no_number_is_not_in_it() -> None:
    """As in a set."""
    text: object = "1"
    assert text not in Ranges([(0, 9)])
