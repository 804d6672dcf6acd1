"""Tells which ports this host itself listens on, and by which process: a Service must not take ssh away.

Sockets are read at every call (cheap); their processes only when a socket is new, because that walks all of /proc.
Both happen in a thread beside the event loop.
"""

import asyncio
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import structlog

from littlelb.core.model import Frontend, Listener, Protocol
from littlelb.core.shown.text import printable
from littlelb.host.sockets import Waiting, read_waiting

log = structlog.get_logger(__name__)

UNKNOWN = "a process of this host"
"""Whose it is can only root see, and nobody from inside another process namespace."""

_PROC = Path("/proc")
_SOCKET_LINK = "socket:["


class ListenerScan:
    """Reads the listening sockets again and again; remembers whose they are."""

    def __init__(
        self,
        own_pids: Callable[[], frozenset[int]],
        *,
        protocols: frozenset[Protocol] = frozenset(Protocol),
        read: Callable[[], list[Waiting]] = read_waiting,
        proc: Path = _PROC,
    ) -> None:
        """`own_pids`: the daemon's and its workers' process ids; their sockets are left out.

        `protocols`: those that can be forwarded at all. UDP sockets come and go with each question to a name server,
        and every change of the answer has all Services decided anew.
        """
        self._own_pids = own_pids
        self._protocols = protocols
        self._read = read
        self._proc = proc
        self._owners: dict[int, str | None] = {}
        self._seen: tuple[Listener, ...] = ()
        self._refused = False

    async def __call__(self) -> tuple[Listener, ...]:
        """Return the sockets that wait on a port and are not ours, in a stable order.

        Where the kernel does not tell, the last answer stands, and the log says so once.
        """
        try:
            self._seen = await asyncio.to_thread(self._look, self._own_pids())
            self._refused = False
        except OSError as error:
            if not self._refused:
                log.warning("listeners.unreadable", error=error.strerror)
            self._refused = True
        return self._seen

    def _look(self, own_pids: frozenset[int]) -> tuple[Listener, ...]:
        waiting = [found for found in self._read() if found.protocol in self._protocols]
        self._learn({found.inode for found in waiting}, own_pids)
        listeners = {
            Listener(found.protocol, found.address, found.port, owner)
            for found in waiting
            if (owner := self._owners.get(found.inode, UNKNOWN)) is not None
        }
        return tuple(sorted(listeners, key=_order))

    def _learn(self, inodes: set[int], own_pids: frozenset[int]) -> None:
        known = {inode: owner for inode, owner in self._owners.items() if inode in inodes}
        unknown = inodes - known.keys()
        if unknown:
            for inode in unknown & self._sockets_of(own_pids):
                known[inode] = None
                unknown.discard(inode)
        if unknown:
            known |= self._name(unknown)
        self._owners = known

    def _sockets_of(self, pids: Iterable[int]) -> set[int]:
        return {inode for pid in pids for inode in read_socket_inodes(self._proc / str(pid))}

    def _name(self, inodes: set[int]) -> dict[int, str | None]:
        owners: dict[int, str | None] = dict.fromkeys(inodes, UNKNOWN)
        for process in self._proc.iterdir():
            if not process.name.isdigit():
                continue
            for inode in read_socket_inodes(process):
                if owners.get(inode) == UNKNOWN:
                    owners[inode] = f"{_command(process)} (pid {process.name})"
        return owners


def read_socket_inodes(process: Path) -> Iterable[int]:
    """Return the inodes of the sockets that a process has open; none where it is gone or not ours to look into."""
    with suppress(OSError):
        for entry in os.scandir(process / "fd"):
            with suppress(OSError):  # closed in the meantime
                target = os.readlink(entry.path)  # noqa: PTH115  (a Path for each of 10,000 descriptors doubles the cost)
                if target.startswith(_SOCKET_LINK):
                    yield int(target[len(_SOCKET_LINK) : -1])


def _command(process: Path) -> str:
    try:
        return printable((process / "comm").read_text(errors="replace").strip())  # any bytes: it names itself
    except OSError:  # it ended while we looked
        return "a process"


def _order(listener: Listener) -> tuple[str, int, str, str]:
    return (listener.protocol, listener.port, str(listener.address or ""), listener.process)


def name_listener(listeners: Iterable[Listener], frontend: Frontend) -> str | None:
    """Return the process that already waits where the frontend would, wildcards included; None: nobody."""
    for listener in listeners:
        if (listener.protocol, listener.port) == (frontend.protocol, frontend.port) and listener.address in {
            None,
            frontend.address,
        }:
            return listener.process
    return None
