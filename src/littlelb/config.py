"""The settings: defaults < `--config` file < environment < flags, checked together; the only reader of the environment.

Every setting has one name: `--some-name` as a flag, `LITTLELB_SOME_NAME` in the environment (the first four names are
older than this program and have no prefix), `some-name` in the file.
"""

import os
import re
from collections.abc import Mapping
from enum import StrEnum
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, NamedTuple

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field, SkipValidation, TypeAdapter

from littlelb.configfile import Given, read_settings_file, show
from littlelb.core.errors import ConfigError
from littlelb.core.labels import parse_selector
from littlelb.core.model import Net
from littlelb.core.serving.planes import order_planes
from littlelb.core.shown.text import printable
from littlelb.core.state import (
    BackendsMode,
    DefaultAddress,
    LocalPolicy,
    OffSubnet,
    PrefixMode,
    Settings,
    SourceAddress,
)
from littlelb.goflags import OPTIONS, parse_bool

_SUN_PATH = 107
"""Longest path of a Unix socket (unix(7)); the longest name that is made below the run directory has 40 bytes."""
_NODE = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_CLASS = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")


class OnExit(StrEnum):
    """`--on-exit`."""

    WITHDRAW = "withdraw"
    KEEP = "keep"


class Plane(StrEnum):
    """`--plane`."""

    AUTO = "auto"
    NFT = "nft"
    PIPE = "pipe"


class LogFormat(StrEnum):
    """`--log-format`."""

    AUTO = "auto"
    CONSOLE = "console"
    JSON = "json"


class ListenAddress(NamedTuple):
    """Where the status page listens; `host` is an address or `localhost`, never empty."""

    host: str
    port: int


def _split_networks(value: object) -> object:
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise ValueError("must be a list of CIDRs")
    return tuple(ip_network(part.strip()) for part in parts if part.strip())


def _parse_bool(value: object) -> object:
    return parse_bool(value) if isinstance(value, str) else value


def _parse_listen(value: object) -> object:
    if not isinstance(value, str) or not value:
        return value or None
    host, colon, port = value.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535 or (":" in bare and bare == host):
        raise ValueError("must be HOST:PORT, as in 127.0.0.1:7480 or [::1]:7480, or empty")
    if bare != "localhost":
        ip_address(bare)
    return ListenAddress(bare, int(port))


def _check_device(name: str) -> str:
    if len(name.encode()) > 15 or "/" in name or name in {".", ".."} or any(c.isspace() or c == ":" for c in name):
        raise ValueError("must be a network device: at most 15 bytes, without '/', ':' and spaces")
    return name


def _check_class(name: str) -> str:
    if len(name) > 317 or not _CLASS.fullmatch(name):
        raise ValueError("must be a label-style name such as littlelb.io/littlelb")
    return name


def _check_node(name: str) -> str:
    if name and not _NODE.fullmatch(name):
        raise ValueError("must be the name of a node, as `kubectl get nodes` shows it")
    return name


def _check_selector(text: str) -> str:
    parse_selector(text)
    return text


def _check_run_dir(path: Path) -> Path:
    if len(bytes(path)) > _SUN_PATH - 40:
        raise ValueError(f"must have at most {_SUN_PATH - 40} bytes, because sockets are made below it")
    return path


def _count_workers() -> int:
    return min(4, len(os.sched_getaffinity(0)))


_Bool = Annotated[bool, BeforeValidator(_parse_bool), Field(strict=True)]


