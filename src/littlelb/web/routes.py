"""What HTTP requests are answered: health, metrics, status, the page.

Read-only. A page of another site cannot read it through a visitor's browser: no CORS, and names in the Host header are
refused, because a name is what DNS rebinding needs; a literal address, localhost and this machine's name are fine.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import ip_address

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from littlelb.core.errors import WorldError
from littlelb.core.shown.status import StatusReport, compute_unready, encode
from littlelb.core.trace.packet import Entering, Packet, Trace, parse_packet
from littlelb.web import metrics, pages

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": pages.CONTENT_SECURITY_POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "Server": "littlelb",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True, slots=True)
class Views:
    """What the server asks the rest of the program for, at each request."""

    report: Callable[[], Awaitable[StatusReport]]
    details: Callable[[], Awaitable[StatusReport]]
    """The same with every backend of every Service."""
    metrics: Callable[[StatusReport], bytes]
    """Called in a thread: with very many Services it takes longer than the loop may stand still."""
    stuck: Callable[[], str]
    """Why the process should be restarted; empty: it is alive."""
    trace: Callable[[Packet], Awaitable[Trace]]
    """What a packet would meet. Raises WorldError."""


def build_public_app(views: Views, host_names: frozenset[str] = frozenset()) -> web.Application:
    """Build what TCP serves; `host_names` are allowed in the Host header besides literal addresses and localhost."""

    async def healthz(_request: web.Request) -> web.Response:
        why = views.stuck()
        return web.Response(text=f"{why or 'ok'}\n", status=503 if why else 200)

    async def readyz(_request: web.Request) -> web.Response:
        why = compute_unready(await views.report())
        return web.Response(text="\n".join(why or ("ok",)) + "\n", status=503 if why else 200)

    async def scrape(_request: web.Request) -> web.Response:
        body = await asyncio.to_thread(views.metrics, await views.report())
        return web.Response(body=body, headers={"Content-Type": metrics.CONTENT_TYPE})

    async def page(_request: web.Request) -> web.Response:
        return web.Response(text=pages.render_page(await views.report()), content_type="text/html")

    app = web.Application(
        middlewares=[_check_host(frozenset(name.lower() for name in host_names) | {"localhost"}), _harden]
    )
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", scrape)
    app.router.add_get("/status", _status(views))
    app.router.add_get("/", page)
    return app


def build_private_app(views: Views) -> web.Application:
    """Build what the Unix socket serves."""
    app = web.Application()
    app.router.add_get("/status", _status(views))
    app.router.add_get("/trace", _trace(views))
    return app


def _status(views: Views) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def status(_request: web.Request) -> web.Response:
        return web.Response(body=encode(await views.details()), content_type="application/json")

    return status


def _trace(views: Views) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def trace(request: web.Request) -> web.Response:
        asked = request.query
        try:
            entering = Entering(asked.get("entering", Entering.LINK))
            packet = parse_packet(asked.get("source", ""), asked.get("destination", ""), entering)
            found = await views.trace(packet)
        except ValueError as error:
            return web.Response(text=str(error), status=400)
        except WorldError as error:
            return web.Response(text=str(error), status=503)
        return web.Response(body=encode(found), content_type="application/json")

    return trace


def _check_host(names: frozenset[str]) -> Middleware:
    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not is_host_allowed(request.headers.get("Host", ""), names):
            return web.Response(text="ask by address, not by a name that is not mine\n", status=421, headers=_HEADERS)
        return await handler(request)

    return check


@web.middleware
async def _harden(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        response = await handler(request)
    except web.HTTPException as refused:  # 404, 405: aiohttp's way to answer
        refused.headers.update(_HEADERS)
        raise
    response.headers.update(_HEADERS)
    return response


def is_host_allowed(header: str, names: frozenset[str]) -> bool:
    """Is this Host header (RFC 9110 section 7.2) one that DNS rebinding cannot make? Its port does not matter."""
    if header.startswith("["):
        host = header[1:].partition("]")[0]
    else:
        host = header.rpartition(":")[0] if ":" in header else header
    if host.lower().removesuffix(".") in names:
        return True
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
