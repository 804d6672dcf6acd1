"""The listening socket against a kernel that the test plays."""

import socket
from collections.abc import Iterator

import pytest

from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.batch import Kind
from littlelb.dataplane.netfilter.event_socket import EventSocket
from littlelb.dataplane.netfilter.events import Change, Commit, Lost


class Overrun(socket.socket):
    """A socket that lost something: it says so once, as the kernel does, and goes on with what still waits."""

    told = False

    def recvmsg(self, *arguments: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, object]:
        """Fail once with ENOBUFS."""
        if not self.told:
            self.told = True
            raise OSError(105, "No buffer space available")
        return super().recvmsg(*arguments)


@pytest.fixture
def ends() -> Iterator[tuple[Overrun, socket.socket]]:
    """Our end and the kernel's."""
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    played = Overrun(fileno=ours.detach())
    played.settimeout(0)
    played.told = True
    yield played, kernel
    played.close()
    kernel.close()


GONE = wire.message(0xA02, 0, 1, 1, wire.text(1, "ll"))
COMMIT = wire.message(0xA0F, 0, 1, 0, wire.u32(1, 8) + wire.u32(2, 815) + wire.text(3, "nft"))


def test_all_that_waits(ends: tuple[Overrun, socket.socket]) -> None:
    """Several datagrams are read at once, in order; then there is nothing."""
    ours, kernel = ends
    events = EventSocket(ours)
    kernel.send(GONE + wire.message(0x103, 0, 1, 1))
    kernel.send(COMMIT)
    assert events.fileno() == ours.fileno()
    assert events.receive() == [Change(Kind.DELTABLE, 1, "ll", None, 0), Commit(8, 815, "nft", 0)]
    assert events.receive() == []
    events.close()


def test_overrun_is_an_event(ends: tuple[Overrun, socket.socket]) -> None:
    """What did not fit into the buffer is told as lost, and what came after it is still heard."""
    ours, kernel = ends
    ours.told = False
    kernel.send(GONE)
    assert EventSocket(ours).receive() == [Lost(), Change(Kind.DELTABLE, 1, "ll", None, 0)]


def test_a_flood_leaves_the_loop_its_turn(ends: tuple[Overrun, socket.socket]) -> None:
    """A call reads a bounded number of datagrams, and the rest stays readable."""
    ours, kernel = ends
    for _ in range(70):
        kernel.send(GONE)
    events = EventSocket(ours)
    assert len(events.receive()) == 64
    assert len(events.receive()) == 6
