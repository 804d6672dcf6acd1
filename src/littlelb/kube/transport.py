"""Carries HTTP requests to the API server: two aiohttp sessions, one for short requests, one for watches.

It knows HTTP and TLS, not Kubernetes: every answer comes back with its status code, only a server that cannot be
reached, or that cannot be trusted, is an error. A half-open connection is noticed by the kernel (keepalive after 10 s,
3 probes 5 s apart, TCP_USER_TIMEOUT 25 s), so a watch whose peer vanished without a word fails within 30 s.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Protocol

import aiohttp
import structlog

from littlelb import __version__
from littlelb.core.errors import Permanent, Transient

CONNECT_SECONDS = 10.0
"""For name, connection and TLS handshake together."""
READ_SECONDS = 20.0
"""Longest pause inside a short answer."""
OPEN_SECONDS = 15.0
"""Longest wait for the headers of a watch: the API server sends them before the first event."""
READ_BUFFER_BYTES = 256 * 1024
log = structlog.get_logger(__name__)


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


@dataclass(frozen=True, slots=True)
class Request:
    """One request, relative to the server's address."""

    method: str
    path: str
    """Percent-encoded, with a leading slash."""
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    content_type: str = "application/json"
    timeout_seconds: float = 60.0
    """For the whole of a short request; a stream has none."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server said, whatever it said."""

    code: int
    body: bytes
    retry_after_seconds: float | None = None
    """`Retry-After` in its form of seconds; the form of a date is not used by API servers."""


