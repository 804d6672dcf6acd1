"""Live frontends change planes, daemons are killed and come back: nobody is refused, nothing breaks."""

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest

from tests.lab.box import BACKENDS, Box, Document, endpoints, service

pytestmark = [pytest.mark.lab, pytest.mark.timeout(150)]
WEB = "203.0.113.10"
ECHO = """
import socket, sys, threading
def serve(sock):
    with sock:
        sock.sendall(sys.argv[1].encode())
        while said := sock.recv(4096):
            sock.sendall(said)
listener = socket.create_server(("", int(sys.argv[2])), backlog=1024)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
"""
"""Says its name, then whatever it hears."""
SECONDS = 5.0


class Load:
    """Clients on the LAN: one connects every few milliseconds, others stay and talk all the time."""

    def __init__(self, box: Box) -> None:
        """Begin to connect."""
        self.good = 0
        self.bad: list[str] = []
        self._box = box
        self._enough = threading.Event()
        self._threads: list[threading.Thread] = []
        self._begin(self._connect_for_ever)

    def _begin(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=lambda: self._box.lan.client.call(work))
        self._threads.append(thread)
        thread.start()

    def _connect_for_ever(self) -> None:
        while not self._enough.wait(0.003):
            began = time.monotonic()
            try:
                with socket.create_connection((WEB, 80), SECONDS) as sock:
                    name = sock.recv(2)
            except OSError as error:
                self.bad.append(f"after {time.monotonic() - began:.3f} s: {error!r}")
                continue
            if name in {b"n1", b"n2"}:
                self.good += 1
            else:
                self.bad.append(f"cut after {name!r}")

    def stay(self, count: int = 3) -> None:
        """Open so many connections that stay; return when each has had its first answer."""
        for _ in range(count):
            begun = threading.Event()
            self._begin(partial(self._talk, begun))
            assert begun.wait(SECONDS), self.bad

    def _talk(self, begun: threading.Event) -> None:
        try:
            with socket.create_connection((WEB, 80), SECONDS) as sock:
                sock.recv(2)
                said = 0
                while not self._enough.wait(0.01):
                    said += 1
                    word = said.to_bytes(4, "big")
                    sock.sendall(word)
                    if sock.recv(4, socket.MSG_WAITALL) != word:
                        raise ConnectionError("a wrong answer")
                    begun.set()
        except OSError as error:
            self.bad.append(f"a connection that stayed: {error!r}")

    def more(self, connects: int = 100) -> None:
        """Wait for so many more good connects."""
        seen = self.good
        self._box.wait("more connects", lambda: self.good > seen + connects or self.bad)
        assert self.bad == []

    def finish(self) -> None:
        """End all clients."""
        self._enough.set()
        for thread in self._threads:
            thread.join(2 * SECONDS)


@contextmanager
def load(box: Box) -> Iterator[Load]:
    """Clients for the time of the block; not one of them may have been refused, cut or kept waiting."""
    clients = Load(box)
    try:
        yield clients
        clients.more()
    finally:
        clients.finish()
    assert clients.bad == []


@pytest.fixture
def echoes(box: Box) -> Box:
    """Both backends echo on port 9000."""
    for number, backend in enumerate(box.lan.backends, 1):
        argv = [sys.executable, "-S", "-c", ECHO, f"n{number}", "9000"]
        backend.popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for address in BACKENDS:
        box.wait(f"{address} echoes", lambda address=address: box.lan.balancer.call(lambda: _listens(address)))  # type: ignore[misc]
    return box


def _listens(address: str) -> bool:
    try:
        socket.create_connection((address, 9000), 1).close()
    except OSError:
        return False
    return True


def web(plane: str = "") -> list[Document]:
    """The Service, with its wish for a plane."""
    served, behind = service("web", WEB), endpoints("web")
    behind["ports"] = [{"name": "p80", "port": 9000}]
    if plane:
        served["metadata"]["annotations"] = {"littlelb.io/plane": plane}
    return [served, behind]


def piped(box: Box) -> int:
    """How many connections of clients end in worker processes on the balancer."""
    done = box.lan.balancer.run(["ss", "-Htn", "state", "established", "src", WEB])
    return len(done.stdout.splitlines())


def serve(box: Box, plane: str = "") -> None:
    """Start the daemon, and wait for the Service."""
    box.write("web.yaml", *web(plane))
    box.start()
    box.wait_serving("demo/web")
    box.wait("it answers", lambda: box.lan.client.call(_answers))


