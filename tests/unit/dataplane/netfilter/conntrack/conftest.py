"""A kernel for conntrack's unit tests: the answers that it gives over a socket are written by the test."""

import socket
import struct
from collections.abc import Iterator

import pytest

from littlelb.dataplane.netfilter import wire


class Kernel:
    """The other end of a socket; its answers wait before they are asked for, as the real one's do."""

    def __init__(self) -> None:
        self.ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.ours.settimeout(0)
        self._theirs.settimeout(0)

    def say(self, *messages: bytes) -> None:
        """Let a datagram wait for the asker."""
        self._theirs.send(b"".join(messages))

    def heard(self) -> list[wire.Message]:
        """Messages of the next datagram that was sent."""
        return list(wire.iterate_messages(self._theirs.recv(1 << 17)))

    def close(self) -> None:
        """Close both ends."""
        self.ours.close()
        self._theirs.close()


def acknowledgement(sequence: int, code: int = 0) -> bytes:
    """Build NLMSG_ERROR with an errno; 0: done."""
    return struct.pack("=IHHIIiIHHII", 36, wire.NLMSG_ERROR, 0, sequence, 0, -code, 20, 0, 0, sequence, 0)


def done(sequence: int, code: int = 0) -> bytes:
    """Build NLMSG_DONE, the end of a list."""
    return struct.pack("=IHHIIi", 20, wire.NLMSG_DONE, wire.NLM_F_MULTI, sequence, 0, -code)


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """Give a kernel that says nothing yet."""
    made = Kernel()
    yield made
    made.close()
