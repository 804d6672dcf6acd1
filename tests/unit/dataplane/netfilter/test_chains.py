"""Tables and base chains out of messages."""

import pytest

from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.batch import Kind, Request
from littlelb.dataplane.netfilter.chains import (
    OWNED,
    BaseChain,
    Table,
    list_chains,
    list_rules,
    list_tables,
    parse_chain,
    parse_rule,
    parse_table,
)
from littlelb.dataplane.netfilter.wire import Malformed, Message


def message(family: int, *attributes: bytes) -> Message:
    """A message of nf_tables, as the kernel lists it."""
    return Message(0xA00, wire.NLM_F_MULTI, 1, 99, bytes((family, 0, 0, 0)) + b"".join(attributes))


def test_table() -> None:
    """Family, name and flags are read; the owner where there is one."""
    assert parse_table(message(1, wire.text(1, "ll"), wire.u32(2, 0))) == Table(1, "ll")
    owned = message(2, wire.text(1, "anchor"), wire.u32(2, OWNED), wire.u32(3, 5), wire.u32(7, 4711))
    assert parse_table(owned) == Table(2, "anchor", OWNED, 4711)


def test_base_chain() -> None:
    """A forward chain that drops, as Docker makes it; its priority may be below zero."""
    hook = wire.nested(4, wire.u32(1, 2), wire.u32(2, -1 & 0xFFFFFFFF))
    read = parse_chain(
        message(2, wire.text(1, "filter"), wire.text(3, "FORWARD"), hook, wire.u32(5, 0), wire.text(7, "filter"))
    )
    assert read == BaseChain(2, "filter", "FORWARD", "filter", "forward", -1, "drop")


@pytest.mark.parametrize(
    ("family", "number", "hook"),
    [(1, 0, "prerouting"), (3, 0, "input"), (5, 0, "ingress"), (5, 1, "egress"), (2, 9, "9")],
)
def test_hooks_are_numbered_by_family(family: int, number: int, hook: str) -> None:
    """The same number is another hook in the families arp and netdev; one that we do not know is shown as it is."""
    place = wire.nested(4, wire.u32(1, number), wire.u32(2, 0))
    read = parse_chain(message(family, wire.text(1, "t"), wire.text(3, "c"), place, wire.text(7, "filter")))
    assert read == BaseChain(family, "t", "c", "filter", hook, 0, "accept")


def test_chain_that_no_hook_calls() -> None:
    """What only rules lead to is left out."""
    assert parse_chain(message(2, wire.text(1, "t"), wire.text(3, "c"))) is None


@pytest.mark.parametrize(
    "attributes",
    [
        (wire.nested(4, wire.u32(1, 2)),),
        (wire.nested(4, wire.u32(1, 2), wire.attribute(2, b"\0")),),
        (wire.nested(4, wire.u32(1, 2), wire.u32(2, 0)),),
    ],
    ids=["no priority", "short priority", "no name"],
)
def test_incomplete_chain(attributes: tuple[bytes, ...]) -> None:
    """A base chain that lacks something is refused."""
    with pytest.raises(Malformed):
        parse_chain(message(2, *attributes))


def test_rule() -> None:
    """Of a rule only its place is read."""
    assert parse_rule(message(1, wire.text(1, "t"), wire.text(2, "c"), wire.u64(3, 7))) == ("t", "c")
    with pytest.raises(Malformed):
        parse_rule(message(1, wire.text(1, "t")))


def test_rules_of_one_table_are_asked_for() -> None:
    """The kernel leaves out the others, where it is new enough."""
    assert list_rules(1, "t") == Request(Kind.GETRULE, 1, wire.text(1, "t"), wire.NLM_F_DUMP)


def test_requests_list_everything() -> None:
    """Without a family all families are asked for."""
    for request, kind in ((list_tables(), Kind.GETTABLE), (list_chains(), Kind.GETCHAIN)):
        assert (request.kind, request.family, request.flags) == (kind, 0, wire.NLM_F_DUMP)