@pydantic.dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """All settings, checked. The fields are those of OPTIONS; what the process was born with stands at the end."""

    kubeconfig: str = ""
    """Paths joined by ':'; empty: none was given. One that was given, by whatever source, beats in-cluster."""
    linkdevice: Annotated[str, AfterValidator(_check_device)] = ""
    debug: _Bool = False
    kubernetes: _Bool = True
    prefix: PrefixMode = PrefixMode.HOST
    on_exit: OnExit = OnExit.WITHDRAW
    manifests: Path | None = None
    config: Path | None = None
    plane: Plane = Plane.AUTO
    backends: BackendsMode = BackendsMode.AUTO
    node_selector: Annotated[str, AfterValidator(_check_selector)] = ""
    load_balancer_class: Annotated[str, AfterValidator(_check_class)] = "littlelb.io/littlelb"
    class_less: _Bool = True
    default_address: DefaultAddress = DefaultAddress.SHARE
    external_ips: _Bool = False
    listen: Annotated[ListenAddress | None, BeforeValidator(_parse_listen)] = ListenAddress("127.0.0.1", 7480)
    state_dir: Path = Path("/var/lib/littlelb")
    run_dir: Annotated[Path, AfterValidator(_check_run_dir)] = Path("/run/littlelb")
    max_nodes: Annotated[int, Field(ge=1, le=1000)] = 32
    off_subnet: OffSubnet = OffSubnet.WARN
    refuse_addresses: Annotated[tuple[Net, ...], BeforeValidator(_split_networks)] = ()
    source_address: SourceAddress = SourceAddress.AUTO
    routed_networks: Annotated[tuple[Net, ...], BeforeValidator(_split_networks)] = ()
    local_policy: LocalPolicy = LocalPolicy.WARN
    node_name: Annotated[str, AfterValidator(_check_node)] = ""
    """Empty: in the cluster what the pod was told, else none."""
    accounting: _Bool = True
    """Of conntrack: packets and bytes of the kernel plane."""
    pipe_workers: Annotated[int, Field(ge=1, le=64)] = Field(default_factory=_count_workers)
    connect_timeout: Annotated[float, Field(gt=0, le=300, allow_inf_nan=False)] = 5.0
    """Seconds."""
    log_format: LogFormat = LogFormat.AUTO

    service_host: str = ""
    """KUBERNETES_SERVICE_HOST and _PORT: set by the kubelet in every pod."""
    service_port: str = ""
    host_name: str = ""
    """NODE_NAME, which a manifest sets, or this machine's name: in a pod on the host's network the node's."""
    home: Path = Path("/")
    environment: SkipValidation[Mapping[str, str]] = Field(default_factory=dict, repr=False)
    """What credential plugins inherit."""
    flags: SkipValidation[Mapping[str, str]] = Field(default_factory=dict)
    """What the command line said, for `reload`."""

    @property
    def in_cluster(self) -> bool:
        """Do the pod's own credentials count?"""
        return self.kubernetes and not self.kubeconfig and bool(self.service_host and self.service_port)

    @property
    def default_kubeconfig(self) -> str:
        """The kubeconfig of who found none elsewhere."""
        return str(self.home / ".kube" / "config")

    def settings(self, no_nft: str = "") -> Settings:
        """Build the part that decisions depend on; `no_nft`: why the kernel plane does not work here, or nothing."""
        planes, no_nft = order_planes(self.plane, no_nft)
        return Settings(
            planes=planes,
            no_nft=no_nft,
            load_balancer_class=self.load_balancer_class,
            class_less=self.class_less,
            prefix=self.prefix,
            backends=self.backends,
            node_selector=self.node_selector,
            max_nodes=self.max_nodes,
            default_address=self.default_address,
            off_subnet=self.off_subnet,
            refused_networks=self.refuse_addresses,
            external_ips=self.external_ips,
            in_cluster=self.in_cluster,
            stand_alone=not self.kubernetes,
            source_address=self.source_address,
            local_policy=self.local_policy,
            routed_networks=self.routed_networks,
            node_name=self.node_name or (self.host_name if self.in_cluster else ""),
        )

    def reload(self) -> "Config":
        """Read file and environment again under the same flags. Raises ConfigError; this one then stays in force."""
        return load_config(self.flags, device_required=bool(self.linkdevice))


