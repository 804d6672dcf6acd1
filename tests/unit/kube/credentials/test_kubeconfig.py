"""Kubeconfig files as kubectl reads them."""

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from littlelb.core.errors import ConfigError
from littlelb.kube.credentials.kubeconfig import read_kubeconfig

from .conftest import WriteConfig

SERVER = {"server": "https://198.51.100.1:6443"}


def test_one_file_gives_its_current_context(write_config: WriteConfig) -> None:
    """The simplest case: one cluster, one user."""
    access = read_kubeconfig(str(write_config(SERVER, {"token": "abc"})))
    assert (access.context, access.cluster.server, access.user.token) == ("lab", SERVER["server"], "abc")


def test_of_several_files_the_first_to_name_an_entry_wins(write_config: WriteConfig) -> None:
    """Entries are not mixed field by field; current-context comes from the first file that has one."""
    first = write_config(SERVER, {"token": "first"}, file="a")
    first.write_text(first.read_text().replace("current-context: lab", "current-context: ''"))
    second = write_config({"server": "https://other"}, {"username": "u", "token": "second"}, file="b")
    access = read_kubeconfig(f"{first}:{second}:{first}")
    assert (access.context, access.user.token, access.user.username) == ("lab", "first", "")


def test_a_missing_file_of_a_list_is_passed_over(write_config: WriteConfig, tmp_path: Path) -> None:
    """As kubectl does; but if none is there, that is an error which names them all."""
    path = write_config(SERVER, {"token": "abc"})
    assert read_kubeconfig(f"{tmp_path / 'absent'}::{path}").user.token == "abc"
    with pytest.raises(ConfigError, match=r"absent, .*gone: no such file"):
        read_kubeconfig(f"{tmp_path / 'absent'}:{tmp_path / 'gone'}")


def test_relative_paths_start_at_the_file_they_stand_in(write_config: WriteConfig, tmp_path: Path) -> None:
    """CA, certificate, key, tokenFile, and a plugin with a slash; a plugin without one is looked up on the PATH."""
    plugin = {"apiVersion": "client.authentication.k8s.io/v1", "command": "./bin/login"}
    user = {"client-certificate": "a.crt", "client-key": "/abs/a.key", "tokenFile": "../t", "exec": plugin}
    path = write_config({**SERVER, "certificate-authority": "ca.crt"}, user, file="deep/config")
    access = read_kubeconfig(str(path))
    assert access.cluster.ca_file == str(tmp_path / "deep/ca.crt")
    assert access.user.certificate_file == str(tmp_path / "deep/a.crt")
    assert access.user.key_file == "/abs/a.key"
    assert Path(access.user.token_file).resolve() == tmp_path / "t"
    assert access.user.exec is not None
    assert access.user.exec.command == str(tmp_path / "deep/bin/login")
    plugin["command"] = "aws"
    path = write_config(SERVER, {"exec": plugin})
    chosen = read_kubeconfig(str(path)).user.exec
    assert chosen is not None
    assert chosen.command == "aws"


def test_a_context_can_be_chosen_by_name(write_config: WriteConfig) -> None:
    """The name given beats current-context."""
    paths = (
        f"{write_config(SERVER, {'token': 'a'}, file='a')}:{write_config(SERVER, {'token': 'b'}, name='two', file='b')}"
    )
    assert read_kubeconfig(paths, "two").user.token == "b"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\x00\x01", "not valid YAML"),
        (b"\xff\xfe\xff", "not valid YAML"),
        (b"a: [", "not valid YAML"),
        (b"- a\n- b\n", "no mapping"),
        (b"", "no current-context"),
        (b"users: 7\ncurrent-context: a\n", "users is not a list"),
        (b"current-context: a\nusers: null\ncontexts: [{context: {}}]\n", "contexts[0] has no name"),
        (b"current-context: a\n", "context 'a' is not there"),
        (b"current-context: a\ncontexts: [{name: a, context: [1]}]\n", "Expected `object`"),
        (b"current-context: a\ncontexts: [{name: a, context: &x {cluster: *x}}]\n", "context 'a'"),
        (b"[" * 5_000, "not valid YAML"),
    ],
)
def test_a_broken_file_is_named_with_its_fault(text: bytes, said: str, tmp_path: Path) -> None:
    """Garbage of any kind is a ConfigError that names the file, never another exception."""
    path = tmp_path / "config"
    path.write_bytes(text)
    with pytest.raises(ConfigError) as caught:
        read_kubeconfig(str(path))
    assert str(path) in str(caught.value)
    assert said in str(caught.value)


def test_all_faults_of_the_chosen_entries_are_told_at_once(write_config: WriteConfig) -> None:
    """A person corrects them in one go."""
    with pytest.raises(ConfigError) as caught:
        read_kubeconfig(str(write_config({"server": "nonsense"}, {"auth-provider": {"name": "gcp"}})))
    assert len(caught.value.errors) == 2
    with pytest.raises(ConfigError, match="token"):
        read_kubeconfig(str(write_config(SERVER, {"token": 12345})))


def test_a_broken_entry_that_nobody_uses_does_no_harm(write_config: WriteConfig) -> None:
    """Only the chosen context's cluster and user are judged; null means absent."""
    broken = write_config({"server": 5}, {"exec": "x"}, name="broken", file="b")
    path = write_config({**SERVER, "proxy-url": None}, {"token": "abc", "exec": None})
    assert read_kubeconfig(f"{path}:{broken}").cluster.proxy_url == ""


def test_a_context_without_a_user_is_anonymous(tmp_path: Path) -> None:
    """As with kubectl on a port that asks for nothing."""
    path = tmp_path / "config"
    path.write_text(
        "current-context: a\ncontexts: [{name: a, context: {cluster: c}}]\n"
        "clusters: [{name: c, cluster: {server: 'http://127.0.0.1:8080'}}]\n"
    )
    assert read_kubeconfig(str(path)).user.token == ""


def test_a_folder_in_place_of_a_file_is_an_error_with_its_reason(tmp_path: Path) -> None:
    """A path that cannot be read says why."""
    with pytest.raises(ConfigError, match="cannot be read"):
        read_kubeconfig(str(tmp_path))


WORDS = (
    "current-context clusters users contexts name cluster user context server exec a env command args token tokenFile "
    "apiVersion certificate-authority-data auth-provider extensions"
)
NAMES = st.sampled_from(WORDS.split())
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just("a") | st.just("https://a") | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=12,
)
ENTRIES = st.lists(st.fixed_dictionaries({"name": st.just("a"), "cluster": VALUES, "user": VALUES, "context": VALUES}))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    document=VALUES
    | st.fixed_dictionaries(
        {"current-context": st.just("a"), "clusters": ENTRIES, "users": ENTRIES, "contexts": ENTRIES | VALUES}
    )
)
def test_no_document_gives_anything_but_an_access_or_a_config_error(document: object, tmp_path: Path) -> None:
    """Whatever a file holds, nothing else is raised."""
    path = tmp_path / "config"
    path.write_text(json.dumps(document))  # JSON is YAML
    with suppress(ConfigError):
        assert read_kubeconfig(str(path)).context == "a"
