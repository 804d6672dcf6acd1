"""The exception tree. Refusals are not in it: they are values (`core.model.Refusal`).

    LittlelbError
    ├── ConfigError      bad configuration: all errors at once; exit 2, or on reload the old one stays
    └── WorldError       the world failed, caught at a target's edge and turned into a `Failure`
        ├── Transient    may pass: 503, 409, EBUSY; backoff and retry
        └── Permanent    will not pass by itself: 403, EPERM; the text holds the remedy; retried at resync

Any other exception is our bug: it falls through the TaskGroup and ends the process; the kernel's state stays.
"""

from collections.abc import Sequence


class LittlelbError(Exception):
    """Root of the errors we raise on purpose."""


class ConfigError(LittlelbError):
    """The configuration is wrong; `errors` lists everything that is, one line each."""

    def __init__(self, errors: Sequence[str]) -> None:
        """Keep the list and join it for `str()`."""
        super().__init__("\n".join(errors))
        self.errors = tuple(errors)


class WorldError(LittlelbError):
    """The world outside of this process did not do what it was asked."""


class Transient(WorldError):
    """May pass by itself; `retry_after_seconds` is what the other side asked for, if it did."""

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        """Keep the wish of the other side beside the message."""
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Permanent(WorldError):
    """Will not pass by itself; the message says what to do."""
