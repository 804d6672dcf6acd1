"""The kernel's refusals, in words."""

import errno
from ipaddress import IPv4Address, IPv6Address

import pytest

from littlelb.core.model import Ip
from littlelb.core.plan import Severity
from littlelb.host.refusals import ABOUT_TO_BE_PUT, being_asked, explain

ONE, SIX = IPv4Address("203.0.113.7"), IPv6Address("2001:db8:0:113::7")


@pytest.mark.parametrize(
    ("code", "address", "text"),
    [
        (errno.EPERM, ONE, "CAP_NET_ADMIN"),
        (errno.EACCES, SIX, "net.ipv6.conf.eth0.disable_ipv6"),
        (errno.ENODEV, ONE, "does not exist"),
        (errno.ENOBUFS, ONE, "the kernel refused 203.0.113.7 on eth0: No buffer space available"),
        (errno.EACCES, ONE, "the kernel refused"),
    ],
)
def test_refusals_hold_the_remedy(code: int, address: Ip, text: str) -> None:
    """Each refusal of the kernel reads as a sentence with what to do."""
    assert text in explain(OSError(code, "No buffer space available"), address, "eth0").message


def test_what_is_under_way_is_no_failure() -> None:
    """It waits; nobody is to try again, or to be told that something is wrong."""
    assert being_asked(ONE).severity is ABOUT_TO_BE_PUT.severity is Severity.WAITING
