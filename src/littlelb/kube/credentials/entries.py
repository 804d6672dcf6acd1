"""The entries of a kubeconfig as typed values (client-go `clientcmd/api/v1`); a text of a `…_data` field is base64."""

import base64
import binascii
from typing import Any

from msgspec import Struct, field

_EXEC_EXTENSION = "client.authentication.k8s.io/exec"


class Context(Struct, frozen=True):
    """Which cluster, as which user."""

    cluster: str = ""
    user: str = ""
    namespace: str = ""


class NamedExtension(Struct, frozen=True):
    """A free-form addition to a cluster entry; only the one for exec plugins means something to us."""

    name: str = ""
    extension: Any = None


class Cluster(Struct, frozen=True):
    """Where the API server is and how it proves who it is. Paths are absolute, `…_data` is still base64 text."""

    server: str = ""
    ca_file: str = field(default="", name="certificate-authority")
    ca_data: str = field(default="", name="certificate-authority-data")
    insecure: bool = field(default=False, name="insecure-skip-tls-verify")
    tls_server_name: str = field(default="", name="tls-server-name")
    proxy_url: str = field(default="", name="proxy-url")
    extensions: tuple[NamedExtension, ...] = ()

    @property
    def exec_config(self) -> object:
        """What the file has for exec plugins alone: `spec.cluster.config` of an ExecCredential; None without it."""
        return next((e.extension for e in self.extensions if e.name == _EXEC_EXTENSION), None)


class EnvironmentEntry(Struct, frozen=True):
    """One variable added to an exec plugin's environment."""

    name: str
    value: str = ""

    def __repr__(self) -> str:
        """Without the value, which may be a secret."""
        return f"EnvironmentEntry({self.name!r})"


class Exec(Struct, frozen=True, rename="camel"):
    """A credential plugin: a program that prints an ExecCredential (KEP-541)."""

    api_version: str = ""
    command: str = ""
    args: tuple[str, ...] = ()
    env: tuple[EnvironmentEntry, ...] = ()
    install_hint: str = ""
    provide_cluster_info: bool = False
    interactive_mode: str = ""


class AuthProvider(Struct, frozen=True):
    """A sign-in method that Kubernetes clients once had built in."""

    name: str = ""


class User(Struct, frozen=True):
    """How we prove who we are. Paths are absolute, `…_data` is still base64 text."""

    certificate_file: str = field(default="", name="client-certificate")
    certificate_data: str = field(default="", name="client-certificate-data")
    key_file: str = field(default="", name="client-key")
    key_data: str = field(default="", name="client-key-data")
    token: str = ""
    token_file: str = field(default="", name="tokenFile")
    username: str = ""
    password: str = ""
    exec: Exec | None = None
    auth_provider: AuthProvider | None = field(default=None, name="auth-provider")

    def __repr__(self) -> str:
        """Without the secrets."""
        return f"User(certificate={self.certificate_file!r}, username={self.username!r}, exec={self.exec!r})"


def decode_base64(text: str) -> bytes | None:
    """Decode one of the `…_data` fields; None if it is not base64."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
