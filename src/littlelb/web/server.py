"""Listens for HTTP: on TCP for people and probes, on a Unix socket for the command line.

    TCP   127.0.0.1:7480           /  /healthz  /readyz  /metrics  /status
    unix  RUN_DIR/littlelb.sock    /status                 mode 0600: only the user that the daemon runs as

A place that is taken costs the page, never the daemon: it is said once, and tried again.
"""

import asyncio
import errno
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import structlog
from aiohttp import web

from littlelb.core.interfaces import Clock
from littlelb.web import SOCKET_NAME

log = structlog.get_logger(__name__)

RETRY_SECONDS = 30.0
_SHUTDOWN_SECONDS = 1.0
"""How long open requests may go on when the server ends."""


async def serve_tcp(app: web.Application, host: str, port: int, clock: Clock) -> None:
    """Serve on a literal address or `localhost` (IPv4), until cancelled."""
    await _serve(app, lambda: _bind_tcp(host, port), f"{host} port {port}", clock)


async def serve_unix(app: web.Application, run_dir: Path, clock: Clock) -> None:
    """Serve on `run_dir`/littlelb.sock until cancelled. Makes the directory; removes the socket at the end."""
    path = run_dir / SOCKET_NAME
    await _serve(app, lambda: _bind_unix(path), str(path), clock)


async def _serve(app: web.Application, bind: Callable[[], socket.socket], where: str, clock: Clock) -> None:
    listener = await _bind_patiently(bind, where, clock)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS)
    try:
        await runner.setup()
        await web.SockSite(runner, listener).start()
        log.info("web.listening", where=where)
        await asyncio.get_running_loop().create_future()
    finally:
        _remove_own(listener)
        await runner.cleanup()
        listener.close()


async def _bind_patiently(bind: Callable[[], socket.socket], where: str, clock: Clock) -> socket.socket:
    """Try until it works; say each new reason once."""
    said = ""
    while not isinstance(result := _try(bind), socket.socket):
        if result != said:
            log.error("web.listen_failed", where=where, reason=result, retry_seconds=RETRY_SECONDS)
            said = result
        await clock.sleep(RETRY_SECONDS)
    return result


def _try(bind: Callable[[], socket.socket]) -> socket.socket | str:
    """Return the socket, or why there is none."""
    try:
        return bind()
    except OSError as error:
        return _explain(error)


def _explain(error: OSError) -> str:
    """Say what to do about a failed bind."""
    match error.errno:
        case errno.EADDRINUSE:
            return (
                "something else listens there (`ss -lptn`, or `ss -lpx` for a path, names it): end it, or choose"
                " another place with --listen, or --run-dir for a path"
            )
        case errno.EADDRNOTAVAIL:
            return "this machine does not have that address: choose another one with --listen"
        case errno.EACCES | errno.EPERM:
            return "not permitted: run as root, or choose another place with --listen or --run-dir"
        case _:
            return error.strerror or str(error)


def _bind_tcp(host: str, port: int) -> socket.socket:
    """Open a listening socket. SO_REUSEADDR is for TIME_WAIT only: two listeners on Linux still exclude each other."""
    address = "127.0.0.1" if host == "localhost" else host
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.create_server((address, port), family=family)


def _bind_unix(path: Path) -> socket.socket:
    """Open a listening socket that only our user may connect to, in place of one that a dead daemon left behind."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)  # bind(2) makes the file: there must be no moment at which others may connect
    try:
        listener.bind(str(path))
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(mask)
    return listener


def _remove_own(listener: socket.socket) -> None:
    """Remove the name of a Unix socket that is about to be closed."""
    if listener.family is socket.AF_UNIX:
        Path(listener.getsockname()).unlink(missing_ok=True)


def _remove_stale(path: Path) -> None:
    """Remove the socket if nobody listens on it any more. Raises OSError where somebody does, or it is no socket."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OSError(errno.EEXIST, "a file that is not a socket is in the way: remove it")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # noqa: FBT003  (the standard library's signature)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except BlockingIOError:  # its queue is full: it lives
            raise OSError(errno.EADDRINUSE, "busy") from None
        else:
            raise OSError(errno.EADDRINUSE, "in use")
