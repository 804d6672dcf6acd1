"""What we believe to be in the kernel, against a kernel that is a dictionary."""

from collections.abc import Mapping

from hypothesis import given

from littlelb.core.model import Forward, Frontend, Ip
from littlelb.core.plan import diff
from littlelb.dataplane.netfilter.sets import Element
from littlelb.dataplane.nft.elements.census import Census
from littlelb.dataplane.nft.elements.layout import Place, Value
from littlelb.dataplane.nft.elements.ledger import Ledger
from littlelb.dataplane.nft.elements.transaction import Transaction
from littlelb.dataplane.unsettled import UNSETTLED
from tests.unit.dataplane.nft.rules import DNS, VIP4, VIP6, WEB, WEB6, backends, forward, worlds


class Kernel:
    """Elements; a transaction that does not fit fails."""

    def __init__(self) -> None:
        self.elements: dict[Place, Value] = {}

    def write(self, transaction: Transaction) -> None:
        """Delete, then add."""
        for name, elements in transaction.delete.items():
            for element in elements:
                del self.elements[name, element.key, element.key_end]
        for name, elements in transaction.add.items():
            for element in elements:
                place = (name, element.key, element.key_end)
                assert place not in self.elements
                self.elements[place] = element.data

    def read(self, asked: frozenset[Frontend] = frozenset()) -> Census:
        """List everything."""
        census = Census(asked)
        for (name, key, last), value in self.elements.items():
            if name[:-1] in {"held", "alive"}:
                census.take_addresses(name, [Element(key)])
            else:
                census.take(name, [Element(key, value, last)])
        return census

    def addresses(self, name: str) -> set[Ip]:
        """Addresses in `held` or `alive`."""
        census = self.read()
        return census.held if name == "held" else census.alive


def full_pass(ledger: Ledger, kernel: Kernel, wanted: Mapping[Frontend, Forward]) -> int:
    """Look at everything and apply what differs; how many elements were written."""
    changes = diff(wanted, ledger.compare(kernel.read()))
    todo: dict[Frontend, Forward | None] = {**dict.fromkeys(changes.remove), **changes.add, **changes.change}
    plan = ledger.plan(todo, kernel.read(ledger.strange(todo)).rules)
    kernel.write(plan.transaction)
    ledger.settle(plan)
    return plan.transaction.size


@given(worlds(), worlds())
def test_a_pass_reaches_what_is_wanted(first: dict[Frontend, Forward], second: dict[Frontend, Forward]) -> None:
    """From whatever was before; the next look finds it so, and the address is held as long as somebody needs it."""
    ledger, kernel = Ledger(), Kernel()
    for wanted in (first, second):
        full_pass(ledger, kernel, wanted)
        census = kernel.read()
        assert ledger.compare(census) == wanted
        assert ledger.last_applied(wanted.keys()) == wanted
        assert not ledger.select_strays(census)
        held = {frontend.address for frontend, rule in wanted.items() if rule.held}
        served = {frontend.address for frontend, rule in wanted.items() if rule.backends}
        assert (kernel.addresses("held"), kernel.addresses("alive")) == (held, held & served)
    full_pass(ledger, kernel, {})
    assert kernel.elements == {}


@given(worlds(), worlds())
def test_another_process_takes_over(first: dict[Frontend, Forward], second: dict[Frontend, Forward]) -> None:
    """It knows nothing of what was applied: what is right is not written again, what is wrong is put right."""
    kernel = Kernel()
    full_pass(Ledger(), kernel, first)
    assert full_pass(Ledger(), kernel, first) == 0
    ledger = Ledger()
    full_pass(ledger, kernel, second)
    assert ledger.compare(kernel.read()) == second


def test_what_is_missing_or_wrong_is_written_again() -> None:
    """An element that is gone, one with another value, an address that is no longer held."""
    wanted = {WEB: forward(*backends(1, 2)), DNS: forward(*backends(1))}
    for place in [("slots4", None), ("services4", None), ("held4", b"")]:
        ledger, kernel = Ledger(), Kernel()
        full_pass(ledger, kernel, wanted)
        before = dict(kernel.elements)
        hit = next(key for key in kernel.elements if key[0] == place[0])
        del kernel.elements[hit]
        assert UNSETTLED in ledger.compare(kernel.read()).values()
        full_pass(ledger, kernel, wanted)
        assert kernel.elements == before


def test_what_is_unsettled_is_so_for_some_keys_too() -> None:
    """An incremental pass must not believe that all is well."""
    ledger, kernel = Ledger(), Kernel()
    full_pass(ledger, kernel, {WEB: forward(*backends(1, 2))})
    kernel.elements.popitem()
    del kernel.elements[next(place for place in kernel.elements if place[0] == "slots4")]
    ledger.compare(kernel.read())
    assert ledger.last_applied({WEB, DNS}) == {WEB: UNSETTLED}


def test_a_frontend_that_vanished_is_added_as_a_new_one() -> None:
    """Somebody flushed the map."""
    ledger, kernel = Ledger(), Kernel()
    wanted = {WEB: forward(*backends(1)), WEB6: forward(*backends(1, version=6))}
    full_pass(ledger, kernel, wanted)
    kernel.elements.clear()
    assert ledger.compare(kernel.read()) == {}
    full_pass(ledger, kernel, wanted)
    assert ledger.compare(kernel.read()) == wanted


def test_strays_are_named_and_dropped() -> None:
    """An address without a frontend, an element without a meaning."""
    ledger, kernel = Ledger(), Kernel()
    full_pass(ledger, kernel, {WEB: forward(*backends(1))})
    strays: dict[Place, Value] = {("held6", VIP6.packed, None): None, ("alive6", VIP6.packed, None): None}
    odd: Place = ("services4", VIP4.packed + bytes((132, 0, 0, 0, 0, 80, 0, 0)), None)
    kernel.elements |= {**strays, odd: b""}
    census = kernel.read()
    observed = ledger.compare(census)
    assert ledger.select_strays(census) == {**strays, odd: b""}
    for place in (*strays, odd):
        del kernel.elements[place]
    assert observed == {WEB: forward(*backends(1))}
    full_pass(ledger, kernel, {WEB6: forward(*backends(1, version=6))})
    assert kernel.addresses("held") == {VIP6}
