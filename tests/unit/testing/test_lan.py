"""The address plan of the LAN."""

from ipaddress import IPv4Address, IPv6Address

from littlelb.testing.lan import backend_address, lan_address, vip


def test_addresses_follow_the_plan() -> None:
    """The number is the last part of the IPv4 address and, in hexadecimal, of the IPv6 address."""
    assert lan_address(10) == (IPv4Address("192.0.2.10"), IPv6Address("2001:db8:0:2::a"))
    assert backend_address(11) == (IPv4Address("198.51.100.11"), IPv6Address("2001:db8:0:51::b"))
    assert vip(7) == (IPv4Address("203.0.113.7"), IPv6Address("2001:db8:0:113::7"))
