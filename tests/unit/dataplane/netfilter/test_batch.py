"""Transactions: golden bytes, numbering, and whose answer is whose."""

import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.batch import Kind, Request, encode_batch

TABLE = Request(Kind.NEWTABLE, 2, wire.text(1, "ll") + wire.u32(2, 0))
CHAIN = Request(Kind.NEWCHAIN, 2, wire.text(1, "ll") + wire.text(3, "c"), wire.NLM_F_CREATE)


@pytest.mark.skipif(sys.byteorder != "little", reason="the golden bytes were taken on a little-endian host")
def test_bytes_as_nft_sends_them() -> None:
    """`table ip ll { chain c { } }` as captured from nft, but for the acknowledgement that we ask for."""
    batch = encode_batch([TABLE, CHAIN], 0)
    assert batch.datagram.hex() == (
        "14000000100001000000000000000000" + "0000000a"
        "24000000000a01000100000000000000" + "02000000" + "070001006c6c0000" + "0800020000000000"
        "24000000030a05040200000000000000" + "02000000" + "070001006c6c0000" + "0600030063000000"
        "14000000110001000300000000000000" + "0000000a"
    )


def test_generation_stands_in_the_first_message() -> None:
    """The generation that must still hold is an attribute of BATCH_BEGIN."""
    begin = next(wire.iterate_messages(encode_batch([TABLE], 5, generation=77).datagram))
    assert begin.attributes() == {1: (77).to_bytes(4)}


@given(st.integers(0, 0xFFFFFFFF), st.integers(1, 40))
def test_answers_find_their_request(sequence: int, count: int) -> None:
    """Each number belongs to one request, also where the numbers start again at 0; others belong to none."""
    batch = encode_batch([TABLE] * count, sequence)
    sent = [message.sequence for message in wire.iterate_messages(batch.datagram)]
    assert [batch.index(number) for number in sent] == [None, *range(count), None]
    assert all(batch.covers(number) for number in sent)
    assert batch.next_sequence == (sent[-1] + 1) % (1 << 32)
    assert not batch.covers(batch.next_sequence)
    assert not batch.covers((sequence - 1) % (1 << 32))
    assert batch.index(batch.next_sequence) is None


def test_only_the_last_request_asks_for_an_acknowledgement() -> None:
    """One answer is enough: the others are heard of only when they fail."""
    flags = [message.flags & wire.NLM_F_ACK for message in wire.iterate_messages(encode_batch([TABLE] * 3, 1).datagram)]
    assert flags == [0, 0, 0, wire.NLM_F_ACK, 0]
