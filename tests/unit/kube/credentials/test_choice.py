"""Which way to the API server is taken, and what becomes of it when files are renewed."""

import os
import shutil
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from littlelb.core.errors import ConfigError
from littlelb.kube.credentials.choice import ApiCredentials, InCluster, choose_credentials
from littlelb.kube.transport import Credentials
from tests.controlplane.certificates import Authority
from tests.unit.kube.conftest import StillClock

from .conftest import WriteConfig

V1 = "client.authentication.k8s.io/v1"
HTTPS = {"server": "https://198.51.100.1:6443/prefix/"}


def load(path: Path, clock: StillClock) -> ApiCredentials:
    """Load one kubeconfig."""
    return choose_credentials(str(path), None, "/absent", clock, {"PATH": os.defpath})


def write_service_account(folder: Path, authority: Authority) -> None:
    """What the kubelet mounts into a pod."""
    (folder / "token").write_text("pod-token")
    shutil.copy(authority.certificate, folder / "ca.crt")


async def test_a_kubeconfig_that_was_asked_for_beats_the_pods_service_account(
    write_config: WriteConfig, tmp_path: Path, authority: Authority, clock: StillClock
) -> None:
    """The order is: asked for, in the cluster, the default place."""
    write_service_account(tmp_path, authority)
    pod = InCluster("2001:db8::1", "443", tmp_path)
    explicit = write_config({"server": "https://explicit"}, {"token": "e"})
    default = write_config({"server": "https://default"}, {"token": "d"}, file="default")
    assert choose_credentials(str(explicit), pod, str(default), clock, {}).server == "https://explicit"
    inside = choose_credentials("", pod, str(default), clock, {})
    assert inside.server == "https://[2001:db8::1]:443"
    assert await inside.authorize() == {"Authorization": "Bearer pod-token"}
    assert choose_credentials("", InCluster("", ""), str(default), clock, {}).server == "https://default"
    with pytest.raises(ConfigError, match=r"no way to the API server.*--manifests"):
        choose_credentials("", None, "/absent", clock, {})


def test_a_pod_without_a_token_is_told_what_to_set(tmp_path: Path, clock: StillClock) -> None:
    """AutomountServiceAccountToken is the usual reason."""
    with pytest.raises(ConfigError, match="automountServiceAccountToken"):
        choose_credentials("", InCluster("198.51.100.1", "443", tmp_path), "", clock, {})


@pytest.mark.parametrize(
    ("user", "headers"),
    [
        ({"token": "abc"}, {"Authorization": "Bearer abc"}),
        ({"username": "anna", "password": "geheim"}, {"Authorization": f"Basic {b64encode(b'anna:geheim').decode()}"}),
        ({"token": "abc", "exec": {"apiVersion": V1, "command": "/absent"}}, {"Authorization": "Bearer abc"}),
        ({}, {}),
    ],
)
async def test_what_stands_in_the_file_signs_in(
    user: dict[str, Any], headers: dict[str, str], write_config: WriteConfig, clock: StillClock
) -> None:
    """Token, name and password; a plugin beside them is not run; nothing gives an anonymous client."""
    credentials = load(write_config(HTTPS, user), clock)
    assert await credentials.authorize() == headers
    assert credentials.server == "https://198.51.100.1:6443/prefix"


async def test_proxy_server_name_and_plain_http_are_handed_on(write_config: WriteConfig, clock: StillClock) -> None:
    """proxy-url and tls-server-name reach the transport; without https there are no TLS settings."""
    cluster = {**HTTPS, "proxy-url": "http://198.51.100.9:3128", "tls-server-name": "api.example"}
    credentials = load(write_config(cluster, {}), clock)
    assert (credentials.proxy, credentials.server_hostname) == ("http://198.51.100.9:3128", "api.example")
    assert credentials.ssl_context() is not None
    plain = load(write_config({"server": "http://127.0.0.1:8080"}, {}), clock)
    assert (plain.proxy, plain.server_hostname, plain.ssl_context()) == (None, None, None)
    assert await plain.authorize() == {}


async def test_a_renewed_client_certificate_makes_a_new_generation(
    write_config: WriteConfig, tmp_path: Path, authority: Authority, clock: StillClock
) -> None:
    """Half a renewal keeps the old one in force; the whole one is taken at the next request."""
    for suffix in ("crt", "key"):
        shutil.copy(authority.folder / f"anna.{suffix}", tmp_path / f"me.{suffix}")
    credentials = load(write_config(HTTPS, {"client-certificate": "me.crt", "client-key": "me.key"}), clock)
    await credentials.authorize()
    before = (credentials.generation, credentials.ssl_context())
    shutil.copy(authority.folder / "bert.crt", tmp_path / "me.crt")
    await credentials.authorize()
    assert (credentials.generation, credentials.ssl_context()) == before
    shutil.copy(authority.folder / "bert.key", tmp_path / "me.key")
    await credentials.authorize()
    assert credentials.generation == before[0] + 1
    assert credentials.ssl_context() is not before[1]
    await credentials.authorize()
    assert credentials.generation == before[0] + 1


