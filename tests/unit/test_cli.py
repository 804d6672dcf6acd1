"""What each command passes on, prints and exits with, on a program that only remembers."""

import json
import logging
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import UnixStreamServer

import pytest
import structlog

from littlelb import __version__, cli
from littlelb.config import Config
from littlelb.core.errors import ConfigError, Permanent
from littlelb.core.model import Protocol
from littlelb.core.shown.findings import Finding, Level
from littlelb.core.shown.plan_document import PlanDocument, PlanLine, Verb
from littlelb.core.shown.status import (
    DaemonStatus,
    PortStatus,
    ReasonLine,
    ServiceState,
    ServiceStatus,
    StatusReport,
    encode,
)
from littlelb.core.trace.packet import Outcome, Packet, Trace
from littlelb.goflags import OPTIONS

REPORT = StatusReport(
    daemon=DaemonStatus(
        version="1.2",
        pid=812,
        started=0.0,
        source="https://192.0.2.1:6443",
        plane="pipe",
        holder="lb-1",
        synced=True,
        connected=True,
    ),
    services=(
        ServiceStatus(
            key="default/bad",
            state=ServiceState.REFUSED,
            reasons=(ReasonLine("InvalidAddress", "[bold]\\x1b is no address"),),
        ),
        ServiceStatus(
            key="default/web",
            state=ServiceState.SERVING,
            addresses=("203.0.113.7",),
            ports=(PortStatus("203.0.113.7", 80, Protocol.TCP, serving=True),),
            plane="pipe",
            holder="lb-1",
            backends_up=2,
            backends_total=3,
        ),
    ),
)
CHANGE = PlanLine(phase="ADDRESS", verb=Verb.ADD, key="203.0.113.7", after="eth0 /32")


@dataclass
class Remembering:
    """A program that answers what it was told to, and remembers its configuration."""

    document: PlanDocument = field(default_factory=PlanDocument)
    findings: list[Finding] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    error: Exception | None = None
    code: int = 0
    config: Config | None = None
    dry_run: bool | None = None

    def _take(self, config: Config) -> None:
        self.config = config
        if self.error is not None:
            raise self.error

    def run(self, config: Config) -> int:
        """Answer `code`."""
        self._take(config)
        return self.code

    def plan(self, config: Config) -> PlanDocument:
        """Answer `document`."""
        self._take(config)
        return self.document

    def check(self, config: Config) -> list[Finding]:
        """Answer `findings`."""
        self._take(config)
        return self.findings

    def trace(self, config: Config, packet: Packet) -> Trace:
        """Answer that it is forwarded."""
        self._take(config)
        return Trace(packet=str(packet), steps=(), outcome=Outcome.FORWARDED, why="without a daemon")

    def cleanup(self, config: Config, *, dry_run: bool) -> list[str]:
        """Answer `removed`."""
        self._take(config)
        self.dry_run = dry_run
        return self.removed


Invoke = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _restore_logging() -> Iterator[None]:
    """Undo what a command sets up for its whole process: its standard error ends with the test."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def invoke(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Invoke:
    """Call the command in a clean environment: words, program → exit code, standard output, standard error."""
    for option in OPTIONS:
        monkeypatch.delenv(option.environment, raising=False)
    monkeypatch.setenv("COLUMNS", "80")

    def call(words: str, program: Remembering | None = None) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as left:
            cli.main(words.split(), lambda: program or Remembering())
        captured = capsys.readouterr()
        code = left.value.code
        return (code if isinstance(code, int) else 0), captured.out, captured.err

    return call


@contextmanager
def answering(path: Path, body: bytes, code: int = 200) -> Iterator[None]:
    """Answer every request on a Unix socket with this body."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer."""
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_words: object) -> None:
            """Stay silent."""

        def address_string(self) -> str:
            """Name nobody: a Unix socket's peer has no address."""
            return "peer"

    with UnixStreamServer(str(path), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    "words",
    [
        "-linkdevice eth7 -debug -manifests m",
        "run --linkdevice=eth7 --debug=T --manifests m",
        "--manifests=m -linkdevice=eth7 --debug=1 run",
    ],
)
def test_run(invoke: Invoke, words: str) -> None:
    """`run` is the default, takes Go's spellings, and exits with what the daemon says."""
    program = Remembering(code=7)
    assert invoke(words, program)[0] == 7
    assert program.config is not None
    assert (program.config.linkdevice, program.config.debug, program.config.manifests) == ("eth7", True, Path("m"))


