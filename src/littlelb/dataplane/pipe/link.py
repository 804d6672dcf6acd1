"""The daemon's end of the conversation with workers: the directory where their sockets are, one link to each.

The run directory holds one socket and one error log for each worker, readable by our user only. Names are random, so
that daemons of two network namespaces may share it. A file that nobody listens on is left over from a crash and goes;
a file of another name is not ours and stays.
"""

import array
import asyncio
import os
import re
import secrets
import socket
import stat
import struct
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from littlelb.core.errors import Permanent, Transient
from littlelb.dataplane.pipe.wire import MAX_FDS, PROTOCOL, Framer, Json, WireError, integer, render, text

_CHUNK: Final = 256 << 10
ANSWER_SECONDS: Final = 10.0
HELLO_SECONDS: Final = 3.0
"""A worker that starts is given so long; one that hangs holds a start up for no longer."""
_NAME: Final = re.compile(r"worker-[0-9a-f]{16}\.sock")
_LOG_BYTES: Final = 4000


class Hello:
    """Who answers at the other end."""

    def __init__(self, answer: Json, version: str) -> None:
        """Read the answer to `hello`; `version` is ours. Raises WireError."""
        self.pid = integer(answer.get("pid"), 1, 1 << 31)
        self.started = integer(answer.get("started", 0), 0, 1 << 62)
        """Clock ticks after boot, as in /proc/PID/stat: tells it from a later process with its pid."""
        self.netns = integer(answer.get("netns"), 0, 1 << 63)
        self.version = text(answer.get("version"))
        self.retiring = answer.get("retiring") is True
        self.fits = answer.get("protocol") == PROTOCOL and self.version == version


class Link:
    """One conversation. After any failure it is closed for good."""

    def __init__(self, sock: socket.socket, on_close: Callable[["Link"], None]) -> None:
        """Take a connected socket; `on_close` is called once when the other end has gone, or made no sense."""
        self._sock = sock
        self._on_close = on_close
        self._framer = Framer()
        self._answers: deque[asyncio.Future[tuple[Json, list[int]]]] = deque()
        """Oldest question first; one whose asker was cancelled still waits for the answer that is its own."""
        self._turn = asyncio.Lock()
        self._loop = asyncio.get_running_loop()
        self.closed = False
        self._loop.add_reader(sock.fileno(), self._readable)

    async def ask(
        self, message: Json, fds: Sequence[int] = (), seconds: float = ANSWER_SECONDS
    ) -> tuple[Json, list[int]]:
        """Return the answer and the descriptors lent with it, which are the caller's. Raises Transient."""
        try:
            octets = render({**message, "fds": len(fds)} if fds else message)
        except WireError as error:
            raise Transient(f"{message.get('do')} cannot be asked: {error}") from error
        async with self._turn:
            answer, lent = await self._exchange(octets, fds, seconds)
        if answer.get("ok") is not True:
            raise Transient(f"a worker refused {message.get('do')}: {answer.get('error')}")
        return answer, lent

    async def _exchange(
        self, octets: tuple[bytes, bytes], fds: Sequence[int], seconds: float
    ) -> tuple[Json, list[int]]:
        if self.closed:
            raise Transient("the worker has gone")
        answer: asyncio.Future[tuple[Json, list[int]]] = self._loop.create_future()
        self._answers.append(answer)
        sent = False
        try:
            async with asyncio.timeout(seconds):
                await self._send(*octets, fds)
                sent = True
                return await answer
        except (OSError, TimeoutError) as error:
            answer.cancel()
            self.close()
            raise Transient(f"a worker does not answer: {str(error) or 'time-out'}") from error
        except asyncio.CancelledError:
            if not sent:  # half a message may be under way: nobody could read what follows
                self.close()
            raise

    async def _send(self, length: bytes, body: bytes, fds: Sequence[int]) -> None:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        while True:
            try:
                sent = self._sock.sendmsg([length], rights)
                break
            except BlockingIOError:  # one message is under way at most, so this passes as soon as it was read
                await asyncio.sleep(0.005)
        await self._loop.sock_sendall(self._sock, length[sent:] + body)

    def _readable(self) -> None:
        try:
            chunk, fds, _, _ = socket.recv_fds(self._sock, _CHUNK, MAX_FDS, socket.MSG_CMSG_CLOEXEC)
            messages = self._framer.feed(chunk, fds)
        except BlockingIOError:
            return
        except (OSError, WireError):  # nothing more can be understood of this stream
            self.close()
            return
        if not chunk:
            self.close()
        for message in messages:
            if self._answers and not (answer := self._answers.popleft()).done():
                answer.set_result(message)
            else:
                for fd in message[1]:
                    os.close(fd)

    def close(self) -> None:
        """End the conversation; the worker goes on."""
        if self.closed:
            return
        self.closed = True
        self._loop.remove_reader(self._sock.fileno())
        for fd in self._framer.leftovers():
            os.close(fd)
        self._sock.close()
        for answer in self._answers:
            if not answer.done():
                answer.set_exception(Transient("the worker has gone"))
        self._on_close(self)


