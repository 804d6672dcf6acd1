"""A control plane of its own for a test run: etcd, kube-apiserver with RBAC, kube-controller-manager, without kubelets.

    test process ── 198.18.x.1 ──┐
    balancer ns  ── 198.19.n.1 ──┼── namespace `api`: kube-apiserver :6443, etcd and controller-manager on its loopback
    LAN switch   ── any address ─┘

Everybody who asks the API server gets a wire of its own to it (`attach`), so that faults of the LAN under test do not
touch the API and the other way round; `join` puts it on a LAN as well, as one of its machines.
"""

import itertools
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from littlelb.testing.netns import Namespace, Network
from tests.controlplane.admin import Admin, ApiError, tls_context
from tests.controlplane.build import Binaries
from tests.controlplane.certificates import (
    Authority,
    alternative_names,
    certificate_user,
    write_key,
    write_kubeconfig,
    write_public_key,
)
from tests.controlplane.process import Process

PORT = 6443
CONTROLLERS = (
    "deployment-controller",
    "replicaset-controller",
    "endpointslice-controller",
    "serviceaccount-controller",
    "serviceaccount-token-controller",
    "root-ca-certificate-publisher-controller",
    "namespace-controller",
    "garbage-collector-controller",
)
"""Those that the tests need. Without node-lifecycle, nodes that nobody renews stay as the tests made them."""

PROXY_RULES: Mapping[str, Sequence[str]] = {
    "nftables": ("nft", "--stateless", "list", "table", "ip", "kube-proxy"),
    "iptables": ("iptables", "--table", "nat", "--list-rules", "KUBE-SERVICES"),
}
"""Mode of a kube-proxy → a command that fails until its rules for IPv4 are there, and shows them then."""

_OWN = IPv4Address("198.18.0.0")
"""First address of the wires to test processes (RFC 2544 keeps these for tests); the process id chooses among them."""
_ATTACHED = IPv4Address("198.19.0.0")
"""The same for attached namespaces."""
_WIRES = 256
_JOINABLE = ("192.0.2", "198.51.100")
"""The certificate is valid for all addresses that begin so, because `join` comes later than the certificate."""
_NAMES = ("localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc")


def _wire(first: IPv4Address, number: int) -> tuple[IPv4Address, IPv4Address]:
    """Both ends of the wire with this number, a /30: the other side's, and the API server's."""
    block = first + 4 * number
    return block + 1, block + 2