def test_no_class_less(invoke: Invoke) -> None:
    """`--no-class-less` reaches the configuration."""
    program = Remembering()
    invoke("--linkdevice eth0 --no-class-less", program)
    assert program.config is not None
    assert not program.config.class_less


@pytest.mark.parametrize("command", ["run", "plan", "check"])
def test_config_errors(invoke: Invoke, command: str) -> None:
    """All configuration errors are printed to standard error, and the exit code is 2."""
    code, out, err = invoke(f"{command} --plane x --debug=maybe")
    assert (code, out) == (2, "")
    assert [line.partition(": ")[2].partition(":")[0] for line in err.splitlines()] == ["flag --debug", "flag --plane"]


def test_missing_device(invoke: Invoke) -> None:
    """Without a device the command says what to give."""
    code, _, err = invoke("")
    assert code == 2
    assert "give --linkdevice DEVICE or LINKDEVICE" in err


@pytest.mark.parametrize("words", ["--nonsense", "-nonsense 1", "--linkdevice", "nonsense", "plan -o xml", "run extra"])
def test_wrong_usage(invoke: Invoke, words: str) -> None:
    """Wrong usage is explained on standard error with exit code 2."""
    code, out, err = invoke(words)
    assert (code, out) == (2, "")
    assert "Error: " in err


def test_the_world_says_no(invoke: Invoke) -> None:
    """A daemon that cannot start says why, escaped, with exit code 1; a late configuration error has 2."""
    code, _, err = invoke("--linkdevice eth0", Remembering(error=Permanent("no nft\x1b: apt install nftables")))
    assert (code, err) == (1, "loadbalancer: no nft\\x1b: apt install nftables\n")
    code, _, err = invoke("--linkdevice eth0", Remembering(error=ConfigError(["one", "two"])))
    assert (code, err) == (2, "loadbalancer: one\nloadbalancer: two\n")


def test_bugs_fall_through() -> None:
    """What is our bug is not dressed up as the world's fault."""
    with pytest.raises(ZeroDivisionError):
        cli.main(["plan", "--linkdevice", "eth0"], lambda: Remembering(error=ZeroDivisionError()))


@pytest.mark.parametrize(
    ("document", "code", "said"),
    [
        (PlanDocument(), 0, "no changes"),
        (PlanDocument(lines=(CHANGE,)), 2, "+  ADDRESS  203.0.113.7  -       eth0 /32"),
        (PlanDocument(lines=(CHANGE,), errors=("no API server",)), 1, "error: no API server"),
        (PlanDocument(refused=("demo/web: AddressInUse: taken",)), 0, "not served: demo/web: AddressInUse: taken"),
    ],
)
def test_plan(invoke: Invoke, document: PlanDocument, code: int, said: str) -> None:
    """`plan` shows a diff and tells by its exit code whether anything would change."""
    got, out, _ = invoke("plan --linkdevice eth0", Remembering(document=document))
    assert got == code
    assert said in out
    got, out, _ = invoke("plan --linkdevice eth0 -o json", Remembering(document=document))
    assert got == code
    assert list(json.loads(out)) == ["lines", "refused", "errors", "nft"]


