"""The socket against a kernel that the test plays: its answers wait before they are asked for, as the real ones do."""

import errno
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest

from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.batch import Kind, Request
from littlelb.dataplane.netfilter.chains import BaseChain, Table
from littlelb.dataplane.netfilter.errors import AnswerLost, DumpInterrupted, KernelRefusal, TooLarge
from littlelb.dataplane.netfilter.sets import Element, SetName, add_elements
from littlelb.dataplane.netfilter.socket import LIMIT_BYTES, NfSocket

WHERE = SetName(wire.NFPROTO_IPV4, "ll", "slots")
TABLE = Request(Kind.NEWTABLE, 2, wire.text(1, "ll"))
FIRST = 1
"""Sequence number with which a socket begins."""


class Played(socket.socket):
    """A socket on which each thing that is sent has its answer waiting when `send` returns, as with the real kernel."""

    turns: list[list[bytes]]
    peer: socket.socket

    def send(self, *arguments: Any) -> int:
        """Send, and let the next answer come, if there is one."""
        sent = super().send(*arguments)
        for datagram in self.turns.pop(0) if self.turns else ():
            self.peer.send(datagram)
        return sent


class Kernel:
    """The other ends of the two sockets: one for transactions, one for lists."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._turns: list[list[list[bytes]]] = [[], []]
        self.peers: list[socket.socket] = []

    def opener(self) -> socket.socket:
        """Give out the next socket."""
        ours, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        played = Played(fileno=ours.detach())
        played.settimeout(0)
        played.peer, played.turns = peer, self._turns[len(self.peers)]
        self.peers.append(peer)
        self._sockets += [played, peer]
        return played

    def says(self, *messages: bytes) -> None:
        """The answer to what is sent next over the first socket."""
        self._turns[0].append([b"".join(messages)])

    def lists(self, *datagrams: bytes) -> None:
        """The answer to what is sent next over the second."""
        self._turns[1].append(list(datagrams))

    def heard(self) -> list[wire.Message]:
        """What came over the first socket, in one datagram."""
        return list(wire.iterate_messages(self.peers[0].recv(1 << 20)))

    def close(self) -> None:
        """Close all."""
        for opened in self._sockets:
            opened.close()


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """A kernel that says nothing yet."""
    made = Kernel()
    yield made
    made.close()


def raw(kind: int, flags: int, sequence: int, payload: bytes) -> bytes:
    """A message with whatever payload."""
    return struct.pack("=IHHII", 16 + len(payload), kind, flags, sequence, 99) + payload


def answer(sequence: int, code: int = 0) -> bytes:
    """An acknowledgement, or an error."""
    return raw(wire.NLMSG_ERROR, 0x100, sequence, struct.pack("=iIHHII", -code, 20, 0xA00, 1, sequence, 0))


def done(code: int = 0, flags: int = 0) -> bytes:
    """The end of a list."""
    return raw(wire.NLMSG_DONE, wire.NLM_F_MULTI | flags, 1, struct.pack("=i", -code))


def generation(number: int) -> bytes:
    """The answer to GETGEN."""
    return wire.message(0xA0F, 0, 0, 0, wire.u32(1, number))


def elements(*keys: bytes, flags: int = 0) -> bytes:
    """A part of a list of elements."""
    (request,) = add_elements(WHERE, [Element(key) for key in keys])
    return wire.message(0xA0C, wire.NLM_F_MULTI | flags, 1, 2, request.attributes)


def test_a_transaction_is_one_datagram(kernel: Kernel) -> None:
    """Begin, requests and end go out together; the acknowledgement of the last request means that all was done."""
    kernel.says(answer(FIRST + 2))
    with NfSocket(kernel.opener) as nf:
        nf.commit([TABLE, TABLE])
        heard = kernel.heard()
        assert [message.type for message in heard] == [0x10, 0xA00, 0xA00, 0x11]
        kernel.says(answer(heard[-1].sequence + 2))
        nf.commit([TABLE])
        assert [message.type for message in kernel.heard()] == [0x10, 0xA00, 0x11]


def test_nothing_to_do_says_nothing(kernel: Kernel) -> None:
    """An empty transaction is none."""
    with NfSocket(kernel.opener) as nf:
        nf.commit([])
        kernel.peers[0].settimeout(0)
        with pytest.raises(BlockingIOError):
            kernel.heard()


def test_the_request_at_fault_is_named(kernel: Kernel) -> None:
    """Of several errors the first counts; what an earlier transaction left behind does not."""
    kernel.says(answer(FIRST - 1, errno.EPERM), answer(FIRST + 2, errno.ENOENT), answer(FIRST + 3, errno.EEXIST))
    with NfSocket(kernel.opener) as nf, pytest.raises(KernelRefusal) as caught:
        nf.commit([TABLE] * 3)
    assert (caught.value.code, caught.value.index) == (errno.ENOENT, 1)


def test_the_whole_transaction_is_refused(kernel: Kernel) -> None:
    """An error about BATCH_BEGIN is about no request: rights, or a generation that has passed."""
    kernel.says(answer(FIRST, errno.ERESTART))
    with NfSocket(kernel.opener) as nf, pytest.raises(KernelRefusal) as caught:
        nf.commit([TABLE], generation=3)
    assert (caught.value.code, caught.value.index) == (errno.ERESTART, None)


def test_silence_is_not_success(kernel: Kernel) -> None:
    """Without an acknowledgement nobody knows whether it was done."""
    with NfSocket(kernel.opener) as nf, pytest.raises(AnswerLost):
        nf.commit([TABLE])


def test_too_large(kernel: Kernel) -> None:
    """What no send buffer takes is refused before it is sent, and the text names the limit."""
    huge = Request(Kind.NEWTABLE, 2, b"\0" * (LIMIT_BYTES + 1))
    with NfSocket(kernel.opener) as nf, pytest.raises(TooLarge, match=f"send buffer of {LIMIT_BYTES}"):
        nf.commit([huge])


def test_generation(kernel: Kernel) -> None:
    """The number of the generation; silence and errors are told."""
    with NfSocket(kernel.opener) as nf:
        kernel.says(generation(42))
        assert nf.generation() == 42
        kernel.says(answer(0, errno.EPERM))
        with pytest.raises(KernelRefusal):
            nf.generation()
        with pytest.raises(AnswerLost):
            nf.generation()


def read_keys(nf: NfSocket) -> list[bytes]:
    """Keys of all elements that are given out."""
    return [element.key for part in nf.dump_elements(WHERE) for element in part]


def test_elements_come_in_slices(kernel: Kernel) -> None:
    """Nothing is given out before the list is complete; until then empty slices let others run."""
    kernel.lists(generation(7))
    kernel.lists(elements(b"aaaa", b"bbbb"), elements(b"cccc") + done())
    kernel.lists(generation(7))
    with NfSocket(kernel.opener) as nf:
        slices = list(nf.dump_elements(WHERE))
    assert [[element.key for element in part] for part in slices if part] == [[b"aaaa", b"bbbb"], [b"cccc"]]
    assert slices[:4] == [[]] * 4


@pytest.mark.parametrize(
    ("part", "after"),
    [
        (elements(b"aaaa") + done(), 8),
        (elements(b"aaaa") + done(flags=wire.NLM_F_DUMP_INTR), 7),
        (elements(b"aaaa", b"cccc", b"aaaa") + done(), 7),
    ],
    ids=["other generation", "interrupted", "an element twice"],
)
def test_a_list_that_changed_is_read_again(kernel: Kernel, part: bytes, after: int) -> None:
    """When somebody committed meanwhile, or the kernel put its table into new order, what was read is thrown away."""
    for datagram in (generation(7), part, generation(after), generation(8), elements(b"bbbb") + done(), generation(8)):
        kernel.lists(datagram)
    with NfSocket(kernel.opener) as nf:
        assert read_keys(nf) == [b"bbbb"]


def test_a_list_that_never_rests(kernel: Kernel) -> None:
    """After some attempts the change goes on as an error that may pass."""
    for attempt in range(8):
        for datagram in (generation(attempt), done(), generation(attempt + 1)):
            kernel.lists(datagram)
    with NfSocket(kernel.opener) as nf, pytest.raises(DumpInterrupted, match="ll/slots"):
        read_keys(nf)


@pytest.mark.parametrize("fault", [answer(0, errno.ENOENT), done(errno.ENOENT)], ids=["error", "done"])
def test_a_set_that_is_not_there(kernel: Kernel, fault: bytes) -> None:
    """An error in place of a list, or at its end, is raised; the next list goes over the same socket."""
    for datagram in (generation(7), fault, generation(7), elements(b"aaaa") + done(), generation(7)):
        kernel.lists(datagram)
    with NfSocket(kernel.opener) as nf:
        with pytest.raises(KernelRefusal) as caught:
            read_keys(nf)
        assert caught.value.code == errno.ENOENT
        assert read_keys(nf) == [b"aaaa"]
    assert len(kernel.peers) == 2


def test_a_list_without_an_end(kernel: Kernel) -> None:
    """A list that stops in the middle is not taken for a short one."""
    kernel.lists(generation(7))
    kernel.lists(elements(b"aaaa"))
    with NfSocket(kernel.opener) as nf, pytest.raises(AnswerLost):
        read_keys(nf)


def test_tables_and_base_chains(kernel: Kernel) -> None:
    """Both are lists; chains without a hook are left out."""
    hook = wire.nested(4, wire.u32(1, 2), wire.u32(2, 0))
    base = wire.text(1, "filter") + wire.text(3, "FORWARD") + hook + wire.u32(5, 0) + wire.text(7, "filter")
    kernel.lists(wire.message(0xA00, 2, 1, 2, wire.text(1, "filter") + wire.u32(2, 0)) + done())
    kernel.lists(
        wire.message(0xA03, 2, 1, 2, base),
        wire.message(0xA03, 2, 1, 2, wire.text(1, "filter") + wire.text(3, "DOCKER")),
        done(),
    )
    with NfSocket(kernel.opener) as nf:
        assert nf.tables() == [Table(2, "filter")]
        assert nf.chains() == [BaseChain(2, "filter", "FORWARD", "filter", "forward", 0, "drop")]


def test_rules_of_a_table(kernel: Kernel) -> None:
    """An older kernel lists those of all tables: others' are left out."""
    rules = [wire.message(0xA06, 2, 1, 1, wire.text(1, table) + wire.text(2, "c")) for table in ("ours", "theirs")]
    kernel.lists(*rules, done())
    with NfSocket(kernel.opener) as nf:
        assert nf.rules(1, "ours") == ["c"]
