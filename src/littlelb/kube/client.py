"""Speaks REST to the API server: get, list by pages, watch, create, replace and patch of resources.

The shapes that every decoder fills are here too: Page for one page of a list, WatchEvent for one line of a watch,
ApiStatus for a refusal (meta/v1 Status). Answers other than 2xx become errors:

    Transient ── Gone       410: the resourceVersion or the continue token is too old: list again
              ├─ Conflict   409: the object changed, or exists: read it again
              ├─ NotFound   404: there is no such object (any more); 403: its namespace is being deleted
              └─ Invalid    422, 400: the server will not have this text: read again and recompute
    Permanent               401, 403: the message holds the remedy
"""

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Generic, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Struct

from littlelb.core.errors import Permanent, Transient, WorldError
from littlelb.kube.transport import Answer, Request, Stream, Transport

T = TypeVar("T")

FIELD_MANAGER = "littlelb"
PAGE_ITEMS = 500
PING_SECONDS = 10.0
OBJECT_SECONDS = 20.0
"""For a request about one object: nobody's pass through the loop waits longer for one Service."""
MAX_LINE_BYTES = 16 * 1024 * 1024


class StatusCause(Struct, frozen=True, gc=False):
    """meta/v1 StatusCause, by its reason."""

    reason: str = ""


class StatusDetails(Struct, frozen=True, gc=False):
    """meta/v1 StatusDetails, by its causes."""

    causes: tuple[StatusCause, ...] = ()


class ApiStatus(Struct, frozen=True, gc=False, rename="camel"):
    """meta/v1 Status: why a request or a watch failed."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: StatusDetails | None = None


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


class Gone(Transient):
    """410: what was asked for is no longer in the server's history."""


class Conflict(Transient):
    """409: somebody else was faster."""


class NotFound(Transient):
    """404."""


class Invalid(Transient):
    """422 or 400: the server refuses the object as it would be."""


class PatchType(StrEnum):
    """How a patch is merged; the values are content types."""

    STRATEGIC = "application/strategic-merge-patch+json"
    MERGE = "application/merge-patch+json"


class Resource(Struct, frozen=True, gc=False):
    """A kind of object as the API's paths name it."""

    group: str
    """Empty for core."""
    version: str
    plural: str

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """Build the path of a collection (no name) or of an object; an empty namespace is all, or none."""
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        parts = ["namespaces", namespace] if namespace else []
        parts += [part for part in (self.plural, name, subresource) if part]
        return "/".join([root, *(quote(part, safe="") for part in parts)])


SERVICES = Resource("", "v1", "services")
NODES = Resource("", "v1", "nodes")
ENDPOINT_SLICES = Resource("discovery.k8s.io", "v1", "endpointslices")
EVENTS = Resource("events.k8s.io", "v1", "events")
LEASES = Resource("coordination.k8s.io", "v1", "leases")


class Selection(Struct, frozen=True, gc=False):
    """Which objects of a resource to list or to watch."""

    resource: Resource
    namespace: str = ""
    """Empty: all."""
    labels: str = ""
    fields: str = ""

    @property
    def query(self) -> dict[str, str]:
        """Selectors as query parameters."""
        wanted = {"labelSelector": self.labels, "fieldSelector": self.fields}
        return {name: value for name, value in wanted.items() if value}


class Reference(Struct, frozen=True, gc=False):
    """One object, or, without a name, the collection that a new one is put into."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def path(self) -> str:
        """Its path."""
        return self.resource.path(self.namespace, self.name, self.subresource)

    def __str__(self) -> str:
        """`services default/web`, for messages."""
        where = "/".join(part for part in (self.namespace, self.name) if part)
        what = "/".join(part for part in (self.resource.plural, self.subresource) if part)
        return f"{what} {where}".rstrip()


class LineSplitter:
    """Cuts a stream of bytes into lines, however the bytes come; a line may have up to 16 MiB."""

    def __init__(self, limit: int = MAX_LINE_BYTES) -> None:
        """Start with nothing."""
        self._rest = bytearray()
        self._limit = limit

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that `chunk` completes, without their ends and without empty ones. Raises `Transient`."""
        if b"\n" not in chunk:
            self._rest += chunk
            self._check()
            return []
        first, *others = chunk.split(b"\n")
        lines = [bytes(self._rest + first), *others[:-1]]
        self._rest = bytearray(others[-1])
        self._check()
        return [line for line in lines if line.strip()]

    def _check(self) -> None:
        if len(self._rest) > self._limit:
            raise Transient(f"the API server sent a line of more than {self._limit} bytes")


class Watch:
    """An open watch: lines as they come."""

    def __init__(self, stream: Stream) -> None:
        """Wrap a stream that was answered with 200."""
        self._stream = stream
        self._lines = LineSplitter()

    async def read(self) -> list[bytes] | None:
        """Return the lines of the next bytes, perhaps none; None at the end. It can be cancelled without loss."""
        chunk = await self._stream.read()
        return self._lines.feed(chunk) if chunk else None


