"""Rules that are and rules that should be → one transaction of elements, as requests to netlink.

Deletions come before additions, so that an element gets another value, and an interval other ends, within one
transaction: the kernel looks for clashes among what will be there after it (generation masks, nf_tables_api.c).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.batch import Request
from littlelb.dataplane.netfilter.sets import Element, SetName, add_elements, delete_elements
from littlelb.dataplane.nft.elements.layout import Place, Rules, Value
from littlelb.dataplane.nft.ruleset import TABLE


@dataclass(frozen=True, slots=True)
class Transaction:
    """Elements by the name of their set; all take effect at once, or none."""

    delete: Mapping[str, Sequence[Element]]
    add: Mapping[str, Sequence[Element]]

    def __bool__(self) -> bool:
        """Is there anything to do?"""
        return bool(self.delete or self.add)

    @property
    def size(self) -> int:
        """How many elements are written."""
        return sum(map(len, self.delete.values())) + sum(map(len, self.add.values()))


def set_name(name: str) -> SetName:
    """Name one of our sets to the kernel."""
    return SetName(wire.NFPROTO_INET, TABLE, name)


def compute_transaction(steps: Iterable[tuple[Rules, Rules]]) -> Transaction:
    """Return what turns each old part of the rules into its new one. No two steps share an element."""
    delete: dict[str, list[Element]] = defaultdict(list)
    add: dict[str, list[Element]] = defaultdict(list)
    for old, new in steps:
        for place, value in old.items():
            if place not in new or new[place] != value:
                delete[place[0]].append(_element(place, None))
        for place, value in new.items():
            if place not in old or old[place] != value:
                add[place[0]].append(_element(place, value))
    return Transaction(dict(delete), dict(add))


def _element(place: Place, value: Value) -> Element:
    return Element(place[1], value, place[2])


def encode_requests(transaction: Transaction) -> list[Request]:
    """Return the requests of one netlink batch."""
    requests: list[Request] = []
    for name, elements in transaction.delete.items():
        requests += delete_elements(set_name(name), elements)
    for name, elements in transaction.add.items():
        requests += add_elements(set_name(name), elements, exclusive=True)
    return requests
