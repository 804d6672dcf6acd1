"""A Kubernetes API server of our own for tests, in this process: HTTP on loopback in front of a Cluster.

    async with FakeApi() as api: Transport(FixedCredentials(api.url)) …; api.cluster.create(…); api.faults.add(Fault(…))

What it claims is held to a real kube-apiserver by tests/contract. It has no admission, no controllers and no RBAC.
"""

import asyncio
import json
import re
import ssl
from collections.abc import Mapping
from types import TracebackType
from typing import Self
from urllib.parse import unquote

from aiohttp import web

from littlelb.testing.clock import LoopClock
from littlelb.testing.fake_api_cluster import Cluster, Writer
from littlelb.testing.fake_api_faults import NO_FAULT, Fault, FaultPlan, Seen
from littlelb.testing.fake_api_rules import RULES, Refused
from littlelb.testing.fake_api_store import Json, Name, Store
from littlelb.testing.fake_api_watch import BookmarkPlan, watch_lines

_PATH = re.compile(
    r"/(?:api|apis/(?P<group>[^/]+))/v1(?:/namespaces/(?P<namespace>[^/]+)(?=/))?/(?P<plural>[^/]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<subresource>status))?"
)
_STRATEGIC = "application/strategic-merge-patch+json"
_MERGE = "application/merge-patch+json"
_FAULTS = {403: 'x is forbidden: User "tests" cannot use resource "x" in API group "": a fault'}
"""Texts of faults that have to read as a real server's."""


class FixedCredentials:
    """`kube.transport.Credentials` for tests: an address and perhaps tokens, used one after the other."""

    def __init__(self, server: str, *tokens: str, tls: ssl.SSLContext | None = None) -> None:
        """Start with the first token."""
        self.server = server
        self.proxy: str | None = None
        self.server_hostname: str | None = None
        self.generation = 1
        self.renewals = 0
        """How often somebody called `invalidate`."""
        self._tokens = tokens
        self._tls = tls

    def ssl_context(self) -> ssl.SSLContext | None:
        """TLS settings given at the start."""
        return self._tls

    async def authorize(self) -> Mapping[str, str]:
        """Headers with the current token."""
        if not self._tokens:
            return {}
        return {"Authorization": f"Bearer {self._tokens[min(self.renewals, len(self._tokens) - 1)]}"}

    def invalidate(self) -> None:
        """Go on to the next token."""
        self.renewals += 1