class ControlPlane:
    """The three programs, their certificates and the wires to them; a context manager that removes them all."""

    def __init__(self, binaries: Binaries, folder: Path | None = None) -> None:
        """Prepare everything; `start` runs it. Data, keys and logs go to `folder`, by default a temporary one."""
        self._temporary = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="littlelb-controlplane-"))
        self.logs = self.folder / "logs"
        self.logs.mkdir(parents=True)
        self._binaries = binaries
        self._numbers = itertools.count(1)
        self._network = Network("llb-cp")
        self.namespace = self._network.namespace("api")
        self._authority = Authority(self.folder)
        try:
            self.server = f"https://{self._wire_to_this_process()}:{PORT}"
            self._write_certificates()
        except BaseException:
            self._network.close()
            raise
        self.etcd = self._etcd()
        self.api = self._apiserver()
        self.controllers = self._controller_manager()
        self.admin = self._admin()

    def start(self) -> Self:
        """Start all three and wait until they are ready. Raises StartError."""
        self.etcd.launch()
        self.etcd.wait_ready()
        self.api.start()
        self.controllers.start()
        return self

    def close(self) -> None:
        """Stop all, controllers first and etcd last, and remove the namespace; the folder with the logs stays.

        Leaving the `with` block without an error removes the folder too, if it was not given.
        """
        for process in (self.controllers, self.api, self.etcd):
            process.stop(timeout=10)
        self._network.close()

    def _forget(self) -> None:
        """Remove the folder if it is a temporary one that we made: nobody has to clear such folders up by a pattern."""
        if self._temporary:
            shutil.rmtree(self.folder)

    def heal(self) -> None:
        """Bring back what a test stopped, killed or froze."""
        for process in (self.etcd, self.api, self.controllers):
            if process.running:
                process.thaw()
            else:
                process.launch()
            process.wait_ready()

    # ------------------------------------------------------------- who can reach it, and as whom

    def attach(self, namespace: Namespace) -> str:
        """Lay a wire (device `api`) between a namespace and the API server; return the server's URL as seen there."""
        # A wire goes with the namespace that it led to; its number is free again.
        taken = self.namespace.ip("-o", "link")
        number = next(number for number in range(1, _WIRES) if f" wire{number}@" not in taken)
        theirs, ours = _wire(_ATTACHED, number)
        device = f"wire{number}"
        self._network.veth(self.namespace, device, namespace, "api")
        self.namespace.ip("addr", "add", f"{ours}/30", "dev", device)
        namespace.ip("addr", "add", f"{theirs}/30", "dev", "api")
        return f"https://{ours}:{PORT}"

    def join(self, switch: Namespace, bridge: str, address: str, prefix: int = 24) -> str:
        """Plug the API server into a LAN's bridge; return its URL as seen there. See `_JOINABLE` for the addresses."""
        device = f"lan{next(self._numbers)}"
        self._network.plug(self.namespace, device, switch, bridge)
        self.namespace.ip("addr", "add", f"{address}/{prefix}", "dev", device)
        return f"https://{address}:{PORT}"

    def kubeconfig(self, name: str, user: dict[str, str] | None = None, server: str | None = None) -> Path:
        """Write a kubeconfig; by default for the admin and for this process. `user` as in the file's `users` entry."""
        user = user or certificate_user(self.folder, "admin")
        return write_kubeconfig(
            self.folder / f"{name}.kubeconfig", server or self.server, self._authority.certificate, user
        )

    def token(self, namespace: str, service_account: str, seconds: int = 3600) -> str:
        """Ask for a bound token of a ServiceAccount (TokenRequest), as the kubelet does for a pod."""
        self.admin.wait(
            {
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"namespace": namespace, "name": service_account},
            },
            lambda found: found is not None,
        )
        answer = self.admin.request(
            "POST",
            f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": seconds}},
        )
        token: str = answer["status"]["token"]
        return token

    def as_token(self, token: str) -> Admin:
        """Return a client that is whom the token says, to see what that one may do."""
        return Admin(self.server, tls_context(self._authority.certificate), self.folder / "none", token)

    def kube_proxy(
        self,
        namespace: Namespace,
        node: str,
        *,
        mode: str = "nftables",
        server: str = "",
        cluster_cidr: str = "10.1.0.0/16",
    ) -> Process:
        """Prepare a kube-proxy for a node namespace; `start()` it, and `stop()` it in the test.

        `mode`: nftables or iptables. `server`: the API server's URL, where the namespace has a wire to it already.
        """
        server = server or self.attach(namespace)
        config = self.kubeconfig(f"kube-proxy-{node}", certificate_user(self.folder, "kube-proxy"), server)
        command = [str(self._binaries.kube_proxy), f"--kubeconfig={config}", f"--proxy-mode={mode}"]
        command += [f"--hostname-override={node}", f"--cluster-cidr={cluster_cidr}", "--oom-score-adj=0"]
        # Machine-wide conntrack settings are not a test's to change.
        command += ["--conntrack-max-per-core=0", "--conntrack-tcp-timeout-established=0s"]
        command += ["--conntrack-tcp-timeout-close-wait=0s"]

        def ready() -> bool:
            return namespace.run(PROXY_RULES[mode], check=False).returncode == 0

        return Process(namespace, command, self.logs / f"kube-proxy-{node}.log", ready)

    # ------------------------------------------------------------- how it is made

    def _wire_to_this_process(self) -> str:
        """Lay a wire from the namespace that we run in; return the API server's end."""
        theirs, ours = _wire(_OWN, os.getpid() % 16384)
        device = f"llbcp{os.getpid()}"
        self.namespace.ip("link", "add", "host", "type", "veth", "peer", "name", device, "netns", str(os.getpid()))
        self.namespace.batch(f"addr add {ours}/30 dev host", "link set host up")
        for arguments in (["addr", "add", f"{theirs}/30", "dev", device], ["link", "set", device, "up"]):
            subprocess.run(["ip", *arguments], check=True, capture_output=True)
        return str(ours)

    def _write_certificates(self) -> None:
        own = str(urlsplit(self.server).hostname)
        wires = [str(_wire(_ATTACHED, number)[1]) for number in range(1, _WIRES)]
        joinable = [f"{prefix}.{number}" for prefix in _JOINABLE for number in range(1, 255)]
        names = alternative_names(["127.0.0.1", "10.99.0.1", own, *wires, *joinable], _NAMES)
        self._authority.issue("apiserver", "kube-apiserver", names=names)
        self._authority.issue("admin", "tests", "system:masters")
        self._authority.issue("controllers", "system:kube-controller-manager")
        self._authority.issue("kube-proxy", "system:kube-proxy")
        write_public_key(write_key(self.folder / "accounts.key"), self.folder / "accounts.pub")

    def _admin(self) -> Admin:
        tls = tls_context(self._authority.certificate, self.folder / "admin.crt", self.folder / "admin.key")
        return Admin(self.server, tls, self.kubeconfig("admin"))

    def _etcd(self) -> Process:
        url = "http://127.0.0.1:2379"
        command = [str(self._binaries.etcd), f"--data-dir={self.folder / 'etcd'}", "--unsafe-no-fsync"]
        command += [f"--listen-client-urls={url}", f"--advertise-client-urls={url}"]
        command += ["--listen-peer-urls=http://127.0.0.1:2380"]
        return Process(self.namespace, command, self.logs / "etcd.log", self._listens(2379))

    def _apiserver(self) -> Process:
        folder = self.folder
        command = [
            str(self._binaries.apiserver),
            "--etcd-servers=http://127.0.0.1:2379",
            "--bind-address=0.0.0.0",
            f"--advertise-address={urlsplit(self.server).hostname}",
            f"--secure-port={PORT}",
            f"--tls-cert-file={folder / 'apiserver.crt'}",
            f"--tls-private-key-file={folder / 'apiserver.key'}",
            f"--client-ca-file={self._authority.certificate}",
            "--authorization-mode=Node,RBAC",
            "--service-cluster-ip-range=10.99.0.0/16",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={folder / 'accounts.pub'}",
            f"--service-account-signing-key-file={folder / 'accounts.key'}",
            "--endpoint-reconciler-type=none",
        ]
        return Process(self.namespace, command, self.logs / "kube-apiserver.log", self._answers)

    def _controller_manager(self) -> Process:
        config = self.kubeconfig(
            "controllers", certificate_user(self.folder, "controllers"), f"https://127.0.0.1:{PORT}"
        )
        command = [str(self._binaries.controller_manager), "--bind-address=127.0.0.1", "--leader-elect=false"]
        command += [f"--{use}={config}" for use in ("kubeconfig", "authentication-kubeconfig")]
        command += [f"--authorization-kubeconfig={config}", "--use-service-account-credentials=true"]
        command += [f"--service-account-private-key-file={self.folder / 'accounts.key'}"]
        command += [f"--root-ca-file={self._authority.certificate}", f"--controllers={','.join(CONTROLLERS)}"]
        return Process(self.namespace, command, self.logs / "kube-controller-manager.log", self._listens(10257))

    def _listens(self, port: int) -> Callable[[], bool]:
        """Whether a port on the loopback of the API server's namespace takes connections."""

        def ready() -> bool:
            with self.namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                probe.settimeout(1)
                return probe.connect_ex(("127.0.0.1", port)) == 0

        return ready

    def _answers(self) -> bool:
        """Whether the API server calls itself ready: its hooks (RBAC defaults, priority classes) have run."""
        try:
            self.admin.request("GET", "/readyz", timeout=2)
        except (ApiError, OSError, HTTPException):
            return False
        return True

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if error is None:
            self._forget()
