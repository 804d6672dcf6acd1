"""A netlink socket that hears who changes nf_tables in the network namespace of the thread that opens it."""

import ctypes
import errno
import socket
import struct
from collections.abc import Collection
from typing import Final

from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.errors import AnswerLost, refusal
from littlelb.dataplane.netfilter.events import GROUP, Event, Lost, parse_event, render_filter
from littlelb.dataplane.netfilter.socket import BUFFER_BYTES, open_socket, receive

_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP = 270, 1
_SO_ATTACH_FILTER: Final = 26
_DATAGRAMS: Final = 64
"""That are read at a time; each holds some dozens of notifications."""


class EventSocket:
    """Hears of changes to nf_tables by others; non-blocking, for `loop.add_reader(events.fileno(), …)`."""

    def __init__(self, opened: socket.socket) -> None:
        """Take a socket that `open_events` opened."""
        self._socket = opened

    def fileno(self) -> int:
        """Readable when something waits."""
        return self._socket.fileno()

    def receive(self) -> list[Event]:
        """All that waits, at most some thousand at a time; empty: nothing. Raises Malformed."""
        found: list[Event] = []
        for _ in range(_DATAGRAMS):
            try:
                datagram = receive(self._socket)
            except BlockingIOError:
                break
            except AnswerLost:  # the kernel says so once, and goes on with what still waits
                found.append(Lost())
                continue
            events = map(parse_event, wire.iterate_messages(datagram))
            found += [event for event in events if event is not None]
        return found

    def close(self) -> None:
        """Close it."""
        self._socket.close()


def open_events(own_ports: Collection[int] = (), receive_bytes: int = BUFFER_BYTES) -> EventSocket:
    """Listen to changes in the network namespace of this thread. Raises KernelRefusal.

    What the sockets with these ports do (`NfSocket.port`) is not told: a filter in the kernel drops it, so that a large
    transaction of ours neither wakes us nor fills the buffer.
    """
    opened = open_socket(receive_bytes)
    try:
        if own_ports:
            _attach(opened, render_filter(own_ports))
        opened.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, GROUP)
    except OSError as error:
        opened.close()
        raise refusal(error.errno or errno.EIO) from error
    return EventSocket(opened)


def _attach(sock: socket.socket, program: bytes) -> None:
    code = ctypes.create_string_buffer(program, len(program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program) // 8, ctypes.addressof(code)))
