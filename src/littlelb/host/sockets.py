"""Reads which sockets of this network namespace wait on a port: sock_diag(7), or /proc/net where the kernel lacks it.

The kernel selects by state, so the cost goes with the number of listeners, not with that of connections.
"""

import errno
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from littlelb.core.model import Ip, Protocol

_SOCK_DIAG_BY_FAMILY = 20
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_REQUEST_DUMP = 0x1 | 0x300
_HEADER = struct.Struct("=IHHII")
_QUESTION = struct.Struct("=BBBxI48x")
_ANSWER = struct.Struct("=BBBB2s2s16s16sI8sIIIII")
_LISTEN, _CLOSE = 10, 7
"""TCP sockets that listen; UDP sockets that are bound but not connected read as closed."""
_ANSWER_LIMIT = 1 << 18

_KINDS = (
    (Protocol.TCP, socket.IPPROTO_TCP, _LISTEN, "tcp"),
    (Protocol.UDP, socket.IPPROTO_UDP, _CLOSE, "udp"),
)
_PROC = Path("/proc/thread-self/net")


@dataclass(frozen=True, slots=True)
class Waiting:
    """One socket that waits on a port."""

    protocol: Protocol
    address: Ip | None
    """None: the wildcard address (of either family)."""
    port: int
    inode: int
    """What /proc/PID/fd names it by."""


def read_waiting() -> list[Waiting]:
    """Return all sockets that wait on a port, of both families and protocols. Raises OSError."""
    try:
        return [
            found
            for protocol, number, state, _ in _KINDS
            for family in (socket.AF_INET, socket.AF_INET6)
            for found in _ask(protocol, number, state, family)
        ]
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.EPROTONOSUPPORT, errno.EINVAL, errno.EPERM, errno.EACCES}:
            raise
        return read_waiting_from_proc()  # a kernel without inet_diag, or a sandbox that hides it


def _ask(protocol: Protocol, number: int, state: int, family: int) -> Iterator[Waiting]:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 4) as diag:  # NETLINK_SOCK_DIAG
        question = _QUESTION.pack(family, number, 0, 1 << state)
        header = _HEADER.pack(_HEADER.size + len(question), _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0)
        diag.send(header + question)
        while True:
            datagram = diag.recv(_ANSWER_LIMIT)
            for kind, body in split_messages(datagram):
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    code = -int(struct.unpack_from("=i", body)[0])
                    raise OSError(code, "sock_diag")
                found = parse_answer(protocol, body)
                if found.port:
                    yield found


def split_messages(datagram: bytes) -> Iterator[tuple[int, bytes]]:
    """Cut a netlink datagram into message type and body."""
    offset = 0
    while offset + _HEADER.size <= len(datagram):
        length, kind, *_ = _HEADER.unpack_from(datagram, offset)
        yield kind, datagram[offset + _HEADER.size : offset + length]
        offset += (max(length, _HEADER.size) + 3) & ~3


def parse_answer(protocol: Protocol, body: bytes) -> Waiting:
    """Read an inet_diag_msg."""
    family, _, _, _, port, _, source, *_, inode = _ANSWER.unpack_from(body)
    packed = source[:4] if family == socket.AF_INET else source
    return Waiting(protocol, _bound_to(ip_address(packed)), int.from_bytes(port), inode)


def _bound_to(address: IPv4Address | IPv6Address) -> Ip | None:
    # A wildcard of one family may hold the port for the other one too (IPV6_V6ONLY is off by default): not told apart.
    if address.is_unspecified:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return None if address.ipv4_mapped.is_unspecified else address.ipv4_mapped
    return address


def read_waiting_from_proc() -> list[Waiting]:
    """Return the same from /proc/net/{tcp,tcp6,udp,udp6}, at a cost that goes with the number of all connections."""
    found: list[Waiting] = []
    for protocol, _, state, name in _KINDS:
        for table in (name, f"{name}6"):
            path = _PROC / table
            if path.exists():  # no tcp6 where IPv6 is not built in
                found += parse_table(protocol, state, path.read_text())
    return found


def parse_table(protocol: Protocol, state: int, text: str) -> list[Waiting]:
    """Read one of the tables; its addresses are hexadecimal words of 32 bits in the machine's own order."""
    wanted = f"{state:02X}"
    found: list[Waiting] = []
    for line in text.splitlines()[1:]:
        columns = line.split()
        if columns[3] != wanted:
            continue
        words, _, port = columns[1].partition(":")
        packed = b"".join(struct.pack("=I", int(words[at : at + 8], 16)) for at in range(0, len(words), 8))
        found.append(Waiting(protocol, _bound_to(ip_address(packed)), int(port, 16), int(columns[9])))
    return found
