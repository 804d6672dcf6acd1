"""Asks ctnetlink over one socket: a question and its answer, many at once, or a list in slices.

The kernel does what it is asked within send(2) and recv(2), so that an answer waits as soon as send returns: nothing
here waits. A socket belongs for ever to the network namespace of the thread that opened it.
"""

import errno
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TypeAlias

from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.errors import AnswerLost, refusal
from littlelb.dataplane.netfilter.socket import open_socket
from littlelb.dataplane.netfilter.wire import Message

_RECEIVE_BYTES: Final = 1 << 17
"""A part of a list is at most 32 KiB."""
_BATCH: Final = 256
"""Requests in one datagram: 30 KiB, which fits into the smallest send buffer."""

Render: TypeAlias = Callable[[int, int], bytes]
"""From flags and sequence number to a request."""


class Exchange:
    """One socket; not for two lists, or two threads, at the same time."""

    def __init__(self, opened: socket.socket | None = None) -> None:
        """Open it. Raises Permanent where the kernel has no netfilter or lets us not."""
        self._socket = opened or open_socket()
        self._sequence = 0

    @property
    def port(self) -> int:
        """Number of this socket in its namespace: no other has it."""
        return int(self._socket.getsockname()[0])

    def ask(self, render: Render) -> int:
        """Send one request; return the errno of its acknowledgement, 0: done."""
        return self.ask_all([render])[0]

    def ask_all(self, requests: Sequence[Render]) -> list[int]:
        """Send some requests in one datagram; return their errnos, 0: done.

        They are independent: one that fails keeps no other from being carried out. Raises ValueError above 256.
        """
        if len(requests) > _BATCH:
            raise ValueError(f"{len(requests)} requests at once, {_BATCH} are the most")
        first, last = self._sequence + 1, self._sequence + len(requests)
        self._sequence = last
        quiet = wire.NLM_F_REQUEST  # what fails is answered anyway; the acknowledgement of the last one says: all done
        datagram = [render(quiet, sequence) for sequence, render in enumerate(requests[:-1], first)]
        self._send(b"".join(datagram) + requests[-1](quiet | wire.NLM_F_ACK, last))
        codes = [0] * len(requests)
        while True:
            for message in self._receive():
                if message.type != wire.NLMSG_ERROR or not first <= message.sequence <= last:
                    continue  # the answer to a question that was given up
                codes[message.sequence - first] = wire.parse_acknowledgement(message).code
                if message.sequence == last:
                    return codes

    def batches(self, requests: Sequence[Render]) -> Iterator[list[int]]:
        """Send any number of requests, datagram by datagram: their errnos."""
        for start in range(0, len(requests), _BATCH):
            yield self.ask_all(requests[start : start + _BATCH])

    def listing(self, render: Callable[[int], bytes]) -> Iterator[list[Message]]:
        """Send a request for a list; yield its messages, a datagram at a time. Raises KernelRefusal."""
        self._sequence += 1
        mine = self._sequence
        self._send(render(mine))
        while True:
            found: list[Message] = []
            for message in self._receive():
                if message.sequence != mine:
                    continue
                if message.type in {wire.NLMSG_DONE, wire.NLMSG_ERROR}:
                    yield found
                    if code := _end_code(message):
                        raise refusal(code)
                    return
                found.append(message)
            yield found

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _send(self, datagram: bytes) -> None:
        try:
            self._socket.send(datagram)
        except BlockingIOError as error:
            raise AnswerLost("conntrack: the send buffer is full, though nothing was under way") from error
        except OSError as error:
            raise refusal(error.errno or errno.EIO) from error

    def _receive(self) -> Iterator[Message]:
        try:
            datagram = self._socket.recv(_RECEIVE_BYTES)
        except BlockingIOError as error:
            raise AnswerLost("conntrack: the kernel gave no answer") from error
        except OSError as error:
            raise AnswerLost(f"conntrack: the answer is lost: {error.strerror}") from error
        return wire.iterate_messages(datagram)


def _end_code(message: Message) -> int:
    if message.type == wire.NLMSG_DONE:
        return wire.parse_done(message)
    return wire.parse_acknowledgement(message).code
