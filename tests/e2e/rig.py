"""The stage of the end-to-end tests: the LAN of `littlelb.testing.lan`, a real API server, the real daemon.

    client ── LAN ── eth0 balancer eth1 ── node n1 (198.51.100.11), node n2 (198.51.100.12)
                          └ api: a wire to the control plane

The daemon runs as the account of deploy/manifests, with exactly the role that is shipped; set-up is done as admin.
Nodes are API objects with the backends' addresses; web servers in their namespaces listen on the NodePorts.
"""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from littlelb.core.shown.status import ServiceStatus, StatusReport, decode_report
from littlelb.testing.lan import Lan
from littlelb.testing.netns import Namespace
from tests.controlplane.accounts import daemon_kubeconfig
from tests.controlplane.admin import ApiError, Object
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.objects import create_node, service

TOP = Path(__file__).resolve().parents[2]
LOADBALANCER = Path(sys.executable).with_name("loadbalancer")
ANSWERER = Path(__file__).with_name("answerer.py")
FINALIZER = "service.kubernetes.io/load-balancer-cleanup"
NODE_PORTS = range(30000, 32768)
DEFAULT = "192.0.2.2"
"""The balancer's own address on eth0."""


class Machines:
    """The LAN, a place for files, and waiting for what happens on it."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        """`namespace`: where the test's Services live."""
        self.plane, self.namespace = plane, namespace
        self._folder = tempfile.TemporaryDirectory(prefix="littlelb-e2e-")
        self.home = Path(self._folder.name)
        self.lan = Lan(vips_on_link=True, prefix="llbe2e")
        self.server = plane.attach(self.lan.balancer)
        self.log = self.home / "loadbalancer.log"

    def ask(self, address: str, port: int = 80, path: str = "/") -> str:
        """Ask from the client over a new connection; empty: refused, reset, or no answer within a second."""
        return self.lan.client.call(lambda: fetch(address, port, path))

    def answers(self, address: str, port: int = 80, times: int = 8) -> set[str]:
        """Ask several times; the names of those that answered. One alone is asked for longer: backends are drawn."""
        found = {self.ask(address, port) for _ in range(times)}
        if len(found) == 1 and "" not in found:
            found |= {self.ask(address, port) for _ in range(3 * times)}
        return found

    def held(self) -> set[str]:
        """IPv4 and global IPv6 addresses on eth0 of the balancer, less its own."""
        links = json.loads(self.lan.balancer.ip("-j", "addr", "show", "dev", "eth0"))
        found = {entry["local"] for link in links for entry in link["addr_info"] if entry["scope"] == "global"}
        return found - self._own()

    def _own(self) -> set[str]:
        return {"192.0.2.2", "203.0.113.2", "2001:db8:0:2::2", "2001:db8:0:113::2"}

    def wait(self, what: str, condition: Callable[[], object], seconds: float = 15.0) -> None:
        """Ask until it holds; AssertionError with the end of the daemon's log when it does not in time."""
        deadline = time.monotonic() + seconds
        while not _holds(condition):
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {seconds:.0f} s in vain: {what}\n{self.log_tail()}")
            time.sleep(0.05)

    def log_tail(self, lines: int = 40) -> str:
        """Last lines of the daemon's log."""
        return "\n".join(self.log.read_text(encoding="utf-8").splitlines()[-lines:]) if self.log.exists() else ""

    def log_events(self, name: str) -> list[dict[str, Any]]:
        """Every entry of the daemon's log with this event name."""
        entries = [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines() if line[:1] == "{"]
        return [entry for entry in entries if entry.get("event") == name]


