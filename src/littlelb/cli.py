"""The `loadbalancer` command: reads arguments, calls the program, prints what it answers.

Exit codes: 0 fine, 1 the world said no, 2 wrong usage or configuration; `plan` says 2 for "there are changes".
"""

import http.client
import json
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlencode

import click
import msgspec
from rich.console import RenderableType
from rich.text import Text

from littlelb import __version__, tables
from littlelb.config import Config, default_text, load_config, read_run_dir
from littlelb.core.errors import ConfigError, WorldError
from littlelb.core.shown.findings import Finding, Level
from littlelb.core.shown.plan_document import PlanDocument
from littlelb.core.shown.status import StatusReport, decode_report, encode
from littlelb.core.shown.text import printable
from littlelb.core.trace.packet import Entering, Packet, Trace, decode_trace, parse_packet
from littlelb.goflags import OPTIONS, Option, Vocabulary, normalise_arguments, parse_bool
from littlelb.log import configure_logging
from littlelb.web import SOCKET_NAME

_SOCKET_SECONDS = 5.0
_START = "start it: sudo loadbalancer run --linkdevice DEVICE"


T = TypeVar("T")


class Program(Protocol):
    """What the commands ask of `littlelb.app`, which is a module of this shape."""

    def run(self, config: Config) -> int:
        """Be the daemon; return the exit code."""
        ...

    def plan(self, config: Config) -> PlanDocument:
        """Compute what `run` would change, and write nothing."""
        ...

    def check(self, config: Config) -> list[Finding]:
        """Look at permissions, kernel and network."""
        ...

    def trace(self, config: Config, packet: Packet) -> Trace:
        """Follow a packet through what a run would decide; send nothing."""
        ...

    def cleanup(self, config: Config, *, dry_run: bool) -> list[str]:
        """Remove everything that bears our mark; return a line for each thing."""
        ...


def _load_program() -> Program:
    """Import the daemon only where it is needed: `status` and `version` stay quick, and work if it cannot start."""
    from littlelb import app  # noqa: PLC0415  (see above)

    return app


def main(arguments: Sequence[str] | None = None, load: Callable[[], Program] = _load_program) -> None:
    """Run the command; never returns. `arguments` in any spelling that Go's flag package takes."""
    words = Vocabulary(
        values=frozenset({option.name for option in OPTIONS if not option.boolean} | {"output", "entering"}),
        booleans=frozenset({option.name for option in OPTIONS if option.boolean} | {"dry-run"}),
        commands=frozenset(cli.commands),
    )
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given in (["--version"], ["-version"]):
        given = ["version"]
    cli(normalise_arguments(given, words), prog_name="loadbalancer", obj=load)


def _settings(*names: str) -> Callable[[Any], Any]:
    """Add these settings as flags, or all; whatever stands behind a flag is judged by `littlelb.config`."""

    def decorate(command: Any) -> Any:
        for option in reversed(OPTIONS):
            if not names or option.name in names:
                command = click.option(f"--{option.name}", metavar=option.metavar, help=_help(option))(command)
        return command

    return decorate


def _help(option: Option) -> str:
    default = default_text(option.field)
    return f"{option.help} [{default}]" if default and option.name != "pipe-workers" else option.help


_output = click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", help="a table for people, or JSON"
)


def _read_config(flags: dict[str, str | None], *, device_required: bool = True, quiet: bool = True) -> Config:
    """Load the configuration, or print every error and exit with 2. `quiet`: the log is not what people ask for."""
    names = {option.field: option.name for option in OPTIONS}
    try:
        config = load_config(
            {names[field]: text for field, text in flags.items() if text is not None}, device_required=device_required
        )
    except ConfigError as error:
        _complain(error.errors)
        raise SystemExit(2) from None
    configure_logging(debug=config.debug, quiet=quiet, log_format=config.log_format)
    return config


def _print(value: object, parts: Sequence[RenderableType], output: str) -> None:
    if output == "json":
        click.echo(encode(value))
    else:
        tables.print_all(parts)


