"""What kubelet and container runtime do for a pod, done for one process: account folder, environment, limits."""

import shlex
from collections.abc import Mapping
from pathlib import Path

from tests.controlplane.accounts import NAMESPACE
from tests.controlplane.admin import Object
from tests.e2e.rig import LOADBALANCER, Rig

DAEMON = [str(LOADBALANCER), "--linkdevice", "eth0"]
FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"
_MOUNT = f'mount -t tmpfs none "$(readlink -f /var/run)" && mkdir -p {FOLDER} && mount --bind "$0" {FOLDER}'


def write_account_folder(rig: Rig, token: str) -> Path:
    """Lay out what the kubelet mounts into a pod: the token, the cluster's authority, the namespace."""
    folder = rig.home / "serviceaccount"
    folder.mkdir()
    (folder / "token").write_text(token)
    (folder / "ca.crt").write_bytes((rig.plane.folder / "ca.crt").read_bytes())
    (folder / "namespace").write_text(NAMESPACE)
    return folder


def environment(rig: Rig) -> dict[str, str]:
    """Say where the API server is, as the kubelet does."""
    host, _, port = rig.server.removeprefix("https://").rpartition(":")
    return {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port}


def in_a_pod(folder: Path) -> list[str]:
    """Words that run a program in a mount namespace of its own, in which the folder stands where a pod has it."""
    return _unshare(f'{_MOUNT} && exec "$@"', folder)


def launch_in_pod(rig: Rig, folder: Path, *flags: str, more: Mapping[str, str] | None = None) -> None:
    """Start the daemon with a mount namespace of its own, in which the folder stands where the kubelet puts it."""
    rig.launch([*in_a_pod(folder), *DAEMON, *flags], environment(rig) | dict(more or {}))


def in_a_container(rig: Rig, folder: Path, context: Object) -> list[str]:
    """Words that run a program as a container with this security context; only the rig's own folder can be written."""
    assert context["capabilities"]["drop"] == ["ALL"]
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    home = shlex.quote(str(rig.home))
    read_only = f"mount --bind {home} {home} && mount -o remount,bind,ro /"
    kept = ",".join(["-all", *(f"+{name.lower()}" for name in context["capabilities"]["add"])])
    confined = shlex.join(["setpriv", f"--bounding-set={kept}", f"--inh-caps={kept}", "--no-new-privs"])
    return _unshare(f'{_MOUNT} && {read_only} && exec {confined} "$@"', folder)


def _unshare(script: str, folder: Path) -> list[str]:
    return ["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, str(folder)]
