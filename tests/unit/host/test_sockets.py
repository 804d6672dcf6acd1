"""Which sockets wait on a port: both ways of asking the kernel agree."""

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import pytest

from littlelb.core.model import Protocol
from littlelb.host.sockets import Waiting, parse_table, read_waiting, read_waiting_from_proc

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:0016 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0
   1: 020200C0:0050 0A0200C0:D431 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 20 4 30 10 -1
   2: 00000000:1BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1 0 100 0 0 10 0
"""
TABLE6 = """\
  sl  local_address                         remote_address                        st ...
   0: B80D0120000000000000000007000000:0016 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 4714 1 0
   1: 0000000000000000FFFF0000020200C0:0017 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 4715 1 0
   2: 00000000000000000000000000000000:0018 00000000000000000000000000000000:0000 0A 0:0 00:0 0 0 0 4716 1 0
"""


@pytest.mark.skipif(sys.byteorder != "little", reason="the tables are in the machine's byte order")
def test_tables_of_proc() -> None:
    """Addresses, ports and inodes of listening sockets are read; connections are left out; `::ffff:` is IPv4."""
    assert parse_table(Protocol.TCP, 10, TABLE) == [
        Waiting(Protocol.TCP, ip_address("127.0.0.1"), 22, 4711),
        Waiting(Protocol.TCP, None, 7096, 4713),
    ]
    assert parse_table(Protocol.TCP, 10, TABLE6) == [
        Waiting(Protocol.TCP, ip_address("2001:db8::7"), 22, 4714),
        Waiting(Protocol.TCP, ip_address("192.0.2.2"), 23, 4715),
        Waiting(Protocol.TCP, None, 24, 4716),
    ]


@pytest.fixture
def opened() -> Iterator[set[tuple[Protocol, str, int]]]:
    """Sockets on loopback of both protocols; and two that wait for nobody."""
    with ExitStack() as stack:
        waiting = set()
        for kind, protocol in ((socket.SOCK_STREAM, Protocol.TCP), (socket.SOCK_DGRAM, Protocol.UDP)):
            for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
                made = stack.enter_context(socket.socket(family, kind))
                made.bind((address, 0))
                if kind == socket.SOCK_STREAM:
                    made.listen()
                waiting.add((protocol, address, made.getsockname()[1]))
        bound = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        bound.bind(("127.0.0.1", 0))
        yield waiting


def test_both_ways_see_the_same(opened: set[tuple[Protocol, str, int]]) -> None:
    """Listening TCP sockets and bound UDP sockets are found by sock_diag and in /proc; others are not."""
    by_diag, by_proc = read_waiting(), read_waiting_from_proc()
    for found in (by_diag, by_proc):
        mine = {(item.protocol, str(item.address), item.port): item for item in found}
        assert opened <= mine.keys()
    inodes = [
        {item.inode for item in found if (item.protocol, str(item.address), item.port) in opened}
        for found in (by_diag, by_proc)
    ]
    assert inodes[0] == inodes[1]
    assert len(inodes[0]) == len(opened)


def test_connected_datagram_socket_does_not_wait() -> None:
    """A UDP socket that is connected to one peer waits for nobody else."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connected:
        connected.connect(("127.0.0.1", 9))
        port = connected.getsockname()[1]
        assert port not in {item.port for item in read_waiting() if item.protocol is Protocol.UDP}
