"""Proves to the API server who we are, and knows where it is: from the pod's service account or from a kubeconfig.

Everything that can rotate is looked at again before each request: files by their stat, a projected token also every
60 s (it lives for an hour, the kubelet renews it at 80 %), a plugin's credential shortly before it expires. A CA or
client certificate that changed bumps `generation`; one that cannot be used any more leaves the last good one in force.
"""

import base64
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv6Address
from pathlib import Path

import structlog

from littlelb.core.errors import ConfigError
from littlelb.core.interfaces import Clock
from littlelb.kube.credentials.entries import Cluster, decode_base64
from littlelb.kube.credentials.exec_plugin import ClusterInfo, ExecPlugin
from littlelb.kube.credentials.kubeconfig import Access, read_kubeconfig
from littlelb.kube.credentials.login import FixedLogin, Login, PluginLogin, TokenFileLogin, bearer
from littlelb.kube.credentials.tls import Pem, Tls, read_pem

_log = structlog.get_logger(__name__)
_PAIR = ("client-certificate", "client-key")

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class InCluster:
    """What the kubelet tells a pod: KUBERNETES_SERVICE_HOST and _PORT, and a folder with `token` and `ca.crt`."""

    host: str
    port: str
    folder: Path = SERVICE_ACCOUNT


class ApiCredentials:
    """Implements `kube.transport.Credentials`: an address, a way to verify it, and a way to sign in."""

    def __init__(self, cluster: Cluster, tls: Tls | None, login: Login) -> None:
        """Read the files once, so that what is wrong is known at the start. Raises `ConfigError`."""
        self.server = cluster.server.rstrip("/")
        self.proxy = cluster.proxy_url or None
        self.server_hostname = cluster.tls_server_name or None
        self.generation = 1
        self.tls = tls
        self._login = login
        self._stamps = self._tls_stamps()
        self._context = tls.build() if tls is not None else None

    def ssl_context(self) -> ssl.SSLContext | None:
        """Return the settings of this generation; None for plain http."""
        return self._context

    async def authorize(self) -> Mapping[str, str]:
        """Return the headers that sign a request in, and look whether certificates have been renewed."""
        headers = await self._login.headers()
        stamps = self._tls_stamps()
        if stamps != self._stamps:
            self._stamps = stamps
            self._rebuild()
        return headers

    def invalidate(self) -> None:
        """The server answered 401."""
        self._login.invalidate()

    def _tls_stamps(self) -> object:
        return () if self.tls is None else (*self.tls.stamps(), self._login.client_certificate())

    def shown_tls(self) -> Tls | None:
        """Return what TLS settings are made of now, with the certificate that a plugin gave; None for plain http."""
        shown = self._login.client_certificate()
        if self.tls is None or shown is None:
            return self.tls
        certificate, key = (Pem(f"plugin's {what}", content=text) for what, text in zip(_PAIR, shown, strict=True))
        return replace(self.tls, certificate=certificate, key=key)

    def _rebuild(self) -> None:
        tls = self.shown_tls()
        assert tls is not None  # noqa: S101  (without TLS the stamps never differ)
        try:
            self._context = tls.build()
        except ConfigError as error:
            # A renewal writes certificate and key one after the other: the next look will find both.
            _log.warning("credentials.kept", reason=str(error))
            return
        self.generation += 1
        _log.info("credentials.renewed", generation=self.generation)


def choose_credentials(
    kubeconfig: str, in_cluster: InCluster | None, default_kubeconfig: str, clock: Clock, environment: Mapping[str, str]
) -> ApiCredentials:
    """Take the kubeconfig that was asked for, else the pod's service account, else the default kubeconfig.

    `environment` is what exec plugins inherit. Raises `ConfigError`.
    """
    if kubeconfig:
        return from_access(read_kubeconfig(kubeconfig), clock, environment)
    if in_cluster is not None and in_cluster.host and in_cluster.port:
        return from_service_account(in_cluster, clock)
    if not Path(default_kubeconfig).expanduser().exists():
        message = (
            "no way to the API server: no --kubeconfig, not inside a cluster (KUBERNETES_SERVICE_HOST is not set), and "
            f"{default_kubeconfig} does not exist; name a kubeconfig, or run with --kubernetes=false --manifests DIR"
        )
        raise ConfigError([message])
    return from_access(read_kubeconfig(default_kubeconfig), clock, environment)


def from_service_account(pod: InCluster, clock: Clock) -> ApiCredentials:
    """Use the pod's service account. Raises `ConfigError`."""
    token = pod.folder / "token"
    if not os.access(token, os.R_OK):
        raise ConfigError(
            [f"service account token {token}: cannot be read; set automountServiceAccountToken: true on the pod"]
        )
    host = f"[{pod.host}]" if _is_ipv6(pod.host) else pod.host
    tls = Tls(ca=Pem("cluster's CA", pod.folder / "ca.crt"))
    return ApiCredentials(Cluster(server=f"https://{host}:{pod.port}"), tls, TokenFileLogin(token, clock))


def from_access(access: Access, clock: Clock, environment: Mapping[str, str]) -> ApiCredentials:
    """Use one context of a kubeconfig. Raises `ConfigError`."""
    cluster, user = access.cluster, access.user
    if not cluster.server.lower().startswith("https:"):
        return ApiCredentials(cluster, None, _login(access, clock, environment))
    if cluster.insecure:
        _log.warning("credentials.insecure", kubeconfig=access.origin, server=cluster.server)
    tls = Tls(
        ca=_pem("certificate-authority", cluster.ca_file, cluster.ca_data),
        certificate=_pem("client-certificate", user.certificate_file, user.certificate_data),
        key=_pem("client-key", user.key_file, user.key_data),
        insecure=cluster.insecure,
    )
    return ApiCredentials(cluster, tls, _login(access, clock, environment))


def _login(access: Access, clock: Clock, environment: Mapping[str, str]) -> Login:
    """Choose as kubectl does: what stands in the file beats the plugin."""
    user = access.user
    if user.token_file:
        return TokenFileLogin(Path(user.token_file), clock, user.token)
    if user.token:
        return FixedLogin(bearer(user.token))
    if user.username:
        pair = f"{user.username}:{user.password}".encode()
        return FixedLogin({"Authorization": f"Basic {base64.b64encode(pair).decode()}"})
    if user.exec is not None:
        return PluginLogin(ExecPlugin(user.exec, _cluster_info(access.cluster), environment, clock))
    return FixedLogin({})


def _cluster_info(cluster: Cluster) -> ClusterInfo:
    ca = _pem("certificate-authority", cluster.ca_file, cluster.ca_data)
    errors: list[str] = []
    text = read_pem(ca, errors) if ca is not None else b""
    if errors:
        raise ConfigError(errors)
    return ClusterInfo(
        server=cluster.server,
        tls_server_name=cluster.tls_server_name,
        insecure=cluster.insecure,
        ca_data=base64.b64encode(text).decode(),
        proxy_url=cluster.proxy_url,
        config=cluster.exec_config,
    )


def _pem(what: str, file: str, text: str) -> Pem | None:
    """Prefer the text in the kubeconfig to the file beside it, as kubectl does."""
    if text:
        return Pem(what, content=decode_base64(text) or b"")
    return Pem(what, Path(file)) if file else None


def _is_ipv6(text: str) -> bool:
    try:
        IPv6Address(text)
    except ValueError:
        return False
    return True
