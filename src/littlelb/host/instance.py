"""One daemon per network namespace: a lock that the kernel drops with its holder, and that names the holder.

Two abstract Unix sockets (unix(7)), which belong to the network namespace and vanish with the process, kill -9
included: `@littlelb` is the lock, and the name of the other one, `@littlelb pid=812 since=1763890931`, says who holds
it (seen in /proc/net/unix). Neither survives an exec, so worker processes do not keep them.
"""

import os
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from littlelb.core.errors import Permanent

_UNIX_SOCKETS = Path("/proc/thread-self/net/unix")


class InstanceLock:
    """Held from `with` to its end. Raises `Permanent`, naming the holder, where somebody else has it."""

    def __init__(self, now: Callable[[], float], *, name: str = "littlelb") -> None:
        """`now`: seconds since the epoch; `name`: of the lock, without the @."""
        self._now = now
        self._name = name
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        self._bind(self._name)
        with suppress(Permanent):  # only its name counts, and without it the lock holds all the same
            self._bind(f"{self._name} pid={os.getpid()} since={int(self._now())}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._sockets:
            self._sockets.pop().close()

    def _bind(self, name: str) -> None:
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            bound.bind(f"\0{name}")
        except OSError as error:
            bound.close()
            holder = name_holder(self._name, _read_sockets(), self._now())
            raise Permanent(f"another loadbalancer{holder} already runs in this network namespace") from error
        self._sockets.append(bound)


def read_holder(now: float, *, name: str = "littlelb") -> str:
    """Look who holds the lock, without asking for it: ` (pid 812, since 10:02:11)`; empty: nobody."""
    return name_holder(name, _read_sockets(), now)


def _read_sockets() -> str:
    """Return /proc/net/unix; the names in it are whatever bytes any process chose."""
    return _UNIX_SOCKETS.read_text(errors="replace")


def name_holder(name: str, sockets: str, now: float) -> str:
    """Find the holder in the text of /proc/net/unix: ` (pid 812, since 10:02:11)`, local time; empty: unknown.

    The pid is the one in the holder's own process namespace. The date is named unless it is today.
    """
    sign = re.compile(rf"@{re.escape(name)} pid=(\d+) since=(\d+)$")
    for line in sockets.splitlines():
        found = sign.search(line)
        if found is not None:
            since, today = (datetime.fromtimestamp(seconds, UTC).astimezone() for seconds in (int(found[2]), now))
            moment = f"{since:%H:%M:%S}" if since.date() == today.date() else f"{since:%Y-%m-%d %H:%M:%S}"
            return f" (pid {found[1]}, since {moment})"
    return ""
