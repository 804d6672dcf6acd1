"""The stage of the demo: a small LAN in network namespaces, two web servers, the real daemon, a folder of manifests.

    client 192.0.2.10 ── switch ── eth0 balancer eth1 ── switch ── backend-1 198.51.100.11, backend-2 198.51.100.12

Run as a program (`python -m tools.demo_stage NAME`) it is one of the web servers and answers with its name.
"""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self

from littlelb.core.shown.status import ServiceStatus, StatusReport, decode_report
from littlelb.testing.lan import Lan

TOP = Path(__file__).resolve().parent.parent
LOADBALANCER = Path(sys.executable).with_name("loadbalancer")
BACKEND_PORT = 8080


class StepFailed(Exception):
    """Something that the demo says did not happen in time; the text says what."""


class Stage:
    """LAN, web servers, folder and daemon; leaving the `with` block removes all of it."""

    def __init__(self) -> None:
        """Copy the manifests of examples/demo into a temporary folder and build the LAN."""
        self._folder = tempfile.TemporaryDirectory(prefix="littlelb-demo-")
        self.home = Path(self._folder.name)
        self.manifests = self.home / "services"
        self.state = self.home / "state"
        self.run = self.home / "run"
        self.log = self.home / "loadbalancer.log"
        shutil.copytree(TOP / "examples/demo", self.manifests)
        for folder in (self.state, self.run):
            folder.mkdir(mode=0o700)
        try:
            self.lan = Lan(vips_on_link=True, prefix="littlelb-demo")
        except BaseException:
            self._folder.cleanup()
            raise
        self.daemon: subprocess.Popen[str] | None = None

    def start_backends(self) -> None:
        """Start the web servers and wait until the balancer's machine reaches both."""
        for number, backend in enumerate(self.lan.backends, 1):
            argv = [sys.executable, "-m", "tools.demo_stage", f"backend-{number}"]
            backend.popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=self._environment())
        for number in (1, 2):
            address = f"198.51.100.{10 + number}"

            def answers(address: str = address, name: str = f"backend-{number}") -> bool:
                return self.lan.balancer.call(lambda: fetch(address, BACKEND_PORT)) == name

            wait_for(f"backend-{number} answers", answers)

    def start_daemon(self) -> None:
        """Start `loadbalancer run` on the balancer; its log goes to a file."""
        argv = [str(LOADBALANCER), "run", "--manifests", str(self.manifests), "--kubernetes=false"]
        argv += ["--linkdevice", "eth0", "--state-dir", str(self.state), "--run-dir", str(self.run)]
        with self.log.open("a", encoding="utf-8") as log:
            self.daemon = self.lan.balancer.popen(argv, stdout=log, stderr=log, env=self._environment())

    def alive(self) -> bool:
        """True; StepFailed when the daemon has ended by itself."""
        if self.daemon is not None and self.daemon.poll() is not None:
            raise StepFailed(f"the daemon ended by itself, with exit code {self.daemon.returncode}")
        return True

    def stop_daemon(self) -> int:
        """SIGTERM, and wait for the end; return the exit code."""
        if self.daemon is None:
            return 0
        self.daemon.send_signal(signal.SIGTERM)
        return self.daemon.wait(timeout=20)

    def report(self) -> StatusReport | None:
        """What `loadbalancer status -o json` prints; None while the daemon does not answer."""
        argv = [str(LOADBALANCER), "status", "-o", "json", "--run-dir", str(self.run)]
        done = self.lan.balancer.run(argv, check=False, env=self._environment())
        return None if done.returncode else decode_report(done.stdout.encode())

    def status(self) -> dict[str, ServiceStatus]:
        """The same, by Service; empty while the daemon does not answer."""
        report = self.report()
        return {} if report is None else {service.key: service for service in report.services}

    def request(self, address: str, port: int) -> str:
        """One HTTP request from the client over a new connection; the answer, or an empty text when there is none."""
        return self.lan.client.call(lambda: fetch(address, port))

    def held(self, address: str) -> bool:
        """Is the address on eth0 of the balancer?"""
        links = json.loads(self.lan.balancer.ip("-j", "addr", "show", "dev", "eth0"))
        return any(entry.get("local") == address for link in links for entry in link["addr_info"])

    def write(self, name: str, text: str) -> None:
        """Put a manifest in place the way editors do: a new file, renamed over the old one."""
        fresh = self.home / f"{name}.new"
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(self.manifests / name)

    def read(self, name: str) -> str:
        """A manifest as it is now."""
        return (self.manifests / name).read_text(encoding="utf-8")

    def restore(self) -> None:
        """The manifests as they were in the beginning."""
        for file in self.manifests.iterdir():
            if not (TOP / "examples/demo" / file.name).exists():
                file.unlink()
        for file in (TOP / "examples/demo").iterdir():
            self.write(file.name, file.read_text(encoding="utf-8"))

    def _environment(self) -> dict[str, str]:
        """Ours, without what would configure the daemon, and so that the children find this tree."""
        kept = {key: os.environ[key] for key in ("PATH", "LANG", "HOME", "TERM") if key in os.environ}
        return kept | {"PYTHONPATH": f"{TOP}:{TOP / 'src'}", "PYTHONDONTWRITEBYTECODE": "1"}

    def close(self) -> None:
        """End all processes, remove namespaces and files; a second Ctrl-C does not stop that half-way."""
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        self.lan.close()
        self._folder.cleanup()
        signal.signal(signal.SIGINT, before)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def wait_for(what: str, condition: Callable[[], bool], seconds: float = 10.0) -> float:
    """Ask every 50 ms until it holds; return how long it took. StepFailed when it does not hold in time."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > seconds:
            raise StepFailed(f"waited {seconds:.0f} s, but it did not happen: {what}")
        time.sleep(0.05)
    return time.monotonic() - started


def fetch(address: str, port: int) -> str:
    """GET / over a new connection; the body, or an empty text when the connection is refused, reset or times out."""
    connection = http.client.HTTPConnection(address, port, timeout=1)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read().decode().strip()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


class Answer(BaseHTTPRequestHandler):
    """Answers with the server's name."""

    name = ""

    def do_GET(self) -> None:
        """One line of text."""
        body = f"{self.name}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def main(arguments: Sequence[str]) -> None:
    """Serve on every address of this namespace until ended."""
    Answer.name = arguments[0]
    ThreadingHTTPServer(("", BACKEND_PORT), Answer).serve_forever()


if __name__ == "__main__":
    main(sys.argv[1:])
