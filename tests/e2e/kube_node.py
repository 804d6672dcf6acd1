"""The stage of the tests beside kube-proxy: the balancer is a node of the cluster, and its namespace has both programs.

    clients 192.0.2.10, .11 ── eth0 box eth1 ── node n1 198.51.100.11, with pod 10.1.1.11
                                    ├ pod0 ── pod 10.1.0.5, a backend
                                    └ pod1 ── pod 10.1.2.6, which only asks

The daemon runs as in a pod of a host-network Deployment, with the service account that is shipped. Pods tell who asked
on port 9090, and answer HTTP on 8080.
"""

import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from littlelb.testing.netns import Namespace
from tests.controlplane.accounts import ACCOUNT, NAMESPACE
from tests.controlplane.admin import Object
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.objects import create_node, service
from tests.e2e.pod import launch_in_pod, write_account_folder
from tests.e2e.rig import ANSWERER, Rig

TELLER: Final = Path(__file__).resolve().parents[1] / "lab" / "teller.py"
BOX_NODE: Final = "box"
FAR_NODE: Final = "n1"
POD: Final = "10.1.0.5"
FAR: Final = "10.1.1.11"
ASKING_POD: Final = "10.1.2.6"
NODE_ADDRESS: Final = "198.51.100.2"
OUR_MARK: Final = 0x0100_0000
"""The bit of the connection mark that says: translated by the kernel plane."""
_RULES: Final[Mapping[str, Sequence[Sequence[str]]]] = {
    "nftables": (("nft", "--stateless", "list", "table", "ip", "kube-proxy"),),
    "iptables": (("iptables-save", "--table", "nat"), ("iptables-save", "--table", "filter")),
}
_EMPTY_CHAIN: Final = re.compile(r"\n\tchain [^\n]* \{\n\t\}\n|^[:#].*\n", re.MULTILINE)


class Answer(NamedTuple):
    """What an asker heard, and the way that its question took."""

    backend: str
    seen: str
    """The address from which the backend was asked."""
    carrier: str
    """nft, pipe: a plane of ours; kube-proxy."""


