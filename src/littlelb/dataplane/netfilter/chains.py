"""Tables and base chains of nf_tables, ours and those of others: read out of messages.

Of others' chains only what decides about packets at large is read: hook, priority, type and policy; so one can say
that Docker's or firewalld's forward chain drops what nobody asked for. enum nft_table_attributes, nft_chain_attributes.
"""

import struct
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
POLICIES: Final = ("drop", "accept")
"""By their numbers."""

_TABLE_NAME, _TABLE_FLAGS, _TABLE_OWNER = 1, 2, 7
_CHAIN_TABLE, _CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY, _CHAIN_TYPE = 1, 3, 4, 5, 7
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2


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
    """prerouting, input, forward, output, postrouting or ingress."""
    priority: int
    policy: str
    """What becomes of packets that no rule decides on: accept or drop."""


def list_tables(family: int = wire.AF_UNSPEC) -> Request:
    """Request that dumps all tables (of one family)."""
    return Request(Kind.GETTABLE, family, b"", wire.NLM_F_DUMP)


def list_chains(family: int = wire.AF_UNSPEC) -> Request:
    """Request that dumps all chains (of one family)."""
    return Request(Kind.GETCHAIN, family, b"", wire.NLM_F_DUMP)


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
        _name(HOOKS, wire.parse_number(_required(hook, _HOOK_NUMBER))),
        int(struct.unpack("!i", priority)[0]),
        _name(POLICIES, wire.parse_number(found.get(_CHAIN_POLICY, b"\1"))),
    )


def _required(found: dict[int, bytes], kind: int) -> bytes:
    try:
        return found[kind]
    except KeyError:
        raise Malformed(f"a table or chain without attribute {kind}") from None


def _name(names: tuple[str, ...], number: int) -> str:
    return names[number] if number < len(names) else str(number)
