"""Weights are read strictly and reduced."""

from math import gcd

import pytest
from hypothesis import given
from hypothesis import strategies as st

from littlelb.core.reasons import Reason
from littlelb.core.serving.weights import Weight, index_weights, parse_weight, share_out
from tests.worlds import node


@pytest.mark.parametrize(("text", "value"), [("", 1), ("0", 0), ("1", 1), ("007", 7), ("1000", 1000)])
def test_a_weight_is_a_number(text: str, value: int) -> None:
    """From 0 to 1000; nothing said is 1."""
    assert parse_weight(text, "node n1") == Weight(value)


@pytest.mark.parametrize("text", ["1001", "-1", "1.5", "ten", " 1", "²", "9" * 5_000])
def test_what_is_no_weight_is_one_and_said(text: str) -> None:
    """The text of a stranger is quoted and cut."""
    value, notice = parse_weight(text, "node n1")
    assert value == 1
    assert notice is not None
    assert (notice.reason, notice.warning) == (Reason.INVALID_ANNOTATION, True)
    assert notice.message.startswith("node n1: littlelb.io/weight: ")
    assert len(notice.message) < 200


def test_only_nodes_with_a_weight_are_listed() -> None:
    """Most clusters have none, and then nothing is looked up; what is wrong is nothing to warn every Service of."""
    nodes = [node("a", "198.51.100.1"), node("b", "198.51.100.2", weight="3"), node("c", "198.51.100.3", weight="x")]
    weights = index_weights(nodes)
    assert {name: weight.value for name, weight in weights.items()} == {"b": 3, "c": 1}
    notice = weights["c"].notice
    assert notice is not None
    assert not notice.warning


@given(st.lists(st.integers(0, 1_000_000), max_size=50))
def test_shares_are_the_smallest_whole_numbers_of_the_same_ratio(weights: list[int]) -> None:
    """Equal ones are 1 each, so that an unweighted Service looks the same; all 0 is as nothing said."""
    shares = share_out(weights)
    if not any(weights):
        assert shares == [1] * len(weights)
        return
    assert gcd(*shares) == 1
    assert all(share * sum(weights) == weight * sum(shares) for share, weight in zip(shares, weights, strict=True))