class FakeApi:
    """The server; an asynchronous context manager."""

    def __init__(
        self, store: Store | None = None, tls: ssl.SSLContext | None = None, bookmark_seconds: float = 60.0
    ) -> None:
        """Prepare; nothing listens yet."""
        self._clock = LoopClock()
        self.cluster = Cluster(self._clock.now, store)
        self.faults = FaultPlan()
        self.tokens: set[str] | None = None
        """Bearer tokens that are accepted; None: everybody is."""
        self._tls = tls
        self._bookmarks = BookmarkPlan(bookmark_seconds)
        self._runner: web.ServerRunner | None = None
        self._address = ("127.0.0.1", 0)

    @property
    def url(self) -> str:
        """`http://127.0.0.1:port`, or https."""
        return f"{'https' if self._tls else 'http'}://{self._address[0]}:{self._address[1]}"

    async def start(self) -> None:
        """Listen; after a `stop`, on the same port."""
        server = web.Server(self._serve, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.01)  # 0 would wait for open watches
        await self._runner.setup()
        site = web.TCPSite(self._runner, *self._address, ssl_context=self._tls, reuse_address=True)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self._address = (host, port)

    async def stop(self) -> None:
        """Close every connection and the port; what is stored stays."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # --- one request ---

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        seen = Seen(request.method, unquote(request.path), dict(request.query), self._clock.monotonic())
        fault = self.faults.meet(seen)
        await asyncio.sleep(fault.delay_seconds)
        if fault.swallow:
            await asyncio.Event().wait()
        try:
            self._admit(request, fault)
            if seen.watch:
                return await self._watch(request, seen, fault)
            code, thing = self._answer(request, seen, await request.read())
        except Refused as refusal:
            return await _send(request, refusal.code, _status(refusal), fault)
        return await _send(request, code, thing, fault)

    def _admit(self, request: web.BaseRequest, fault: Fault) -> None:
        if fault.status is not None:
            raise Refused(fault.status, "Fault", _FAULTS.get(fault.status, f"a fault with status {fault.status}"))
        if self.tokens is not None:
            token = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if token not in self.tokens:
                raise Refused(401, "Unauthorized", "Unauthorized")

    def _answer(self, request: web.BaseRequest, seen: Seen, body: bytes) -> tuple[int, Json]:
        if seen.path == "/version":
            return 200, {"major": "1", "minor": "37", "gitVersion": "v1.37.2"}
        name, subresource = _parse_path(seen.path)
        if request.method == "GET":
            if not name.name:
                return 200, self.cluster.list(name.resource, name.namespace, seen.query)
            return 200, self.cluster.get(name)
        writer = Writer(seen.query.get("fieldManager") or _agent(request), subresource)
        return self._write(request, name, writer, body)

    def _write(self, request: web.BaseRequest, name: Name, writer: Writer, body: bytes) -> tuple[int, Json]:
        match request.method:
            case "POST":
                return 201, self.cluster.create(name, _parse(body), writer)
            case "PUT":
                return 200, self.cluster.replace(name, _parse(body), writer)
            case "PATCH":
                return 200, self._patch(request.content_type, name, _parse(body), writer)
            case "DELETE":
                return 200, self.cluster.delete(name)
            case _:
                raise Refused(405, "MethodNotAllowed", f"{request.method} is not supported")

    def _patch(self, content_type: str, name: Name, patch: Json, writer: Writer) -> Json:
        if content_type not in {_STRATEGIC, _MERGE}:
            raise Refused(415, "UnsupportedMediaType", f"{content_type} is not supported")
        return self.cluster.patch(name, patch, writer, strategic=content_type == _STRATEGIC)

    # --- a watch ---

    async def _watch(self, request: web.BaseRequest, seen: Seen, fault: Fault) -> web.StreamResponse:
        name, _ = _parse_path(seen.path)
        lines = watch_lines(self.cluster.store, name, seen.query, self._bookmarks)
        body = await _Body.open(request, 200, {}, fault)
        if fault.silent:
            await asyncio.Event().wait()
        if fault.error_event is not None:
            refusal = Refused(fault.error_event, "Expired" if fault.error_event == 410 else "Fault", "a fault")
            await body.write(json.dumps({"type": "ERROR", "object": _status(refusal)}).encode() + b"\n")
        elif not fault.end_at_once:
            if fault.first_line is not None:
                await body.write(fault.first_line + b"\n")
            async for line in lines:
                await body.write(line)
        await lines.aclose()
        return await body.end()


class _Body:
    """The body of an answer, as far as a fault lets it through."""

    def __init__(self, request: web.BaseRequest, response: web.StreamResponse, fault: Fault) -> None:
        self._request = request
        self._response = response
        self._fault = fault
        self._sent = 0

    @classmethod
    async def open(cls, request: web.BaseRequest, code: int, headers: Mapping[str, str], fault: Fault) -> Self:
        response = web.StreamResponse(status=code, headers={"Content-Type": "application/json", **headers})
        await response.prepare(request)
        return cls(request, response, fault)

    async def write(self, chunk: bytes) -> None:
        cut = self._fault.cut_after_bytes
        if cut is not None and self._sent + len(chunk) >= cut:
            if allowed := chunk[: cut - self._sent]:
                await self._response.write(allowed)
            await asyncio.sleep(0)
            if self._request.transport is not None:
                self._request.transport.abort()
            raise ConnectionResetError("cut by a fault")
        self._sent += len(chunk)
        pieces = [chunk[at : at + 1] for at in range(len(chunk))] if self._fault.bytewise else [chunk]
        for piece in pieces:
            await self._response.write(piece)

    async def end(self) -> web.StreamResponse:
        await self._response.write_eof()
        return self._response


async def _send(request: web.BaseRequest, code: int, thing: Json, fault: Fault = NO_FAULT) -> web.StreamResponse:
    headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after is not None else {}
    body = await _Body.open(request, code, headers, fault)
    await body.write(json.dumps(thing).encode())
    return await body.end()


def _parse_path(path: str) -> tuple[Name, str]:
    match = _PATH.fullmatch(path)
    resource = f"{match['group'] or ''}/{match['plural']}" if match else ""
    if match is None or resource not in RULES:
        raise Refused(404, "NotFound", "the server could not find the requested resource")
    return Name(resource, match["namespace"] or "", match["name"] or ""), match["subresource"] or ""


def _parse(body: bytes) -> Json:
    try:
        thing = json.loads(body)
    except ValueError:
        thing = None
    if not isinstance(thing, dict):
        raise Refused(400, "BadRequest", "the object provided is unrecognized")
    return thing


def _agent(request: web.BaseRequest) -> str:
    return request.headers.get("User-Agent", "unknown").partition("/")[0]


def _status(refusal: Refused) -> Json:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Failure",
        "message": refusal.message,
        "reason": refusal.reason,
        "code": refusal.code,
    }