class Cluster(Machines):
    """What the tests say to the API as admin, and what they read there."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        """No node yet."""
        super().__init__(plane, namespace)
        self._nodes: list[str] = []

    def add_node(self, number: int, labels: Mapping[str, str] | None = None, *, ready: bool = True) -> str:
        """Make the Node of backend `number` (1, 2 …), 198.51.100.1`number`; return its name."""
        name = f"n{number}"
        create_node(self.plane.admin, name, [f"198.51.100.{10 + number}"], labels, ready=ready)
        self._nodes.append(name)
        return name

    def remove_node(self, name: str) -> None:
        """Delete a Node."""
        self.plane.admin.delete({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})
        self._nodes.remove(name)

    def apply(self, name: str, **spec: Any) -> Object:
        """Create or change Service `name` of type LoadBalancer: port 80, unless `spec` says otherwise."""
        known = {"ports": ({"name": "http", "port": 80, "protocol": "TCP"},)} | spec
        return self.plane.admin.apply(service(name, self.namespace, **known))

    def get(self, name: str) -> Object:
        """Read a Service."""
        return self.plane.admin.get("v1", "Service", name, self.namespace)

    def delete(self, name: str) -> None:
        """Delete a Service, and wait until it is really gone."""
        self.plane.admin.delete(service(name, self.namespace))
        self.plane.admin.wait(service(name, self.namespace), lambda found: found is None)

    def node_ports(self, name: str) -> list[int]:
        """NodePorts that the API server gave a Service, in the order of its ports."""
        return [port["nodePort"] for port in self.get(name)["spec"]["ports"]]

    def ingress(self, name: str) -> list[str]:
        """Published addresses."""
        found = self.get(name).get("status", {}).get("loadBalancer", {}).get("ingress") or []
        return [entry["ip"] for entry in found]

    def condition(self, name: str) -> Object:
        """Return our condition of a Service; empty: none."""
        conditions = self.get(name).get("status", {}).get("conditions") or []
        found: Object = next((one for one in conditions if one["type"] == "littlelb.io/Served"), {})
        return found

    def events(self, name: str) -> list[tuple[str, str, str]]:
        """Events on a Service: type, reason, note."""
        found = self.plane.admin.items("events.k8s.io/v1", "Event", self.namespace)
        return [(e["type"], e["reason"], e.get("note", "")) for e in found if e["regarding"]["name"] == name]


class Rig(Cluster):
    """All of it with web servers and one daemon; leaving the `with` block removes it, but not what is in the API."""

    def __init__(self, plane: ControlPlane, namespace: str) -> None:
        """The daemon is not started yet."""
        super().__init__(plane, namespace)
        self.kubeconfig = daemon_kubeconfig(plane, self.server)
        self.state_dir, self.run_dir = self.home / "state", self.home / "run"
        self.daemon: subprocess.Popen[str] | None = None
        self._served: dict[str, list[int]] = {}
        """NodePorts → the backends with a web server on them."""

    def serve(self, number: int, *ports: int) -> "subprocess.Popen[str]":
        """Start a web server called n`number` on backend `number`, on these ports (and wait until it listens)."""
        backend = self.lan.backends[number - 1]
        argv = [sys.executable, "-S", str(ANSWERER), f"n{number}", *map(str, ports)]
        process = backend.popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for port in ports:
            self.wait(f"n{number} listens on {port}", lambda port=port: _listens(backend, port))  # type: ignore[misc]
        self._spread(number, *(str(port) for port in ports if port in NODE_PORTS))
        return process

    def serve_service(self, name: str, *numbers: int) -> None:
        """Start web servers on these backends for all NodePorts of a Service."""
        for number in numbers:
            self.serve(number, *self.node_ports(name))

    def serve_any(self, number: int) -> None:
        """Start a web server on backend `number` that answers on every NodePort.

        For tests that change ports on a live Service: there NodePorts are left to the API server. Kubernetes 1.37 loses
        one that was asked for by number when another client writes to the Service at the same time: it stays allocated
        to nobody, and everybody who asks for it is refused (422).
        """
        self.serve(number, 30000)
        self._spread(number, f"{NODE_PORTS.start}-{NODE_PORTS.stop - 1}")
        rules = "add table ip any; add chain ip any in { type nat hook prerouting priority dstnat; }; "
        rules += "add rule ip any in tcp dport 30000-32767 redirect to :30000"
        self.lan.backends[number - 1].run(["nft", rules])

    def _spread(self, number: int, *ports: str) -> None:
        """Let the other nodes answer on these NodePorts too, as kube-proxy does on each node, wherever the pods are."""
        for port in ports:
            self._served.setdefault(port, []).append(number)
        for other, backend in enumerate(self.lan.backends, 1):
            ways = [f"tcp dport {port} dnat to 198.51.100.{10 + there[0]}"
                    for port, there in self._served.items() if other not in there]  # fmt: skip
            rules = [
                "add table ip spread",
                "delete table ip spread",
                "add table ip spread",
                "add chain ip spread in { type nat hook prerouting priority dstnat - 1; }",
                "add chain ip spread out { type nat hook postrouting priority srcnat; }",
                "add rule ip spread out ct status dnat masquerade",
                *(f"add rule ip spread in {way}" for way in ways),
            ]
            backend.run(["nft", "; ".join(rules)])
            backend.sysctl("net.ipv4.ip_forward", "1")

    # --- the daemon --------------------------------------------------------------------------------------------------

    def start(self, *flags: str, environment: Mapping[str, str] | None = None, wait: bool = True) -> None:
        """Start `loadbalancer` (no sub-command: that is `run`) and, unless told otherwise, wait until it is ready."""
        argv = [str(LOADBALANCER), "--kubeconfig", str(self.kubeconfig), "--linkdevice", "eth0", *flags]
        self.launch(argv, environment)
        if wait:
            self.wait("the daemon is ready", self.ready)

    def launch(self, argv: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Start a daemon with exactly these words, and folders of its own by environment."""
        known = {
            "PATH": os.environ["PATH"],
            "LITTLELB_STATE_DIR": str(self.state_dir),
            "LITTLELB_RUN_DIR": str(self.run_dir),
            "HOME": str(self.home),
        }
        with self.log.open("a", encoding="utf-8") as log:
            self.daemon = self.lan.balancer.popen(argv, stdout=log, stderr=log, env=known | dict(environment or {}))

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 20) -> int:
        """Send a signal and wait for the end; return the exit code (negative: the signal that ended it)."""
        assert self.daemon is not None
        self.daemon.send_signal(number)
        code = self.daemon.wait(timeout)
        self.daemon = None
        return code

    def command(self, *words: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run another command of `loadbalancer` beside the daemon."""
        environment = {
            "PATH": os.environ["PATH"],
            "LITTLELB_STATE_DIR": str(self.state_dir),
            "LITTLELB_RUN_DIR": str(self.run_dir),
            "KUBECONFIG": str(self.kubeconfig),
            "LINKDEVICE": "eth0",
            "HOME": str(self.home),
        }
        return self.lan.balancer.run([str(LOADBALANCER), *words], check=check, env=environment)

    def report(self) -> StatusReport:
        """What `loadbalancer status -o json` prints."""
        return decode_report(self.command("status", "-o", "json").stdout.encode())

    def status(self, name: str) -> ServiceStatus:
        """Status of one Service of the test's namespace."""
        return next(one for one in self.report().services if one.key == f"{self.namespace}/{name}")

    def ready(self) -> bool:
        """Ask /readyz; AssertionError with the log when the daemon has ended."""
        assert self.daemon is not None
        assert self.daemon.poll() is None, f"the daemon ended with {self.daemon.returncode}\n{self.log_tail()}"
        return self.lan.balancer.call(lambda: fetch("127.0.0.1", 7480, "/readyz")) == "ok"

    # --- the end -----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """End everything and remove it; Services are cleaned up by the daemon if it still runs."""
        if self.daemon is not None and self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait(10)
        self.lan.close()
        for name in list(self._nodes):
            try:
                self.remove_node(name)
            except ApiError as error:
                if error.status != 404:
                    raise
        self._folder.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _holds(condition: Callable[[], object]) -> bool:
    try:
        return bool(condition())
    except ApiError as error:
        if error.status != 404:
            raise
        return False


def _listens(namespace: Namespace, port: int) -> bool:
    def connect() -> bool:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            return False
        return True

    return namespace.call(connect)


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