def _answers() -> bool:
    try:
        with socket.create_connection((WEB, 80), 1) as sock:
            return sock.recv(2) in {b"n1", b"n2"}
    except OSError:
        return False


def test_a_live_service_changes_planes_both_ways(echoes: Box) -> None:
    """Under load, forth and back twice: no connect is refused or late; those that stay end where they began."""
    box = echoes
    serve(box)
    with load(box) as clients:
        clients.stay()
        for _ in range(2):
            box.write("web.yaml", *web("pipe"))
            box.wait("the pipe listens", lambda: (WEB, 80) in box.listening())
            clients.more()
            began = piped(box)
            clients.stay()
            box.wait("those that stay now are in the pipe", lambda began=began: piped(box) >= began + 3)  # type: ignore[misc]
            box.write("web.yaml", *web())
            box.wait("the listener is closed", lambda: box.listening() == set(), 30)
            clients.more()
        assert piped(box) == 6
        found = box.status("demo/web")
        assert found is not None
        assert found.plane == "nft"
    box.wait("the workers have none left", lambda: piped(box) == 0)


@pytest.mark.parametrize("box", ["pipe"], indirect=True)
def test_connections_from_before_the_first_table_live_on(echoes: Box) -> None:
    """A daemon that knew the pipe only gives way to one with the kernel plane: conntrack must not translate them."""
    box = echoes
    serve(box)
    with load(box) as clients:
        clients.stay()
        assert box.lan.balancer.run(["nft", "list", "tables"]).stdout == ""
        assert box.stop(signal.SIGUSR2) == 0
        clients.more()
        box.plane = "auto"
        box.start()
        box.wait("the listener is closed", lambda: box.listening() == set(), 30)
        clients.more()
        assert piped(box) == 3


@pytest.mark.parametrize("box", ["nft"], indirect=True)
def test_a_daemon_without_the_kernel_plane_takes_over_from_one_with_it(echoes: Box) -> None:
    """The table stays and lets new connections through to the pipe; translated ones live on."""
    box = echoes
    serve(box)
    with load(box) as clients:
        clients.stay()
        assert box.stop(signal.SIGUSR2) == 0
        clients.more()
        box.plane = "pipe"
        box.start()
        box.wait("the pipe listens", lambda: (WEB, 80) in box.listening())
        clients.stay(1)
        box.wait("new ones are in the pipe", lambda: piped(box) >= 1)
        clients.more()
    assert box.stop() == 0
    assert box.lan.balancer.run(["nft", "list", "tables"]).stdout == ""


@pytest.mark.parametrize("box", ["nft", "pipe"], indirect=True)
def test_a_killed_daemon_loses_nobody(echoes: Box) -> None:
    """Kill -9 and a new start, twice, under load: no connect fails, no connection breaks."""
    box = echoes
    serve(box)
    with load(box) as clients:
        clients.stay()
        for _ in range(2):
            assert box.stop(signal.SIGKILL) == -signal.SIGKILL
            clients.more()
            box.start()
            box.wait_serving("demo/web")
            clients.more()


HIDE = 'for nft in /usr/sbin/nft /sbin/nft; do [ -f "$nft" ] && mount --bind /dev/null "$nft"; done; exec "$@"'
WITHOUT_NFT = ["unshare", "--mount", "sh", "-c", HIDE, "sh"]


@pytest.mark.parametrize(("box", "level"), [("auto", "warning"), ("nft", "error")], indirect=["box"])
def test_without_nft_the_pipe_serves_and_says_why(box: Box, level: str) -> None:
    """The command is missing: no crash, Services are served, the reason is in the log once, in status and in plan."""
    box.write("web.yaml", service("web", WEB), endpoints("web"))
    box.start(before=WITHOUT_NFT)
    box.wait_serving("demo/web")
    box.wait("both backends answer", lambda: box.answers(WEB) == {"n1", "n2"})
    (said,) = box.log_events("plane.no_nft")
    assert said["level"] == level
    assert "nft is missing" in said["reason"]
    report = box.report()
    assert (report.daemon.plane, report.services[0].plane) == ("pipe", "pipe")
    assert report.daemon.no_nft == said["reason"]
    assert f"planes: pipe; no nft: {said['reason']}" in box.command("status").stdout
