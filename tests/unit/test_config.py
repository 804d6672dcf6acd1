"""Where settings come from, which source wins, and what is said about bad ones."""

import os
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, fields
from ipaddress import ip_network
from pathlib import Path

import pytest

from littlelb.config import Config, ListenAddress, LogFormat, OnExit, Plane, load_config, read_run_dir
from littlelb.core.errors import ConfigError
from littlelb.core.model import Plane as ModelPlane
from littlelb.core.state import (
    BackendsMode,
    DefaultAddress,
    LocalPolicy,
    OffSubnet,
    PrefixMode,
    Settings,
    SourceAddress,
)
from littlelb.goflags import OPTIONS

# flag, environment variable, field, default, a text for another value, that value
TABLE: list[tuple[str, str, str, object, str, object]] = [
    ("kubeconfig", "KUBECONFIG", "kubeconfig", "", "/a:/b", "/a:/b"),
    ("linkdevice", "LINKDEVICE", "linkdevice", "", "eth1", "eth1"),
    ("debug", "DEBUG", "debug", False, "T", True),
    ("kubernetes", "KUBERNETES", "kubernetes", True, "F", False),
    ("prefix", "LITTLELB_PREFIX", "prefix", PrefixMode.HOST, "link", PrefixMode.LINK),
    ("on-exit", "LITTLELB_ON_EXIT", "on_exit", OnExit.WITHDRAW, "keep", OnExit.KEEP),
    ("manifests", "LITTLELB_MANIFESTS", "manifests", None, "services", Path("services")),
    ("config", "LITTLELB_CONFIG", "config", None, "/dev/null", Path("/dev/null")),
    ("plane", "LITTLELB_PLANE", "plane", Plane.AUTO, "pipe", Plane.PIPE),
    ("backends", "LITTLELB_BACKENDS", "backends", BackendsMode.AUTO, "nodes", BackendsMode.NODES),
    ("node-selector", "LITTLELB_NODE_SELECTOR", "node_selector", "", "a=b,!c", "a=b,!c"),
    ("load-balancer-class", "LITTLELB_LOAD_BALANCER_CLASS", "load_balancer_class", "littlelb.io/littlelb", "x", "x"),
    ("class-less", "LITTLELB_CLASS_LESS", "class_less", True, "0", False),
    (
        "default-address",
        "LITTLELB_DEFAULT_ADDRESS",
        "default_address",
        DefaultAddress.SHARE,
        "refuse",
        DefaultAddress.REFUSE,
    ),
    ("external-ips", "LITTLELB_EXTERNAL_IPS", "external_ips", False, "t", True),
    ("listen", "LITTLELB_LISTEN", "listen", ListenAddress("127.0.0.1", 7480), "", None),
    ("state-dir", "LITTLELB_STATE_DIR", "state_dir", Path("/var/lib/littlelb"), "/s", Path("/s")),
    ("run-dir", "LITTLELB_RUN_DIR", "run_dir", Path("/run/littlelb"), "/r", Path("/r")),
    ("max-nodes", "LITTLELB_MAX_NODES", "max_nodes", 32, "7", 7),
    ("off-subnet", "LITTLELB_OFF_SUBNET", "off_subnet", OffSubnet.WARN, "refuse", OffSubnet.REFUSE),
    (
        "refuse-addresses",
        "LITTLELB_REFUSE_ADDRESSES",
        "refuse_addresses",
        (),
        "192.0.2.0/24, 2001:db8::/64",
        (ip_network("192.0.2.0/24"), ip_network("2001:db8::/64")),
    ),
    ("source-address", "LITTLELB_SOURCE_ADDRESS", "source_address", SourceAddress.AUTO, "keep", SourceAddress.KEEP),
    (
        "routed-networks",
        "LITTLELB_ROUTED_NETWORKS",
        "routed_networks",
        (),
        "10.1.0.0/16,2001:db8:1::/48",
        (ip_network("10.1.0.0/16"), ip_network("2001:db8:1::/48")),
    ),
    ("local-policy", "LITTLELB_LOCAL_POLICY", "local_policy", LocalPolicy.WARN, "strict", LocalPolicy.STRICT),
    ("node-name", "LITTLELB_NODE_NAME", "node_name", "", "n1.example.com", "n1.example.com"),
    ("accounting", "LITTLELB_ACCOUNTING", "accounting", True, "false", False),
    ("pipe-workers", "LITTLELB_PIPE_WORKERS", "pipe_workers", None, "3", 3),
    ("connect-timeout", "LITTLELB_CONNECT_TIMEOUT", "connect_timeout", 5.0, "0.5", 0.5),
    ("log-format", "LITTLELB_LOG_FORMAT", "log_format", LogFormat.AUTO, "json", LogFormat.JSON),
]
PARTNERS = {"kubernetes": {"manifests": "/m"}}
"""What a value needs beside it to be legal."""


