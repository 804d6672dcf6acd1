"""Sums of what planes count."""

from ipaddress import ip_address

from littlelb.core.counters import BackendCounters, ServiceCounters, add, merge
from littlelb.core.model import Frontend, Protocol


def test_sums_know_the_difference_between_nothing_and_not_counted() -> None:
    """Numbers are added; where one side does not count, the other's number stands; where neither does, None."""
    element = BackendCounters(connections=3)
    flows = BackendCounters(connections=1, active=2, packets=10, bytes_in=100)
    assert add(element, flows) == BackendCounters(4, 2, 10, 100, None)
    assert add(flows, element) == add(element, flows)
    assert add(flows, flows) == BackendCounters(2, 4, 20, 200, None)


def test_a_frontend_that_two_planes_counted_is_one() -> None:
    """Its backends are added one by one; others stay as they are."""
    web, dns = (Frontend(ip_address("203.0.113.7"), Protocol.TCP, port) for port in (80, 53))
    one, two = (ip_address("10.1.0.1"), 8080), (ip_address("10.1.0.2"), 8080)
    piped = ServiceCounters(BackendCounters(3, 1), {one: BackendCounters(3, 1)})
    carried = ServiceCounters(BackendCounters(5, 2), {one: BackendCounters(1, 0), two: BackendCounters(4, 2)})
    merged = merge({web: piped}, {web: carried, dns: carried})
    assert merged[dns] == carried
    assert merged[web].total == BackendCounters(8, 3)
    assert merged[web].backends == {one: BackendCounters(4, 1), two: BackendCounters(4, 2)}
