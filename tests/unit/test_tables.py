"""What tables look like at a terminal, and what cannot change how it looks."""

import io

import msgspec
import pytest

from littlelb.core.shown.findings import Finding, Level
from littlelb.core.shown.plan_document import PlanDocument, PlanLine, Verb
from littlelb.core.shown.status import DaemonStatus, ReasonLine, ServiceState, ServiceStatus, StatusReport
from littlelb.core.trace.packet import Destination, Outcome, Step, Trace
from littlelb.tables import print_all, render_findings, render_plan, render_status, render_trace

DAEMON = DaemonStatus(
    version="1",
    pid=1,
    started=0.0,
    source="services/",
    plane="pipe",
    holder="lb-1",
    synced=True,
    connected=True,
    no_nft="the command nft is missing",
    folder_errors=("a.yaml:3: bad",),
)


class Terminal(io.StringIO):
    """A standard output that says it is a terminal."""

    def isatty(self) -> bool:
        """Say yes."""
        return True


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Make a terminal that knows colours."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Terminal()


def test_colours_at_a_terminal(terminal: Terminal) -> None:
    """At a terminal the diff is coloured."""
    line = PlanLine(phase="FORWARD", verb=Verb.REMOVE, key="203.0.113.7 port 80/TCP", before="2 backends")
    print_all(render_plan(PlanDocument(lines=(line,))), terminal)
    assert "\x1b[31m-" in terminal.getvalue()


def test_hostile_texts_stay_texts(terminal: Terminal) -> None:
    """Neither markup nor escape sequences of an object reach the terminal."""
    evil = "[red]\x1b]0;owned\x07\u202e"
    service = ServiceStatus(key=evil, state=ServiceState.REFUSED, reasons=(ReasonLine("Failed", evil),))
    print_all(render_status(StatusReport(daemon=DAEMON, services=(service,))), terminal)
    print_all(render_findings([Finding(level=Level.OK, subject=evil, message=evil)]), terminal)
    shown = terminal.getvalue()
    assert "\x1b]" not in shown
    assert "\u202e" not in shown
    assert "[red]\\x1b]0;owned\\x07\\u202e" in shown


def test_facts_are_shown_of_one_service_and_warnings_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    """Ten thousand lines that nothing is wrong would hide the one that something is."""
    fact, warning = ReasonLine("SourceAddress", "a fact", warning=False), ReasonLine("NoBackends", "a warning")
    one = ServiceStatus(key="default/a", state=ServiceState.SERVING, reasons=(fact, warning))
    two = ServiceStatus(key="default/b", state=ServiceState.SERVING, reasons=(fact,))
    print_all(render_status(StatusReport(daemon=DAEMON, services=(one, two))))
    out = capsys.readouterr().out
    assert "default/a: NoBackends: a warning" in out
    assert "a fact" not in out
    print_all(render_status(StatusReport(daemon=DAEMON, services=(two,))))
    assert "default/b: SourceAddress: a fact" in capsys.readouterr().out


def test_status_without_services(capsys: pytest.CaptureFixture[str]) -> None:
    """An empty world, a folder with an error, and a source that does not answer are all said."""
    print_all(render_status(StatusReport(daemon=DAEMON)))
    assert capsys.readouterr().out.splitlines()[1:] == [
        "services/: connected",
        "planes: pipe; no nft: the command nft is missing",
        "not ready: synced, but the first pass is not finished",
        "folder: a.yaml:3: bad",
        "no Service of type LoadBalancer is ours",
    ]
    print_all(render_status(StatusReport(daemon=msgspec.structs.replace(DAEMON, connected=False))))
    assert "services/: does not answer" in capsys.readouterr().out
    print_all(render_status(StatusReport(daemon=msgspec.structs.replace(DAEMON, from_state_file=True))))
    assert "this is the last known world" in capsys.readouterr().out


def test_a_trace(capsys: pytest.CaptureFixture[str]) -> None:
    """The packet, a row for each step, the end with service, plane and slot, each backend, and what is in doubt."""
    found = Trace(
        packet="192.0.2.10 → 203.0.113.7:80/TCP",
        steps=(Step("services4", "203.0.113.7 . tcp . 80", "goto hash4-2", "demo/web"),),
        outcome=Outcome.FORWARDED,
        why="by hash",
        service="demo/web",
        plane="nft",
        backends=(Destination("10.1.0.1", 8080, "192.0.2.10", "kept"), Destination("2001:db8::1", 80, "", "lost")),
        slot=1,
        slots=2,
        doubts=("203.0.113.7: EBUSY",),
    )
    print_all(render_trace(found))
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "192.0.2.10 → 203.0.113.7:80/TCP",
        "STAGE RULE VERDICT WHY",
        "services4 203.0.113.7 . tcp . 80 goto hash4-2 demo/web",
        "forwarded (demo/web, plane nft): by hash (slot 1 of 2)",
        "to 10.1.0.1:8080, which sees 192.0.2.10: kept",
        "to [2001:db8::1]:80, which sees an address of this machine: lost",
        "but: 203.0.113.7: EBUSY",
    ]
    refused = msgspec.structs.replace(
        found, outcome=Outcome.REFUSED, answer="TCP RST", backends=(), doubts=(), slot=None
    )
    print_all(render_trace(msgspec.structs.replace(refused, steps=(), service="")))
    assert "refused, the client hears TCP RST: by hash" in capsys.readouterr().out