def test_check(invoke: Invoke) -> None:
    """`check` shows each finding with its remedy, and exits with 1 if one is an error."""
    warning = Finding(level=Level.WARN, subject="sysctl", message="arp_ignore is 0", remedy="sysctl -w …")
    error = Finding(level=Level.ERROR, subject="rights", message="no CAP_NET_ADMIN", remedy="use sudo")
    code, out, _ = invoke("check --linkdevice eth0", Remembering(findings=[warning]))
    assert code == 0
    assert re.search(r"warn +sysctl +arp_ignore is 0 +sysctl -w …", out)
    code, out, _ = invoke("check --linkdevice eth0 -o json", Remembering(findings=[warning, error]))
    assert code == 1
    assert [finding["level"] for finding in json.loads(out)] == ["warn", "error"]


def test_cleanup(invoke: Invoke) -> None:
    """`cleanup` says what it removed, or would remove; it needs no device."""
    program, dry = (Remembering(removed=["address 203.0.113.7/32 on eth0"]) for _ in range(2))
    assert invoke("cleanup", program)[:2] == (0, "removed: address 203.0.113.7/32 on eth0\n")
    assert invoke("cleanup --dry-run", dry)[:2] == (0, "would be removed: address 203.0.113.7/32 on eth0\n")
    assert (program.dry_run, dry.dry_run) == (False, True)
    assert invoke("cleanup -o json", program)[1] == '[\n  "address 203.0.113.7/32 on eth0"\n]\n'
    assert invoke("cleanup", Remembering())[1] == "nothing here bears our mark\n"
    assert invoke("cleanup --dry-run=maybe")[0] == 2


def test_status(invoke: Invoke, home: Path) -> None:
    """`status` shows each Service on a plain line when nobody looks, and why one is refused."""
    with answering(home / "littlelb.sock", encode(REPORT)):
        code, out, _ = invoke(f"status --run-dir {home}")
    assert code == 0
    lines = [re.sub(r" +", " ", line).strip() for line in out.splitlines()]
    assert lines == [
        "littlelb 1.2 on lb-1, pid 812, since 1970-01-01 00:00:00 UTC",
        "https://192.0.2.1:6443: connected",
        "planes: pipe",
        "not ready: synced, but the first pass is not finished",
        "SERVICE STATE ADDRESSES PORTS PLANE HOLDER BACKENDS CONNECTIONS",
        "default/bad refused - - - - 0/0 0 so far",
        "default/web serving 203.0.113.7 80/TCP pipe lb-1 2/3 0 so far",
        "default/bad: InvalidAddress: [bold]\\x1b is no address",
    ]
    assert out.isascii()


@pytest.mark.parametrize("wanted", ["web", "default/web"])
def test_status_of_one(invoke: Invoke, home: Path, wanted: str) -> None:
    """One Service is named with or without its namespace; JSON has the shape of the whole report."""
    with answering(home / "littlelb.sock", encode(REPORT)):
        code, out, _ = invoke(f"status {wanted} -o json --run-dir {home}")
        shown = json.loads(out)
        assert code == 0
        assert list(shown) == ["daemon", "last_pass", "services"]
        assert [service["key"] for service in shown["services"]] == ["default/web"]
        code, _, err = invoke(f"status other/web --run-dir {home}")
    assert code == 1
    assert "other/web is not among our 2 Services" in err


def test_status_without_a_daemon(invoke: Invoke, home: Path) -> None:
    """Where no daemon answers, `status` says so plainly and how to start one."""
    code, out, err = invoke(f"status --run-dir {home}")
    assert (code, out) == (1, "")
    assert f"no daemon answers at {home}/littlelb.sock" in err
    assert "sudo loadbalancer run --linkdevice" in err
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(home / "littlelb.sock"))
    assert "no daemon answers" in invoke(f"status --run-dir {home}")[2]


def test_status_of_another_version(invoke: Invoke, home: Path) -> None:
    """A daemon that answers something else is named as the reason."""
    with answering(home / "littlelb.sock", b'{"services": 7}'):
        code, _, err = invoke(f"status --run-dir {home}")
    assert code == 1
    assert f"speaks another version than {__version__}" in err


