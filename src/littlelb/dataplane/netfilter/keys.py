"""The fields of concatenated keys and values as nf_tables compares them: each padded to 32 bits, byte for byte.

Addresses, ports and protocol numbers are in network order, as they stand in the packet; the results of `numgen` and
`jhash` are numbers of the host, for nothing swaps them. `ip daddr . meta l4proto . th dport . numgen random mod N`:

    203.0.113.7  cb 00 71 07 │ tcp  06 00 00 00 │ 80  00 50 00 00 │ slot 2  02 00 00 00 (little endian)
"""

import struct
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

_PORT = struct.Struct("!H2x")
_NUMBER = struct.Struct("=I")


def address_field(address: IPv4Address | IPv6Address) -> bytes:
    """`ip daddr`, `ip6 daddr`: 4 or 16 bytes."""
    return address.packed


def range_fields(network: IPv4Network | IPv6Network) -> tuple[bytes, bytes]:
    """First and last address of a network, for key and key_end of an interval."""
    return network.network_address.packed, network.broadcast_address.packed


def protocol_field(protocol: int) -> bytes:
    """`meta l4proto`: one byte and its padding."""
    return bytes((protocol, 0, 0, 0))


def port_field(port: int) -> bytes:
    """`th dport`: two bytes and their padding."""
    return _PORT.pack(port)


def number_field(number: int) -> bytes:
    """`numgen`, `jhash`, marks: 32 bits in host order."""
    return _NUMBER.pack(number)


def parse_port(field: bytes) -> int:
    """Read what `port_field` built."""
    return int.from_bytes(field[:2])


def parse_number(field: bytes) -> int:
    """Read what `number_field` built."""
    (number,) = _NUMBER.unpack(field)
    return int(number)
