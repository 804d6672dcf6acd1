"""How the daemon finds and enters the API server: kubeconfig, the pod's own credentials, and which of them wins."""

import base64
from pathlib import Path

import pytest

from tests.controlplane.accounts import ACCOUNT, NAMESPACE
from tests.controlplane.objects import create_pod
from tests.e2e.pod import DAEMON, launch_in_pod, write_account_folder
from tests.e2e.rig import DEFAULT, Rig

pytestmark = pytest.mark.e2e


def serves(rig: Rig) -> None:
    """Wait until the daemon is ready and a Service made for the purpose answers."""
    rig.wait("the daemon is ready", rig.ready)
    rig.apply("web")
    rig.serve_service("web", 1)
    rig.wait("published", lambda: rig.ingress("web") == [DEFAULT])
    rig.wait("served", lambda: rig.ask(DEFAULT) == "n1")


def embed(file: Path) -> str:
    """Content of a file as a kubeconfig has it in its `-data` fields."""
    return base64.b64encode(file.read_bytes()).decode()


@pytest.mark.parametrize("form", ["files", "embedded"])
def test_a_kubeconfig_with_a_client_certificate_opens_the_api_server(rig: Rig, form: str) -> None:
    """Certificate and key as paths, or embedded as kubeadm writes them."""
    folder = rig.plane.folder
    user = None
    if form == "embedded":
        certificate, key = embed(folder / "admin.crt"), embed(folder / "admin.key")
        user = {"client-certificate-data": certificate, "client-key-data": key}
    config = rig.plane.kubeconfig(f"certificate-{form}", user, rig.server)
    rig.launch([*DAEMON, "--kubeconfig", str(config)])
    serves(rig)


@pytest.mark.parametrize("form", ["token", "tokenFile"])
def test_a_kubeconfig_with_a_token_opens_the_api_server(rig: Rig, form: str) -> None:
    """The account that is shipped signs in with a token that stands in the file, or in a file beside it."""
    token = rig.plane.token(NAMESPACE, ACCOUNT)
    beside = rig.home / "token"
    beside.write_text(token)
    config = rig.plane.kubeconfig(f"by-{form}", {form: token if form == "token" else str(beside)}, rig.server)
    rig.launch([*DAEMON, "--kubeconfig", str(config)])
    serves(rig)


def test_the_kubeconfig_of_the_home_directory_is_used_when_none_is_named(rig: Rig) -> None:
    """Outside of a cluster and without a flag: ~/.kube/config, as kubectl does."""
    folder = rig.home / ".kube"
    folder.mkdir()
    (folder / "config").write_bytes(rig.kubeconfig.read_bytes())
    rig.launch(DAEMON)
    serves(rig)


def test_in_a_pod_the_service_account_opens_the_api_server(rig: Rig) -> None:
    """No flag at all: the kubelet's environment and folder are enough; in the cluster the backends are the pods."""
    folder = write_account_folder(rig, rig.plane.token(NAMESPACE, ACCOUNT))
    rig.lan.backends[0].ip("addr", "add", "10.1.1.11/32", "dev", "lo")
    rig.lan.balancer.ip("route", "add", "10.1.1.0/24", "via", "198.51.100.11")
    rig.serve(1, 8080)
    launch_in_pod(rig, folder)
    rig.wait("the daemon is ready", rig.ready)
    rig.apply("web", ports=({"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"},))
    create_pod(rig.plane.admin, "web-1", "n1", "10.1.1.11", "web", rig.namespace)
    rig.wait("served", lambda: rig.ask(DEFAULT) == "n1")
    assert rig.report().daemon.source == rig.server


def test_a_named_kubeconfig_beats_the_credentials_of_the_pod(rig: Rig) -> None:
    """The flag wins over a pod's environment, whose address and token would lead nowhere here."""
    folder = write_account_folder(rig, "not-a-token")
    elsewhere = {"KUBERNETES_SERVICE_HOST": "198.51.100.99"}
    launch_in_pod(rig, folder, "--kubeconfig", str(rig.kubeconfig), more=elsewhere)
    serves(rig)
    assert rig.report().daemon.source == rig.server


def test_a_refused_token_is_reported_and_a_renewed_one_taken_up(rig: Rig) -> None:
    """The daemon says what the server answered and what to do, is not ready, and goes on once the token is right."""
    folder = write_account_folder(rig, "not-a-token")
    launch_in_pod(rig, folder)
    rig.wait("the refusals are logged", lambda: len(rig.log_events("reflector.failed")) == 3)
    refusal = rig.log_events("reflector.failed")[0]
    assert "our credentials are not accepted (401): renew them" in refusal["error"]
    assert not rig.ready()
    (folder / "token").write_text(rig.plane.token(NAMESPACE, ACCOUNT))
    rig.wait("the daemon is ready", rig.ready, 30)
    assert len(rig.log_events("reflector.failed")) == 3, "one for each resource, however often it was tried"
