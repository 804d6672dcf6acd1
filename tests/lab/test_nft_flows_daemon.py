"""Established connections and the real daemon on the kernel plane: what clients hear, and what `status` counts."""

import http.client
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from littlelb.core.shown.status import BackendStatus
from tests.lab.box import BACKENDS, Box, both, endpoints, service

pytestmark = [pytest.mark.lab, pytest.mark.parametrize("box", ["nft"], indirect=True)]

WEB = "203.0.113.10"
RESET, SILENCE = "reset", "silence"
SECONDS = 15.0
ACCOUNTING = "net.netfilter.nf_conntrack_acct"


@contextmanager
def connection(box: Box) -> Iterator[Callable[[], str]]:
    """One HTTP connection from the client, kept open: asks over it, and tells who answered, RESET or SILENCE."""
    sock = box.lan.client.call(lambda: socket.create_connection((WEB, 80), timeout=1))
    link = http.client.HTTPConnection(WEB)
    link.auto_open = 0
    link.sock = sock

    def ask() -> str:
        try:
            link.request("GET", "/")
            return link.getresponse().read().decode().strip()
        except (ConnectionError, http.client.HTTPException):
            return RESET
        except TimeoutError:
            return SILENCE

    try:
        yield ask
    finally:
        sock.close()


def ask_until(ask: Callable[[], str], *ends: str) -> tuple[str, float]:
    """Ask all the time until something else than an answer comes: what, and after how many seconds."""
    began = time.monotonic()
    while (said := ask()) not in ends:
        assert time.monotonic() - began < SECONDS, said
        time.sleep(0.02)
    return said, time.monotonic() - began


def backend_status(box: Box, address: str) -> BackendStatus | None:
    """What `status` says of one backend."""
    found = box.status("demo/web")
    return next((one for one in found.backends if one.address == address), None) if found is not None else None


def serve(box: Box) -> None:
    """One Service on both backends."""
    box.write("web.yaml", *both("web", WEB))
    box.start()
    box.wait("web is served", lambda: box.ask(WEB))


def test_status_counts_connections_and_those_that_drain(box: Box) -> None:
    """Of each backend: begun, open now, packets, bytes; a backend that is gone is shown until its last one ends."""
    serve(box)
    assert box.lan.balancer.sysctl(ACCOUNTING) == "1"
    with connection(box) as ask:
        address = BACKENDS[int(ask().removeprefix("n")) - 1]
        box.answers(WEB, times=10)
        box.write("web.yaml", service("web", WEB), endpoints("web", *(a for a in BACKENDS if a != address)))

        def drains() -> bool:
            one = backend_status(box, address)
            return one is not None and one.draining and one.active == 1

        box.wait("the connection is shown as draining", drains)
        found = box.status("demo/web")
        assert found is not None
        assert (found.connections_active, found.connections_draining, found.backends_draining) == (1, 1, 1)
        assert found.connections_accepted >= 12
        assert found.packets is not None
        assert found.packets > 4 * 11
        assert (found.bytes_in or 0) > 40 * 4 * 11
        assert ask() == f"n{BACKENDS.index(address) + 1}"
    box.wait("it is gone with its last connection", lambda: backend_status(box, address) is None)
    assert box.stop() == 0
    assert box.lan.balancer.sysctl(ACCOUNTING) == "0"


def test_connections_of_a_service_that_goes_hear_a_reset(box: Box) -> None:
    """Its address is off the device within a second, and a client that speaks is not left in silence."""
    serve(box)
    with connection(box) as ask:
        ask()
        (box.manifests / "web.yaml").unlink()
        assert ask_until(ask, RESET, SILENCE)[0] == RESET
        box.wait("the address is gone", lambda: WEB not in box.held(), 1)


def test_connections_hear_a_reset_when_the_daemon_withdraws(box: Box) -> None:
    """SIGTERM without a drain: who is busy hears it before the table goes."""
    serve(box)
    with connection(box) as ask:
        ask()
        assert box.daemon is not None
        box.daemon.terminate()
        assert ask_until(ask, RESET, SILENCE)[0] == RESET
        assert box.daemon.wait(SECONDS) == 0
        box.daemon = None
    tables = box.lan.balancer.run(["nft", "list", "tables"]).stdout
    assert "littlelb" not in tables
    listed = box.lan.balancer.run(["conntrack", "-L", "-p", "tcp", "-d", WEB]).stdout
    assert listed == ""


def test_connections_go_on_through_a_killed_daemon_and_the_next(box: Box) -> None:
    """Nothing of the kernel's is touched by either; what was counted begins anew."""
    serve(box)
    with connection(box) as ask:
        name = ask()
        assert box.daemon is not None
        box.daemon.kill()
        box.daemon.wait(SECONDS)
        assert ask() == name
        box.start()
        box.wait("web is served", lambda: box.ask(WEB))
        assert ask() == name
        box.wait("it is counted", lambda: (found := box.status("demo/web")) and found.connections_active)


def test_accounting_can_be_left_alone(box: Box) -> None:
    """Then packets and bytes are unknown, and connections are counted all the same."""
    box.write("web.yaml", *both("web", WEB))
    box.start("--accounting=false")
    box.wait("web is served", lambda: box.ask(WEB))
    assert box.lan.balancer.sysctl(ACCOUNTING) == "0"
    box.wait("it is counted", lambda: (found := box.status("demo/web")) and found.connections_accepted)
    found = box.status("demo/web")
    assert found is not None
    assert (found.packets, found.bytes_in) == (None, None)


def test_a_withdrawal_with_a_drain_waits_for_connections(box: Box) -> None:
    """SIGTERM: they go on as before; when the last one has ended, so does the daemon, long before the deadline."""
    box.write("web.yaml", *both("web", WEB, annotations={"littlelb.io/drain-seconds": "60"}))
    box.start()
    box.wait("web is served", lambda: box.ask(WEB))
    with connection(box) as ask:
        name = ask()
        assert box.daemon is not None
        box.daemon.terminate()
        box.wait("no new connection is let in", lambda: not box.ask(WEB))
        assert ask() == name
        assert WEB in box.held()
        assert box.daemon.poll() is None
    assert box.daemon.wait(SECONDS) == 0
    box.daemon = None
    assert WEB not in box.held()
