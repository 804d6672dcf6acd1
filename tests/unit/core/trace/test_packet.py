"""What people may write for a packet."""

from ipaddress import ip_address

import pytest

from littlelb.core.model import Protocol
from littlelb.core.shown.status import encode
from littlelb.core.trace.packet import (
    Destination,
    Outcome,
    Packet,
    Step,
    Trace,
    decode_trace,
    parse_packet,
    render_place,
)


@pytest.mark.parametrize(
    ("source", "destination", "text"),
    [
        ("192.0.2.10", "203.0.113.10:80", "192.0.2.10 → 203.0.113.10:80/TCP"),
        ("192.0.2.10:40000", "203.0.113.10:53/udp", "192.0.2.10:40000 → 203.0.113.10:53/UDP"),
        ("2001:db8::1", "[2001:db8::10]:80/tcp", "2001:db8::1 → [2001:db8::10]:80/TCP"),
        ("[2001:db8::1]:4", "[2001:db8::10]:80", "[2001:db8::1]:4 → [2001:db8::10]:80/TCP"),
        ("[2001:db8::1]", "[2001:db8::10]:80", "2001:db8::1 → [2001:db8::10]:80/TCP"),
    ],
)
def test_spellings(source: str, destination: str, text: str) -> None:
    """A port of the client may be left out; IPv6 stands in brackets where a port follows."""
    assert str(parse_packet(source, destination)) == text


@pytest.mark.parametrize(
    ("source", "destination", "complaint"),
    [
        ("192.0.2.10", "203.0.113.10", "name the port"),
        ("192.0.2.10", "203.0.113.10:80/sctp", "tcp or udp"),
        ("192.0.2.10", "[2001:db8::10]:80", "is IPv4, but"),
        ("web", "203.0.113.10:80", "not an address"),
        ("192.0.2.10:0", "203.0.113.10:80", "1 to 65535"),
        ("192.0.2.10:", "203.0.113.10:80", "1 to 65535"),
        ("192.0.2.10:70000", "203.0.113.10:80", "1 to 65535"),
        ("[2001:db8::1]80", "[2001:db8::10]:80", "1 to 65535"),
    ],
)
def test_what_is_wrong_is_named(source: str, destination: str, complaint: str) -> None:
    """Each mistake has a text for people."""
    with pytest.raises(ValueError, match=complaint):
        parse_packet(source, destination)


def test_places() -> None:
    """Brackets only where a port follows IPv6."""
    assert render_place(ip_address("2001:db8::1"), 0) == "2001:db8::1"
    assert str(Packet(ip_address("192.0.2.1"), None, ip_address("192.0.2.2"), 80, Protocol.UDP)).endswith("80/UDP")


def test_json_round_trip() -> None:
    """The JSON of a trace decodes to the same trace."""
    backends = (Destination("10.1.0.1", 8080, "", "kept"),)
    steps = (Step("services4", "a", "b"),)
    found = Trace(packet="a → b", steps=steps, outcome=Outcome.HOST, why="so", backends=backends, slot=1)
    assert decode_trace(encode(found)) == found
