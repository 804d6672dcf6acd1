"""What a worker asks of the kernel for one connection: a socket to a backend, an ending, a pipe for splice(2)."""

import ctypes
import fcntl
import os
import socket
import struct
from typing import Final

from littlelb.dataplane.pipe.flow import Backend

PIPE_BYTES: Final = 256 << 10
"""What one stalled direction may hold in the kernel. Without CAP_SYS_RESOURCE all pipes of a user share 64 MiB."""
_SPLICE: Final = os.SPLICE_F_NONBLOCK | os.SPLICE_F_MOVE
_KEEP: Final = 16
_F_SETPIPE_SZ: Final = 1031
_RST_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_YES: Final = struct.pack("i", 1)
_IN_PROGRESS: Final = 115
_MSG_MORE: Final = 0x8000
_SOCKET_TYPE: Final = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)  # a socket object made for a descriptor costs a getsockname(2) and 1 us

Pipe = tuple[int, int]
"""Read end, write end."""


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


def push(dst: int, octets: bytes) -> bytes:
    """Write to a socket until EAGAIN; return what is left. Raises OSError."""
    while octets:
        try:
            octets = octets[os.write(dst, octets) :]
        except BlockingIOError:
            break
    return octets


def fill(pipe: Pipe, src: int) -> int:
    """Move bytes from a socket to an empty pipe; return how many, 0 for the end. Raises OSError."""
    return os.splice(src, pipe[1], PIPE_BYTES, flags=_SPLICE)


def drain(pipe: Pipe, dst: int, left: int) -> int:
    """Move so many bytes from a pipe to a socket until EAGAIN; return how many are left. Raises OSError."""
    while left:
        try:
            left -= os.splice(pipe[0], dst, left, flags=_SPLICE)
        except BlockingIOError:
            break
    return left


def dial(backend: Backend) -> int:
    """Begin to connect: return the descriptor, or a negative error number. Raises OSError when that fails at once."""
    family = socket.AF_INET6 if ":" in backend[0] else socket.AF_INET
    upstream = socket.SocketType(family, _SOCKET_TYPE, socket.IPPROTO_TCP)  # the type in C: half the price
    try:
        upstream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        error = upstream.connect_ex(backend)
    except OSError:
        upstream.close()
        raise
    if error not in {0, _IN_PROGRESS}:
        upstream.close()
        return -error
    return upstream.detach()


def set_keepalive(sock: socket.SocketType) -> None:
    """Notice a silent peer after about two minutes; accepted sockets inherit it from their listener."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4)


def watch_silence(fd: int) -> None:
    """Do that to a descriptor."""
    borrowed = socket.SocketType(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, fd)
    try:
        set_keepalive(borrowed)
    finally:
        borrowed.detach()


def set_linger(fd: int) -> None:
    """Have the next close answer with RST, after what was written so far (no delay: it is pushed out now)."""
    _libc.setsockopt(fd, socket.IPPROTO_TCP, socket.TCP_NODELAY, _YES, 4)
    _check(_libc.setsockopt(fd, socket.SOL_SOCKET, socket.SO_LINGER, _RST_ON_CLOSE, 8))


def shut(fd: int) -> None:
    """Send FIN. Raises OSError."""
    _check(_libc.shutdown(fd, socket.SHUT_WR))


def send_last(fd: int, octets: "ctypes.Array[ctypes.c_char]", count: int) -> int:
    """Write what FIN will follow at once: both travel in one segment. Raises OSError."""
    return _check(_libc.send(fd, octets, count, _MSG_MORE))


def _check(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