class Stream:
    """An answer whose body goes on and on."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        """Wrap a response whose headers have come."""
        self._response = response

    @property
    def code(self) -> int:
        """HTTP status."""
        return self._response.status

    async def read(self) -> bytes:
        """Return what has come, at least one byte; `b""` at the end. It can be cancelled without losing bytes."""
        with _in_plain_words(str(self._response.url.origin())):
            return await self._response.content.readany()

    async def rest(self) -> Answer:
        """Take it as a short answer after all: a refusal."""
        with _in_plain_words(str(self._response.url.origin())):
            async with asyncio.timeout(READ_SECONDS):
                return await _answer(self._response)


def open_socket(address: tuple[Any, ...]) -> socket.socket:
    """Make a socket that notices a peer which vanished, whether or not anything is being sent (RFC 1122, RFC 5482)."""
    family, kind, protocol, _, _ = address
    sock = socket.socket(family, kind, protocol)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 25_000)
    return sock


class Transport:
    """Sends requests with our credentials; a 401 makes it read them anew and ask once more."""

    def __init__(self, credentials: Credentials) -> None:
        """Open nothing yet."""
        self._credentials = credentials
        self._generation: int | None = None
        self._short: aiohttp.ClientSession | None = None
        self._long: aiohttp.ClientSession | None = None

    @property
    def server(self) -> str:
        """Address of the API server, for messages."""
        return self._credentials.server

    async def fetch(self, request: Request) -> Answer:
        """Send a short request and read the whole answer. Raises `Transient` or `Permanent`."""
        with _in_plain_words(self.server):
            async with asyncio.timeout(request.timeout_seconds):
                answer = await self._fetch(request)
                if answer.code == HTTPStatus.UNAUTHORIZED and await self._renew():
                    answer = await self._fetch(request)
                return answer

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[Stream]:
        """Send a request whose answer is read while it comes. Raises `Transient` or `Permanent`."""
        with _in_plain_words(self.server):
            async with asyncio.timeout(CONNECT_SECONDS + OPEN_SECONDS):
                response = await self._open(request)
        try:
            yield Stream(response)
        finally:
            _drop(response)

    async def close(self) -> None:
        """Close the connections; the next request opens new ones."""
        old = (self._short, self._long)
        self._short = self._long = self._generation = None
        for session in old:
            if session is not None:
                await session.close()

    async def _fetch(self, request: Request) -> Answer:
        response = await self._send(request, long=False)
        async with response:
            return await _answer(response)

    async def _open(self, request: Request) -> aiohttp.ClientResponse:
        response = await self._send(request, long=True)
        if response.status != HTTPStatus.UNAUTHORIZED or not await self._renew():
            return response
        response.close()
        return await self._send(request, long=True)

    async def _send(self, request: Request, *, long: bool) -> aiohttp.ClientResponse:
        credentials = self._credentials
        headers = dict(await credentials.authorize())
        if request.body is not None:
            headers["Content-Type"] = request.content_type
        session = await self._session(long=long)
        response = await session.request(
            request.method,
            credentials.server + request.path,
            params=request.query,
            data=request.body,
            headers=headers,
            proxy=credentials.proxy,
            server_hostname=credentials.server_hostname,
            allow_redirects=False,
        )
        log.debug("api.request", method=request.method, path=request.path, query=request.query, code=response.status)
        return response

    async def _renew(self) -> bool:
        """Have the credentials read again; False if that failed."""
        try:
            self._credentials.invalidate()
            await self._credentials.authorize()
        except (Transient, Permanent):
            return False  # the 401 that we have says more than the failure to get something better
        return True

    async def _session(self, *, long: bool) -> aiohttp.ClientSession:
        if self._generation != self._credentials.generation:
            await self.close()
        if self._short is None or self._long is None:
            self._generation = self._credentials.generation
            tls = self._credentials.ssl_context()
            self._short = _new_session(tls, aiohttp.ClientTimeout(connect=CONNECT_SECONDS, sock_read=READ_SECONDS))
            self._long = _new_session(tls, aiohttp.ClientTimeout(connect=CONNECT_SECONDS))
        return self._long if long else self._short


def _new_session(tls: ssl.SSLContext | None, timeout: aiohttp.ClientTimeout) -> aiohttp.ClientSession:
    connector = aiohttp.TCPConnector(
        ssl=tls if tls is not None else True, limit=0, socket_factory=open_socket, keepalive_timeout=30
    )
    return aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        read_bufsize=READ_BUFFER_BYTES,
        headers={
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": f"littlelb/{__version__}",
        },
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _drop(response: aiohttp.ClientResponse) -> None:
    """Close in the middle of an answer. A polite TLS end would wait for a peer that may have vanished."""
    connection = response.connection
    if connection is not None and connection.transport is not None:
        connection.transport.abort()
    response.close()


async def _answer(response: aiohttp.ClientResponse) -> Answer:
    wish = response.headers.get("Retry-After", "")
    return Answer(response.status, await response.read(), float(wish) if wish.isdecimal() else None)


@contextmanager
def _in_plain_words(server: str) -> Iterator[None]:
    """Turn what aiohttp, ssl and the kernel raise into our own errors. No text of a request gets into a message."""
    try:
        yield
    except (aiohttp.ClientConnectorCertificateError, ssl.SSLCertVerificationError) as error:
        raise Permanent(
            f"the certificate of {server} is not trusted ({_reason(error)}): check certificate-authority, and "
            f"tls-server-name if the server is reached by another name"
        ) from error
    except aiohttp.InvalidURL as error:
        raise Permanent(f"{server} is not an address of a server: check `server` and `proxy-url`") from error
    except aiohttp.ClientProxyConnectionError as error:
        raise Transient(f"cannot connect to the proxy to {server}: {_reason(error)}") from error
    except aiohttp.ClientHttpProxyError as error:
        raise Transient(f"the proxy refuses to connect to {server}: {error.status} {error.message}") from error
    except TimeoutError as error:
        raise Transient(f"no answer from {server} in time") from error
    except aiohttp.ClientConnectorError as error:
        raise Transient(f"cannot connect to {server}: {_reason(error)}") from error
    except (aiohttp.ClientError, OSError) as error:
        raise Transient(f"the connection to {server} broke: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return _reason(error.certificate_error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__
