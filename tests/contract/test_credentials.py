"""The same kubeconfigs through our loader and through the `kubernetes` package: both must find the same way in."""

import sys
from base64 import b64encode
from pathlib import Path
from typing import Any

import msgspec
import pytest
from kubernetes import client, config

from littlelb.kube.credentials.choice import ApiCredentials, choose_credentials
from littlelb.testing.clock import LoopClock
from tests.controlplane.certificates import Authority

V1 = "client.authentication.k8s.io/v1"
V1BETA1 = "client.authentication.k8s.io/v1beta1"
SERVER = "https://198.51.100.1:6443"


def exec_user(version: str, **status: str) -> dict[str, Any]:
    """A user whose plugin prints `status`."""
    answer = msgspec.json.encode({"apiVersion": version, "kind": "ExecCredential", "status": status}).decode()
    program = f"print({answer!r})"
    plugin = {"apiVersion": version, "command": sys.executable, "args": ["-c", program], "interactiveMode": "Never"}
    return {"exec": plugin}


def encoded(path: Path) -> str:
    """Base64 of a file, as in a `-data` field."""
    return b64encode(path.read_bytes()).decode()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """A CA with one client certificate."""
    made = Authority(tmp_path_factory.mktemp("pki"))
    made.issue("anna", "anna")
    return made


CASES = (
    "token", "token file", "basic", "certificate files", "certificate data", "exec token v1", "exec token v1beta1",
    "exec certificate", "server name", "proxy", "insecure", "plain http", "nothing",
)  # fmt: skip


def render_case(case: str, authority: Authority) -> tuple[dict[str, Any], dict[str, Any]]:
    """Cluster and user of one kind of kubeconfig."""
    folder = authority.folder
    certificate, key = folder / "anna.crt", folder / "anna.key"
    cluster: dict[str, Any] = {"server": SERVER, "certificate-authority": "ca.crt"}
    data = {"server": SERVER, "certificate-authority-data": encoded(authority.certificate)}
    user_data = {"client-certificate-data": encoded(certificate), "client-key-data": encoded(key)}
    printed = {"clientCertificateData": certificate.read_text(), "clientKeyData": key.read_text()}
    return {
        "token": (data, {"token": "abc"}),
        "token file": (cluster, {"tokenFile": "token"}),
        "basic": (cluster, {"username": "anna", "password": "geheim"}),
        "certificate files": (cluster, {"client-certificate": "anna.crt", "client-key": "anna.key"}),
        "certificate data": (data, user_data),
        "exec token v1": (cluster, exec_user(V1, token="t1")),
        "exec token v1beta1": (cluster, exec_user(V1BETA1, token="t2")),
        "exec certificate": (data, exec_user(V1, **printed)),
        "server name": ({**data, "tls-server-name": "api.example"}, {"token": "abc"}),
        "proxy": ({**data, "proxy-url": "http://198.51.100.9:3128"}, {"token": "abc"}),
        "insecure": ({"server": SERVER, "insecure-skip-tls-verify": True}, {"token": "abc"}),
        "plain http": ({"server": "http://127.0.0.1:8080"}, {"token": "abc"}),
        "nothing": (cluster, {}),
    }[case]


def write(case: str, authority: Authority) -> Path:
    """Write the kubeconfig beside the certificates, which it names by relative paths."""
    cluster, user = render_case(case, authority)
    (authority.folder / "token").write_text("from-file")
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "clusters": [{"name": "k", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
    }
    path = authority.folder / f"{case.replace(' ', '-')}.yaml"
    path.write_bytes(msgspec.yaml.encode(document))
    return path


def oracle(path: Path) -> dict[str, object]:
    """What the `kubernetes` package makes of it."""
    made = client.Configuration()
    config.load_kube_config(str(path), client_configuration=made)
    shown = made.auth_settings()["BearerToken"]["value"] if made.api_key else made.get_basic_auth_token()
    basic = shown if made.api_key or made.username else None
    return {
        "server": made.host,
        "authorization": basic,
        "ca": Path(made.ssl_ca_cert).read_bytes() if made.ssl_ca_cert else None,
        "certificate": Path(made.cert_file).read_bytes() if made.cert_file else None,
        "key": Path(made.key_file).read_bytes() if made.key_file else None,
        "verify": bool(made.verify_ssl),
        "server name": made.tls_server_name,
        "proxy": made.proxy,
    }


async def ours(credentials: ApiCredentials) -> dict[str, object]:
    """What we make of it, in the same terms."""
    headers = await credentials.authorize()
    tls = credentials.shown_tls()
    return {
        "server": credentials.server,
        "authorization": headers.get("Authorization"),
        "ca": tls.ca.read() if tls and tls.ca else None,
        "certificate": tls.certificate.read() if tls and tls.certificate else None,
        "key": tls.key.read() if tls and tls.key else None,
        "verify": not (tls and tls.insecure),
        "server name": credentials.server_hostname,
        "proxy": credentials.proxy,
    }


@pytest.mark.parametrize("case", CASES)
async def test_both_loaders_find_the_same_way_in(case: str, authority: Authority) -> None:
    """Server, CA, client certificate and key, token or password, proxy, name to verify."""
    path = write(case, authority)
    found = await ours(choose_credentials(str(path), None, "", LoopClock(), {}))
    assert found == oracle(path)
