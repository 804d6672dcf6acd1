"""A wire that tests write the answers for."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import pytest

from littlelb.announce.packets import Frame
from littlelb.announce.port import Device

OWN_MAC = bytes.fromhex("02005e005301")


@dataclass
class Wire:
    """Stands for the LAN: keeps what is sent, and answers as `answer` says; `refusal` is raised when it is opened."""

    sent: list[tuple[str, Frame]] = field(default_factory=list)
    answer: Callable[[Frame], list[Frame]] = lambda _: []
    refusal: OSError | None = None
    device: Device | None = field(default_factory=lambda: Device("eth0", OWN_MAC, asked=True))
    open_ports: int = 0

    def open(self, device: str, ethertype: int) -> "WirePort":
        """Open a port that hears one ethertype."""
        if self.refusal is not None:
            raise self.refusal
        self.open_ports += 1
        return WirePort(self, device, ethertype)

    def look(self, name: str) -> Device | None:
        """Return the device."""
        assert name == "eth0"
        return self.device


@dataclass
class WirePort:
    """A RawPort on the wire."""

    wire: Wire
    device: str
    ethertype: int
    heard: list[Frame] = field(default_factory=list)
    pipe: tuple[int, int] = field(default_factory=os.pipe)

    def fileno(self) -> int:
        """Readable while something was heard."""
        return self.pipe[0]

    async def send(self, frames: Iterable[Frame]) -> None:
        """Keep the frames, and hear the answers."""
        for frame in frames:
            self.wire.sent.append((self.device, frame))
            answers = [answer for answer in self.wire.answer(frame) if answer.ethertype == self.ethertype]
            if answers:
                os.write(self.pipe[1], b"!")
            self.heard += answers

    def receive(self) -> list[Frame]:
        """Return what was heard."""
        if self.heard:
            os.read(self.pipe[0], 4096)
        heard, self.heard = self.heard, []
        return heard

    def close(self) -> None:
        """Close the pipe."""
        self.wire.open_ports -= 1
        for end in self.pipe:
            os.close(end)


@pytest.fixture
def wire() -> Iterator[Wire]:
    """A silent LAN; every port must be closed in the end."""
    made = Wire()
    yield made
    deadline = time.monotonic() + 5
    while made.open_ports and time.monotonic() < deadline:  # closed in a thread
        time.sleep(0.001)
    assert made.open_ports == 0