def load(flags: Mapping[str, str] | None = None, environ: Mapping[str, str] | None = None) -> Config:
    """Load with a device by default, and an environment of our own."""
    return load_config({"linkdevice": "eth0"} | dict(flags or {}), environ or {})


def errors_of(flags: Mapping[str, str] | None = None, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """Return the error lines of a configuration that must not load."""
    with pytest.raises(ConfigError) as caught:
        load(flags, environ)
    return caught.value.errors


@pytest.mark.parametrize(("flag", "variable", "field", "default", "text", "value"), TABLE)
def test_every_setting(flag: str, variable: str, field: str, default: object, text: str, value: object) -> None:
    """A setting has its default, and takes the same text from its flag and from its environment variable."""
    if default is not None or field in {"manifests", "config"}:
        assert getattr(load_config({}, {}, device_required=False), field) == default
    partners = PARTNERS.get(flag, {})
    by_flag = load_config({flag: text, **partners}, {}, device_required=False)
    by_variable = load_config(partners, {variable: text}, device_required=False)
    assert getattr(by_flag, field) == value == getattr(by_variable, field)


def test_the_table_is_complete() -> None:
    """The table above names every option, as it is spelled, and every field of Config that people may set."""
    assert [(o.name, o.environment, o.field) for o in sorted(OPTIONS)] == [row[:3] for row in sorted(TABLE)]
    inborn = {"service_host", "service_port", "host_name", "home", "environment", "flags"}
    assert {field.name for field in fields(Config)} == {row[2] for row in TABLE} | inborn


def test_precedence(tmp_path: Path) -> None:
    """Flags win over the environment, the environment over the file, the file over defaults."""
    file = tmp_path / "config.yaml"
    file.write_text("max-nodes: 1\nplane: pipe\nlinkdevice: eth9\nrefuse-addresses: [192.0.2.0/24]\ndebug: true\n")
    config = load_config({"config": str(file), "max-nodes": "3"}, {"LITTLELB_MAX_NODES": "2", "LINKDEVICE": "eth1"})
    assert (config.max_nodes, config.linkdevice, config.plane) == (3, "eth1", Plane.PIPE)
    assert config.refuse_addresses == (ip_network("192.0.2.0/24"),)
    assert config.debug


def test_config_is_frozen() -> None:
    """Nobody changes a setting on the way."""
    config = load()
    with pytest.raises(FrozenInstanceError):
        config.debug = True  # type: ignore[misc]


def test_empty_variables_count_as_unset() -> None:
    """A Deployment that writes an empty value means the default, except for --listen, where empty turns it off."""
    config = load({}, {"LITTLELB_PLANE": "", "DEBUG": "", "LITTLELB_LISTEN": ""})
    assert (config.plane, config.debug, config.listen) == (Plane.AUTO, False, None)


def test_all_errors_at_once(tmp_path: Path) -> None:
    """Each wrong value is one line: its source, the value, what is allowed."""
    file = tmp_path / "config.yaml"
    file.write_text("linkdevice: eth0\nmax-nodes: 0\nplain: pipe\noff-subnet: maybe\noff-subnet: warn\n")
    lines = errors_of({"config": str(file), "plane": "ebpf", "linkdevice": "a/b"}, {"DEBUG": "yes"})
    assert lines == (
        f"{file}:3: there is no setting 'plain'; did you mean 'plane'?",
        f"{file}:5: 'off-subnet' was set before: {file}:4: off-subnet",
        "flag --linkdevice: 'a/b': must be a network device: at most 15 bytes, without '/', ':' and spaces",
        "environment variable DEBUG: 'yes': must be one of 1, t, T, TRUE, true, True, 0, f, F, FALSE, false, False",
        "flag --plane: 'ebpf': must be 'auto', 'nft' or 'pipe'",
        f"{file}:2: max-nodes: '0': must be greater than or equal to 1",
        f"{file}:4: off-subnet: 'maybe': must be 'warn' or 'refuse'",
    )


def test_bad_values_are_escaped_and_shortened() -> None:
    """A terminal is safe from what somebody wrote into a setting."""
    (line,) = errors_of({"plane": "\x1b[31m\u202e" + "x" * 500})
    assert "\\x1b[31m\\u202ex" in line
    assert line.isprintable()
    assert len(line) < 200


def test_device_is_required() -> None:
    """`run` needs a device; what only talks to the daemon does not."""
    with pytest.raises(ConfigError, match="linkdevice is missing"):
        load_config({}, {})
    assert load_config({}, {}, device_required=False).linkdevice == ""


def test_manifests_mean_no_cluster() -> None:
    """With --manifests alone there is no API server."""
    config = load({"manifests": "m"})
    assert (config.kubernetes, config.settings().stand_alone) == (False, True)


def test_manifests_and_kubernetes_contradict() -> None:
    """Both at once, each said explicitly, is an error that names the two sources."""
    (line,) = errors_of({"manifests": "m"}, {"KUBERNETES": "true"})
    assert line.startswith("flag --manifests and environment variable KUBERNETES contradict each other")


def test_planes_follow_the_flag_and_what_works() -> None:
    """Auto and nft mean the kernel with the pipe beside it, or the pipe and why; pipe means the pipe alone."""
    both, pipe = (ModelPlane.NFT, ModelPlane.PIPE), (ModelPlane.PIPE,)
    for asked in ({}, {"plane": "nft"}):
        assert (load(asked).settings().planes, load(asked).settings().no_nft) == (both, "")
        without = load(asked).settings("the command nft is missing")
        assert (without.planes, without.no_nft) == (pipe, "the command nft is missing")
    assert (load({"plane": "pipe"}).settings().planes, load({"plane": "pipe"}).settings().no_nft) == (
        pipe,
        "--plane is pipe",
    )


def test_no_kubernetes_needs_manifests() -> None:
    """Without an API server there must be a folder."""
    assert errors_of({"kubernetes": "false"}) == (
        "flag --kubernetes: false needs a folder of objects: give --manifests DIR",
    )


@pytest.mark.parametrize(
    "name", ["", "eth0", "enp0s31f6.100", "br-lan_1", "wg@x", "fifteen-letters"], ids=lambda name: name or "none"
)
def test_good_devices(name: str) -> None:
    """What the kernel takes as a device name is taken."""
    assert load_config({"linkdevice": name}, {}, device_required=False).linkdevice == name


@pytest.mark.parametrize("name", [".", "..", "a/b", "a b", "a:1", "sixteen-letters!", "éééééééé", "a\n"])
def test_bad_devices(name: str) -> None:
    """What the kernel refuses as a device name is refused (dev_valid_name)."""
    assert "must be a network device" in errors_of({"linkdevice": name})[0]


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0.0.0.0:80", ("0.0.0.0", 80)),
        ("[::1]:7480", ("::1", 7480)),
        ("localhost:0", ("localhost", 0)),
    ],
)
def test_listen(text: str, address: tuple[str, int]) -> None:
    """The page listens on a literal address or on localhost."""
    assert load({"listen": text}).listen == address


