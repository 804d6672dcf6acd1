"""The listening sockets of all frontends, made here and shared with every worker.

One open file description per frontend, so that what is done to it holds in all workers at once:

    bind ──► closed port ──listen──► accepting ──shutdown(SHUT_RD)──► closed port, still bound ──listen──► …

A bound socket that does not listen answers a SYN with RST: a frontend without backends refuses at once, and nobody else
gets its port meanwhile, because SO_REUSEADDR is taken off it for that time (inet_csk_bind_conflict in Linux).
IP_FREEBIND binds before the address is on the device. IP_TRANSPARENT, which accepted sockets inherit, lets their RST
out when it is no longer there: without, the kernel finds no route from a foreign source address, and clients of a
Service that goes would wait for ever (IPv6 does not ask).
"""

import errno
import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Final

from littlelb.core.model import Frontend
from littlelb.core.plan import Failure, Severity
from littlelb.core.reasons import Reason
from littlelb.dataplane.pipe.codec import render_frontend
from littlelb.dataplane.pipe.descriptors import set_keepalive

BACKLOG: Final = 65_535
"""The kernel takes the smaller of this and net.core.somaxconn."""
_IP_FREEBIND: Final = 15
_IP_TRANSPARENT: Final = 19
_IPV6_FREEBIND: Final = 78


def read_descriptor_limit() -> int:
    """Return how many descriptors this process may have; its workers have at least as many."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


class Listeners:
    """Sockets by frontend."""

    def __init__(
        self, name_listener: Callable[[Frontend], str], read_limit: Callable[[], int] = read_descriptor_limit
    ) -> None:
        """`name_listener` says who has a port that we cannot get: `sshd (pid 812)`, or nothing."""
        self._name_listener = name_listener
        self._read_limit = read_limit
        self._sockets: dict[Frontend, socket.socket] = {}
        self._leaving: dict[Frontend, float] = {}

    def __contains__(self, frontend: Frontend) -> bool:
        """Is there a socket?"""
        return frontend in self._sockets

    def __iter__(self) -> Iterator[Frontend]:
        """All frontends that have one."""
        return iter(tuple(self._sockets))

    def adopt(self, frontend: Frontend, fd: int) -> None:
        """Take a descriptor that a worker lent; one too many of the same is closed."""
        if frontend in self._sockets:
            os.close(fd)
        else:
            self._sockets[frontend] = socket.socket(_family(frontend), socket.SOCK_STREAM, socket.IPPROTO_TCP, fd)

    def leave(self, frontend: Frontend, until: float) -> None:
        """Keep the socket until then only: the frontend's new connections go elsewhere. Nothing where there is none."""
        if frontend in self._sockets:
            self._leaving.setdefault(frontend, until)

    @property
    def next_end(self) -> float | None:
        """When the first of those that leave is over."""
        return min(self._leaving.values(), default=None)

    def over(self, now: float) -> list[Frontend]:
        """Those whose time to leave is over."""
        return [frontend for frontend, until in self._leaving.items() if until <= now]

    def open(self, frontend: Frontend, *, accepting: bool) -> Failure | None:
        """Bind it unless it is, and let it accept or refuse; return why it failed."""
        self._leaving.pop(frontend, None)
        try:
            sock = self._sockets.get(frontend) or self._bind(frontend)
            if accepting:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.listen(BACKLOG)
            else:
                _refuse(sock)
        except OSError as error:
            return self._explain(frontend, error)
        return None

    def _bind(self, frontend: Frontend) -> socket.socket:
        if len(self._sockets) >= self._read_limit() * 3 // 4:  # workers need the rest for connections
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        sock = socket.socket(_family(frontend), socket.SOCK_STREAM | socket.SOCK_CLOEXEC, socket.IPPROTO_TCP)
        try:
            sock.settimeout(0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if sock.family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
                with suppress(PermissionError):  # without CAP_NET_ADMIN clients learn of the end by their own time-out
                    sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            set_keepalive(sock)
            sock.bind((str(frontend.address), frontend.port))
            sock.listen(BACKLOG)  # now, because only this settles whose port it is
        except OSError:
            sock.close()
            raise
        self._sockets[frontend] = sock
        return sock

    def fileno(self, frontend: Frontend) -> int:
        """Return its descriptor, to be lent."""
        return self._sockets[frontend].fileno()

    def close(self, frontend: Frontend) -> None:
        """Give the port up in all workers at once: who still waits in the queue gets RST."""
        sock = self._sockets.pop(frontend, None)
        self._leaving.pop(frontend, None)
        if sock is not None:
            _refuse(sock)
            # A worker that hangs may hold its copy for a while: let the next one bind beside it.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.close()

    def release(self) -> None:
        """Let go of our copies: workers keep theirs, and go on."""
        for sock in self._sockets.values():
            sock.close()
        self._sockets.clear()
        self._leaving.clear()

    def _explain(self, frontend: Frontend, error: OSError) -> Failure:
        match error.errno:
            case errno.EADDRINUSE:
                owner = self._name_listener(frontend) or "another process"
                message = f"{owner} on this machine already has {frontend}; stop it, or ask for another port or address"
                return Failure(Reason.PORT_IN_USE, message)
            case errno.EACCES | errno.EPERM:
                message = f"{frontend} needs a privilege: run as root or with CAP_NET_BIND_SERVICE"
                return Failure(Reason.NOT_PERMITTED, message, Severity.PERMANENT)
            case errno.EMFILE | errno.ENFILE:
                message = f"{frontend}: no file descriptor is left; raise the limit (LimitNOFILE, ulimit -n)"
                return Failure(Reason.FAILED, message)
            case _:
                return Failure(Reason.FAILED, f"{render_frontend(frontend)}: {error.strerror or error}")


def raise_descriptor_limit() -> None:
    """Let this process have as many descriptors as its hard limit allows: each frontend is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _family(frontend: Frontend) -> socket.AddressFamily:
    return socket.AF_INET6 if frontend.address.version == 6 else socket.AF_INET


def _refuse(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RD)
    except OSError as error:
        if error.errno != errno.ENOTCONN:  # it was not listening
            raise
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