async def test_a_plugins_certificate_is_shown_to_the_server(
    write_config: WriteConfig, tmp_path: Path, authority: Authority, clock: StillClock
) -> None:
    """It comes with the first `authorize`, and bumps the generation once."""
    pem = {name: (authority.folder / f"anna.{name}").read_text().replace("\n", "\\n") for name in ("crt", "key")}
    answer = (
        f'{{"apiVersion":"{V1}","kind":"ExecCredential","status":'
        f'{{"clientCertificateData":"{pem["crt"]}","clientKeyData":"{pem["key"]}"}}}}'
    )
    (tmp_path / "answer.json").write_text(answer)
    plugin = {"apiVersion": V1, "command": "cat", "args": [str(tmp_path / "answer.json")], "interactiveMode": "Never"}
    credentials = load(write_config(HTTPS, {"exec": plugin}), clock)
    before = credentials.ssl_context()
    assert await credentials.authorize() == {}
    assert credentials.generation == 2
    assert credentials.ssl_context() is not before
    await credentials.authorize()
    assert credentials.generation == 2


def test_an_unusable_certificate_is_told_at_the_start(write_config: WriteConfig, clock: StillClock) -> None:
    """Not at the first request, minutes later."""
    garbage = b64encode(b"garbage").decode()
    user = {"client-certificate-data": garbage, "client-key-data": garbage}
    with pytest.raises(ConfigError, match="client-certificate"):
        load(write_config(HTTPS, user), clock)


async def test_a_token_file_is_read_again_after_a_401(
    write_config: WriteConfig, tmp_path: Path, clock: StillClock
) -> None:
    """The transport calls `invalidate`, then `authorize`."""
    (tmp_path / "t").write_text("first")
    credentials: Credentials = load(write_config(HTTPS, {"tokenFile": "t"}), clock)
    assert await credentials.authorize() == {"Authorization": "Bearer first"}
    (tmp_path / "t").write_text("second")
    credentials.invalidate()
    assert await credentials.authorize() == {"Authorization": "Bearer second"}


async def test_a_plugin_runs_again_after_a_401(write_config: WriteConfig, tmp_path: Path, clock: StillClock) -> None:
    """Its credential may have been revoked before it expired."""
    for name in ("first", "second"):
        text = f'{{"apiVersion":"{V1}","kind":"ExecCredential","status":{{"token":"{name}"}}}}'
        (tmp_path / f"{name}.json").write_text(text)
    shutil.copy(tmp_path / "first.json", tmp_path / "now.json")
    plugin = {"apiVersion": V1, "command": "cat", "args": [str(tmp_path / "now.json")]}
    credentials = load(write_config(HTTPS, {"exec": plugin}), clock)
    assert await credentials.authorize() == {"Authorization": "Bearer first"}
    shutil.copy(tmp_path / "second.json", tmp_path / "now.json")
    assert await credentials.authorize() == {"Authorization": "Bearer first"}
    clock.elapsed = 60.0
    credentials.invalidate()
    assert await credentials.authorize() == {"Authorization": "Bearer second"}


def test_a_server_that_is_not_verified_is_logged(write_config: WriteConfig, clock: StillClock) -> None:
    """It is said at every start; and only the file can ask for it."""
    with capture_logs() as logs:
        load(write_config({**HTTPS, "insecure-skip-tls-verify": True}, {}), clock)
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("credentials.insecure", "warning")]


def test_a_ca_that_a_plugin_should_be_told_of_must_be_readable(write_config: WriteConfig, clock: StillClock) -> None:
    """Missing files are told at the start, whoever would need them."""
    plugin = {"apiVersion": V1, "command": "cat", "provideClusterInfo": True}
    with pytest.raises(ConfigError, match=r"certificate-authority .*absent\.crt: cannot be read"):
        load(write_config({**HTTPS, "certificate-authority": "absent.crt"}, {"exec": plugin}), clock)


def test_an_ipv4_address_from_the_kubelet_needs_no_brackets(
    tmp_path: Path, authority: Authority, clock: StillClock
) -> None:
    """Nor does a name."""
    write_service_account(tmp_path, authority)
    found = choose_credentials("", InCluster("198.51.100.1", "6443", tmp_path), "", clock, {})
    assert found.server == "https://198.51.100.1:6443"
