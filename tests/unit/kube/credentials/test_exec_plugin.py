"""Exec credential plugins, played by small shell scripts."""

import asyncio
import os
from pathlib import Path

import msgspec
import pytest

from littlelb.core.errors import Permanent, Transient
from littlelb.kube.credentials.entries import EnvironmentEntry, Exec
from littlelb.kube.credentials.exec_plugin import ClusterInfo, ExecPlugin, parse_credential, render_exec_info
from tests.unit.kube.conftest import StillClock

V1 = "client.authentication.k8s.io/v1"
TOKEN = '{"token":"t"}'
CLUSTER = ClusterInfo("https://198.51.100.1:6443", ca_data="Q0E=", config={"audience": "a"})


def write_plugin(folder: Path, body: str) -> Path:
    """Make an executable script."""
    path = folder / "plugin"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def answer(status: str) -> str:
    """The shell line that prints an ExecCredential."""
    return f'echo \'{{"apiVersion":"{V1}","kind":"ExecCredential","status":{status}}}\''


def make(path: Path, clock: StillClock, timeout_seconds: float = 20.0, **fields: object) -> ExecPlugin:
    """Wrap the script."""
    plugin = msgspec.structs.replace(Exec(V1, str(path)), **fields)
    return ExecPlugin(plugin, CLUSTER, {"PATH": os.defpath, "HOME": "/nowhere"}, clock, timeout_seconds)


def runs(pid: int) -> bool:
    """Is there such a process, other than as a zombie that init has not yet buried?"""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().split()[2] != "Z"


async def test_arguments_environment_and_exec_info_reach_the_plugin(tmp_path: Path, clock: StillClock) -> None:
    """Arguments are not split or expanded, `env` beats what is inherited, KUBERNETES_EXEC_INFO is there."""
    script = write_plugin(
        tmp_path, f'echo "$1|$2|$HOME|$EXTRA|$KUBERNETES_EXEC_INFO" > {tmp_path}/seen; {answer(TOKEN)}'
    )
    env = (EnvironmentEntry("HOME", "/here"), EnvironmentEntry("EXTRA", "$(id)"))
    plugin = make(script, clock, args=("a b", "$HOME;"), env=env, provide_cluster_info=True)
    assert (await plugin.credential()).token == "t"
    seen = (tmp_path / "seen").read_text()
    assert seen.startswith('a b|$HOME;|/here|$(id)|{"kind":"ExecCredential"')
    assert '"server":"https://198.51.100.1:6443"' in seen


def test_an_expiry_without_a_zone_is_utc_and_no_secret_is_shown() -> None:
    """Some plugins leave the zone out; the text form of a credential holds nothing to steal."""
    status = '{"token":"s3cret","expirationTimestamp":"2026-01-01T00:01:00"}'
    printed = f'{{"apiVersion":"{V1}","kind":"ExecCredential","status":{status}}}'.encode()
    credential = parse_credential(printed, Exec(V1, "aws"))
    assert credential.expiration_timestamp is not None
    assert credential.expiration_timestamp.isoformat() == "2026-01-01T00:01:00+00:00"
    assert "s3cret" not in repr(credential)


def test_the_cluster_is_told_only_to_plugins_that_ask() -> None:
    """provideClusterInfo, in the API's spelling of the fields."""
    silent = msgspec.json.decode(render_exec_info(Exec(V1, "x"), CLUSTER))
    assert silent == {"kind": "ExecCredential", "apiVersion": V1, "spec": {"interactive": False}}
    told = msgspec.json.decode(render_exec_info(Exec(V1, "x", provide_cluster_info=True), CLUSTER))
    assert told["spec"]["cluster"] == {
        "server": "https://198.51.100.1:6443",
        "certificate-authority-data": "Q0E=",
        "config": {"audience": "a"},
    }


