"""Old and new rules → one transaction."""

from collections.abc import Mapping

from hypothesis import given

from littlelb.core.model import Forward, Frontend
from littlelb.dataplane.netfilter.batch import Kind
from littlelb.dataplane.netfilter.element_reader import parse_elements
from littlelb.dataplane.nft.elements.layout import Place, Rules, Value, render_rules
from littlelb.dataplane.nft.elements.transaction import Transaction, compute_transaction, encode_requests
from tests.unit.dataplane.nft.rules import WEB, backends, forward, worlds


def carry_out(transaction: Transaction, rules: Mapping[Place, Value]) -> dict[Place, Value]:
    """What the kernel does: deletions of what is there, then additions of what is not."""
    kernel = dict(rules)
    for name, elements in transaction.delete.items():
        for element in elements:
            del kernel[name, element.key, element.key_end]
    for name, elements in transaction.add.items():
        for element in elements:
            place = (name, element.key, element.key_end)
            assert place not in kernel
            kernel[place] = element.data
    return kernel


def steps(old: dict[Frontend, Forward], new: dict[Frontend, Forward]) -> list[tuple[Rules, Rules]]:
    """One step for each frontend."""

    def render(world: dict[Frontend, Forward], key: Frontend) -> Rules:
        return render_rules(key, world[key]) if key in world else {}

    return [(render(old, key), render(new, key)) for key in {**old, **new}]


@given(worlds(), worlds())
def test_a_transaction_makes_the_new_of_the_old(old: dict[Frontend, Forward], new: dict[Frontend, Forward]) -> None:
    """Whatever both are; and from there nothing is left to do."""
    pairs = steps(old, new)
    before = {place: value for rules, _ in pairs for place, value in rules.items()}
    after = {place: value for _, rules in pairs for place, value in rules.items()}
    assert carry_out(compute_transaction(pairs), before) == after
    assert not compute_transaction(steps(new, new))


def test_only_what_differs_is_written() -> None:
    """One backend more: its slot, and the class."""
    old, new = (render_rules(WEB, forward(*backends(*numbers))) for numbers in ((1, 2), (1, 2, 3)))
    transaction = compute_transaction([(old, new)])
    assert {name: len(elements) for name, elements in transaction.delete.items()} == {"services4": 1}
    assert {name: len(elements) for name, elements in transaction.add.items()} == {"services4": 1, "slots4": 1}
    assert transaction.size == 3


def test_deletions_are_requested_first() -> None:
    """The kernel finds no clash with what goes in the same transaction."""
    old, new = (render_rules(WEB, forward(*backends(number))) for number in (1, 2))
    requests = encode_requests(compute_transaction([(old, new)]))
    assert [request.kind for request in requests] == [Kind.DELSETELEM, Kind.NEWSETELEM]
    (added,) = parse_elements(requests[1].attributes)
    assert added.data == bytes.fromhex("0a010002 1f900000")