def _report_failure(act: Callable[[], T]) -> T:
    """Act; where the world or a late look at the configuration says no, say so and exit. Bugs fall through."""
    try:
        return act()
    except ConfigError as error:
        _complain(error.errors)
        raise SystemExit(2) from None
    except WorldError as error:
        _complain([str(error)])
        raise SystemExit(1) from None


def _complain(lines: Sequence[str]) -> None:
    for line in lines:
        click.echo(f"loadbalancer: {printable(line)}", err=True)


def _parse_switch(flag: str, text: str) -> bool:
    try:
        return parse_bool(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=flag) from None


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("loadbalancer", timeout=_SOCKET_SECONDS)
        self._path = path

    def connect(self) -> None:
        """Connect to the path instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _find_socket(flags: dict[str, str | None]) -> Path:
    """Name the daemon's socket; only the run directory is read of the configuration."""
    return read_run_dir({name.replace("_", "-"): text for name, text in flags.items() if text}) / SOCKET_NAME


def _ask(path: Path, question: str, decode: Callable[[bytes], T]) -> T | None:
    """Ask the daemon; None: none is running here. Exits with 1 and what to do where one does not answer."""
    connection = _UnixConnection(path)
    shown = printable(str(path))
    try:
        connection.request("GET", question)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status in {400, 503}:
            raise click.ClickException(printable(body.decode(errors="replace")))
        return decode(body)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except PermissionError:
        raise click.ClickException(f"not permitted to ask at {shown}: try again with sudo") from None
    except (OSError, http.client.HTTPException) as error:
        reason = printable(str(error)) or type(error).__name__
        raise click.ClickException(f"no daemon answers at {shown}: {reason}; see its log, or restart it") from None
    except msgspec.MsgspecError as error:
        raise click.ClickException(
            f"the daemon at {shown} speaks another version than {__version__}: {printable(str(error))}; restart it"
        ) from None
    finally:
        connection.close()


def _select_service(report: StatusReport, wanted: str) -> StatusReport:
    """Keep one Service, named as namespace/name or, in any namespace, as name."""
    services = tuple(s for s in report.services if wanted in {s.key, s.key.rpartition("/")[2]})
    if not services:
        raise click.ClickException(
            f"{printable(wanted)} is not among our {len(report.services)} Services: is it of type LoadBalancer,"
            " and of our loadBalancerClass?"
        )
    return msgspec.structs.replace(report, services=services)


def _read_commit() -> str:
    """Find the commit: a wheel that pip built from a repository records it (PEP 610), a checkout has it in .git."""
    try:
        recorded = distribution("littlelb").read_text("direct_url.json")
    except PackageNotFoundError:
        recorded = None
    commit = json.loads(recorded or "{}").get("vcs_info", {}).get("commit_id", "")
    root = Path(__file__).parents[2]
    if not commit and (root / ".git").exists():
        commit = _read_output("git", "-C", str(root), "rev-parse", "--short=12", "HEAD")
    return str(commit)