class KubeNode(Rig):
    """Everything of the drawing; kube-proxy runs, the daemon does not yet."""

    def __init__(self, plane: ControlPlane, namespace: str, mode: str) -> None:
        """`mode`: kube-proxy's, nftables or iptables."""
        super().__init__(plane, namespace)
        self.mode = mode
        box, far = self.lan.balancer, self.lan.backends[0]
        box.sysctl("net.ipv4.ip_forward", "1")  # whoever sets a node up does
        box.sysctl("net.ipv4.icmp_ratelimit", "0")  # ICMP errors are one a second, else
        pod, asking = self.lan.network.namespace("pod"), self.lan.network.namespace("asking")
        self._add_pod(pod, "pod0", POD)
        self._add_pod(asking, "pod1", ASKING_POD)
        self.lan.client.ip("route", "add", "198.51.100.0/24", "via", "192.0.2.2")
        far.ip("addr", "add", f"{FAR}/32", "dev", "lo")
        box.ip("route", "add", f"{FAR}/32", "via", "198.51.100.11")
        self.askers = {"client": self.lan.client, "other": self.lan.add_client(), "pod": asking, "host": box}
        for machine, name in ((pod, "pod"), (far, "far")):
            machine.popen([sys.executable, "-S", str(ANSWERER), name, "8080"])
            process = machine.popen([sys.executable, "-S", str(TELLER), "9090"], stdout=subprocess.PIPE)
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        create_node(plane.admin, BOX_NODE, [NODE_ADDRESS])
        self._nodes.append(BOX_NODE)
        self.add_node(1)
        self.monitor = self.home / "monitor"
        with self.monitor.open("w", encoding="utf-8") as log:
            box.popen(["stdbuf", "-oL", "nft", "monitor"], stdout=log)
        self.wait("every write to nf_tables is noted", self._is_noted)
        self.proxy = plane.kube_proxy(box, BOX_NODE, mode=mode, server=self.server)

    def _is_noted(self) -> bool:
        self.lan.balancer.run(["nft", "add table ip noted; delete table ip noted"])
        return "table ip noted" in self.monitor.read_text(encoding="utf-8")

    def _add_pod(self, pod: Namespace, device: str, address: str) -> None:
        gateway = f"{address.rpartition('.')[0]}.1"
        self.lan.network.veth(self.lan.balancer, device, pod, "eth0")
        self.lan.balancer.ip("addr", "add", f"{gateway}/24", "dev", device)
        pod.batch(f"addr add {address}/24 dev eth0", f"route add default via {gateway}")

    def start_daemon(self, *flags: str) -> None:
        """Start it as in a pod of this node, and wait until it is ready."""
        folder = self.home / "serviceaccount"
        if not folder.exists():
            write_account_folder(self, self.plane.token(NAMESPACE, ACCOUNT))
        launch_in_pod(self, folder, "--node-name", BOX_NODE, *flags)
        self.wait("the daemon is ready", self.ready, 30)

    def close(self) -> None:
        """End kube-proxy too."""
        self.proxy.stop()
        super().close()

    # --- the API -----------------------------------------------------------------------------------------------------

    def create(
        self, name: str, spec: Mapping[str, Any], annotations: Mapping[str, str], endpoints: Mapping[str, str]
    ) -> None:
        """Make a Service without selector, and its EndpointSlice: address → node; targetPort is 9090 unless given."""
        item = service(name, self.namespace, **{"selector": None, "ports": HTTP, **spec})
        item["metadata"]["annotations"] = dict(annotations)
        self.plane.admin.apply(item)
        self.apply_slice(name, item["spec"]["ports"], endpoints)

    def apply_slice(self, name: str, ports: Sequence[Object], endpoints: Mapping[str, str]) -> None:
        """Make or change the EndpointSlice of a Service."""
        self.plane.admin.apply(self._slice(name, ports, endpoints))

    def _slice(self, name: str, ports: Sequence[Object], endpoints: Mapping[str, str]) -> Object:
        return {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{name}-1",
                "namespace": self.namespace,
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "ports": [
                {"name": port["name"], "port": port.get("targetPort", 9090), "protocol": port["protocol"]}
                for port in ports
            ],
            "endpoints": [{"addresses": [address], "nodeName": node} for address, node in endpoints.items()],
        }

    def annotate(self, name: str, **annotations: str | None) -> None:
        """Change annotations `littlelb.io/…` of a live Service."""
        changed = {f"littlelb.io/{key.replace('_', '-')}": value for key, value in annotations.items()}
        item = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": self.namespace}}
        self.plane.admin.patch(item, {"metadata": {"annotations": changed}})

    def wait_published(self, name: str, address: str, ip_mode: str) -> None:
        """Wait until it is published so, and kube-proxy has done what that asks of it."""
        self.wait(f"{name} is published with {ip_mode}", lambda: self.ip_mode(name) == ip_mode)
        self.wait(f"kube-proxy follows {name}", lambda: self.proxy_knows(address) is (ip_mode == "VIP"))

    def ip_mode(self, name: str) -> str:
        """Read the ipMode that is published; empty: nothing is."""
        entries = self.get(name).get("status", {}).get("loadBalancer", {}).get("ingress") or []
        return entries[0]["ipMode"] if entries else ""

    # --- packets -----------------------------------------------------------------------------------------------------

    def addresses_of(self, asker: str) -> set[str]:
        """Every IPv4 address of a machine."""
        words = self.askers[asker].ip("-o", "-4", "addr", "show").split()
        return {words[at + 1].partition("/")[0] for at, word in enumerate(words) if word == "inet"}

    def question(self, by: str, address: str, port: int = 80, protocol: str = "TCP") -> Answer:
        """Ask once over a new flow. Raises ConnectionError (refused), TimeoutError (silence for a second)."""
        own, told = self.askers[by].call(lambda: _ask(address, port, protocol))
        return Answer(told[0], told[2], self._carrier(address, self.flow(own, address, port, protocol)))

    def flow(self, own: tuple[str, int], address: str, port: int, protocol: str) -> str:
        """Read a flow in the node's connection table."""
        words = ["-p", protocol.lower(), "-s", own[0], "-d", address, "--sport", str(own[1]), "--dport", str(port)]
        (line,) = self.lan.balancer.run(["conntrack", "-L", "-o", "id", *words]).stdout.splitlines()
        return line

    @staticmethod
    def _carrier(address: str, line: str) -> str:
        """Find who translated a flow."""
        sources = [word.removeprefix("src=") for word in line.split() if word.startswith("src=")]
        (mark,) = (int(word.removeprefix("mark=")) for word in line.split() if word.startswith("mark="))
        if mark & OUR_MARK:
            return "nft"
        return "pipe" if sources[1] == address else "kube-proxy"

    def proxy_knows(self, address: str) -> bool:
        """Has kube-proxy rules about a Service address?"""
        rules = self.proxy_rules()
        return f"{address} " in rules or f"{address}/32" in rules

    def proxy_rules(self) -> str:
        """All rules of kube-proxy's as text, without counters; chains that are empty it removes when it likes."""
        texts = (self.lan.balancer.run(words).stdout for words in _RULES[self.mode])
        return "\n".join(_EMPTY_CHAIN.sub("", text) for text in texts)


HTTP: Final = ({"name": "http", "port": 80, "protocol": "TCP"},)


def read_transactions(monitor: Path) -> Iterator[tuple[str, set[str]]]:
    """Read all that was written to nf_tables from the output of `nft monitor`: the program's name, and the tables."""
    tables: set[str] = set()
    for line in monitor.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if line.startswith("# new generation"):
            if tables != {"ip noted"}:
                yield words[-1].strip("()"), tables
            tables = set()
        elif words and words[0] in {"add", "create", "delete", "destroy", "insert", "replace"}:
            tables.add(" ".join(words[2:4]))


def _ask(address: str, port: int, protocol: str) -> tuple[tuple[str, int], list[str]]:
    """Return our own end of the flow, and what was told."""
    kind = socket.SOCK_STREAM if protocol == "TCP" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.settimeout(1)
        sock.connect((address, port))
        if protocol == "UDP":
            sock.send(b"?")
        told = sock.recv(200).decode().split()
        if not told:
            raise ConnectionResetError("closed without an answer")
        return sock.getsockname()[:2], told
