"""A table that nobody else can remove, and that keeps established flows alive when somebody flushes the ruleset.

A flow that was translated once is translated by conntrack and NAT, not by our rules; but the kernel calls those only
while some chain of type nat, and some expression that looks at conntrack, exists in the network namespace. When
`nft flush ruleset` takes the last of them away, translated flows stop at once, and what is put back a moment later
finds packets that conntrack did not see. This table holds one chain of type nat for each hook, without rules, and one
rule that looks at the conntrack state and does nothing.

The flag `owner` (Linux 5.12) binds it to our socket: only that socket can change it, `flush ruleset` passes it over,
and it goes when the socket is closed, at the latest with the process.
"""

import sys
from dataclasses import dataclass
from typing import Final

from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.batch import Request
from littlelb.dataplane.netfilter.chains import (
    OWNED,
    BaseChain,
    Table,
    add_base_chain,
    add_rule,
    add_table,
    expression,
)
from littlelb.dataplane.netfilter.socket import NfSocket

_NAT_HOOKS: Final = {"prerouting": -100, "input": 100, "output": -100, "postrouting": 100}
"""Hook → priority, as `dstnat` and `srcnat` have them."""

_CT_DREG, _CT_KEY = 1, 2
_BITWISE_SREG, _BITWISE_DREG, _BITWISE_LEN, _BITWISE_MASK, _BITWISE_XOR = 1, 2, 3, 4, 5
_CMP_SREG, _CMP_OP, _CMP_DATA = 1, 2, 3
_DATA_VALUE: Final = 1
_REGISTER, _CT_STATE, _NOT_EQUAL, _ESTABLISHED = 1, 0, 1, 2


def render_anchor(name: str) -> list[Request]:
    """Requests that make the table: `ct state established` in a filter chain, and four nat chains without rules."""
    look = BaseChain(wire.NFPROTO_INET, name, "conntrack", "filter", "prerouting", 0, "accept")
    nat = [
        BaseChain(wire.NFPROTO_INET, name, f"nat-{hook}", "nat", hook, priority, "accept")
        for hook, priority in _NAT_HOOKS.items()
    ]
    return [
        add_table(Table(wire.NFPROTO_INET, name, OWNED), exclusive=True),
        *map(add_base_chain, [look, *nat]),
        add_rule(look, _state_established()),
    ]


def _state_established() -> list[bytes]:
    """`ct state established`: load the state, mask one bit, compare with none."""
    bit, none = (number.to_bytes(4, sys.byteorder) for number in (_ESTABLISHED, 0))
    return [
        expression("ct", wire.u32(_CT_KEY, _CT_STATE), wire.u32(_CT_DREG, _REGISTER)),
        expression(
            "bitwise",
            wire.u32(_BITWISE_SREG, _REGISTER),
            wire.u32(_BITWISE_DREG, _REGISTER),
            wire.u32(_BITWISE_LEN, 4),
            wire.nested(_BITWISE_MASK, wire.attribute(_DATA_VALUE, bit)),
            wire.nested(_BITWISE_XOR, wire.attribute(_DATA_VALUE, none)),
        ),
        expression(
            "cmp",
            wire.u32(_CMP_SREG, _REGISTER),
            wire.u32(_CMP_OP, _NOT_EQUAL),
            wire.nested(_CMP_DATA, wire.attribute(_DATA_VALUE, none)),
        ),
    ]


@dataclass(slots=True)
class Anchor:
    """One anchor of this process, in the network namespace of the thread that opens it."""

    name: str
    """Of the table; two processes need two names, so that one can take over from the other."""
    _socket: NfSocket | None = None

    @property
    def port(self) -> int | None:
        """Of the socket that owns it, for `open_events`; None: it is closed."""
        return None if self._socket is None else self._socket.port

    def open(self) -> None:
        """Drop the anchor; nothing happens when it is down already.

        Raises KernelRefusal: EEXIST when a table of that name is there, EOPNOTSUPP or EINVAL before Linux 5.12.
        """
        if self._socket is not None:
            return
        opened = NfSocket()
        try:
            opened.commit(render_anchor(self.name))
        except BaseException:
            opened.close()
            raise
        self._socket = opened

    def alive(self) -> bool:
        """Does the kernel still have the table, as ours? Raises KernelRefusal."""
        if self._socket is None:
            return False
        wanted = Table(wire.NFPROTO_INET, self.name, OWNED, self._socket.port)
        return wanted in self._socket.tables(wire.NFPROTO_INET)

    def close(self) -> None:
        """Weigh it: the kernel removes the table. Safe to call again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
