"""Runs an exec credential plugin and keeps what it printed until shortly before it expires.

The contract is KEP-541: the plugin gets an ExecCredential in KUBERNETES_EXEC_INFO and prints one on stdout, whose
status holds a token, or a client certificate with its key, or both. It is started without a shell, without a terminal
(`interactive: false`), in a session of its own, so that a time-out ends its children too.
"""

import asyncio
import os
import signal
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from msgspec import Struct

from littlelb.core.errors import Permanent, Transient, WorldError
from littlelb.core.interfaces import Clock
from littlelb.kube.credentials.entries import Exec

EXPIRY_MARGIN_SECONDS = 10.0
SETTLE_SECONDS = 5.0
"""A 401 so soon after a run was most likely the answer to the credential before; also the pause after a failed run."""
_ERROR_TEXT_LIMIT = 500


class Credential(Struct, frozen=True, rename="camel"):
    """`status` of an ExecCredential. Certificate and key are PEM text."""

    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: datetime | None = None

    def __repr__(self) -> str:
        """Without the secrets."""
        return f"Credential(expires={self.expiration_timestamp})"


class _Answer(Struct, frozen=True, rename="camel"):
    api_version: str = ""
    kind: str = ""
    status: Credential | None = None


class ClusterInfo(Struct, frozen=True, omit_defaults=True):
    """`spec.cluster` of an ExecCredential, for plugins that ask for it (provideClusterInfo)."""

    server: str
    tls_server_name: str = msgspec.field(default="", name="tls-server-name")
    insecure: bool = msgspec.field(default=False, name="insecure-skip-tls-verify")
    ca_data: str = msgspec.field(default="", name="certificate-authority-data")
    """Base64 of the CA's PEM text, from whichever place it came."""
    proxy_url: str = msgspec.field(default="", name="proxy-url")
    config: object = None


class ExecPlugin:
    """One plugin of one user; concurrent askers share a run."""

    def __init__(
        self,
        plugin: Exec,
        cluster: ClusterInfo,
        environment: Mapping[str, str],
        clock: Clock,
        timeout_seconds: float = 30.0,
    ) -> None:
        """Start nothing yet. `environment` is what the plugin inherits; the kubeconfig's `env` is laid over it."""
        self._plugin = plugin
        self._environment = {
            **environment,
            **{entry.name: entry.value for entry in plugin.env},
            "KUBERNETES_EXEC_INFO": render_exec_info(plugin, cluster),
        }
        self._clock = clock
        self._timeout_seconds = timeout_seconds
        self._turn = asyncio.Lock()
        self._credential: Credential | None = None
        self._failure: WorldError | None = None
        self._last_run = float("-inf")

    async def credential(self) -> Credential:
        """Return the current credential, running the plugin when there is none or it is about to expire.

        Raises `Transient` for a run that failed, `Permanent` for a plugin that is missing or speaks something else.
        """
        async with self._turn:
            if self._credential is not None and not self._expired(self._credential):
                return self._credential
            if self._failure is not None and self._settling():
                raise self._failure
            return await self._renew()

    def invalidate(self) -> None:
        """Forget the credential, because the server refused it."""
        if not self._settling():
            self._credential = None

    def _settling(self) -> bool:
        return self._clock.monotonic() - self._last_run < SETTLE_SECONDS

    def _expired(self, credential: Credential) -> bool:
        expires = credential.expiration_timestamp
        return expires is not None and self._clock.now() >= expires.timestamp() - EXPIRY_MARGIN_SECONDS

    async def _renew(self) -> Credential:
        self._credential = self._failure = None
        try:
            self._credential = parse_credential(await self._run(), self._plugin)
        except WorldError as failure:
            self._failure = failure
            raise
        finally:
            self._last_run = self._clock.monotonic()
        return self._credential

    async def _run(self) -> bytes:
        process = await self._start()
        try:
            async with asyncio.timeout(self._timeout_seconds):
                stdout, stderr = await process.communicate()
        except TimeoutError:
            raise Transient(
                f"exec plugin {self._plugin.command}: gave no answer in {self._timeout_seconds:g} s and was ended; "
                "run it by hand to see what it waits for"
            ) from None
        finally:
            await _end(process)
        if process.returncode:
            raise Transient(
                f"exec plugin {self._plugin.command}: failed with exit status {process.returncode}: "
                f"{_tail(stderr) or 'it wrote nothing to stderr'}; run it by hand, or sign in anew"
            )
        return stdout

    async def _start(self) -> Process:
        try:
            return await asyncio.create_subprocess_exec(
                self._plugin.command,
                *self._plugin.args,
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=PIPE,
                env=self._environment,
                start_new_session=True,
            )
        except FileNotFoundError:
            hint = (
                _printable(self._plugin.install_hint) or f"install {Path(self._plugin.command).name}, or correct PATH"
            )
            raise Permanent(f"exec plugin {self._plugin.command}: is not installed; {hint}") from None
        except OSError as error:
            raise Permanent(
                f"exec plugin {self._plugin.command}: cannot be started ({error.strerror}); check that it is executable"
            ) from error


async def _end(process: Process) -> None:
    """End a plugin that still runs, with its children."""
    if process.returncode is None:
        with suppress(ProcessLookupError):  # it ended by itself meanwhile
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


def render_exec_info(plugin: Exec, cluster: ClusterInfo) -> str:
    """Make the text of KUBERNETES_EXEC_INFO."""
    spec: dict[str, object] = {"interactive": False}
    if plugin.provide_cluster_info:
        spec["cluster"] = cluster
    exec_info = {"kind": "ExecCredential", "apiVersion": plugin.api_version, "spec": spec}
    return msgspec.json.encode(exec_info).decode()


def parse_credential(stdout: bytes, plugin: Exec) -> Credential:
    """Read what a plugin printed. Raises `Permanent` naming the fault, never quoting the text: it holds secrets."""
    try:
        answer = msgspec.json.decode(stdout, type=_Answer)
    except msgspec.DecodeError as error:
        kind = "text that is no ExecCredential in JSON" if not stdout.lstrip().startswith(b"{") else str(error)
        raise _fault(plugin, f"printed {kind}") from None
    if answer.kind != "ExecCredential" or answer.api_version != plugin.api_version:
        said = f"{_printable(answer.kind)} of {_printable(answer.api_version)}"
        raise _fault(plugin, f"printed {said}, not ExecCredential of {plugin.api_version}")
    status = answer.status or Credential()
    if bool(status.client_certificate_data) != bool(status.client_key_data):
        raise _fault(plugin, "printed only one of clientCertificateData and clientKeyData")
    if not status.token and not status.client_certificate_data:
        raise _fault(plugin, "printed neither a token nor a client certificate")
    expires = status.expiration_timestamp
    if expires is not None and expires.tzinfo is None:
        status = msgspec.structs.replace(status, expiration_timestamp=expires.replace(tzinfo=UTC))
    return status


def _fault(plugin: Exec, what: str) -> Permanent:
    return Permanent(f"exec plugin {plugin.command}: {what}; make its version and the kubeconfig's apiVersion agree")


def _tail(stderr: bytes) -> str:
    """Keep the end, where programs say what went wrong."""
    return _printable(" ".join(stderr.decode(errors="replace").split()))[-_ERROR_TEXT_LIMIT:]


def _printable(text: str) -> str:
    """Escape what would move a terminal's cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
