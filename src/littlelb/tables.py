"""Renders reports, plans and findings for a terminal, and plainly for everything else."""

import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import TextIO

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from littlelb.core.shown.findings import Finding, Level
from littlelb.core.shown.plan_document import PlanDocument, Verb
from littlelb.core.shown.status import (
    ServiceState,
    ServiceStatus,
    StatusReport,
    compute_unready,
    render_backends,
    render_ports,
    render_traffic,
)
from littlelb.core.shown.text import printable
from littlelb.core.trace.packet import Outcome, Trace, render_place

_PLAIN_COLUMNS = 100_000
"""Wide enough that nothing is wrapped where nobody looks: a pipe, a file."""
_STATE = {
    ServiceState.SERVING: "green",
    ServiceState.PARTIAL: "yellow",
    ServiceState.PENDING: "yellow",
    ServiceState.NO_BACKENDS: "yellow",
    ServiceState.REFUSED: "red",
}
_LEVEL = {Level.OK: "green", Level.WARN: "yellow", Level.ERROR: "red"}
_VERB = {Verb.ADD: ("+", "green"), Verb.CHANGE: ("~", "yellow"), Verb.REMOVE: ("-", "red")}


def print_all(parts: Iterable[RenderableType], stream: TextIO | None = None) -> None:
    """Write to standard output: coloured and wrapped at a terminal, else one plain line for each row."""
    stream = stream if stream is not None else sys.stdout
    console = Console(
        file=stream,
        width=None if stream.isatty() else _PLAIN_COLUMNS,
        markup=False,
        highlight=False,
        emoji=False,
    )
    for part in parts:
        console.print(part)


def render_status(report: StatusReport) -> list[RenderableType]:
    """Show the daemon in a line or two, then one row for each Service, then why something is not as it was asked."""
    daemon = report.daemon
    connection = "connected" if daemon.connected else "does not answer"
    if daemon.from_state_file:
        connection = "has not answered yet: this is the last known world"
    started = datetime.fromtimestamp(daemon.started, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    parts: list[RenderableType] = [
        _text(f"littlelb {daemon.version} on {daemon.holder}, pid {daemon.pid}, since {started}"),
        _text(f"{daemon.source}: {connection}"),
        _text(f"planes: {daemon.plane}{f'; no nft: {daemon.no_nft}' if daemon.no_nft else ''}"),
    ]
    parts += [_text(f"not ready: {line}", "red") for line in compute_unready(report)]
    parts += [_text(f"folder: {line}", "red") for line in daemon.folder_errors]
    if not report.services:
        return [*parts, _text("no Service of type LoadBalancer is ours")]
    table = _table("SERVICE", "STATE", "ADDRESSES", "PORTS", "PLANE", "HOLDER", "BACKENDS", "CONNECTIONS")
    for service in report.services:
        table.add_row(*_status_row(service))
    reasons = [
        _text(f"{service.key}: {line.reason}: {line.message}", _STATE[service.state])
        for service in report.services
        for line in service.reasons
        if line.warning or len(report.services) == 1
    ]
    return [*parts, table, *reasons]


def _status_row(service: ServiceStatus) -> list[Text]:
    ports = dict.fromkeys(f"{render_ports(port)}{'' if port.serving else '!'}" for port in service.ports)
    return [
        _text(service.key),
        _text(service.state, _STATE[service.state]),
        _text(", ".join(service.addresses) or "-"),
        _text(", ".join(ports) or "-"),
        _text(service.plane or "-"),
        _text(service.holder or "-"),
        _text(render_backends(service)),
        _text(render_traffic(service)),
    ]


def render_plan(plan: PlanDocument) -> list[RenderableType]:
    """Show a diff: `+` comes, `~` changes, `-` goes, grouped as the document has it."""
    parts: list[RenderableType] = []
    if plan.lines:
        table = _table("", "PHASE", "WHAT", "BEFORE", "AFTER")
        for line in plan.lines:
            sign, style = _VERB[line.verb]
            table.add_row(
                *(_text(cell, style) for cell in (sign, line.phase, line.key, line.before or "-", line.after or "-"))
            )
        parts.append(table)
    elif not plan.errors:
        parts.append(_text("no changes"))
    parts += [_text(f"not served: {line}", "yellow") for line in plan.refused]
    return [*parts, *(_text(f"error: {line}", "red") for line in plan.errors)]


def render_findings(findings: Iterable[Finding]) -> list[RenderableType]:
    """Show one row for each finding, its remedy beside it."""
    table = _table("", "SUBJECT", "FINDING", "WHAT TO DO")
    for finding in findings:
        style = _LEVEL[finding.level]
        cells = (finding.subject, finding.message, finding.remedy)
        table.add_row(_text(finding.level, style), *(_text(cell) for cell in cells))
    return [table]


_OUTCOME = {Outcome.FORWARDED: "green", Outcome.REFUSED: "red", Outcome.DROPPED: "red", Outcome.HOST: "yellow"}


def render_trace(found: Trace) -> list[RenderableType]:
    """Show the packet, one row for each step, then where it ends and why."""
    table = _table("STAGE", "RULE", "VERDICT", "WHY")
    for step in found.steps:
        table.add_row(*(_text(cell) for cell in (step.stage, step.rule, step.verdict, step.why)))
    whose = f" ({found.service}, plane {found.plane})" if found.service else ""
    answer = f", the client hears {found.answer}" if found.answer else ""
    slot = f" (slot {found.slot} of {found.slots})" if found.slot is not None else ""
    parts: list[RenderableType] = [_text(found.packet), *([table] if found.steps else [])]
    parts.append(_text(f"{found.outcome}{whose}{answer}: {found.why}{slot}", _OUTCOME[found.outcome]))
    for one in found.backends:
        place = render_place(ip_address(one.address), one.port)
        parts.append(_text(f"  to {place}, which sees {one.sees or 'an address of this machine'}: {one.why}"))
    return [*parts, *(_text(f"but: {doubt}", "yellow") for doubt in found.doubts)]


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _text(text: str, style: str = "") -> Text:
    """Make a text that can be nothing but text: no markup, no control characters."""
    return Text(printable(text), style=style)
