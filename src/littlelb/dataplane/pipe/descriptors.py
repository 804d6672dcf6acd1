"""What a worker asks of the kernel for one connection: a socket to a backend, an ending, a pipe for splice(2)."""

import fcntl
import os
import socket
import struct
from collections.abc import Callable
from typing import Final

from littlelb.dataplane.pipe.flow import Backend

PIPE_BYTES: Final = 256 << 10
"""What one stalled direction may hold in the kernel. Without CAP_SYS_RESOURCE all pipes of a user share 64 MiB."""
_KEEP: Final = 16
_F_SETPIPE_SZ: Final = 1031
_RST_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_IN_PROGRESS: Final = 115

Pipe = tuple[int, int]
"""Read end, write end."""
Connect = Callable[[Backend], int]
"""Begins a connection: its descriptor, or a negative error number; raises OSError."""


class Pipes:
    """A stock of pipes: lends empty ones, at most `limit` at a time."""

    def __init__(self, limit: int) -> None:
        """Start without any."""
        self.limit = limit
        self.count = 0
        self._idle: list[Pipe] = []

    def take(self) -> Pipe | None:
        """Return an empty pipe; None when there are enough, or the kernel gives none."""
        if self._idle:
            return self._idle.pop()
        if self.count >= self.limit:
            return None
        try:
            pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # EMFILE, ENFILE: copying needs no descriptor
            return None
        self.count += 1
        try:
            fcntl.fcntl(pipe[1], _F_SETPIPE_SZ, PIPE_BYTES)
        except OSError:  # EPERM above the user's share: a small pipe is only slower
            self._discard(pipe)
            return None
        return pipe

    def give(self, pipe: Pipe, *, empty: bool = True) -> None:
        """Take a pipe back; one that still holds bytes of a dead connection is closed."""
        if empty and len(self._idle) < _KEEP:
            self._idle.append(pipe)
        else:
            self._discard(pipe)

    def _discard(self, pipe: Pipe) -> None:
        os.close(pipe[0])
        os.close(pipe[1])
        self.count -= 1


def dial(backend: Backend) -> int:
    """Begin to connect. Raises OSError when that fails at once."""
    family = socket.AF_INET6 if ":" in backend[0] else socket.AF_INET
    upstream = socket.socket(
        family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.IPPROTO_TCP
    )
    try:
        upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        set_keepalive(upstream)
        error = upstream.connect_ex(backend)
    except OSError:
        upstream.close()
        raise
    if error not in {0, _IN_PROGRESS}:
        upstream.close()
        return -error
    return upstream.detach()


def set_keepalive(sock: socket.socket) -> None:
    """Notice a silent peer after about two minutes; accepted sockets inherit it from their listener."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)


def _borrow(fd: int) -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, fd)  # family given: no system calls


def set_linger(fd: int) -> None:
    """Have the next close answer with RST."""
    borrowed = _borrow(fd)
    try:
        borrowed.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE)
    finally:
        borrowed.detach()


def shut(fd: int) -> None:
    """Send FIN."""
    borrowed = _borrow(fd)
    try:
        borrowed.shutdown(socket.SHUT_WR)
    finally:
        borrowed.detach()
