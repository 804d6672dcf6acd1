"""Our credentials and transport against the real kube-apiserver: every way to sign in that a cluster offers."""

import asyncio
import json
import shutil
from base64 import b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from littlelb.core.errors import Permanent
from littlelb.kube.credentials.choice import ApiCredentials, InCluster, choose_credentials
from littlelb.kube.transport import Credentials, Request, Transport
from littlelb.testing.clock import LoopClock
from tests.controlplane.cluster import ControlPlane

V1 = "client.authentication.k8s.io/v1"
REVIEW = b'{"apiVersion":"authentication.k8s.io/v1","kind":"SelfSubjectReview"}'


@asynccontextmanager
async def opened(credentials: Credentials) -> AsyncIterator[Transport]:
    """A transport, closed at the end."""
    transport = Transport(credentials)
    try:
        yield transport
    finally:
        await transport.close()


async def who_am_i(credentials: Credentials) -> str:
    """Ask the server for our name."""
    async with opened(credentials) as transport:
        return await ask_name(transport)


async def ask_name(transport: Transport) -> str:
    """Ask through an open transport."""
    answer = await transport.fetch(Request("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", body=REVIEW))
    assert answer.code == 201, answer.body
    return str(json.loads(answer.body)["status"]["userInfo"]["username"])


def write(folder: Path, plane: ControlPlane, user: dict[str, Any], **cluster: object) -> Path:
    """Write a kubeconfig for this server."""
    server = {"server": plane.server, "certificate-authority": str(plane.folder / "ca.crt")} | cluster
    path = folder / "config"
    path.write_text(
        json.dumps(
            {
                "current-context": "c",
                "clusters": [{"name": "k", "cluster": {k: v for k, v in server.items() if v is not None}}],
                "users": [{"name": "u", "user": user}],
                "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
            }
        )
    )
    return path


def load(path: Path) -> ApiCredentials:
    """Load it."""
    return choose_credentials(str(path), None, "", LoopClock(), {"PATH": "/usr/bin:/bin"})


def data(path: Path) -> str:
    """Base64 of a file."""
    return b64encode(path.read_bytes()).decode()


def certificate(plane: ControlPlane, name: str = "admin") -> tuple[Path, Path]:
    """A client certificate of the control plane and its key."""
    return plane.folder / f"{name}.crt", plane.folder / f"{name}.key"


@pytest.mark.parametrize("form", ["files", "data"])
async def test_a_client_certificate_signs_in(form: str, controlplane: ControlPlane, tmp_path: Path) -> None:
    """From files, and from the kubeconfig itself."""
    crt, key = certificate(controlplane)
    if form == "files":
        user = {"client-certificate": str(crt), "client-key": str(key)}
    else:
        user = {"client-certificate-data": data(crt), "client-key-data": data(key)}
    named = await who_am_i(load(controlplane.kubeconfig("admin")))
    assert named not in {"", "system:anonymous"}
    assert await who_am_i(load(write(tmp_path, controlplane, user))) == named


async def test_a_service_account_signs_in_from_inside(controlplane: ControlPlane, tmp_path: Path) -> None:
    """Address and port as the kubelet tells them, token and CA from the mounted folder; a new token is taken up."""
    host, _, port = controlplane.server.removeprefix("https://").rpartition(":")
    (tmp_path / "token").write_text(controlplane.token("default", "default"))
    shutil.copy(controlplane.folder / "ca.crt", tmp_path / "ca.crt")
    credentials = choose_credentials("", InCluster(host.strip("[]"), port, tmp_path), "", LoopClock(), {})
    async with opened(credentials) as transport:
        assert await ask_name(transport) == "system:serviceaccount:default:default"
        (tmp_path / "token").write_text(controlplane.token("kube-system", "default"))
        assert await ask_name(transport) == "system:serviceaccount:kube-system:default"


