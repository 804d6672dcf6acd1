"""Elements as the kernel lists them → whose they are: a digest for each frontend, the addresses, and what is nobody's.

A digest is the sum of the hashes of a frontend's elements: their order does not matter, and 40,000 elements become
10,000 numbers. Python's own hash will do, for a digest is compared within one process only.
"""

from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from littlelb.core.model import Frontend, Ip
from littlelb.dataplane.netfilter.keys import parse_port
from littlelb.dataplane.netfilter.sets import Element
from littlelb.dataplane.nft.elements.layout import NUMBERS, Place, Rules, Value

_MASK: Final = (1 << 64) - 1
_PROTOCOLS: Final = {bytes((number, 0, 0, 0)): protocol for protocol, number in NUMBERS.items()}


def digest(rules: Rules) -> int:
    """Return the digest of a frontend's elements."""
    return sum(map(hash, rules.items())) & _MASK


class Census:
    """Takes lists of elements one after the other."""

    def __init__(self, asked: Collection[Frontend] = ()) -> None:
        """Of the frontends `asked` for, the elements themselves are kept."""
        self.digests: dict[Frontend, int] = {}
        self.held: set[Ip] = set()
        """Addresses that nothing else may answer on."""
        self.alive: set[Ip] = set()
        """Those of them that answer a ping."""
        self.rules: dict[Frontend, dict[Place, Value]] = {frontend: {} for frontend in asked}
        self.strays: dict[Place, Value] = {}
        """Elements that no frontend can have."""
        self._known: dict[tuple[bytes, bytes | None], Frontend | None] = {}

    def take_addresses(self, name: str, elements: Collection[Element]) -> None:
        """Take elements of `held4`, `held6`, `alive4` or `alive6`."""
        own = self.held if name.startswith("held") else self.alive
        own.update(IPv4Address(e.key) if len(e.key) == 4 else IPv6Address(e.key) for e in elements)

    def take(self, name: str, elements: Collection[Element]) -> None:
        """Take elements of one of `ruleset.frontend_sets`."""
        size = 12 if name.endswith("4") else 24
        for element in elements:
            place: Place = (name, element.key, element.key_end)
            key = element.key[:size]
            last = None if element.key_end is None else element.key_end[:size]
            if last == key and name.startswith("allowed"):  # the interval is one of clients, not of ports
                last = None
            try:
                frontend = self._known[key, last]
            except KeyError:
                frontend = self._known[key, last] = parse_frontend(key, last)
            if frontend is None:
                self.strays[place] = element.data
                continue
            self.digests[frontend] = self.digests.get(frontend, 0) + hash((place, element.data)) & _MASK
            if frontend in self.rules:
                self.rules[frontend][place] = element.data


def parse_frontend(key: bytes, last: bytes | None) -> Frontend | None:
    """Read `layout.frontend_fields`; None: nobody of us wrote that."""
    protocol = _PROTOCOLS.get(key[-8:-4])
    if protocol is None or (last is not None and last[:-4] != key[:-4]):
        return None
    address = IPv4Address(key[:-8]) if len(key) == 12 else IPv6Address(key[:-8])
    return Frontend(address, protocol, parse_port(key[-4:]), 0 if last is None else parse_port(last[-4:]))
