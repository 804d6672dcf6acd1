"""Fields of concatenated keys, byte for byte."""

import sys
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from littlelb.dataplane.netfilter import keys


@pytest.mark.skipif(sys.byteorder != "little", reason="the golden bytes were taken on a little-endian host")
def test_key_of_a_slot() -> None:
    """The key that nft sends for `203.0.113.7 . tcp . 80 . 2` with a random number as last field."""
    fields = (
        keys.address_field(ip_address("203.0.113.7")),
        keys.protocol_field(6),
        keys.port_field(80),
        keys.number_field(2),
    )
    assert b"".join(fields).hex() == "cb007107" + "06000000" + "00500000" + "02000000"


def test_ipv6_addresses_take_sixteen_bytes() -> None:
    """An IPv6 address needs no padding."""
    assert keys.address_field(ip_address("2001:db8::7")).hex() == "20010db8" + "0" * 23 + "7"


@pytest.mark.parametrize(
    ("network", "first", "last"),
    [
        ("192.0.2.0/24", "192.0.2.0", "192.0.2.255"),
        ("0.0.0.0/0", "0.0.0.0", "255.255.255.255"),
        ("2001:db8::/127", "2001:db8::", "2001:db8::1"),
    ],
)
def test_networks_are_intervals(network: str, first: str, last: str) -> None:
    """A network reaches from its first address to its last, both included."""
    assert keys.range_fields(ip_network(network)) == (ip_address(first).packed, ip_address(last).packed)


@given(st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF))
def test_numbers_and_ports_round_trip(port: int, number: int) -> None:
    """What was built is read back."""
    assert keys.parse_port(keys.port_field(port)) == port
    assert keys.parse_number(keys.number_field(number)) == number
