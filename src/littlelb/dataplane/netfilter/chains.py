"""Tables, base chains and rules of nf_tables: read out of messages, and the requests that list and make them.

Of others' chains only what decides about packets at large is read: hook, priority, type and policy; so one can say
that Docker's or firewalld's forward chain drops what nobody asked for. enum nft_table_attributes, nft_chain_attributes,
nft_rule_attributes.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.batch import Kind, Request
from littlelb.dataplane.netfilter.wire import Malformed, Message

OWNED: Final = 0x2
"""Flag of a table that ends with the socket that made it (NFT_TABLE_F_OWNER, Linux 5.12)."""
DORMANT: Final = 0x1
"""Flag of a table whose chains see no packets."""

HOOKS: Final = ("prerouting", "input", "forward", "output", "postrouting", "ingress")
"""By their numbers in the families inet, ip and ip6."""
_OTHER_HOOKS: Final = {3: ("input", "output", "forward"), 5: ("ingress", "egress")}
"""The same for the families arp and netdev."""
POLICIES: Final = ("drop", "accept")
"""By their numbers."""

_TABLE_NAME, _TABLE_FLAGS, _TABLE_OWNER = 1, 2, 7
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE = 1, 3, 4, 5, 7
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2
_RULE_TABLE, _RULE_CHAIN, _RULE_EXPRESSIONS = 1, 2, 4
_LIST_ELEMENT: Final = 1
_EXPRESSION_NAME, _EXPRESSION_DATA = 1, 2


@dataclass(frozen=True, slots=True)
class Table:
    """One table."""

    family: int
    """NFPROTO_…"""
    name: str
    flags: int = 0
    """OWNED, DORMANT."""
    owner: int | None = None
    """Port of the socket that it ends with."""


@dataclass(frozen=True, slots=True)
class BaseChain:
    """One chain that is called from a hook."""

    family: int
    """NFPROTO_… of its table."""
    table: str
    name: str
    type: str
    """filter, nat or route."""
    hook: str
    """prerouting, input, forward, output, postrouting, ingress or egress."""
    priority: int
    policy: str
    """What becomes of packets that no rule decides on: accept or drop."""


def list_tables(family: int = wire.AF_UNSPEC) -> Request:
    """Request that dumps all tables (of one family)."""
    return Request(Kind.GETTABLE, family, b"", wire.NLM_F_DUMP)


def list_chains(family: int = wire.AF_UNSPEC) -> Request:
    """Request that dumps all chains (of one family)."""
    return Request(Kind.GETCHAIN, family, b"", wire.NLM_F_DUMP)


def list_rules(family: int, table: str) -> Request:
    """Request that dumps the rules of one table, or before Linux 4.17 of all tables."""
    return Request(Kind.GETRULE, family, wire.text(_RULE_TABLE, table), wire.NLM_F_DUMP)


def add_table(table: Table, *, exclusive: bool = False) -> Request:
    """Request that makes a table; who makes it over which socket decides about its owner, not `table.owner`."""
    flags = wire.NLM_F_CREATE | (wire.NLM_F_EXCL if exclusive else 0)
    attributes = wire.text(_TABLE_NAME, table.name) + wire.u32(_TABLE_FLAGS, table.flags)
    return Request(Kind.NEWTABLE, table.family, attributes, flags)


def add_base_chain(chain: BaseChain) -> Request:
    """Request that makes a base chain without rules."""
    attributes = (
        wire.text(_CHAIN_TABLE, chain.table),
        wire.text(_CHAIN_NAME, chain.name),
        wire.text(_CHAIN_TYPE, chain.type),
        wire.u32(_CHAIN_POLICY, POLICIES.index(chain.policy)),
        wire.nested(
            _CHAIN_HOOK,
            wire.u32(_HOOK_NUMBER, HOOKS.index(chain.hook)),
            wire.u32(_HOOK_PRIORITY, chain.priority & 0xFFFFFFFF),
        ),
    )
    return Request(Kind.NEWCHAIN, chain.family, b"".join(attributes), wire.NLM_F_CREATE)


def add_rule(chain: BaseChain, expressions: Sequence[bytes]) -> Request:
    """Request that appends a rule of expressions, each made by `expression`."""
    attributes = (
        wire.text(_RULE_TABLE, chain.table),
        wire.text(_RULE_CHAIN, chain.name),
        wire.nested(_RULE_EXPRESSIONS, *expressions),
    )
    return Request(Kind.NEWRULE, chain.family, b"".join(attributes), wire.NLM_F_CREATE | wire.NLM_F_APPEND)


def expression(name: str, *attributes: bytes) -> bytes:
    """One expression of a rule."""
    return wire.nested(_LIST_ELEMENT, wire.text(_EXPRESSION_NAME, name), wire.nested(_EXPRESSION_DATA, *attributes))


def parse_table(message: Message) -> Table:
    """Read NEWTABLE. Raises Malformed."""
    found = message.attributes()
    owner = found.get(_TABLE_OWNER)
    return Table(
        message.family,
        wire.parse_text(_required(found, _TABLE_NAME)),
        wire.parse_number(found.get(_TABLE_FLAGS, b"")),
        None if owner is None else wire.parse_number(owner),
    )


def parse_rule(message: Message) -> tuple[str, str]:
    """Read NEWRULE: the table and the chain that it stands in. Raises Malformed."""
    found = message.attributes()
    return wire.parse_text(_required(found, _RULE_TABLE)), wire.parse_text(_required(found, _RULE_CHAIN))


def parse_chain(message: Message) -> BaseChain | None:
    """Read NEWCHAIN; None: it is no base chain, only others' rules lead to it. Raises Malformed."""
    found = message.attributes()
    if _CHAIN_HOOK not in found:
        return None
    hook = wire.parse_attributes(found[_CHAIN_HOOK])
    priority = _required(hook, _HOOK_PRIORITY)
    if len(priority) != 4:
        raise Malformed(f"priority of a chain: {len(priority)} bytes, 4 expected")
    return BaseChain(
        message.family,
        wire.parse_text(_required(found, _CHAIN_TABLE)),
        wire.parse_text(_required(found, _CHAIN_NAME)),
        wire.parse_text(found.get(_CHAIN_TYPE, b"")),
        _name(_OTHER_HOOKS.get(message.family, HOOKS), wire.parse_number(_required(hook, _HOOK_NUMBER))),
        int(struct.unpack("!i", priority)[0]),
        _name(POLICIES, wire.parse_number(found.get(_CHAIN_POLICY, b"\1"))),
    )


def _required(found: dict[int, bytes], kind: int) -> bytes:
    try:
        return found[kind]
    except KeyError:
        raise Malformed(f"a table, chain or rule without attribute {kind}") from None


def _name(names: tuple[str, ...], number: int) -> str:
    return names[number] if number < len(names) else str(number)