@pytest.mark.parametrize("kind", ["token", "certificate"])
async def test_an_exec_plugin_signs_in(kind: str, controlplane: ControlPlane, tmp_path: Path) -> None:
    """With a token, and with a client certificate."""
    crt, key = certificate(controlplane)
    if kind == "token":
        status = {"token": controlplane.token("default", "default")}
    else:
        status = {"clientCertificateData": crt.read_text(), "clientKeyData": key.read_text()}
    answer = tmp_path / "answer.json"
    answer.write_text(json.dumps({"apiVersion": V1, "kind": "ExecCredential", "status": status}))
    plugin = {"apiVersion": V1, "command": "cat", "args": [str(answer)], "interactiveMode": "Never"}
    name = await who_am_i(load(write(tmp_path, controlplane, {"exec": plugin})))
    if kind == "token":
        assert name == "system:serviceaccount:default:default"
    else:
        assert name == await who_am_i(load(controlplane.kubeconfig("admin")))


def install(plane: ControlPlane, name: str, folder: Path) -> None:
    """Renew `me.crt` and `me.key` as an agent would: written aside, then renamed."""
    for source, suffix in zip(certificate(plane, name), ("crt", "key"), strict=True):
        shutil.copy(source, folder / "new")
        (folder / "new").rename(folder / f"me.{suffix}")


async def test_a_renewed_certificate_is_shown_without_a_restart(controlplane: ControlPlane, tmp_path: Path) -> None:
    """The files change, the next request is another user's."""
    names = []
    user = {"client-certificate": str(tmp_path / "me.crt"), "client-key": str(tmp_path / "me.key")}
    path = write(tmp_path, controlplane, user)
    install(controlplane, "admin", tmp_path)
    async with opened(load(path)) as transport:
        names.append(await ask_name(transport))
        install(controlplane, "controllers", tmp_path)
        names.append(await ask_name(transport))
    assert names == ["tests", "system:kube-controller-manager"]


async def test_a_server_that_another_ca_signed_is_not_trusted(controlplane: ControlPlane, tmp_path: Path) -> None:
    """Without its CA the connection is refused by us, unless the file says insecure-skip-tls-verify."""
    user = {"token": controlplane.token("default", "default")}
    with pytest.raises(Permanent, match="not trusted"):
        await who_am_i(load(write(tmp_path, controlplane, user, **{"certificate-authority": None})))
    lax = {"certificate-authority": None, "insecure-skip-tls-verify": True}
    assert await who_am_i(load(write(tmp_path, controlplane, user, **lax))) == "system:serviceaccount:default:default"


async def test_the_name_to_verify_can_be_given(controlplane: ControlPlane, tmp_path: Path) -> None:
    """tls-server-name: a name of the certificate is taken, another one is not."""
    user = {"token": controlplane.token("default", "default")}
    with pytest.raises(Permanent, match="not trusted"):
        await who_am_i(load(write(tmp_path, controlplane, user, **{"tls-server-name": "other.example"})))
    good = {"tls-server-name": "kubernetes.default.svc"}
    assert await who_am_i(load(write(tmp_path, controlplane, user, **good)))


async def test_requests_at_the_same_time_share_one_sign_in(controlplane: ControlPlane, tmp_path: Path) -> None:
    """A plugin runs once, however many ask."""
    answer = {"apiVersion": V1, "kind": "ExecCredential", "status": {"token": controlplane.token("default", "default")}}
    (tmp_path / "answer.json").write_text(json.dumps(answer))
    script = tmp_path / "plugin"
    script.write_text(f"#!/bin/sh\necho run >> {tmp_path}/runs\ncat {tmp_path}/answer.json\n")
    script.chmod(0o755)
    credentials = load(write(tmp_path, controlplane, {"exec": {"apiVersion": V1, "command": "./plugin"}}))
    async with opened(credentials) as transport:
        names = await asyncio.gather(*(ask_name(transport) for _ in range(8)))
    assert set(names) == {"system:serviceaccount:default:default"}
    assert (tmp_path / "runs").read_text() == "run\n"