async def test_a_credential_is_kept_until_ten_seconds_before_it_expires(tmp_path: Path, clock: StillClock) -> None:
    """One run serves all requests until then, concurrent ones too."""
    status = '{"token":"t","expirationTimestamp":"2026-01-01T00:01:00Z"}'
    plugin = make(write_plugin(tmp_path, f"echo run >> {tmp_path}/runs; {answer(status)}"), clock)
    await asyncio.gather(*(plugin.credential() for _ in range(5)))
    clock.elapsed = 49.0
    await plugin.credential()
    assert (tmp_path / "runs").read_text().count("run") == 1
    clock.elapsed = 50.0
    await plugin.credential()
    assert (tmp_path / "runs").read_text().count("run") == 2


async def test_a_refused_credential_is_fetched_anew_but_not_in_a_hurry(tmp_path: Path, clock: StillClock) -> None:
    """A 401 just after a run belongs to the credential before; later ones make the plugin run again."""
    plugin = make(write_plugin(tmp_path, f"echo run >> {tmp_path}/runs; {answer(TOKEN)}"), clock)
    await plugin.credential()
    plugin.invalidate()
    await plugin.credential()
    assert (tmp_path / "runs").read_text().count("run") == 1
    clock.elapsed = 6.0
    plugin.invalidate()
    await plugin.credential()
    assert (tmp_path / "runs").read_text().count("run") == 2


async def test_a_failing_plugin_is_quoted_and_not_run_in_a_loop(tmp_path: Path, clock: StillClock) -> None:
    """The end of its stderr is in the error, control characters escaped; the next run is 5 s later at the earliest."""
    plugin = make(
        write_plugin(tmp_path, f"echo run >> {tmp_path}/runs; printf 'please \\033[1mlog in' >&2; exit 3"), clock
    )
    for _ in range(3):
        with pytest.raises(Transient, match=r"exit status 3: please \\x1b\[1mlog in"):
            await plugin.credential()
    assert (tmp_path / "runs").read_text().count("run") == 1


async def test_a_plugin_that_hangs_is_ended_with_its_children(tmp_path: Path, clock: StillClock) -> None:
    """After the time-out neither it nor what it started is left."""
    plugin = make(write_plugin(tmp_path, f"sleep 30 & echo $! > {tmp_path}/child; sleep 30"), clock, 0.3)
    with pytest.raises(Transient, match="gave no answer"):
        await plugin.credential()
    child = int((tmp_path / "child").read_text())
    async with asyncio.timeout(10):  # the signal was sent; the kernel ends it when it next runs
        while runs(child):
            await asyncio.sleep(0.01)


async def test_a_missing_plugin_shows_its_install_hint(tmp_path: Path, clock: StillClock) -> None:
    """The kubeconfig's installHint is the remedy; without one we name the program."""
    with pytest.raises(Permanent, match="see https://example"):
        await make(tmp_path / "absent", clock, install_hint="see https://example").credential()
    with pytest.raises(Permanent, match="install absent"):
        await make(tmp_path / "absent", clock).credential()
    (tmp_path / "plain").write_text("x")
    with pytest.raises(Permanent, match="executable"):
        await make(tmp_path / "plain", clock).credential()


@pytest.mark.parametrize(
    ("printed", "said"),
    [
        (b"Please visit https://login", "no ExecCredential in JSON"),
        (b'{"kind":"Secret","apiVersion":"v1"}', "printed Secret of v1"),
        (
            b'{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1beta1","status":{"token":"t"}}',
            "v1beta1",
        ),
        (b'{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1"}', "neither a token"),
        (
            b'{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","status":{"token":7}}',
            "Expected `str`",
        ),
        (
            b'{"kind":"ExecCredential","apiVersion":"client.authentication.k8s.io/v1","status":{"clientKeyData":"s3cret"}}',
            "only one of",
        ),
    ],
)
def test_an_answer_of_another_form_is_refused_without_quoting_secrets(printed: bytes, said: str) -> None:
    """Each form has its own sentence, which names the plugin."""
    with pytest.raises(Permanent, match="exec plugin aws: ") as caught:
        parse_credential(printed, Exec(V1, "aws"))
    assert said in str(caught.value)
    assert "s3cret" not in str(caught.value)