def connect(directory: int, name: str, on_close: Callable[[Link], None]) -> Link:
    """Connect to the socket of that name. Raises OSError; PermissionError when somebody else's process is behind it.

    The path goes through the open directory: no symbolic link of another user is followed, and no length limit is met.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        sock.connect(f"/proc/self/fd/{directory}/{name}")
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != os.getuid():
            raise PermissionError(f"{name} belongs to user {uid}")
    except OSError:
        sock.close()
        raise
    return Link(sock, on_close)


def read_netns() -> int:
    """Return the inode of this process's network namespace."""
    return Path("/proc/thread-self/ns/net").stat().st_ino


class RunDirectory:
    """An open directory; paths are resolved relative to it, whatever becomes of its name."""

    def __init__(self, path: Path) -> None:
        """Make it if need be. Raises Permanent when it cannot be ours alone."""
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.fd = os.open(path, os.O_DIRECTORY | os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise Permanent(f"the run directory {path} cannot be used: {error.strerror}") from error
        found = os.fstat(self.fd)
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            self.close()
            raise Permanent(f"the run directory {path} must belong to user {os.geteuid()} with mode 0700")

    def close(self) -> None:
        """Let go of it; nothing in it changes."""
        os.close(self.fd)

    def names(self) -> list[str]:
        """Sockets of workers, alive or not."""
        found = os.listdir(self.fd)  # noqa: PTH208  (pathlib knows no open directories)
        return sorted(name for name in found if _NAME.fullmatch(name))

    def listen(self) -> tuple[str, socket.socket]:
        """Make a socket for a new worker: it can be connected to before the worker is up."""
        name = f"worker-{secrets.token_hex(8)}.sock"
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            os.fchmod(sock.fileno(), 0o600)  # bind(2) gives the file the mode of the socket, less the umask
            sock.bind(f"/proc/self/fd/{self.fd}/{name}")
            sock.listen(8)
        except OSError:
            sock.close()
            raise
        return name, sock

    def open_log(self, name: str) -> int:
        """Return a descriptor for the worker's stderr: a pipe of ours would break, or hold others up, when we end."""
        flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(_log_of(name), flags, 0o600, dir_fd=self.fd)

    def read_log(self, name: str) -> str:
        """Return the end of what a worker wrote to stderr."""
        try:
            fd = os.open(_log_of(name), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self.fd)
        except FileNotFoundError:
            return ""
        with os.fdopen(fd, "rb") as log:
            return log.read()[-_LOG_BYTES:].decode(errors="replace").strip()

    def remove(self, name: str) -> None:
        """Tidy up after a worker that has ended."""
        for file in (name, _log_of(name)):
            try:
                os.unlink(file, dir_fd=self.fd)
            except FileNotFoundError:
                continue  # the worker did so itself


def _log_of(name: str) -> str:
    return name.removesuffix(".sock") + ".log"