@pytest.mark.parametrize(
    "text", ["7480", ":7480", "::1:7480", "example.com:80", "127.0.0.1:65536", "127.0.0.1:²", "x:"]
)
def test_bad_listen(text: str) -> None:
    """A name, a wildcard by omission and a port out of range are refused."""
    (line,) = errors_of({"listen": text})
    assert line.startswith(f"flag --listen: '{text}': ")


@pytest.mark.parametrize("name", ["", "a b", "-a", "a/b/c", "x" * 400])
def test_bad_classes(name: str) -> None:
    """A class that no API server would store is refused."""
    assert "must be a label-style name" in errors_of({"load-balancer-class": name})[0]


def test_bad_selectors() -> None:
    """A selector that kubectl would not take is refused, and named."""
    assert errors_of({"node-selector": "a=b, in (c"})[0].startswith("flag --node-selector: 'a=b, in (c': ")


@pytest.mark.parametrize(
    ("flag", "text"),
    [("max-nodes", "many"), ("pipe-workers", "65"), ("connect-timeout", "0"), ("connect-timeout", "nan")],
)
def test_bad_numbers(flag: str, text: str) -> None:
    """Numbers have bounds."""
    assert errors_of({flag: text})[0].startswith(f"flag --{flag}: '{text}': must be")


def test_run_dir_leaves_room_for_sockets() -> None:
    """A directory in which no socket could be bound is refused at the start."""
    assert "sockets are made below it" in errors_of({"run-dir": "/" + "x" * 100})[0]


