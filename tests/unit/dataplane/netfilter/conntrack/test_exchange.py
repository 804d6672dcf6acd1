"""Questions and answers over one socket: which answer belongs to what, and what happens when there is none."""

import errno
import struct

import pytest

from littlelb.core.errors import Transient
from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.conntrack.exchange import Exchange
from littlelb.dataplane.netfilter.errors import AnswerLost, KernelRefusal
from tests.unit.dataplane.netfilter.conntrack.conftest import Kernel, acknowledgement, done


def question(flags: int, sequence: int) -> bytes:
    """Ask something."""
    return wire.message(0x102, flags, sequence, wire.NFPROTO_IPV4)


def listing(sequence: int) -> bytes:
    """Ask for a list."""
    return wire.message(0x101, wire.NLM_F_DUMP, sequence, wire.NFPROTO_IPV4)


def entry(sequence: int, mark: int) -> bytes:
    """Build a part of a list."""
    return wire.message(0x100, wire.NLM_F_MULTI, sequence, wire.NFPROTO_IPV4, wire.u32(8, mark))


@pytest.mark.parametrize("code", [0, errno.ENOENT])
def test_answer_to_one_question(kernel: Kernel, code: int) -> None:
    """Its errno is returned; an answer to an earlier question, and what is no acknowledgement, are passed over."""
    exchange = Exchange(kernel.ours)
    kernel.say(acknowledgement(77, errno.EPERM), entry(1, 5))
    kernel.say(acknowledgement(1, code))
    assert exchange.ask(question) == code
    (heard,) = kernel.heard()
    assert (heard.flags, heard.sequence) == (wire.NLM_F_REQUEST | wire.NLM_F_ACK, 1)


def test_many_questions_go_out_together(kernel: Kernel) -> None:
    """Only the last one is to be acknowledged; those that fail say so by themselves."""
    exchange = Exchange(kernel.ours)
    kernel.say(acknowledgement(2, errno.ENOENT))
    kernel.say(acknowledgement(4))
    assert exchange.ask_all([question] * 4) == [0, errno.ENOENT, 0, 0]
    assert [(one.flags, one.sequence) for one in kernel.heard()] == [(1, 1), (1, 2), (1, 3), (5, 4)]


def test_any_number_of_questions_is_cut_into_datagrams(kernel: Kernel) -> None:
    """More than fit into one datagram go out one after the other; too many at once are our mistake."""
    exchange = Exchange(kernel.ours)
    kernel.say(acknowledgement(256))
    kernel.say(acknowledgement(257, errno.ENOENT))
    assert [len(codes) for codes in exchange.batches([question] * 257)] == [256, 1]
    assert list(exchange.batches([])) == []
    with pytest.raises(ValueError, match="257 requests"):
        exchange.ask_all([question] * 257)


def test_no_answer_is_a_lost_answer(kernel: Kernel) -> None:
    """The kernel answers before send returns: if nothing waits, whether it was done is not known."""
    with pytest.raises(AnswerLost) as caught:
        Exchange(kernel.ours).ask(question)
    assert isinstance(caught.value, Transient)


def test_list_comes_in_slices_until_it_is_done(kernel: Kernel) -> None:
    """Each datagram is one slice; messages of a list that was given up are not in it."""
    exchange = Exchange(kernel.ours)
    kernel.say(entry(9, 1), entry(1, 2), entry(1, 3))
    kernel.say(entry(1, 4), done(1))
    assert [[one.payload[-1] for one in part] for part in exchange.listing(listing)] == [[2, 3], [4]]


@pytest.mark.parametrize("answer", [done(1, errno.EPERM), acknowledgement(1, errno.EPERM)])
def test_list_that_is_refused_raises(kernel: Kernel, answer: bytes) -> None:
    """Whether the kernel says no at once or at the end, the list raises its errno."""
    exchange = Exchange(kernel.ours)
    kernel.say(answer)
    with pytest.raises(KernelRefusal) as caught:
        list(exchange.listing(listing))
    assert caught.value.code == errno.EPERM


def test_answer_that_is_cut_short_is_malformed(kernel: Kernel) -> None:
    """A header that claims more than there is raises Malformed."""
    kernel.say(struct.pack("=IHHII", 100, wire.NLMSG_ERROR, 0, 1, 0))
    with pytest.raises(wire.Malformed):
        Exchange(kernel.ours).ask(question)


def test_closed_socket_refuses(kernel: Kernel) -> None:
    """After close nothing is sent any more."""
    exchange = Exchange(kernel.ours)
    exchange.close()
    with pytest.raises(KernelRefusal) as caught:
        exchange.ask(question)
    assert caught.value.code == errno.EBADF
