"""Hears when somebody else touches our table, and calls for a full pass, which repairs what is not as it was."""

import asyncio
from collections.abc import Callable, Collection
from typing import Protocol

import structlog

from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.events import Change, Commit, Event, Lost
from littlelb.dataplane.netfilter.wire import Malformed
from littlelb.dataplane.nft.ruleset import TABLE

_log = structlog.get_logger(__name__)


class Events(Protocol):
    """What is asked of `netfilter.event_socket.EventSocket`."""

    def fileno(self) -> int:
        """Readable when something waits."""
        ...

    def receive(self) -> list[Event]:
        """All that waits."""
        ...

    def close(self) -> None:
        """Close it."""
        ...


class Watch:
    """Between the kernel's notifications and the loop's hint."""

    def __init__(self, events: Events, on_touch: Callable[[], None]) -> None:
        """`events` do not tell of what our own sockets do."""
        self._events = events
        self._on_touch = on_touch
        self._called = False

    def start(self) -> None:
        """Begin to listen, in the running loop."""
        asyncio.get_running_loop().add_reader(self._events.fileno(), self._hear)

    def rearm(self) -> None:
        """The full pass begins: what happens from now on may need another."""
        self._called = False

    def close(self) -> None:
        """Stop listening."""
        self.pause()
        self._events.close()

    def pause(self) -> None:
        """Let notifications wait: soon there are some of a process whose id we do not know yet."""
        asyncio.get_running_loop().remove_reader(self._events.fileno())

    def resume(self, own: int) -> None:
        """Go on; what the socket with the port `own` did (nft's is its process id) was done for us."""
        self._hear({own})
        self.start()

    def _hear(self, own: Collection[int] = ()) -> None:
        while events := self._receive():
            touch = next((event for event in events if is_touch(event, own)), None)
            if touch is not None and not self._called:
                self._called = True
                _log.warning("nft.touched", **_describe(touch))
                self._on_touch()

    def _receive(self) -> list[Event]:
        try:
            return self._events.receive()
        except Malformed:  # it is read and gone, whatever it was
            return [Lost()]


def is_touch(event: Event, own: Collection[int]) -> bool:
    """Does it say that somebody else changed our table, or may have?"""
    match event:
        case Commit():
            return False
        case Change(family=family, table=table, port=port):
            return family == wire.NFPROTO_INET and table == TABLE and port not in own
        case _:
            return True


def _describe(event: Event) -> dict[str, str | int]:
    if isinstance(event, Change):
        return {"what": event.kind.name, "name": event.name or "", "port": event.port}
    return {"what": "some notifications were lost"}
