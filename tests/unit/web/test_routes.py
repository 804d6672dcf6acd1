"""What each path answers, and to whom."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from aiohttp.test_utils import TestClient, TestServer

from littlelb.core.errors import Permanent
from littlelb.core.shown.status import FailureLine, PassStatus, StatusReport, decode_report
from littlelb.core.trace.packet import Outcome, Packet, Trace
from littlelb.web.routes import Views, build_private_app, build_public_app, is_host_allowed

PERMANENT = PassStatus(
    number=1,
    finished=1.0,
    duration_seconds=0.1,
    changes=0,
    failures=(FailureLine("203.0.113.9", "NotPermitted", "run as root", permanent=True),),
)


async def never(_packet: Packet) -> Trace:
    """Be asked by nobody."""
    raise AssertionError


@asynccontextmanager
async def client(report: StatusReport, stuck: str = "") -> AsyncIterator[TestClient]:  # type: ignore[type-arg]
    """Ask the public app, which knows itself as LB-1."""

    async def short() -> StatusReport:
        return msgspec.structs.replace(report, services=())

    async def details() -> StatusReport:
        return report

    views = Views(
        report=short,
        details=details,
        metrics=lambda shown: f"pid {shown.daemon.pid}\n".encode(),
        stuck=lambda: stuck,
        trace=never,
    )
    async with TestClient(TestServer(build_public_app(views, frozenset({"LB-1"})))) as asked:
        yield asked


async def test_healthz(report: StatusReport) -> None:
    """Alive is 200; a stuck loop is 503 with the reason."""
    async with client(report) as ask:
        answer = await ask.get("/healthz")
        assert (answer.status, await answer.text()) == (200, "ok\n")
    async with client(report, "no pass for 300 s") as ask:
        answer = await ask.get("/healthz")
        assert (answer.status, await answer.text()) == (503, "no pass for 300 s\n")


async def test_readyz(report: StatusReport) -> None:
    """Ready is 200; a failure that will not pass by itself is 503 with the reason."""
    async with client(report) as ask:
        assert (await ask.get("/readyz")).status == 200
    async with client(msgspec.structs.replace(report, last_pass=PERMANENT)) as ask:
        answer = await ask.get("/readyz")
        assert (answer.status, await answer.text()) == (503, "203.0.113.9: run as root\n")


async def test_status_is_json(report: StatusReport) -> None:
    """`/status` is the whole report."""
    async with client(report) as ask:
        answer = await ask.get("/status")
        assert answer.content_type == "application/json"
        assert decode_report(await answer.read()) == report


async def test_metrics(report: StatusReport) -> None:
    """`/metrics` is what the injected callable renders of the report, with the type that Prometheus asks for."""
    async with client(report) as ask:
        answer = await ask.get("/metrics")
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        assert await answer.text() == "pid 812\n"


@pytest.mark.parametrize(("path", "status"), [("/", 200), ("/healthz", 200), ("/metrics", 200), ("/nothing", 404)])
async def test_headers(report: StatusReport, path: str, status: int) -> None:
    """Every answer, errors too, carries the policy, and none allows another origin."""
    async with client(report) as ask:
        answer = await ask.get(path)
        assert answer.status == status
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_read_only(report: StatusReport) -> None:
    """Nothing can be written."""
    async with client(report) as ask:
        for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            assert (await ask.request(method, "/status")).status == 405


async def test_foreign_names_are_refused(report: StatusReport) -> None:
    """A page of another site that made its name point here reads nothing (DNS rebinding)."""
    async with client(report) as ask:
        for path in ("/", "/status", "/metrics", "/nothing"):
            answer = await ask.get(path, headers={"Host": "evil.example:7480"})
            assert answer.status == 421
            assert "default" not in await answer.text()
        assert (await ask.get("/status", headers={"Host": "lb-1:7480"})).status == 200


@pytest.mark.parametrize(
    "header",
    [
        "127.0.0.1",
        "127.0.0.1:7480",
        "[::1]:7480",
        "[2001:db8::1]",
        "localhost:7480",
        "LOCALHOST.",
        "lb-1",
        "192.0.2.1:80",
    ],
)
def test_hosts_that_rebinding_cannot_make(header: str) -> None:
    """Literal addresses and our own names are allowed."""
    assert is_host_allowed(header, frozenset({"localhost", "lb-1"}))


@pytest.mark.parametrize(
    "header",
    ["", ":80", "evil.example", "localhost.evil.example:80", "127.0.0.1.evil.example", "[evil]:80", "127.1", "a@b"],
)
def test_hosts_that_are_refused(header: str) -> None:
    """Everything else is refused."""
    assert not is_host_allowed(header, frozenset({"localhost"}))


async def test_private_app(report: StatusReport) -> None:
    """The socket's app serves the report and nothing else; it has no Host to check."""

    async def shown() -> StatusReport:
        return report

    views = Views(shown, shown, metrics=lambda _: b"", stuck=lambda: "", trace=never)
    async with TestClient(TestServer(build_private_app(views))) as ask:
        answer = await ask.get("/status", headers={"Host": "loadbalancer"})
        assert decode_report(await answer.read()) == report
        assert (await ask.get("/")).status == 404


@pytest.mark.parametrize(
    ("query", "status", "text"),
    [
        ("source=192.0.2.10:4&destination=203.0.113.7:80&entering=other", 200, "192.0.2.10:4 → 203.0.113.7:80/TCP"),
        ("source=192.0.2.10&destination=203.0.113.7", 400, "name the port"),
        ("source=192.0.2.10&destination=203.0.113.7:80&entering=above", 400, "above"),
        ("destination=203.0.113.7:80", 400, "not an address"),
        ("source=192.0.2.66&destination=203.0.113.7:80", 503, "netlink: EPERM"),
    ],
)
async def test_trace_is_asked_on_the_socket_only(report: StatusReport, query: str, status: int, text: str) -> None:
    """A packet is followed; what cannot be read of it, or looked up, is said; TCP does not serve it."""

    async def shown() -> StatusReport:
        return report

    async def follow(packet: Packet) -> Trace:
        if str(packet.source) == "192.0.2.66":
            raise Permanent("netlink: EPERM")
        return Trace(packet=str(packet), steps=(), outcome=Outcome.HOST, why="nothing")

    views = Views(shown, shown, metrics=lambda _: b"", stuck=lambda: "", trace=follow)
    async with TestClient(TestServer(build_private_app(views))) as ask:
        answer = await ask.get(f"/trace?{query}")
        assert answer.status == status
        assert text in await answer.text()
    async with client(report) as ask:
        assert (await ask.get(f"/trace?{query}")).status == 404
