"""The worker's side of the conversation with the daemon: a Unix socket, one answer for each question (see `wire`).

Only processes of our own user are listened to (SO_PEERCRED); a peer that sends nonsense is cut off, the flows go on.
"""

import array
import os
import select
import socket
import struct
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Final

from littlelb.dataplane.pipe.gates import Gate, Gates
from littlelb.dataplane.pipe.relay import Relay
from littlelb.dataplane.pipe.routes import MAX_SECONDS, parse_frontend
from littlelb.dataplane.pipe.wire import (
    MAX_BODY,
    MAX_FDS,
    PROTOCOL,
    Framer,
    Json,
    WireError,
    integer,
    render,
    sequence,
)

_PAGE: Final = 500
_PAGE_BYTES: Final = MAX_BODY // 2
_MAX_PEERS: Final = 8
_CHUNK: Final = 64 << 10

Answer = tuple[Json, list[int]]


class Life:
    """What this worker is, and until when."""

    def __init__(self, facts: Mapping[str, object]) -> None:
        """`facts` is the constant part of `hello`."""
        self.facts = facts
        self.retiring = False
        self.deadline: float | None = None


class Peer:
    """One connected daemon."""

    __slots__ = ("framer", "out", "sock")

    def __init__(self, sock: socket.socket) -> None:
        """Take an accepted socket."""
        self.sock = sock
        self.framer = Framer()
        self.out: list[tuple[bytes, list[int]]] = []


