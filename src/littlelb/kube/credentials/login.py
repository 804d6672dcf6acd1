"""The ways to sign a request in: fixed headers, a token file that somebody renews, an exec plugin."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import structlog

from littlelb.core.errors import Permanent
from littlelb.core.interfaces import Clock
from littlelb.kube.credentials.exec_plugin import Credential, ExecPlugin
from littlelb.kube.credentials.tls import Stamp, read_stamp

TOKEN_LIFE_SECONDS = 60.0

_log = structlog.get_logger(__name__)


class Login(Protocol):
    """One way to sign in."""

    async def headers(self) -> Mapping[str, str]:
        """Return the headers that sign a request in. Raises `Transient` or `Permanent`."""
        ...

    def client_certificate(self) -> tuple[bytes, bytes] | None:
        """Return certificate and key that came with the last `headers`, where this way gives any."""
        ...

    def invalidate(self) -> None:
        """The server refused: look again."""
        ...


class FixedLogin:
    """A token or a name and password that stand in the kubeconfig; or nothing but the client certificate."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        """Keep the headers."""
        self._headers = headers

    async def headers(self) -> Mapping[str, str]:
        """Return them."""
        return self._headers

    def client_certificate(self) -> None:
        """Give none."""

    def invalidate(self) -> None:
        """Do nothing: there is no second place to look."""


class TokenFileLogin:
    """A bearer token in a file that somebody renews."""

    def __init__(self, path: Path, clock: Clock, fallback: str = "") -> None:
        """`fallback` is used until the file could be read (kubectl's rule for token beside tokenFile)."""
        self._path = path
        self._clock = clock
        self._token = fallback
        self._stamp: Stamp = None
        self._read_at = float("-inf")
        self._complained = False

    async def headers(self) -> Mapping[str, str]:
        """Return the token; read again when the file changed, after 60 s, and after a 401."""
        stamp = read_stamp(self._path)
        if stamp != self._stamp or self._clock.monotonic() - self._read_at >= TOKEN_LIFE_SECONDS:
            self._read(stamp)
        return bearer(self._token)

    def client_certificate(self) -> None:
        """Give none."""

    def invalidate(self) -> None:
        """Read again next time."""
        self._read_at = float("-inf")

    def _read(self, stamp: Stamp) -> None:
        try:
            token, fault = self._path.read_text("ascii").strip(), "it is empty"
        except (OSError, ValueError) as error:
            token, fault = "", getattr(error, "strerror", None) or "it is not ASCII text"
        if token:
            self._token, self._stamp, self._read_at = token, stamp, self._clock.monotonic()
            self._complained = False
            return
        message = f"token file {self._path}: cannot be used ({fault}); check that it is there and readable"
        if not self._token:
            raise Permanent(message)
        if not self._complained:
            self._complained = True
            _log.warning("credentials.kept", reason=message)


class PluginLogin:
    """An exec plugin's token and certificate."""

    def __init__(self, plugin: ExecPlugin) -> None:
        """Wrap the plugin."""
        self._plugin = plugin
        self._last: Credential | None = None

    async def headers(self) -> Mapping[str, str]:
        """Ask the plugin, or its cache."""
        self._last = await self._plugin.credential()
        return bearer(self._last.token) if self._last.token else {}

    def client_certificate(self) -> tuple[bytes, bytes] | None:
        """Return what came with the last answer."""
        if self._last is None or not self._last.client_certificate_data:
            return None
        return self._last.client_certificate_data.encode(), self._last.client_key_data.encode()

    def invalidate(self) -> None:
        """Run the plugin again."""
        self._plugin.invalidate()


def bearer(token: str) -> Mapping[str, str]:
    """RFC 6750."""
    return {"Authorization": f"Bearer {token}"}