def default_text(field: str) -> str:
    """Return the default of a setting as people would write it; empty where there is nothing to write."""
    match getattr(load_config({}, {}, device_required=False), field):
        case None | "" | ():
            return ""
        case bool(flag):
            return str(flag).lower()
        case ListenAddress(host, port):
            return f"{host}:{port}"
        case value:
            return str(value)


def load_config(
    flags: Mapping[str, str], environ: Mapping[str, str] | None = None, *, device_required: bool = True
) -> Config:
    """Merge and check all sources. `flags` and `environ` map names of OPTIONS and of the environment to texts.

    Raises ConfigError that lists everything that is wrong.
    """
    environ = os.environ if environ is None else environ
    given, errors = _gather(flags, environ)
    values: dict[str, object] = {name: entry.value for name, entry in given.items()}
    if "manifests" in given and "kubernetes" not in given:
        values["kubernetes"] = False
    values |= {
        "service_host": environ.get("KUBERNETES_SERVICE_HOST", ""),
        "service_port": environ.get("KUBERNETES_SERVICE_PORT", ""),
        "host_name": environ.get("NODE_NAME") or os.uname().nodename.lower(),
        "home": environ.get("HOME") or "/",
        "environment": dict(environ),
        "flags": dict(flags),
    }
    try:
        config = TypeAdapter(Config).validate_python(values)
    except pydantic.ValidationError as error:
        errors += _describe(error, given)
        raise ConfigError(errors) from None
    errors += _check_together(config, given, device_required=device_required)
    if errors:
        raise ConfigError(errors)
    return config


def read_run_dir(flags: Mapping[str, str], environ: Mapping[str, str] | None = None) -> Path:
    """Find the daemon's sockets, whatever else is wrong with the settings: the daemon may run with an older file."""
    given, _ = _gather(flags, os.environ if environ is None else environ)
    return Path(str(given["run_dir"].value)) if "run_dir" in given else Path("/run/littlelb")


def _gather(flags: Mapping[str, str], environ: Mapping[str, str]) -> tuple[dict[str, Given], list[str]]:
    """Collect the winning word on each setting, by field name; and what is wrong with the file itself."""
    loud: dict[str, Given] = {}
    for option in OPTIONS:
        # An empty variable counts as unset, as deployments write it; only --listen has a meaning for it.
        if environ.get(option.environment) or (option.name == "listen" and option.environment in environ):
            loud[option.field] = Given(environ[option.environment], f"environment variable {option.environment}")
        if option.name in flags:
            loud[option.field] = Given(flags[option.name], f"flag --{option.name}")
    if "config" not in loud:
        return loud, []
    quiet, errors = read_settings_file(Path(str(loud["config"].value)))
    return {name: entry for name, entry in quiet.items() if entry.value is not None} | loud, errors


def _describe(error: pydantic.ValidationError, given: Mapping[str, Given]) -> list[str]:
    """Turn pydantic's findings into one line each: source, value, what is allowed."""
    lines: dict[str, None] = {}
    for problem in error.errors(include_url=False, include_context=False):
        entry = given[str(problem["loc"][0])]
        allowed = problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
        lines[f"{entry.source}: {show(entry.value)}: {printable(allowed, 200)}"] = None
    return list(lines)


def _check_together(config: Config, given: Mapping[str, Given], *, device_required: bool) -> list[str]:
    """Check what no single setting can be blamed for."""
    errors: list[str] = []
    if device_required and not config.linkdevice:
        errors.append("linkdevice is missing: give --linkdevice DEVICE or LINKDEVICE, for example --linkdevice eth0")
    if config.manifests is not None and config.kubernetes:
        errors.append(
            f"{given['manifests'].source} and {given['kubernetes'].source} contradict each other: objects come either"
            " from a folder or from an API server; leave one of them out"
        )
    if not config.kubernetes and config.manifests is None:
        errors.append(f"{given['kubernetes'].source}: false needs a folder of objects: give --manifests DIR")
    return errors