def test_status_of_a_daemon_that_hangs_up(invoke: Invoke, home: Path) -> None:
    """A daemon that accepts and says nothing is told apart from none at all."""
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(home / "littlelb.sock"))
        silent.listen()

        def hang_up() -> None:
            silent.accept()[0].close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        code, _, err = invoke(f"status --run-dir {home}")
        thread.join()
    assert code == 1
    assert "see its log, or restart it" in err


def test_status_takes_the_run_dir_from_all_sources(invoke: Invoke, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`status` looks where the daemon of the same environment would be."""
    monkeypatch.setenv("LITTLELB_RUN_DIR", str(home))
    with answering(home / "littlelb.sock", encode(REPORT)):
        assert invoke("status")[0] == 0


def test_unknown_parts_have_no_version() -> None:
    """A program that is missing, fails or cannot be run is shown as unknown, not as an error."""
    assert cli._read_output("no-such-program-anywhere") == ""
    assert cli._read_output("false") == ""
    assert cli._read_output("echo", "1.0") == "1.0"


def test_version(invoke: Invoke) -> None:
    """`version` names all parts, in both forms."""
    code, out, _ = invoke("version")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["version", "commit", "python", "kernel", "nft"]
    assert json.loads(invoke("version -o json")[1])["version"] == __version__
    assert invoke("--version")[1] == out


def test_help_fits_a_screen(invoke: Invoke) -> None:
    """The help of the program fits 24 lines of 80 characters; that of `run` has one line for each flag."""
    code, out, _ = invoke("--help")
    assert code == 0
    assert len(out.splitlines()) <= 24
    assert "..." not in out.partition("Commands:")[2]
    code, out, _ = invoke("run -h")
    listed = [line.split()[0] for line in out.partition("Options:")[2].splitlines() if line.strip()]
    assert listed == [f"--{option.name}" for option in OPTIONS] + ["-h,"]
    assert max(len(line) for line in out.splitlines()) <= 80


def test_trace_asks_the_daemon(invoke: Invoke, home: Path) -> None:
    """What the daemon answers is shown, as a table or as JSON; the configuration is not needed for it."""
    found = Trace(packet="192.0.2.10 → 203.0.113.7:80/TCP", steps=(), outcome=Outcome.HOST, why="not ours")
    words = f"trace 192.0.2.10 203.0.113.7:80 --run-dir {home}"
    with answering(home / "littlelb.sock", encode(found)):
        code, out, _ = invoke(words)
        assert (code, out.splitlines()) == (0, ["192.0.2.10 → 203.0.113.7:80/TCP", "host: not ours"])
        assert json.loads(invoke(f"{words} -o json")[1])["outcome"] == "host"


def test_trace_says_what_the_daemon_could_not(invoke: Invoke, home: Path) -> None:
    """An answer that says no is an error with its text."""
    with answering(home / "littlelb.sock", b"netlink: EPERM", 503):
        code, _, complaint = invoke(f"trace 192.0.2.10 203.0.113.7:80 --run-dir {home}")
    assert (code, "netlink: EPERM" in complaint) == (1, True)


def test_trace_without_a_daemon(invoke: Invoke, home: Path) -> None:
    """The answer is what a run would decide now, by the configuration."""
    program = Remembering()
    flags = f"--run-dir {home} --linkdevice eth0 --manifests {home} --kubernetes=false"
    code, out, _ = invoke(f"trace [2001:db8::1]:4 [2001:db8::7]:80/udp --entering local {flags}", program)
    assert (code, program.config is not None) == (0, True)
    assert out.splitlines() == ["[2001:db8::1]:4 → [2001:db8::7]:80/UDP", "forwarded: without a daemon"]


def test_trace_of_nonsense(invoke: Invoke) -> None:
    """A packet that cannot be read is wrong usage."""
    code, _, complaint = invoke("trace 192.0.2.10 203.0.113.7")
    assert (code, "name the port" in complaint) == (2, True)
