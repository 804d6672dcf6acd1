"""What `check` has to say: one finding for each thing that was looked at, with its remedy."""

from enum import StrEnum

from msgspec import Struct


class Level(StrEnum):
    """How much a finding of `check` matters."""

    OK = "ok"
    WARN = "warn"
    ERROR = "error"


class Finding(Struct, frozen=True, gc=False, kw_only=True):
    """One thing that `check` looked at, and what to do about it."""

    level: Level
    subject: str
    message: str
    remedy: str = ""
