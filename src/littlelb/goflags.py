"""Names the settings, and turns the spellings of Go's `flag` package into the one that click reads. Pure.

    -x v   --x v   -x=v   --x=v   → --x=v
    -b     --b                    → --b=true      a boolean never takes the next argument
    --no-b                        → --b=false     only for booleans of ours
    -h     -o v                   → --help, --output=v

After this every flag is one word, so the first word without a dash is the sub-command, wherever it stands.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple


class Option(NamedTuple):
    """One setting as people meet it; the type and the default are those of the field of Config."""

    name: str
    metavar: str
    help: str

    @property
    def field(self) -> str:
        """Name of the field of Config."""
        return self.name.replace("-", "_")

    @property
    def environment(self) -> str:
        """Name of the environment variable."""
        name = self.field.upper()
        return name if self.name in _BARE else f"LITTLELB_{name}"

    @property
    def boolean(self) -> bool:
        """May the flag stand without a value?"""
        return self.metavar == _BOOLEAN


_BARE = frozenset({"kubeconfig", "linkdevice", "debug", "kubernetes"})
_BOOLEAN = "[=BOOL]"
OPTIONS: Final = (
    Option("kubeconfig", "PATHS", "default: in-cluster, then ~/.kube/config"),
    Option("linkdevice", "DEVICE", "device that gets the addresses (required)"),
    Option("debug", _BOOLEAN, "log debug events too"),
    Option("kubernetes", _BOOLEAN, "follow an API server"),
    Option("prefix", "host|link", "VIPs as /32 and /128, or as on-link"),
    Option("on-exit", "withdraw|keep", "SIGTERM clears up, or leaves all"),
    Option("manifests", "DIR", "follow this folder instead of a cluster"),
    Option("config", "FILE", "YAML file of these settings (no dashes)"),
    Option("plane", "auto|nft|pipe", "auto: nft where it works, else pipe"),
    Option("backends", "auto|pods|nodes", "forward to endpoints or to NodePorts"),
    Option("node-selector", "SELECTOR", "only nodes with these labels are backends"),
    Option("load-balancer-class", "CLASS", "our loadBalancerClass"),
    Option("class-less", _BOOLEAN, "also Services without a class"),
    Option("default-address", "share|refuse", "for Services that ask for no address"),
    Option("external-ips", _BOOLEAN, "also write spec.externalIPs"),
    Option("listen", "HOST:PORT", "status, metrics; '' is off"),
    Option("state-dir", "DIR", "last known world"),
    Option("run-dir", "DIR", "our sockets"),
    Option("max-nodes", "N", "at most so many nodes serve a Service"),
    Option("off-subnet", "warn|refuse", "addresses that are not on-link"),
    Option("refuse-addresses", "CIDRS", "no Service gets these; joined by ','"),
    Option("source-address", "MODE", "auto, keep, masquerade: what pods see"),
    Option("routed-networks", "CIDRS", "they answer through this machine; ','"),
    Option("local-policy", "warn|strict", "policy Local, client address lost"),
    Option("node-name", "NAME", "this machine as a node of the cluster"),
    Option("accounting", _BOOLEAN, "count packets and bytes (conntrack)"),
    Option("pipe-workers", "N", "worker processes; default: CPUs, at most 4"),
    Option("connect-timeout", "SECONDS", "to connect to a backend"),
    Option("log-format", "auto|console|json", "auto: console at a terminal, or json"),
)


TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})


def parse_bool(text: str) -> bool:
    """Read a boolean as Go's `strconv.ParseBool` does. Raises ValueError."""
    if text in TRUE:
        return True
    if text in FALSE:
        return False
    raise ValueError("must be one of 1, t, T, TRUE, true, True, 0, f, F, FALSE, false, False")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The flags and sub-commands that exist, without dashes."""

    values: frozenset[str]
    """Flags that take a value."""
    booleans: frozenset[str]
    """Flags that may stand alone."""
    switches: frozenset[str] = frozenset({"help"})
    """Flags that never have a value."""
    aliases: dict[str, str] = field(default_factory=lambda: {"h": "help", "o": "output"})
    commands: frozenset[str] = frozenset()
    default_command: str = "run"


def normalise_arguments(arguments: Sequence[str], words: Vocabulary) -> list[str]:
    """Return the sub-command, then its flags as `--name=value`, then the other arguments.

    Unknown flags stay as they are, for click to refuse. `--` ends the flags, as in Go.
    """
    rest = iter(arguments)
    flags: list[str] = []
    positionals: list[str] = []
    for word in rest:
        if word == "--":
            break
        if word.startswith("-") and word != "-":
            flags.append(_normalise_flag(word, rest, words))
        else:
            positionals.append(word)
    after = list(rest)
    command = _take_command(flags, positionals, words)
    separator = ["--"] if after else []
    return [*command, *flags, *positionals, *separator, *after]


def _take_command(flags: list[str], positionals: list[str], words: Vocabulary) -> list[str]:
    """Take the sub-command out of the positionals; `--help` alone belongs to the whole program.

    Behind an unknown flag stands its value rather than a sub-command: the flag is what click shall complain about.
    """
    known = words.values | words.booleans | words.switches
    unknown = any(flag[2:].partition("=")[0] not in known for flag in flags)
    if positionals and (positionals[0] in words.commands or not unknown):
        return [positionals.pop(0)]
    return [] if "--help" in flags else [words.default_command]


def _normalise_flag(word: str, rest: Iterator[str], words: Vocabulary) -> str:
    name, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
    name = words.aliases.get(name, name)
    positive = name.removeprefix("no-")
    if name in words.values:
        if not equals:
            following = next(rest, None)
            return f"--{name}" if following is None else f"--{name}={following}"
        return f"--{name}={value}"
    if name in words.booleans:
        return f"--{name}={value if equals else 'true'}"
    if positive in words.booleans and not equals:
        return f"--{positive}=false"
    if name in words.switches and not equals:
        return f"--{name}"
    return f"--{word.lstrip('-')}"
