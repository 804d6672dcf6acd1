"""The words of `plan`."""

from ipaddress import ip_address, ip_network

import msgspec
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
    Plane,
    PortError,
    Protocol,
    Publication,
)
from littlelb.dataplane.unsettled import UNSETTLED
from littlelb.host.address import ALTERED

NOT_AS_LEFT = "not as it was left: by one plane of two, by some of the workers, or with elements that others changed"
ONE, SIX = Backend(ip_address("10.1.0.11"), 8080), Backend(ip_address("2001:db8::b"), 8080)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        (Frontend(ip_address("203.0.113.10"), Protocol.TCP, 80), "203.0.113.10:80/TCP"),
        (Frontend(ip_address("2001:db8::1"), Protocol.UDP, 53), "[2001:db8::1]:53/UDP"),
        (Frontend(ip_address("203.0.113.10"), Protocol.UDP, 5000, 5999), "203.0.113.10:5000-5999/UDP"),
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
        (Forward(service="default/web", backends=(ONE, SIX)), "10.1.0.11:8080, [2001:db8::b]:8080 (default/web, pipe)"),
        (Forward(service="default/web", backends=()), "refused: no backend (default/web, pipe)"),
        (
            Forward(
                service="default/web",
                backends=(ONE,),
                source_ranges=(ip_network("192.0.2.0/24"),),
                affinity_seconds=60,
                drain_seconds=30,
            ),
            "10.1.0.11:8080 (default/web, pipe, from 192.0.2.0/24 only, session affinity, drain 30 s)",
        ),
        (
            Forward(service="default/web", backends=(ONE,), source_ranges=()),
            "10.1.0.11:8080 (default/web, pipe, from nobody only)",
        ),
        (
            Forward(
                service="default/web",
                backends=(msgspec.structs.replace(ONE, weight=3, keeps_source=True), SIX),
                plane=Plane.NFT,
                from_link_only=True,
            ),
            "10.1.0.11:8080 x3, [2001:db8::b]:8080 (default/web, nft, client address kept for some, link only)",
        ),
        (
            Forward(
                service="default/web",
                backends=(Backend(ip_address("10.1.0.11"), 0, keeps_source=True),),
                plane=Plane.NFT,
            ),
            "10.1.0.11 (port kept) (default/web, nft, client address kept)",
        ),
        (UNSETTLED, NOT_AS_LEFT),
        (Forward(service="default/web", backends=(ONE,), drain_seconds=-1), NOT_AS_LEFT),
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
    assert render_value(Forward(service="default/web", backends=many)).endswith(
        "10.1.0.8:8080, 12 more (default/web, pipe)"
    )