def test_default_workers() -> None:
    """Without a wish there is one worker for each CPU, at most four."""
    assert 1 <= load().pipe_workers <= 4


def test_credentials() -> None:
    """In a pod its own credentials count, unless a kubeconfig was given; outside it is the one in the home."""
    pod = {"KUBERNETES_SERVICE_HOST": "192.0.2.1", "KUBERNETES_SERVICE_PORT": "443", "HOME": "/h"}
    inside = load({}, pod)
    assert (inside.in_cluster, inside.service_host, inside.service_port) == (True, "192.0.2.1", "443")
    explicit = load({"kubeconfig": "/k"}, pod)
    assert (explicit.in_cluster, explicit.kubeconfig) == (False, "/k")
    assert not load({"manifests": "m"}, pod).in_cluster
    assert not load({}, {"KUBERNETES_SERVICE_HOST": "192.0.2.1"}).in_cluster
    assert load({}, {"HOME": "/h"}).default_kubeconfig == "/h/.kube/config"


def test_the_environment_is_handed_on_but_not_shown() -> None:
    """Credential plugins inherit the environment; a log of the configuration does not contain what may be secret."""
    config = load({}, {"SECRET": "s3cr3t"})
    assert config.environment["SECRET"] == "s3cr3t"
    assert "s3cr3t" not in repr(config)


def test_settings_for_the_core() -> None:
    """What decisions depend on is handed over whole."""
    assert load().settings("no nft") == Settings(no_nft="no nft")
    config = load({"refuse-addresses": "192.0.2.0/24", "max-nodes": "2", "class-less": "false"})
    settings = config.settings()
    assert settings.refused_networks == (ip_network("192.0.2.0/24"),)
    assert (settings.max_nodes, settings.class_less) == (2, False)
    whose = load({"source-address": "masquerade", "routed-networks": "10.1.0.0/16", "local-policy": "strict"})
    assert whose.settings().source_address is SourceAddress.MASQUERADE
    assert whose.settings().routed_networks == (ip_network("10.1.0.0/16"),)
    assert whose.settings().local_policy is LocalPolicy.STRICT


def test_the_name_of_this_node() -> None:
    """What the flag says; in the cluster else what the manifest says, else the host's name; elsewhere there is none."""
    pod = {"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443"}
    assert load({}, {"NODE_NAME": "n1"}).settings().node_name == ""
    assert load({"node-name": "n2"}, {"NODE_NAME": "n1"}).settings().node_name == "n2"
    assert load({"node-name": "n2"}, pod | {"NODE_NAME": "n1"}).settings().node_name == "n2"
    assert load({}, pod | {"NODE_NAME": "n1"}).settings().node_name == "n1"
    assert load({}, pod).settings().node_name == os.uname().nodename.lower()
    (line,) = errors_of({"node-name": "no name"})
    assert line.endswith("'no name': must be the name of a node, as `kubectl get nodes` shows it")


def test_reload_keeps_the_flags(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reloading reads the file again, under the same flags; a bad file raises and leaves this Config as it is."""
    monkeypatch.delenv("LITTLELB_MAX_NODES", raising=False)
    file = tmp_path / "config.yaml"
    file.write_text("max-nodes: 1\n")
    before = load({"config": str(file), "prefix": "link"})
    file.write_text("max-nodes: 2\nprefix: host\n")
    after = before.reload()
    assert (before.max_nodes, after.max_nodes, after.prefix) == (1, 2, PrefixMode.LINK)
    file.write_text("max-nodes: none\n")
    with pytest.raises(ConfigError, match="max-nodes: 'none'"):
        after.reload()


def test_run_dir_is_found_in_spite_of_errors(tmp_path: Path) -> None:
    """`status` finds the daemon while the file is being edited."""
    file = tmp_path / "config.yaml"
    file.write_text("run-dir: /r\nplane: nonsense\n")
    assert read_run_dir({"config": str(file)}, {}) == Path("/r")
    file.write_text("run-dir: [")
    assert read_run_dir({"config": str(file)}, {}) == Path("/run/littlelb")
    assert read_run_dir({"run-dir": "/f"}, {"LITTLELB_RUN_DIR": "/e"}) == Path("/f")


def test_bytes_that_are_no_text() -> None:
    """What is not UTF-8 is an error where we use it, and nothing to us where we do not."""
    assert load({}, {"OTHER": "\udcff"}).environment == {"OTHER": "\udcff"}
    (line,) = errors_of({"node-selector": "\udcff"})
    assert line.startswith("flag --node-selector: '\\udcff': ")