def _read_output(program: str, *arguments: str) -> str:
    """Return what a program says of itself; empty where it is missing or says nothing."""
    path = shutil.which(program)
    if path is None:
        return ""
    try:
        done = subprocess.run([path, *arguments], capture_output=True, text=True, timeout=_SOCKET_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""  # a version that cannot be told is shown as unknown
    return done.stdout.strip() if done.returncode == 0 else ""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def cli() -> None:
    """Gives Services of type LoadBalancer an address on this machine and forwards their connections.

    Without a command: run. All flags and their environment variables: loadbalancer run --help
    """


@cli.command()
@_settings()
@click.pass_obj
def run(load: Callable[[], Program], /, **flags: str | None) -> None:
    """Be the load balancer (as root).

    Each flag is also an environment variable: LITTLELB_ and its name, as in LITTLELB_ON_EXIT; but KUBECONFIG,
    LINKDEVICE, DEBUG and KUBERNETES have no prefix. Flags beat the environment, which beats the file. A boolean may
    stand alone, or as --no-NAME.
    """
    config = _read_config(flags, quiet=False)
    raise SystemExit(_report_failure(lambda: load().run(config)))


@cli.command()
@_settings()
@_output
@click.pass_obj
def plan(load: Callable[[], Program], /, output: str, **flags: str | None) -> None:
    """Show what a run would change; write nothing. Exit 0: no change, 2: changes, 1: an error."""
    config = _read_config(flags)
    document = _report_failure(lambda: load().plan(config))
    _print(document, tables.render_plan(document), output)
    raise SystemExit(document.exit_code)


@cli.command()
@click.argument("service", default="")
@_settings("config", "run-dir")
@_output
def status(service: str, output: str, **flags: str | None) -> None:
    """Show each Service, or one: addresses, backends, reasons."""
    report = _ask(path := _find_socket(flags), "/status", decode_report)
    if report is None:
        shown = printable(str(path))
        raise click.ClickException(f"no daemon answers at {shown}: none is running here; {_START}")
    if service:
        report = _select_service(report, service)
    _print(report, tables.render_status(report), output)


@cli.command()
@click.argument("source", metavar="SRC[:PORT]")
@click.argument("destination", metavar="VIP:PORT[/udp]")
@click.option("--entering", type=click.Choice(["link", "other", "local"]), default="link", help="by which device")
@_settings()
@_output
@click.pass_obj
def trace(
    load: Callable[[], Program], /, source: str, destination: str, entering: str, output: str, **flags: str | None
) -> None:
    """Show what such a packet meets, and why: rules, plane, backend. Sends nothing; IPv6 in brackets, as [IP]:PORT."""
    try:
        packet = parse_packet(source, destination, Entering(entering))
    except ValueError as error:
        raise click.UsageError(printable(str(error))) from None
    query = urlencode({"source": source, "destination": destination, "entering": entering})
    found = _ask(_find_socket(flags), f"/trace?{query}", decode_trace)
    if found is None:
        config = _read_config(flags)
        found = _report_failure(lambda: load().trace(config, packet))
    _print(found, tables.render_trace(found), output)


@cli.command()
@_settings()
@_output
@click.pass_obj
def check(load: Callable[[], Program], /, output: str, **flags: str | None) -> None:
    """Look for what is wrong here; each finding has its remedy. Exit 1: an error was found."""
    config = _read_config(flags)
    findings = tuple(_report_failure(lambda: load().check(config)))
    _print(findings, tables.render_findings(findings), output)
    raise SystemExit(int(any(finding.level is Level.ERROR for finding in findings)))


@cli.command()
@click.option("--dry-run", metavar="[=BOOL]", default="false", help="only say what would be removed")
@_settings()
@_output
@click.pass_obj
def cleanup(load: Callable[[], Program], /, dry_run: str, output: str, **flags: str | None) -> None:
    """Remove everything that bears our mark, and nothing else."""
    config = _read_config(flags, device_required=False)
    dry = _parse_switch("--dry-run", dry_run)
    lines = tuple(_report_failure(lambda: load().cleanup(config, dry_run=dry)))
    verb = "would be removed" if dry else "removed"
    texts = [Text(f"{verb}: {printable(line)}") for line in lines] or [Text("nothing here bears our mark")]
    _print(lines, texts, output)


@cli.command()
@_output
def version(output: str) -> None:
    """Show the versions of this program, Python, kernel and nft."""
    facts = {
        "version": __version__,
        "commit": _read_commit(),
        "python": platform.python_version(),
        "kernel": platform.release(),
        "nft": _read_output("nft", "--version"),
    }
    if output == "json":
        click.echo(json.dumps(facts, indent=2))
        return
    click.echo("\n".join(f"{name:8} {fact or 'unknown'}" for name, fact in facts.items()))
