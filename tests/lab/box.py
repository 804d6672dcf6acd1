"""The stage of the stand-alone tests: one box beside two web servers, a folder of manifests, the real daemon.

client 192.0.2.10 ── eth0 box eth1 ── backend n1 198.51.100.11, backend n2 198.51.100.12     (port 8080)
"""

import http.client
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
import yaml

from littlelb.core.shown.status import ServiceStatus, StatusReport, decode_report
from littlelb.testing.lan import Lan

TOP = Path(__file__).resolve().parents[2]
LOADBALANCER = Path(sys.executable).with_name("loadbalancer")
ANSWERER = TOP / "tests/e2e/answerer.py"
BACKENDS = ("198.51.100.11", "198.51.100.12")
BACKENDS_V6 = ("2001:db8:0:51::b", "2001:db8:0:51::c")
OWN = {"192.0.2.2", "203.0.113.2", "2001:db8:0:2::2", "2001:db8:0:113::2"}

BOTH_PLANES = pytest.mark.parametrize("box", ["nft", "pipe"], indirect=True)
"""For tests whose promise holds for either plane."""

Document = dict[str, Any]


def service(name: str, address: str = "", *ports: int, namespace: str = "demo", **metadata: Any) -> Document:
    """Write a Service of type LoadBalancer; port 80 unless others are named."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "spec": {
            "type": "LoadBalancer",
            **({"loadBalancerIP": address} if address else {}),
            "ports": [{"name": f"p{port}", "port": port} for port in ports or (80,)],
        },
    }


def endpoints(name: str, *addresses: str, ports: Sequence[int] = (80,), namespace: str = "demo") -> Document:
    """Write its EndpointSlice: both web servers unless others are named, each Service port at their port 8080."""
    found = addresses or BACKENDS
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{name}-{'v6' if ':' in found[0] else 'v4'}",
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv6" if ":" in found[0] else "IPv4",
        "ports": [{"name": f"p{port}", "port": 8080} for port in ports],
        "endpoints": [{"addresses": [address]} for address in found],
    }


def both(name: str, address: str = "", *ports: int, **more: Any) -> list[Document]:
    """Write a Service and its EndpointSlice."""
    namespace = more.get("namespace", "demo")
    return [service(name, address, *ports, **more), endpoints(name, ports=ports or (80,), namespace=namespace)]


def render(*documents: Document) -> str:
    """Write a file of several documents."""
    return yaml.safe_dump_all(documents)


class Site:
    """The machines and their web servers, and what can be seen of them."""

    def __init__(self) -> None:
        """Build the LAN and an empty folder. Paths are short: sockets are made below them."""
        self._folder = tempfile.TemporaryDirectory(prefix="llb-")
        self.home = Path(self._folder.name)
        self.manifests, self.state, self.run = (self.home / name for name in ("services", "state", "run"))
        self.manifests.mkdir()
        self.log = self.home / "loadbalancer.log"
        self.lan = Lan(vips_on_link=True, prefix="llbbox")
        for number, backend in enumerate(self.lan.backends, 1):
            argv = [sys.executable, "-S", str(ANSWERER), f"n{number}", "8080"]
            backend.popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for number, address in enumerate(BACKENDS, 1):
            self.wait(f"n{number} answers", lambda a=address: self.lan.balancer.call(lambda: fetch(a, 8080)))  # type: ignore[misc]

    def ask(self, address: str, port: int = 80) -> str:
        """Ask from the client over a new connection; empty: refused, reset, or no answer within a second."""
        return self.lan.client.call(lambda: fetch(address, port))

    def answers(self, address: str, port: int = 80, times: int = 8) -> set[str]:
        """Ask several times; the names of those that answered. One alone is asked for longer: backends are drawn."""
        found = {self.ask(address, port) for _ in range(times)}
        if len(found) == 1 and "" not in found:
            found |= {self.ask(address, port) for _ in range(3 * times)}
        return found

    def held(self) -> set[str]:
        """Global addresses on eth0, less the box's own."""
        links = json.loads(self.lan.balancer.ip("-j", "addr", "show", "dev", "eth0"))
        return {entry["local"] for link in links for entry in link["addr_info"] if entry["scope"] == "global"} - OWN

    def listening(self) -> set[tuple[str, int]]:
        """Return address and port of every TCP socket that listens on the box, but for the status page."""
        lines = self.lan.balancer.run(["ss", "-Hltn"]).stdout.splitlines()
        found = (line.split()[3].rpartition(":") for line in lines)
        return {(host.strip("[]").partition("%")[0], int(port)) for host, _, port in found if port != "7480"}

    def wait(self, what: str, condition: Callable[[], object], seconds: float = 15.0) -> None:
        """Ask until it holds; AssertionError with the end of the daemon's log when it does not in time."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {seconds:.0f} s in vain: {what}\n{self.log_text()[-6000:]}")
            time.sleep(0.05)

    def log_text(self) -> str:
        """Return the daemon's log so far."""
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""

    def log_events(self, name: str) -> list[dict[str, Any]]:
        """Every entry of the daemon's log with this event name."""
        entries = [json.loads(line) for line in self.log_text().splitlines() if line[:1] == "{"]
        return [entry for entry in entries if entry.get("event") == name]

    def close(self) -> None:
        """End everything and remove it."""
        self.lan.close()
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Box(Site):
    """A Site with a folder of manifests, a daemon and the commands; leaving the `with` block removes all of it."""

    def __init__(self, plane: str = "auto") -> None:
        """Nothing runs yet but the web servers; `plane`: what daemon and commands are told by `--plane`."""
        super().__init__()
        self.daemon: subprocess.Popen[str] | None = None
        self.plane = plane

    # --- the folder --------------------------------------------------------------------------------------------------

    def write(self, name: str, *documents: Document) -> None:
        """Put a file in place the way editors do: a new file, renamed over the old one."""
        self.write_text(name, render(*documents))

    def write_text(self, name: str, text: str) -> None:
        """Do the same with any text."""
        fresh = self.home / f"{name}.new"
        fresh.write_text(text, encoding="utf-8")
        fresh.replace(self.manifests / name)

    # --- the daemon and the commands ---------------------------------------------------------------------------------

    @property
    def environment(self) -> Mapping[str, str]:
        """All settings, as the environment."""
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "LINKDEVICE": "eth0",
            "LITTLELB_MANIFESTS": str(self.manifests),
            "LITTLELB_STATE_DIR": str(self.state),
            "LITTLELB_RUN_DIR": str(self.run),
            "LITTLELB_PIPE_WORKERS": "2",
            "LITTLELB_PLANE": self.plane,
        }

    def start(self, *flags: str, before: Sequence[str] = ()) -> None:
        """Start the daemon and wait until it is ready; `before`: the program that starts it, with its arguments."""
        with self.log.open("a", encoding="utf-8") as log:
            argv = [*before, str(LOADBALANCER), "run", *flags]
            self.daemon = self.lan.balancer.popen(argv, stdout=log, stderr=log, env=self.environment)
        self.wait("the daemon is ready", self._ready)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; return the exit code (negative: the signal that ended it)."""
        assert self.daemon is not None
        self.daemon.send_signal(number)
        code = self.daemon.wait(20)
        self.daemon = None
        return code

    def command(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run another command of `loadbalancer`."""
        return self.lan.balancer.run([str(LOADBALANCER), *words], check=False, env=self.environment)

    def json(self, *words: str, code: int = 0) -> Any:
        """Run a command with `-o json`; AssertionError when its exit code is another one."""
        done = self.command(*words, "-o", "json")
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        return json.loads(done.stdout)

    def report(self) -> StatusReport:
        """What `loadbalancer status -o json` prints."""
        return decode_report(self.command("status", "-o", "json").stdout.encode())

    def status(self, key: str) -> ServiceStatus | None:
        """Status of one Service; None where it is not known (yet)."""
        return next((one for one in self.report().services if one.key == key), None)

    def reasons(self, key: str) -> str:
        """Reasons of a Service, in one text."""
        found = self.status(key)
        return " ".join(f"{line.reason}: {line.message}" for line in found.reasons) if found is not None else ""

    def _ready(self) -> bool:
        assert self.daemon is not None
        assert self.daemon.poll() is None, f"it ended with {self.daemon.returncode}\n{self.log_text()[-4000:]}"
        return self.lan.balancer.call(lambda: fetch("127.0.0.1", 7480, "/readyz")) == "ok"

    def wait_serving(self, key: str) -> None:
        """Wait until a Service is served wholly."""

        def serving() -> bool:
            found = self.status(key)
            return found is not None and found.state == "serving"

        self.wait(f"{key} is served", serving)

    def close(self) -> None:
        """End everything and remove it."""
        if self.daemon is not None:
            with suppress(ProcessLookupError):
                self.daemon.kill()
            self.daemon.wait(10)
        super().close()


def fetch(address: str, port: int, path: str = "/") -> str:
    """GET over a new connection; the body, or an empty text when there is no good answer within a second."""
    connection = http.client.HTTPConnection(address, port, timeout=1)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        answer = connection.getresponse()
        text = answer.read().decode().strip()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()
    return text if answer.status == 200 else ""
