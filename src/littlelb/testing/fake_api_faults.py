"""What goes wrong with which request to the fake API server, and what was asked of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Seen:
    """One request, as it arrived."""

    method: str
    path: str
    query: Mapping[str, str]
    at: float
    """Loop time, in seconds."""

    @property
    def watch(self) -> bool:
        """Is it a watch?"""
        return self.query.get("watch") in {"1", "true"}


@dataclass(slots=True)
class Fault:
    """What happens to the requests that match; several things can happen to one."""

    method: str = ".*"
    path: str = ".*"
    """Regular expressions that match the whole text."""
    watch: bool | None = None
    """Only watches, only others, or both."""
    skip: int = 0
    """So many matching requests pass unharmed first."""
    times: int | None = None
    """So many are hit then; None: all."""
    status: int | None = None
    """Answer this."""
    retry_after: int | None = None
    delay_seconds: float = 0.0
    """Say nothing for so long first."""
    swallow: bool = False
    """Never answer."""
    silent: bool = False
    """Answer a watch with headers, and nothing after them."""
    cut_after_bytes: int | None = None
    """Reset the connection after so many bytes of the body."""
    end_at_once: bool = False
    """End a watch in order before its first event."""
    bytewise: bool = False
    """Send every byte of the body by itself."""
    first_line: bytes | None = None
    """Send this first, then go on."""
    error_event: int | None = None
    """A watch whose first event is an ERROR with this code, then its end."""
    hits: int = 0
    """How often it has struck."""
    _matched: int = field(default=0, repr=False)

    def strikes(self, seen: Seen) -> bool:
        """Count a request; does it go wrong?"""
        if not re.fullmatch(self.method, seen.method) or not re.fullmatch(self.path, seen.path):
            return False
        if self.watch is not None and self.watch != seen.watch:
            return False
        self._matched += 1
        if self._matched <= self.skip or (self.times is not None and self.hits >= self.times):
            return False
        self.hits += 1
        return True


NO_FAULT = Fault()


@dataclass(slots=True)
class FaultPlan:
    """All faults there are; the first that strikes counts."""

    faults: list[Fault] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    """Every request so far."""

    def add(self, fault: Fault) -> Fault:
        """From now on this goes wrong."""
        self.faults.append(fault)
        return fault

    def clear(self) -> None:
        """All is well again."""
        self.faults.clear()

    def meet(self, seen: Seen) -> Fault:
        """Remember a request and return what goes wrong with it."""
        self.seen.append(seen)
        return next((fault for fault in self.faults if fault.strikes(seen)), NO_FAULT)