class Control:
    """Answers daemons."""

    def __init__(self, epoll: select.epoll, listener: socket.socket, gates: Gates, relay: Relay, life: Life) -> None:
        """Listen on a bound socket."""
        self.life = life
        self._epoll = epoll
        self._listener = listener
        self._gates = gates
        self._relay = relay
        self._peers: dict[int, Peer] = {}
        self._answers: dict[str, Callable[[Json, list[int]], Answer]] = {
            "hello": self._hello,
            "lend": self._lend,
            "retire": self._retire,
            "set": self._set,
            "drop": self._drop,
            "part": self._part_with,
            "serving": self._serving,
            "counters": self._counters,
        }
        listener.settimeout(0)
        epoll.register(listener.fileno(), select.EPOLLIN)

    def event(self, fd: int, events: int) -> None:
        """Act on what epoll said of one of our descriptors."""
        if fd == self._listener.fileno():
            self._accept()
        elif (peer := self._peers.get(fd)) is not None:
            try:
                if events & select.EPOLLOUT:
                    self._send(peer)
                if events & ~select.EPOLLOUT:
                    self._receive(peer)
            except (OSError, WireError):  # the daemon has gone, or is not ours: it can connect again
                self._part(peer)

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except OSError:  # gone again, or no descriptor left: it will ask again
            return
        sock.settimeout(0)
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid not in {0, os.getuid()} or len(self._peers) >= _MAX_PEERS:
            sock.close()
            return
        self._peers[sock.fileno()] = Peer(sock)
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def _part(self, peer: Peer) -> None:
        self._epoll.unregister(peer.sock.fileno())
        del self._peers[peer.sock.fileno()]
        for fd in peer.framer.leftovers():
            os.close(fd)
        peer.sock.close()

    def _receive(self, peer: Peer) -> None:
        chunk, fds, _, _ = socket.recv_fds(peer.sock, _CHUNK, MAX_FDS, socket.MSG_CMSG_CLOEXEC)
        if not chunk:
            raise WireError("closed")
        for message, lent in peer.framer.feed(chunk, fds):
            answer, given = self._answer(message, lent)
            length, body = render(answer)
            peer.out += [(length, given), (body, [])]
        self._send(peer)

    def _answer(self, message: Json, fds: list[int]) -> Answer:
        answer = self._answers.get(str(message.get("do")), _answer_unknown)
        try:
            reply, given = answer(message, fds)
        except WireError as error:
            return {"ok": False, "error": str(error)}, []
        return {"ok": True, **reply}, given

    def _send(self, peer: Peer) -> None:
        while peer.out:
            chunk, fds = peer.out[0]
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
            try:
                sent = peer.sock.sendmsg([chunk], rights)
            except BlockingIOError:
                break
            peer.out[0] = (chunk[sent:], [])
            if sent == len(chunk):
                del peer.out[0]
        self._epoll.modify(peer.sock.fileno(), select.EPOLLIN | (select.EPOLLOUT if peer.out else 0))

    def _hello(self, _message: Json, _fds: list[int]) -> Answer:
        return {"protocol": PROTOCOL, "retiring": self.life.retiring, **self.life.facts}, []

    def _page(self, message: Json, size: int, *, lendable: bool = False) -> tuple[list[Gate], bool]:
        """Select so many from the one asked for on; fewer where they are large, but never none."""
        start = integer(message.get("from", 0), 0, 1 << 31)
        every = self._gates.by_fd if lendable else self._gates.by_key
        gates: list[Gate] = []
        bytes_left = _PAGE_BYTES
        for gate in islice(every.values(), start, start + size):
            bytes_left -= gate.route.size_bytes
            if gates and bytes_left < 0:
                break
            gates.append(gate)
        return gates, start + len(gates) < len(every)

    def _lend(self, message: Json, _fds: list[int]) -> Answer:
        gates, more = self._page(message, MAX_FDS, lendable=True)
        fds = [gate.listener for gate in gates]
        return {"frontends": [gate.key for gate in gates], "more": more, "fds": len(fds)}, fds

    def _retire(self, message: Json, _fds: list[int]) -> Answer:
        seconds = message.get("seconds")
        self.life.deadline = None if seconds is None else self._relay.now + integer(seconds, 0, MAX_SECONDS)
        self.life.retiring = True
        self._gates.close()
        return {}, []

    def _set(self, message: Json, fds: list[int]) -> Answer:
        missing: list[object] = []
        lent = iter(fds)
        unused = list(fds)
        try:
            for item in sequence(message.get("rules")):
                if not isinstance(item, dict):
                    raise WireError("a rule is an object")
                key, where = parse_frontend(item.get("frontend"))
                listener = next(lent, None) if item.get("lent") is True else None
                if not self._gates.update(key, where, item, listener):
                    missing.append(key)
                elif listener is not None:
                    unused.remove(listener)
        finally:
            for fd in unused:
                os.close(fd)
        return {"missing": missing}, []

    def _drop(self, message: Json, _fds: list[int]) -> Answer:
        for item in sequence(message.get("frontends")):
            match sequence(item):
                case [frontend, seconds]:
                    self._gates.drop(parse_frontend(frontend)[0], integer(seconds, 0, MAX_SECONDS))
                case _:
                    raise WireError("a frontend and its seconds")
        return {}, []

    def _part_with(self, message: Json, _fds: list[int]) -> Answer:
        for frontend in sequence(message.get("frontends")):
            self._gates.part(parse_frontend(frontend)[0])
        return {}, []

    def _serving(self, message: Json, _fds: list[int]) -> Answer:
        gates, more = self._page(message, _PAGE)
        return {"rules": [{"frontend": gate.key, **gate.route.rule} for gate in gates], "more": more}, []

    def _counters(self, message: Json, _fds: list[int]) -> Answer:
        gates, more = self._page(message, _PAGE)
        frontends = [_count(gate) for gate in gates]
        return {"frontends": frontends, "more": more, "flows": self._relay.live, "paused": self._gates.paused}, []


def _answer_unknown(message: Json, fds: list[int]) -> Answer:
    for fd in fds:
        os.close(fd)
    raise WireError(f"do {message.get('do')!r:.40} is not known here")


def _count(gate: Gate) -> list[object]:
    tally, live = gate.tally, gate.connections
    bytes_in = tally.moved[0] + sum(conn.up.moved for conn in live)
    bytes_out = tally.moved[1] + sum(conn.down.moved for conn in live)
    backends = [[*backend, seen.accepted, seen.active] for backend, seen in gate.backends.items()]
    return [gate.key, tally.accepted, tally.active, tally.failed, bytes_in, bytes_out, backends]
