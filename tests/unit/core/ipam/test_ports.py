"""Which ports a Service asks for."""

import pytest

from littlelb.core.ipam.ports import PortRange, frontends_on, overlap, parse_port_ranges
from littlelb.core.model import Frontend, Protocol, ServicePort
from littlelb.core.reasons import Reason, Refusal
from tests.worlds import frontend, ip, service

VIP = "203.0.113.7"
MEDIA = Frontend(ip(VIP), Protocol.UDP, 5000, 5999)


def _read(text: str) -> tuple[PortRange, ...] | Refusal:
    ports = [ServicePort(80), ServicePort(5500), ServicePort(6000, Protocol.UDP)]
    return parse_port_ranges(service(ports=ports, annotations={"littlelb.io/port-ranges": text}))


def test_ranges_are_read_and_follow_the_single_ports() -> None:
    """The same number may be a port of TCP and in a range of UDP; without the annotation there are none."""
    assert _read("5000-5999/udp, 7000-7010/TCP,9-9/tcp") == (
        PortRange(Protocol.UDP, 5000, 5999),
        PortRange(Protocol.TCP, 7000, 7010),
        PortRange(Protocol.TCP, 9, 9),
    )
    assert _read("") == parse_port_ranges(service()) == ()
    asked = service("voice", VIP, [80], annotations={"littlelb.io/port-ranges": "5000-5999/udp"})
    assert frontends_on(asked, ip(VIP)) == (frontend(VIP), MEDIA)
    assert str(MEDIA) == f"{VIP} ports 5000-5999/UDP"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("5000-5999", "'5000-5999' cannot be read"),
        ("5000/udp", "cannot be read"),
        ("5000-5999/udp,", "'' cannot be read"),
        ("5000-5999/sctp", "cannot be read"),
        ("\u0665-\u0669/udp", "cannot be read"),
        ("+5000-5999/udp", "cannot be read"),
        (" ", "cannot be read"),
        ("0-10/udp", "0-10/udp is not within 1-65535"),
        ("65530-65536/udp", "is not within 1-65535"),
        ("20-10/udp", "20-10/udp is not within 1-65535, or runs backwards"),
        ("10-20/udp,15-30/udp", "10-20/udp and 15-30/udp overlap"),
        ("5000-5999/tcp", "5000-5999/tcp holds port 5500/TCP of spec.ports"),
        ("5000-6000/udp", "holds port 6000/UDP of spec.ports"),
        ("1-9000/udp,10000-11000/udp", "more than 10000 ports"),
        (",".join(f"{n}-{n}/udp" for n in range(1, 10)), "more than 8 ranges"),
        ("1-2/udp," * 100_000, "more than 8 ranges"),
    ],
)
def test_what_is_wrong_with_a_range_refuses_it(text: str, why: str) -> None:
    """Clients rely on every port of it, so half of a range is none."""
    refusal = _read(text)
    assert isinstance(refusal, Refusal)
    assert (refusal.reason, refusal.frontend) == (Reason.INVALID_ANNOTATION, None)
    assert why in refusal.message
    assert len(refusal.message) < 300
    asked = service(annotations={"littlelb.io/port-ranges": text}, ports=[5500, ServicePort(6000, Protocol.UDP)])
    assert len(frontends_on(asked, ip(VIP))) == 2


@pytest.mark.parametrize(
    ("other", "meets"),
    [
        (frontend(VIP, 5000, Protocol.UDP), True),
        (frontend(VIP, 5999, Protocol.UDP), True),
        (frontend(VIP, 6000, Protocol.UDP), False),
        (frontend(VIP, 4999, Protocol.UDP), False),
        (frontend(VIP, 5500), False),
        (frontend("203.0.113.8", 5500, Protocol.UDP), False),
        (Frontend(ip(VIP), Protocol.UDP, 5999, 7000), True),
        (Frontend(ip(VIP), Protocol.UDP, 1, 4999), False),
    ],
)
def test_frontends_overlap_where_they_share_a_port(other: Frontend, meets: bool) -> None:
    """Of the same address and protocol; it does not matter who asks."""
    assert overlap(MEDIA, other) is meets
    assert overlap(other, MEDIA) is meets
