"""Makes TLS settings out of PEM texts that may be renewed on disk at any moment."""

import os
import ssl
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from littlelb.core.errors import ConfigError

Stamp: TypeAlias = tuple[int, int, int] | None
"""Inode, size and modification time of a file: differs when the file does."""


@dataclass(frozen=True, slots=True)
class Pem:
    """PEM text that stands in a file, or was given as bytes."""

    what: str
    """For messages: `client certificate`."""
    path: Path | None = None
    content: bytes = b""

    def read(self) -> bytes:
        """Return the text; raises OSError."""
        return self.content if self.path is None else self.path.read_bytes()

    def stamp(self) -> Stamp:
        """Tell one state of the file from another; None when there is no file."""
        return None if self.path is None else read_stamp(self.path)


def read_stamp(path: Path) -> Stamp:
    """Look at a file without opening it; None when it is not there."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


@dataclass(frozen=True, slots=True)
class Tls:
    """How the server is verified, and the certificate that we show."""

    ca: Pem | None = None
    """None: the system's roots."""
    certificate: Pem | None = None
    key: Pem | None = None
    insecure: bool = False

    def stamps(self) -> tuple[Stamp, ...]:
        """Differs when any of the files does."""
        return tuple(pem.stamp() for pem in (self.ca, self.certificate, self.key) if pem is not None)

    def build(self) -> ssl.SSLContext:
        """Make the settings. Raises `ConfigError` with every file that cannot be used."""
        errors: list[str] = []
        texts = {pem.what: read_pem(pem, errors) for pem in (self.ca, self.certificate, self.key) if pem is not None}
        if errors:
            raise ConfigError(errors)
        context = ssl.create_default_context()
        # From 3.13 on this flag is a default; clusters made by kubeadm have CAs that lack what it asks for.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if self.insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif self.ca is not None:
            context = _trusting_only(self.ca, texts[self.ca.what], errors)
        if self.certificate is not None and self.key is not None:
            _show(context, self.certificate, texts[self.certificate.what], texts[self.key.what], errors)
        if errors:
            raise ConfigError(errors)
        return context


def read_pem(pem: Pem, errors: list[str]) -> bytes:
    """Read one, or say in `errors` why that failed."""
    try:
        return pem.read()
    except OSError as error:
        errors.append(f"{pem.what} {pem.path}: cannot be read ({error.strerror}); check the path and its permissions")
        return b""


def _trusting_only(ca: Pem, text: bytes, errors: list[str]) -> ssl.SSLContext:
    """Make a context that trusts this CA and not the system's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=text.decode("ascii"))
    except (ssl.SSLError, ValueError):
        errors.append(
            f"{ca.what} {ca.path or '(in the kubeconfig)'}: holds no certificate in PEM; get the cluster's CA anew"
        )
    return context


def _show(
    context: ssl.SSLContext, certificate: Pem, certificate_text: bytes, key_text: bytes, errors: list[str]
) -> None:
    """Load the client certificate from memory: OpenSSL wants file names, so it gets two that never reach a disk."""
    with ExitStack() as stack:
        names = []
        for text in (certificate_text, key_text):
            fd = os.memfd_create("pem")
            stack.callback(os.close, fd)
            os.write(fd, text)
            names.append(f"/proc/self/fd/{fd}")
        try:
            # The empty password keeps OpenSSL from asking a terminal for one.
            context.load_cert_chain(names[0], names[1], password="")
        except (ssl.SSLError, OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or "not PEM"
            errors.append(
                f"{certificate.what} {certificate.path or '(given as text)'} and its key: cannot be used ({reason}); "
                "both must be PEM, belong together, and the key must not be encrypted"
            )
