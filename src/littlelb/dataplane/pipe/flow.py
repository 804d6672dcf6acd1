"""The life of one connection as a pure state machine: each event of its two sockets gives the next step.

    CONNECTING ──connect_ok──► OPEN ──eof of both sides──► CLOSED (each byte delivered, FIN to both)
      │    ▲                    │
      │    └─connect_failed─┐   ├─eof of one side: the other gets FIN, bytes still go back (RFC 9293)
      │      (next backend) │   └─error of either side, expire ──► CLOSED (RST to both)
      └─────────────────────┴─no backend left, client gone ──► CLOSED (RST)

Nothing is read from the client before the backend has answered, so a retry loses no bytes.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Final

Backend = tuple[str, int]
"""Address as text, port."""

CLIENT: Final = 0
BACKEND: Final = 1


class State(IntEnum):
    """Where a connection stands."""

    CONNECTING = 0
    OPEN = 1
    CLOSED = 2


class Step(IntEnum):
    """What the worker does next."""

    WAIT = 0
    CONNECT = 1
    """Open a connection to `flow.backend`."""
    PUMP = 2
    """The way is open: deliver what the client has said so far."""
    SHUT_CLIENT = 3
    """No more bytes for the client: FIN."""
    SHUT_BACKEND = 4
    CLOSE = 5
    """Close both; what the kernel still holds is delivered."""
    RESET = 6
    """Close both with RST."""


# Looked up once: a member by its class costs five times a global, and each connection asks for some ten.
_CONNECTING, _OPEN, _CLOSED = State.CONNECTING, State.OPEN, State.CLOSED
_WAIT, _CONNECT, _PUMP, _CLOSE, _RESET = Step.WAIT, Step.CONNECT, Step.PUMP, Step.CLOSE, Step.RESET
_SHUT_CLIENT, _SHUT_BACKEND = Step.SHUT_CLIENT, Step.SHUT_BACKEND


class Flow:
    """State of one connection; the worker's class adds the descriptors."""

    __slots__ = ("backend", "state", "tried", "unfinished")

    def __init__(self) -> None:
        """Start before the first backend was chosen."""
        self.state = _CONNECTING
        self.backend: Backend | None = None
        self.tried: tuple[Backend, ...] = ()
        self.unfinished = [True, True]
        """By side: may it still send?"""

    def begin(self, backend: Backend | None) -> Step:
        """Accepted, with this backend chosen; None: there is none."""
        if backend is None:
            return self._end(_RESET)
        self.backend = backend
        return _CONNECT

    def connect_ok(self) -> Step:
        """The backend has answered."""
        if self.state is not _CONNECTING:
            return _WAIT
        self.state = _OPEN
        return _PUMP

    def connect_failed(self, alternatives: Sequence[Backend]) -> Step:
        """The backend refused, timed out or went away; `alternatives` are the backends of now, best first."""
        if self.state is not _CONNECTING:
            return self.error()
        if self.backend is not None:
            self.tried = (*self.tried, self.backend)
        self.backend = next((backend for backend in alternatives if backend not in self.tried), None)
        return self._end(_RESET) if self.backend is None else _CONNECT

    def eof(self, side: int) -> Step:
        """All that this side sent has been delivered, and it will send no more."""
        if self.state is not _OPEN or not self.unfinished[side]:
            return _WAIT
        self.unfinished[side] = False
        if not self.unfinished[1 - side]:
            return self._end(_CLOSE)
        return _SHUT_BACKEND if side == CLIENT else _SHUT_CLIENT

    def error(self) -> Step:
        """One side was reset or cannot be written to; the other is told the same way."""
        return _WAIT if self.state is _CLOSED else self._end(_RESET)

    def expire(self) -> Step:
        """Its time is over: drained, withdrawn, or silent for too long."""
        return self.error()

    def _end(self, step: Step) -> Step:
        self.state = _CLOSED
        return step
