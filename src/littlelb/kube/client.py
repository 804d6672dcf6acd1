"""Speaks REST to the API server: get, list by pages, watch, create and patch of typed resources.

The shapes that every decoder fills are here too: Page for one page of a list, WatchEvent for one line of a watch,
ApiStatus for a refusal (meta/v1 Status).
"""

from enum import StrEnum
from typing import Generic, TypeVar

from msgspec import Struct

T = TypeVar("T")


class ApiStatus(Struct, frozen=True, gc=False, rename="camel"):
    """meta/v1 Status: why a request or a watch failed."""

    code: int = 0
    reason: str = ""
    message: str = ""


class Page(Struct, Generic[T], frozen=True):
    """One page of a LIST, decoded."""

    items: tuple[T, ...]
    resource_version: str
    """Of the whole list: where a watch goes on."""
    continue_: str = ""
    """Token of the next page; empty on the last."""
    remaining: int | None = None
    """`remainingItemCount`, where the server knows it."""


class EventType(StrEnum):
    """`type` of a watch event."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"
    ERROR = "ERROR"


class WatchEvent(Struct, Generic[T], frozen=True):
    """One line of a watch, decoded."""

    type: EventType
    object: T | ApiStatus | None
    """T for ADDED, MODIFIED and DELETED; ApiStatus for ERROR; None for BOOKMARK."""
    resource_version: str = ""
    """Of the object; where a watch goes on. Empty for ERROR."""
    initial_events_end: bool = False
    """A BOOKMARK with the annotation `k8s.io/initial-events-end`."""
