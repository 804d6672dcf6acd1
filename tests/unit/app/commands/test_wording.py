"""The words of `plan`."""

from ipaddress import ip_address, ip_network

import pytest

from littlelb.app.commands.wording import Value, render_key, render_value
from littlelb.core.model import (
    Backend,
    Claim,
    Condition,
    Forward,
    Frontend,
    Ingress,
    Ip,
    Key,
    Placement,
    PortError,
    Protocol,
    Publication,
)
from littlelb.dataplane.unsettled import UNSETTLED
from littlelb.host.address import ALTERED

ONE, SIX = Backend(ip_address("10.1.0.11"), 8080), Backend(ip_address("2001:db8::b"), 8080)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (Frontend(ip_address("203.0.113.10"), Protocol.TCP, 80), "203.0.113.10:80/TCP"),
        (Frontend(ip_address("2001:db8::1"), Protocol.UDP, 53), "[2001:db8::1]:53/UDP"),
        (ip_address("203.0.113.10"), "203.0.113.10"),
        ("default/web", "default/web"),
    ],
)
def test_keys(key: Frontend | Ip | Key, text: str) -> None:
    """A frontend reads as people write it; everything else is its own name."""
    assert render_key(key) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Forward(service="default/web", backends=(ONE, SIX)), "10.1.0.11:8080, [2001:db8::b]:8080 (default/web)"),
        (Forward(service="default/web", backends=()), "refused: no backend (default/web)"),
        (
            Forward(
                service="default/web",
                backends=(ONE,),
                source_ranges=(ip_network("192.0.2.0/24"),),
                affinity_seconds=60,
                drain_seconds=30,
            ),
            "10.1.0.11:8080 (default/web, from 192.0.2.0/24 only, session affinity, drain 30 s)",
        ),
        (
            Forward(service="default/web", backends=(ONE,), source_ranges=()),
            "10.1.0.11:8080 (default/web, from nobody only)",
        ),
        (UNSETTLED, "served by some of the workers, or by workers of another version"),
        (Placement("eth0", 32), "/32 on eth0"),
        (ALTERED, "altered by somebody else"),
        (Claim("uid"), "finalizer"),
        (
            Publication(
                uid="uid",
                ingress=(
                    Ingress("203.0.113.10", ip_mode="VIP"),
                    Ingress(hostname="lb.example.com", ports=(PortError(53, Protocol.UDP, "example.io/X"),)),
                ),
                conditions=(Condition("littlelb.io/A", "True", "Ok", "served"),),
                external_ips=("192.0.2.9",),
            ),
            "203.0.113.10 (VIP); lb.example.com, 53/UDP example.io/X; littlelb.io/A=True Ok; externalIPs 192.0.2.9",
        ),
    ],
)
def test_values(value: Value, text: str) -> None:
    """Every kind of value has a text for people, and none is a Python object's own."""
    assert render_value(value) == text


def test_thousands_of_backends_are_counted() -> None:
    """A long list is cut."""
    many = tuple(Backend(ip_address(f"10.1.0.{number}"), 8080) for number in range(1, 21))
    assert render_value(Forward(service="default/web", backends=many)).endswith("10.1.0.8:8080, 12 more (default/web)")
