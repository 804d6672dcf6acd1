"""Speaks with the kernel's rtnetlink(7) over one socket: many changes by one system call, dumps in slices.

    changes ─► some messages a send ─► the kernel does all of them before `send` returns ─► errors by sequence number
    dump    ─► one datagram (about 300 messages) after another, with a turn of the event loop in between

Only the last message of a send asks for an acknowledgement; a refusal is told in any case. How many messages go into a
send follows from how long the kernel took for the ones before: it walks over all addresses of a device to add one, so
at ten thousand of them an IPv4 address takes a quarter of a millisecond, and an IPv6 address ten.
"""

import asyncio
import errno
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import TypeVar

from littlelb.host.rtnl import ACKNOWLEDGE, DONE, ERROR, INTERRUPTED, Message, Request, split_messages

T = TypeVar("T")

LARGEST_SEND = 128
"""Messages of one send; what they cause has to fit into the buffers of those who listen."""
_FIRST_SEND = 4
_SEND_SECONDS = 0.008
"""What one send is to take."""
_ANSWER_LIMIT = 1 << 18
_BUFFER = 1 << 20
_ANSWER_SECONDS = 10.0
_ATTEMPTS = 5
_SOL_NETLINK, _CAP_ACK, _GET_STRICT_CHECK = 270, 10, 12


def open_channel() -> socket.socket:
    """Open an rtnetlink socket; reading needs no right, changing CAP_NET_ADMIN. Raises OSError."""
    channel = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
    )
    channel.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    for option in (_CAP_ACK, _GET_STRICT_CHECK):
        with suppress(OSError):  # before kernels 4.3 and 4.20: answers are longer, dumps are not filtered
            channel.setsockopt(_SOL_NETLINK, option, 1)
    channel.bind((0, 0))
    return channel


class Conversation:
    """One socket, to be used by one event loop; a broken one is replaced at the next question."""

    def __init__(self, open_socket: Callable[[], socket.socket] = open_channel) -> None:
        """Open nothing yet."""
        self._open_socket = open_socket
        self._socket: socket.socket | None = None
        self._sequence = 0
        self._turn = asyncio.Lock()

    async def change(self, requests: Sequence[Request], seconds: float | None = None) -> list[int]:
        """Have the kernel do them, in order; return an errno (0: done) for each that there was time for.

        At least one send is made. Raises OSError where the socket fails: then nobody knows what was done.
        """
        began = time.monotonic()
        codes: list[int] = []
        size = _FIRST_SEND
        while len(codes) < len(requests) and not (codes and seconds and time.monotonic() - began > seconds):
            part = requests[len(codes) : len(codes) + size]
            async with self._turn:
                sent = time.monotonic()
                codes += await self._guard(self._change(part))
                took = max(time.monotonic() - sent, 1e-6)
            size = max(1, min(LARGEST_SEND, 2 * size, int(len(part) * _SEND_SECONDS / took)))
            await asyncio.sleep(0)
        return codes

    async def dump(self, request: Request, parse: Callable[[Message], T | None]) -> list[T]:
        """Return what `parse` makes of all answers; read again when the table changed meanwhile. Raises OSError."""
        async with self._turn:
            for _ in range(_ATTEMPTS):
                found = await self._guard(self._dump(request, parse))
                if found is not None:
                    return found
        raise OSError(errno.EAGAIN, "the kernel's table changes faster than it can be read")

    def close(self) -> None:
        """Close the socket; safe to repeat."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    async def _guard(self, talk: Awaitable[T]) -> T:
        """Bound the time; after an error, or when cut off, answers may still be under way: the socket is of no use."""
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                return await talk
        except asyncio.CancelledError:
            self.close()
            raise
        except OSError as error:  # TimeoutError included
            self.close()
            code = error.errno or errno.ETIMEDOUT
            raise OSError(code, os.strerror(code)) from error

    async def _change(self, requests: Sequence[Request]) -> list[int]:
        first = self._take_sequence(len(requests))
        last = first + len(requests) - 1
        octets = [request.render(first + at) for at, request in enumerate(requests[:-1])]
        octets.append(requests[-1].render(last, ACKNOWLEDGE))
        channel = self._open()
        await asyncio.get_running_loop().sock_sendall(channel, b"".join(octets))
        codes = [0] * len(requests)
        while True:
            for message in split_messages(await self._receive(channel)):
                if message.kind == ERROR and first <= message.sequence <= last:
                    codes[message.sequence - first] = message.error
                    if message.sequence == last:
                        return codes

    async def _dump(self, request: Request, parse: Callable[[Message], T | None]) -> list[T] | None:
        """None: the table changed under the dump, which may be torn."""
        sequence = self._take_sequence(1)
        channel = self._open()
        await asyncio.get_running_loop().sock_sendall(channel, request.render(sequence))
        found: list[T] = []
        torn = False
        while True:
            for message in split_messages(await self._receive(channel)):
                if message.sequence != sequence:
                    continue
                torn |= bool(message.flags & INTERRUPTED)
                if message.kind in {ERROR, DONE}:
                    if message.error:
                        raise OSError(message.error, os.strerror(message.error))
                    return None if torn else found
                parsed = parse(message)
                if parsed is not None:
                    found.append(parsed)
            await asyncio.sleep(0)

    def _take_sequence(self, count: int) -> int:
        first = self._sequence + 1
        self._sequence += count
        if self._sequence > 0x7FFFFFFF:
            first, self._sequence = 1, count
        return first

    def _open(self) -> socket.socket:
        if self._socket is None:
            self._socket = self._open_socket()
        return self._socket

    async def _receive(self, channel: socket.socket) -> bytes:
        return await asyncio.get_running_loop().sock_recv(channel, _ANSWER_LIMIT)
