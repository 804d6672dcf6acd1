"""Sums of what planes count."""

from littlelb.core.counters import BackendCounters, add


def test_sums_know_the_difference_between_nothing_and_not_counted() -> None:
    """Numbers are added; where one side does not count, the other's number stands; where neither does, None."""
    element = BackendCounters(connections=3)
    flows = BackendCounters(connections=1, active=2, packets=10, bytes_in=100)
    assert add(element, flows) == BackendCounters(4, 2, 10, 100, None)
    assert add(flows, element) == add(element, flows)
    assert add(flows, flows) == BackendCounters(2, 4, 20, 200, None)
