"""Carries HTTP requests to the API server: two aiohttp sessions, one for short requests, one for watches."""

import ssl
from collections.abc import Mapping
from typing import Protocol


class Credentials(Protocol):
    """Who we are, and where the API server is (implemented by `kube.credentials`)."""

    @property
    def server(self) -> str:
        """`https://host:port[/prefix]`, without a slash at the end."""
        ...

    @property
    def proxy(self) -> str | None:
        """`proxy-url` of the kubeconfig."""
        ...

    @property
    def server_hostname(self) -> str | None:
        """`tls-server-name`: the name to verify and to send as SNI, where it is not the host of `server`."""
        ...

    @property
    def generation(self) -> int:
        """Changes when the CA or the client certificate did: sessions with the old ones are closed."""
        ...

    def ssl_context(self) -> ssl.SSLContext | None:
        """TLS settings for this generation; None for plain http."""
        ...

    async def authorize(self) -> Mapping[str, str]:
        """Headers that prove who we are; cheap when cached. Raises `Transient` or `Permanent`."""
        ...

    def invalidate(self) -> None:
        """The server answered 401: read or run the source again at the next `authorize`."""
        ...
