"""What is made of the kernel's answers, with a socket pair in the kernel's place."""

import asyncio
import errno
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import pytest

from littlelb.host.conversation import LARGEST_SEND, Conversation
from littlelb.host.rtnl import (
    ACKNOWLEDGE,
    DONE,
    DUMP,
    ERROR,
    INTERRUPTED,
    NEW_ADDRESS,
    Message,
    Request,
    split_messages,
)

Answer = Callable[[list[Message]], Iterable[bytes]]
CHANGE = Request(NEW_ADDRESS, 0, b"abcd")


def message(kind: int, sequence: int, body: bytes = b"", flags: int = 0) -> bytes:
    """Render one message of the kernel."""
    return struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0) + body


def refusal(sequence: int, code: int) -> bytes:
    """Refuse, or acknowledge (0)."""
    return message(ERROR, sequence, struct.pack("=i", -code) + bytes(16))


class Kernel:
    """Answers what it hears as it is told; keeps what it heard."""

    def __init__(self, answer: Answer) -> None:
        self.heard: list[list[Message]] = []
        self.opened = 0
        self._answer = answer
        self._ends: list[socket.socket] = []

    def open(self) -> socket.socket:
        """Open a channel to this kernel."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (ours, theirs):
            end.settimeout(0)
        self._ends.append(theirs)
        self.opened += 1
        asyncio.get_running_loop().add_reader(theirs.fileno(), self._hear, theirs)
        return ours

    def _hear(self, end: socket.socket) -> None:
        messages = list(split_messages(end.recv(1 << 18)))
        if not messages:  # the other end was closed
            asyncio.get_running_loop().remove_reader(end.fileno())
            return
        self.heard.append(messages)
        for datagram in self._answer(messages):
            end.send(datagram)

    def close(self) -> None:
        """Close all channels."""
        for end in self._ends:
            asyncio.get_running_loop().remove_reader(end.fileno())
            end.close()


@asynccontextmanager
async def talking(answer: Answer) -> AsyncIterator[tuple[Conversation, Kernel]]:
    """A conversation with a made-up kernel."""
    kernel = Kernel(answer)
    conversation = Conversation(kernel.open)
    try:
        yield conversation, kernel
    finally:
        conversation.close()
        kernel.close()


async def test_each_change_has_its_own_errno() -> None:
    """Answers are told apart by sequence number, over as many sends as it takes; only the last of one asks for it."""

    def answer(messages: list[Message]) -> Iterable[bytes]:
        for one in messages:
            if one.sequence % 10 == 0:
                yield refusal(one.sequence, errno.EEXIST)
            elif one.flags & ACKNOWLEDGE:
                yield refusal(one.sequence, 0)

    async with talking(answer) as (conversation, kernel):
        codes = await conversation.change([CHANGE] * 500)
        assert codes == [errno.EEXIST if number % 10 == 0 else 0 for number in range(1, 501)]
        assert await conversation.change([]) == []
        assert sum(map(len, kernel.heard)) == 500
        assert max(map(len, kernel.heard)) <= LARGEST_SEND
        for messages in kernel.heard:
            assert [bool(one.flags & ACKNOWLEDGE) for one in messages] == [False] * (len(messages) - 1) + [True]


async def test_what_there_is_no_time_for_is_left_out() -> None:
    """At least one send is made, and nothing is sent that is not told of."""
    async with talking(lambda messages: [refusal(messages[-1].sequence, 0)]) as (conversation, kernel):
        codes = await conversation.change([CHANGE] * 500, 1e-9)
        assert 0 < len(codes) < 500
        assert len(kernel.heard) == 1


async def test_a_torn_dump_is_read_again() -> None:
    """The kernel says that its table changed meanwhile; answers to somebody else's question are passed over."""
    rounds = iter((INTERRUPTED, 0))

    def answer(messages: list[Message]) -> Iterable[bytes]:
        sequence, torn = messages[0].sequence, next(rounds)
        yield message(NEW_ADDRESS, sequence + 99, b"stale...") + message(NEW_ADDRESS, sequence, b"1st.", torn)
        yield message(NEW_ADDRESS, sequence, b"2nd.") + message(DONE, sequence, bytes(4), torn)

    async with talking(answer) as (conversation, kernel):
        found = await conversation.dump(Request(22, DUMP, b""), lambda one: one.body)
        assert found == [b"1st.", b"2nd."]
        assert len(kernel.heard) == 2


async def test_a_table_that_never_stands_still() -> None:
    """It is given up after some attempts, as something that may pass."""

    def answer(messages: list[Message]) -> Iterable[bytes]:
        yield message(DONE, messages[0].sequence, bytes(4), INTERRUPTED)

    async with talking(answer) as (conversation, _):
        with pytest.raises(OSError, match="faster than it can be read") as refused:
            await conversation.dump(Request(22, DUMP, b""), lambda one: one.body)
        assert refused.value.errno == errno.EAGAIN


async def test_a_refused_dump_and_a_broken_socket() -> None:
    """The kernel's errno comes out; the next question goes to a new socket."""
    async with talking(lambda messages: [refusal(messages[0].sequence, errno.ENOENT)]) as (conversation, kernel):
        for _ in range(2):
            with pytest.raises(FileNotFoundError):
                await conversation.dump(Request(26, DUMP, b""), lambda one: one.body)
        assert kernel.opened == 2