class Api:
    """The API server. Every method raises `Transient`, one of its children, or `Permanent`."""

    def __init__(self, transport: Transport) -> None:
        """Speak through this transport."""
        self._transport = transport

    async def get(self, what: Reference) -> bytes:
        """Read one object, as JSON."""
        return await self._ask("get", what, Request("GET", what.path, timeout_seconds=OBJECT_SECONDS))

    async def list_page(self, what: Selection, decode: Callable[[bytes], Page[T]], continue_: str = "") -> Page[T]:
        """Read one page of a consistent list: the first, or the one that a token of the page before names."""
        query = what.query | {"limit": str(PAGE_ITEMS)} | ({"continue": continue_} if continue_ else {})
        request = Request("GET", what.resource.path(what.namespace), query)
        return decode(await self._ask("list", Reference(what.resource, what.namespace), request))

    @asynccontextmanager
    async def watch(self, what: Selection, resource_version: str, timeout_seconds: int) -> AsyncIterator[Watch]:
        """Hear what changes after `resource_version`, for so long at most, with bookmarks."""
        query = what.query | {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(timeout_seconds),
        }
        async with self._transport.stream(Request("GET", what.resource.path(what.namespace), query)) as stream:
            if stream.code != 200:
                raise parse_refusal(await stream.rest(), "watch", Reference(what.resource, what.namespace))
            yield Watch(stream)

    async def create(self, where: Reference, body: bytes) -> bytes:
        """Create an object; the answer is the object as stored."""
        return await self._ask("create", where, _write("POST", where, body))

    async def replace(self, what: Reference, body: bytes) -> bytes:
        """Replace an object (PUT); with a resourceVersion in it, a change meanwhile is a `Conflict`."""
        return await self._ask("update", what, _write("PUT", what, body))

    async def patch(self, what: Reference, body: bytes, kind: PatchType = PatchType.STRATEGIC) -> bytes:
        """Change parts of an object; with a resourceVersion in the patch, a change meanwhile is a `Conflict`."""
        return await self._ask("patch", what, _write("PATCH", what, body, kind.value))

    async def ping(self) -> None:
        """Ask for the version, which everybody may: does the server answer within 10 s?"""
        answer = await self._transport.fetch(Request("GET", "/version", timeout_seconds=PING_SECONDS))
        if answer.code >= 500:
            raise Transient(f"{self._transport.server} answers {answer.code}", answer.retry_after_seconds)

    async def _ask(self, verb: str, what: Reference, request: Request) -> bytes:
        answer = await self._transport.fetch(request)
        if not 200 <= answer.code < 300:
            raise parse_refusal(answer, verb, what)
        return answer.body


def _write(method: str, what: Reference, body: bytes, content_type: str = "application/json") -> Request:
    return Request(method, what.path, {"fieldManager": FIELD_MANAGER}, body, content_type, OBJECT_SECONDS)


def parse_refusal(answer: Answer, verb: str, what: Reference) -> WorldError:
    """Turn an answer that is no success into the error to raise."""
    try:
        status = msgspec.json.decode(answer.body, type=ApiStatus)
    except msgspec.MsgspecError:
        status = ApiStatus()  # a proxy's page, or nothing at all: the code has to do
    said = status.message or f"HTTP status {answer.code}"
    match answer.code:
        case 401:
            return Permanent(f"cannot {verb} {what}: our credentials are not accepted (401): renew them ({said})")
        case 403:
            return _forbidden(status, verb, what)
        case _:
            return _transient(answer, f"cannot {verb} {what}: {said}")


_FROM_AUTHORIZER = re.compile(r" cannot \w+ resource ")
"""As RBAC says it, and all other authorizers of the API server: the text is made in one place."""


def _forbidden(status: ApiStatus, verb: str, what: Reference) -> WorldError:
    """Tell what the role does not allow from what admission refuses: quotas, webhooks, a namespace that goes."""
    if any(cause.reason == "NamespaceTerminating" for cause in (status.details or StatusDetails()).causes):
        return NotFound(f"cannot {verb} {what}: its namespace is being deleted")
    if status.message and not _FROM_AUTHORIZER.search(status.message):
        return Permanent(f"cannot {verb} {what}: the API server does not allow it: {status.message}")
    plural = f"{what.resource.plural}/{what.subresource}".rstrip("/")
    return Permanent(
        f"cannot {verb} {what}: the role lacks the verb {verb} on {plural} of API group"
        f" {what.resource.group or 'core'!r}: apply the role that comes with littlelb"
        f" ({status.message or 'HTTP status 403'})"
    )


_BY_CODE: Mapping[int, type[Transient]] = {400: Invalid, 404: NotFound, 409: Conflict, 410: Gone, 422: Invalid}


def _transient(answer: Answer, message: str) -> Transient:
    return _BY_CODE.get(answer.code, Transient)(message, answer.retry_after_seconds)
