"""TLS settings out of PEM texts."""

import ssl
from pathlib import Path

import pytest

from littlelb.core.errors import ConfigError
from littlelb.kube.credentials.tls import Pem, Tls
from tests.controlplane.certificates import Authority


def pems(authority: Authority, name: str = "anna") -> tuple[Pem, Pem]:
    """A client certificate and its key, as files."""
    return Pem("client-certificate", authority.folder / f"{name}.crt"), Pem(
        "client-key", authority.folder / f"{name}.key"
    )


def test_a_given_ca_is_the_only_one_trusted(authority: Authority) -> None:
    """The system's roots say nothing about a cluster."""
    context = Tls(ca=Pem("certificate-authority", authority.certificate)).build()
    assert [ca["subject"][0][0][1] for ca in context.get_ca_certs()] == ["littlelb-tests"]
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)


def test_verification_is_off_only_when_asked(authority: Authority) -> None:
    """insecure-skip-tls-verify, and nothing else, turns it off."""
    assert Tls().build().verify_mode is ssl.CERT_REQUIRED
    context = Tls(insecure=True).build()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)
    assert authority.certificate.exists()


def test_a_client_certificate_from_text_leaves_no_file_and_no_descriptor(authority: Authority, tmp_path: Path) -> None:
    """Keys that stand in the kubeconfig are never written to a disk."""
    texts = [Pem(pem.what, content=pem.read()) for pem in pems(authority)]
    before = set(Path("/proc/self/fd").iterdir())
    Tls(certificate=texts[0], key=texts[1]).build()
    assert set(Path("/proc/self/fd").iterdir()) == before
    assert not list(tmp_path.iterdir())


def test_everything_that_cannot_be_read_is_told_at_once(tmp_path: Path) -> None:
    """CA, certificate and key each get their line."""
    absent = [Pem(what, tmp_path / what) for what in ("certificate-authority", "client-certificate", "client-key")]
    with pytest.raises(ConfigError) as caught:
        Tls(absent[0], absent[1], absent[2]).build()
    assert len(caught.value.errors) == 3
    assert "No such file" in caught.value.errors[0]


@pytest.mark.parametrize(
    "text", [b"", b"garbage", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
)
def test_a_ca_that_is_no_pem_is_a_config_error(text: bytes) -> None:
    """Whatever stands there."""
    with pytest.raises(ConfigError, match="certificate-authority"):
        Tls(ca=Pem("certificate-authority", content=text)).build()


def test_a_key_of_another_certificate_is_a_config_error(authority: Authority) -> None:
    """So are texts that are no PEM; a person is never asked for a password."""
    certificate, _ = pems(authority)
    _, key = pems(authority, "bert")
    with pytest.raises(ConfigError, match="belong together"):
        Tls(certificate=certificate, key=key).build()
    with pytest.raises(ConfigError, match="both must be PEM"):
        Tls(certificate=certificate, key=Pem("client-key", content=b"x")).build()


def test_a_stamp_tells_that_a_file_was_replaced(authority: Authority, tmp_path: Path) -> None:
    """Also when it was replaced by rename, as kubelets and editors do."""
    path = tmp_path / "a.crt"
    path.write_bytes(b"one")
    tls = Tls(ca=Pem("certificate-authority", path))
    first = tls.stamps()
    (tmp_path / "b").write_bytes(b"two")
    (tmp_path / "b").rename(path)
    assert tls.stamps() != first
    path.unlink()
    assert tls.stamps() == (None,)
    assert authority.certificate.exists()
