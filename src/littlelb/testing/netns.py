"""Network namespaces for lab tests, e2e tests and the demo: make them, work inside them, remove all that was made.

    with Network() as net:
        box = net.namespace("box")
        other = net.namespace("other")
        net.veth(box, "eth0", other, "eth0")
        box.ip("addr", "add", "192.0.2.2/24", "dev", "eth0")
        box.popen(["loadbalancer", "run", ...])          # ended, with its children, when the block is left
        with box.socket(socket.AF_INET, socket.SOCK_STREAM) as sock: ...   # belongs to `box`, used from anywhere

Works as root and inside `unshare --user --map-root-user --net --mount` (setns(2), namespaces(7)). There /run belongs
to somebody else: a tmpfs, private to that mount namespace, is laid over it. `unavailable()` says why it cannot work.
A namespace is named `PREFIX-PID-NUMBER-LABEL`, so that runs side by side do not meet.
"""

import ctypes
import itertools
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_RUN = Path("/run/netns")
_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count()


def _ip(*arguments: str, stdin: str | None = None) -> str:
    """Run iproute2; its complaint becomes the exception's text."""
    done = subprocess.run(["ip", *arguments], input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _prepare_run_directory() -> None:
    """Inside a user namespace /run is not ours to write: cover it, for this mount namespace only."""
    if os.access(_RUN if _RUN.exists() else _RUN.parent, os.W_OK):
        return
    cover = _RUN if _RUN.exists() else _RUN.parent
    if _libc.mount(b"tmpfs", str(cover).encode(), b"tmpfs", 0, None):
        code = ctypes.get_errno()
        raise OSError(code, f"{_RUN} is not writable, and no tmpfs can be mounted over it: {os.strerror(code)}")
    _RUN.mkdir(exist_ok=True)


def unavailable() -> str | None:
    """Say why this process cannot make network namespaces, with the remedy; None: one was made, and removed."""
    if shutil.which("ip") is None:
        return "the command `ip` is missing: install iproute2"
    name = f"llb-{os.getpid()}-{next(_numbers)}-try"
    try:
        _prepare_run_directory()
        _ip("netns", "add", name)
        _ip("netns", "del", name)
    except (OSError, RuntimeError) as error:
        remedy = "run as root, or inside `unshare --user --map-root-user --net --mount`"
        return f"network namespaces cannot be made here ({error}): {remedy}"
    return None


class Namespace:
    """One network namespace; made by `Network.namespace`."""

    def __init__(self, name: str) -> None:
        """Make it, with the loopback device up, and with IPv6 addresses usable at once (no detection of duplicates)."""
        self.name = name
        self.path = _RUN / name
        self._processes: list[subprocess.Popen[Any]] = []
        _ip("netns", "add", name)
        self.sysctl("net.ipv6.conf.default.accept_dad", "0")
        self.ip("link", "set", "lo", "up")

    def ip(self, *arguments: str) -> str:
        """Run `ip ARGUMENTS` in here and return its output; RuntimeError with its complaint when it fails."""
        return _ip("-n", self.name, *arguments)

    def batch(self, *lines: str) -> None:
        """Run several `ip` commands in one process: one text each, without the word `ip`."""
        _ip("-n", self.name, "-batch", "-", stdin="\n".join(lines))

    def sysctl(self, key: str, value: str | None = None) -> str:
        """Write (when `value` is given) and read one of the `net.` settings of this namespace; slashes keep dots."""
        path = Path("/proc/sys") / (key if "/" in key else key.replace(".", "/"))

        def read_and_write() -> str:
            if value is not None:
                path.write_text(value)
            return path.read_text().strip()

        return self.call(read_and_write)

    def mac(self, device: str) -> str:
        """MAC address of one of its devices, as text."""
        return self.call(lambda: _ip("-n", self.name, "-o", "link", "show", device)).split("link/ether ")[1].split()[0]

    def command(self, argv: Sequence[str]) -> list[str]:
        """Return the command line that runs `argv` in here; the process keeps the id that its starter sees."""
        return ["nsenter", f"--net={self.path}", "--", *argv]

    def run(
        self, argv: Sequence[str], *, check: bool = True, timeout: float = 30, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in here to its end and return its output as text; `timeout` in seconds."""
        return subprocess.run(self.command(argv), capture_output=True, text=True, check=check, timeout=timeout, env=env)

    def popen(
        self,
        argv: Sequence[str],
        *,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[str]:
        """Start a program in here; it is ended when the Network is closed, and so is all else that runs in here."""
        process = subprocess.Popen(
            self.command(argv), stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=env, text=True
        )
        self._processes.append(process)
        return process

    def call(self, function: Callable[[], T]) -> T:
        """Run a function of this program in here, in a thread of its own, and return (or raise) what it does.

        Sockets that it opens belong to this namespace for ever. For coroutines: `call(lambda: asyncio.run(main()))`.
        """
        results: list[T] = []
        errors: list[BaseException] = []

        def inside() -> None:
            try:
                self._enter()
                results.append(function())
            except BaseException as error:  # noqa: BLE001  (carried over to the caller's thread, and raised there)
                errors.append(error)

        thread = threading.Thread(target=inside, name=f"netns {self.name}")
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def _enter(self) -> None:
        # os.setns came with Python 3.12. The thread ends in there: it never goes back.
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _libc.setns(descriptor, _CLONE_NEWNET):
                code = ctypes.get_errno()
                raise OSError(code, f"setns {self.path}: {os.strerror(code)}")
        finally:
            os.close(descriptor)

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Open a socket that belongs to this namespace and is used from any thread."""
        return self.call(lambda: socket.socket(family, kind, protocol))

    def pids(self) -> frozenset[int]:
        """Return the ids of the processes that run in here (this program itself is never among them)."""
        return frozenset(int(word) for word in _ip("netns", "pids", self.name).split()) - {os.getpid()}

    def remove(self) -> None:
        """End every process in here (the namespace is ours, so they are) and remove it, with its devices."""
        with suppress(RuntimeError):  # somebody removed the namespace before us
            for pid in self.pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for process in self._processes:
            process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        with suppress(RuntimeError):  # the same
            _ip("netns", "del", self.name)


class Network:
    """Some namespaces and the wires between them; leaving the `with` block removes all, also after a failure."""

    def __init__(self, prefix: str = "llb") -> None:
        """`prefix` begins the name of every namespace."""
        _prepare_run_directory()
        self._prefix = f"{prefix}-{os.getpid()}-{next(_numbers)}"
        self._namespaces: list[Namespace] = []

    def namespace(self, label: str) -> Namespace:
        """Make one more namespace."""
        made = Namespace(f"{self._prefix}-{label}")
        self._namespaces.append(made)
        return made

    def veth(self, left: Namespace, left_device: str, right: Namespace, right_device: str) -> None:
        """Lay a wire between two namespaces, both ends up."""
        left.ip(*("link", "add", left_device, "type", "veth"), *("peer", "name", right_device, "netns", right.name))
        left.ip("link", "set", left_device, "up")
        right.ip("link", "set", right_device, "up")

    def bridge(self, home: Namespace, device: str) -> None:
        """Make a switch: forwards at once (no spanning tree), multicast to every port."""
        home.ip("link", "add", device, "type", "bridge", "stp_state", "0", "mcast_snooping", "0")
        home.ip("link", "set", device, "up")

    def plug(self, left: Namespace, device: str, home: Namespace, bridge: str) -> None:
        """Lay a wire from a device of `left` to a port of the bridge in `home`; the port is named at random."""
        port = f"port{next(_numbers)}"
        self.veth(left, device, home, port)
        home.ip("link", "set", port, "master", bridge)

    def close(self) -> None:
        """Remove everything that was made; safe to call again."""
        while self._namespaces:
            self._namespaces.pop().remove()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
