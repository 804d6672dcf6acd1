"""The anchor's table, byte for byte; what it does to flows is shown in the lab."""

import sys

import pytest

from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.anchor import Anchor, render_anchor
from littlelb.dataplane.netfilter.batch import Kind
from littlelb.dataplane.netfilter.chains import OWNED, BaseChain, Table, parse_chain, parse_table
from littlelb.dataplane.netfilter.wire import Message

LITTLE = pytest.mark.skipif(sys.byteorder != "little", reason="the golden bytes were taken on a little-endian host")


def test_table_and_chains() -> None:
    """An owned table that must be new, one nat chain for each hook, and a filter chain for the rule."""
    table, *chains, rule = render_anchor("anc")
    told = [Message(0xA00, 0, 1, 1, bytes((r.family, 0, 0, 0)) + r.attributes) for r in (table, *chains)]
    assert parse_table(told[0]) == Table(wire.NFPROTO_INET, "anc", OWNED)
    assert table.flags == wire.NLM_F_CREATE | wire.NLM_F_EXCL
    read = [parse_chain(message) for message in told[1:]]
    assert [(chain.type, chain.hook, chain.priority) for chain in read if chain is not None] == [
        ("filter", "prerouting", 0),
        ("nat", "prerouting", -100),
        ("nat", "input", 100),
        ("nat", "output", -100),
        ("nat", "postrouting", 100),
    ]
    assert {chain.policy for chain in read if isinstance(chain, BaseChain)} == {"accept"}
    assert rule.kind == Kind.NEWRULE


@LITTLE
def test_rule_bytes_as_nft_sends_them() -> None:
    """`ct state established` as captured from nft 1.0.6."""
    captured = (
        "94000480"
        "20000180 07000100 63740000 14000280 08000200 00000000 08000100 00000001"
        "44000180 0c000100 6269747769736500 34000280 08000100 00000001 08000200 00000001 08000300 00000004"
        "0c000480 08000100 02000000 0c000580 08000100 00000000"
        "2c000180 08000100 636d7000 20000280 08000100 00000001 08000200 00000001 0c000380 08000100 00000000"
    )
    *_, rule = render_anchor("anc")
    assert rule.attributes.endswith(bytes.fromhex(captured))


@LITTLE
def test_chain_bytes_as_nft_sends_them() -> None:
    """A nat chain at the priority `dstnat` holds what nft sends for it."""
    chain = render_anchor("anc")[2]
    assert (
        chain.attributes.hex()
        == bytes.fromhex(
            "08000100 616e6300 13000300 6e61742d 70726572 6f757469 6e670000 08000700 6e617400 08000500 00000001"
            "14000480 08000100 00000000 08000200 ffffff9c"
        ).hex()
    )


def test_closed() -> None:
    """An anchor that was never opened is not alive, has no port, and may be closed."""
    anchor = Anchor("anc")
    anchor.close()
    assert not anchor.alive()
    assert anchor.port is None
