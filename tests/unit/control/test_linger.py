"""Addresses that wait for their flows."""

from littlelb.control.linger import Linger
from littlelb.core.model import Forward, Ip
from tests.worlds import frontend, ip

VIP = frontend("203.0.113.7")
OTHER = frontend("203.0.113.7", 81)


def _forward(service: str, seconds: int) -> Forward:
    return Forward(service=service, backends=(), withdraw_seconds=seconds)


def _nobody(_address: Ip) -> bool:
    return False


def test_an_address_stays_as_long_as_its_longest_drain() -> None:
    """And so does the claim of the Services that drain on it."""
    linger = Linger()
    linger.start({VIP: _forward("default/a", 5), OTHER: _forward("default/b", 9)}, _nobody, now=100.0)
    assert linger.next_deadline == 109.0
    assert linger.holds(VIP.address, 108.9)
    assert not linger.holds(VIP.address, 109.0)
    assert linger.services(108.0) == {"default/a", "default/b"}
    assert linger.services(110.0) == frozenset()
    linger.start({}, _nobody, now=110.0)
    assert linger.next_deadline is None


def test_without_drain_seconds_nothing_lingers() -> None:
    """The default of a Service that goes."""
    linger = Linger()
    linger.start({VIP: _forward("default/a", 0)}, _nobody, now=0.0)
    assert not linger.holds(VIP.address, 0.0)
    assert linger.next_deadline is None


def test_an_address_that_is_wanted_again_does_not_drain() -> None:
    """Somebody else, or the same Service, has it now."""
    linger = Linger()
    linger.start({VIP: _forward("default/a", 60)}, _nobody, now=0.0)
    linger.start({}, lambda address: address == OTHER.address, now=1.0)
    assert not linger.holds(ip("203.0.113.7"), 1.0)


def test_a_drain_ends_with_the_last_flow() -> None:
    """Who knows that nothing flows any more says so."""
    linger = Linger()
    linger.start({VIP: _forward("default/a", 60)}, _nobody, now=0.0)
    linger.end()
    assert not linger.holds(VIP.address, 1.0)
    assert (linger.services(1.0), linger.next_deadline) == (frozenset(), None)
