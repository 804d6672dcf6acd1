"""A transaction as text for `nft -f -`: for people, for an upgrade of the skeleton, and where netlink is not to be had.

The number of a slot stands in host order in a key, as numgen and jhash leave it; in intervals nft turns it round.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from littlelb.dataplane.netfilter.keys import parse_number, parse_port
from littlelb.dataplane.netfilter.sets import Element, Verdict
from littlelb.dataplane.nft.elements.layout import NUMBERS
from littlelb.dataplane.nft.elements.transaction import Transaction
from littlelb.dataplane.nft.ruleset import TABLE

TEXT_CHUNK: Final = 1000
"""Elements on one line."""
_PROTOCOLS: Final = {bytes((number, 0, 0, 0)): protocol.lower() for protocol, number in NUMBERS.items()}


def render_transaction(transaction: Transaction) -> str:
    """Return the same as text for `nft -f -`; empty: nothing is to be done."""
    lines = [line for name, elements in transaction.delete.items() for line in _lines("delete", name, elements)]
    lines += [line for name, elements in transaction.add.items() for line in _lines("add", name, elements)]
    return "".join(f"{line}\n" for line in lines)


def _lines(verb: str, name: str, elements: Sequence[Element]) -> Iterator[str]:
    for start in range(0, len(elements), TEXT_CHUNK):
        items = ", ".join(render_element(name, element) for element in elements[start : start + TEXT_CHUNK])
        yield f"{verb} element inet {TABLE} {name} {{ {items} }}"


def render_element(name: str, element: Element) -> str:
    """Return one element as nft writes it: key, time left, value."""
    text = _render_key(name, element)
    if element.timeout is not None:
        text += f" timeout {_render_time(element.timeout)}"
    if element.expires is not None:
        text += f" expires {_render_time(element.expires)}"
    match element.data:
        case Verdict(code=code, chain=chain):
            return f"{text} : {code.name.lower()}" + ("" if chain is None else f" {chain}")
        case bytes() as data:
            return f"{text} : {_render_value(name, data)}"
        case None:
            return text


def _render_time(milliseconds: int) -> str:
    return f"{milliseconds // 1000}s{milliseconds % 1000}ms"


def _render_key(name: str, element: Element) -> str:
    size = 4 if name.endswith("4") else 16
    kind = name[:-1]
    if kind in {"held", "alive"}:
        return _render_address(element.key)
    first = _fields(kind, size, element.key)
    last = first if element.key_end is None else _fields(kind, size, element.key_end)
    return " . ".join(low if low == high else f"{low}-{high}" for low, high in zip(first, last, strict=True))


def _fields(kind: str, size: int, key: bytes) -> list[str]:
    before = []
    if kind == "affinity":
        before, key = [_render_address(key[:size])], key[size:]
    address, protocol, port, more = key[:size], key[size : size + 4], key[size + 4 : size + 8], key[size + 8 :]
    fields = [*before, _render_address(address), _render_protocol(protocol), str(parse_port(port))]
    if kind in _MORE:
        fields.append(_MORE[kind](more))
    return fields


def _render_protocol(field: bytes) -> str:
    return _PROTOCOLS.get(field) or str(field[0])


def _render_address(field: bytes) -> str:
    return str(IPv4Address(field) if len(field) == 4 else IPv6Address(field))


def _render_value(name: str, data: bytes) -> str:
    return _render_address(data) if name.startswith("range_") else _render_endpoint(data)


def _render_endpoint(field: bytes) -> str:
    return f"{_render_address(field[:-4])} . {parse_port(field[-4:])}"


_MORE: Final[Mapping[str, Callable[[bytes], str]]] = {
    "slots": lambda field: str(parse_number(field)),
    "range_slots": lambda field: str(int.from_bytes(field)),
    "allowed": _render_address,
    "kept": _render_address,
    "ending": _render_endpoint,
    "range_kept": _render_address,
}
"""What follows `daddr . l4proto . dport` in the key."""
