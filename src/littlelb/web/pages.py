"""Renders the status page: one HTML document without scripts, readable on a phone and in a text browser. Pure.

Everything that is not a constant of this file goes through `_text`, which escapes control characters and markup.
"""

import base64
import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime
from html import escape
from typing import Final

from littlelb.core.shown.status import (
    DaemonStatus,
    PortStatus,
    ServiceState,
    ServiceStatus,
    StatusReport,
    TableUse,
    compute_unready,
    render_backends,
    render_ports,
    render_traffic,
)
from littlelb.core.shown.text import printable

_STYLE: Final = """
:root{color-scheme:light dark}body{font:15px/1.45 system-ui,sans-serif;margin:1.5rem auto;max-width:75rem;
padding:0 1rem}h1{font-size:1.3rem}table{border-collapse:collapse;width:100%}th,td{text-align:left;vertical-align:top;
padding:.4rem .7rem;border-bottom:1px solid #8886}dl{display:grid;grid-template-columns:max-content 1fr;
gap:.1rem 1rem}dd{margin:0}
.serving{color:#2a8a3e}.partial,.pending,.no-backends{color:#b26a00}.refused,.error{color:#c62828}ul{margin:0;padding-left:1.1rem}
.scroll{overflow-x:auto}code{overflow-wrap:anywhere}td:first-child{min-width:12rem}
"""
CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src 'sha256-"
    + base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    + "'"
)
"""Forbids everything but the style sheet above, which it names by its hash (CSP level 2)."""


_ROWS: Final = 500
"""More rows would keep the loop busy for longer than a change of a Service takes; `loadbalancer status` shows all."""


def render_page(report: StatusReport) -> str:
    """Render the whole document: what needs somebody's eyes first. It loads itself again every 5 seconds."""
    first = sorted(report.services, key=lambda service: service.state is ServiceState.SERVING)[:_ROWS]
    rows = "".join(_render_service(service) for service in first)
    left_out = len(report.services) - len(first)
    more = f"<p>and {left_out} more: see <code>loadbalancer status</code></p>" if left_out else ""
    table = (
        "<div class=scroll><table><thead><tr><th>Service<th>State<th>Addresses<th>Ports<th>Plane<th>Backends"
        f"<th>Connections<th>Why</thead><tbody>{rows}</tbody></table></div>{more}"
        if rows
        else "<p>No Service of type LoadBalancer is ours yet.</p>"
    )
    return (
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta http-equiv=refresh content=5>"
        '<meta name=viewport content="width=device-width"><title>littlelb</title>'
        f"<style>{_STYLE}</style></head><body><h1>littlelb on {_text(report.daemon.holder)}</h1>"
        f"{_render_daemon(report)}{table}</body></html>"
    )


def _render_daemon(report: StatusReport) -> str:
    daemon = report.daemon
    unready = compute_unready(report)
    facts = [
        ("Ready", _list(unready, "error") if unready else "yes"),
        ("Source", f"<code>{_text(daemon.source)}</code> {_connection(daemon)}"),
        ("First sync", ", ".join(f"{_text(p.kind)} {p.objects}{'' if p.listed else ' …'}" for p in daemon.progress)),
        ("Planes", _text(daemon.plane)),
        ("Connection tracking", _render_use(daemon.conntrack)),
        ("Process", f"version {_text(daemon.version)}, pid {daemon.pid}, since {_time(daemon.started)}"),
        ("Folder errors", _list(daemon.folder_errors, "error")),
    ]
    if report.last_pass is not None:
        last = report.last_pass
        said = f"number {last.number} at {_time(last.finished)}, {last.duration_seconds * 1000:.1f} ms"
        facts.append(("Last pass", f"{said}, {last.changes} changes"))
        facts.append(("Failures", _list((f"{f.subject}: {f.message}" for f in last.failures), "error")))
    return "<dl>" + "".join(f"<dt>{name}<dd>{html}" for name, html in facts if html) + "</dl>"


def _render_use(use: TableUse | None) -> str:
    return f"{use.used} of {use.limit} entries" if use is not None else ""


def _connection(daemon: DaemonStatus) -> str:
    if daemon.from_state_file:
        return "<b class=error>has not answered yet: this is the last known world</b>"
    return "connected" if daemon.connected else "<b class=error>does not answer: what was known is kept</b>"


def _render_service(service: ServiceStatus) -> str:
    cells = (
        f"<code>{_text(service.key)}</code>",
        f"<span class={service.state}>{service.state}</span>",
        "<br>".join(_text(address) for address in service.addresses),
        "<br>".join(_render_port(port) for port in service.ports),
        _text(service.plane),
        render_backends(service),
        render_traffic(service),
        _list((f"{line.reason}: {line.message}" for line in service.reasons), ""),
    )
    return "<tr>" + "".join(f"<td>{cell}" for cell in cells) + "</tr>"


def _render_port(port: PortStatus) -> str:
    error = f" <span class=error>{_text(port.error)}</span>" if port.error else ""
    return f"{_text(render_ports(port))}{error}"


def _list(lines: Iterable[str], style: str) -> str:
    items = "".join(f"<li>{_text(line)}" for line in lines)
    return f'<ul class="{style}">{items}</ul>' if items else ""


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _text(text: str) -> str:
    return escape(printable(str(text)))
