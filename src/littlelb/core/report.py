"""What people and scrapers are shown: the state of every Service, a plan, findings. Values with a JSON form, no I/O.

Snapshot + DesiredState + PassReport + counters ─ compute_report ─→ StatusReport → status page, metrics, CLI
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum

from msgspec import Struct, json

from littlelb.core.model import Frontend, Ip, Key, Protocol
from littlelb.core.plan import Failure, PassReport, Severity
from littlelb.core.publication import Failures
from littlelb.core.state import Decision, DesiredState, Snapshot

FIELD_BYTES = 1024
"""No text that came from an object is shown longer than this."""
_LOCAL_PHASES = ("FORWARD", "ADDRESS", "ANNOUNCE")
"""Names of `core.interfaces.Phase`: where one of these cannot be read, nobody knows what is served."""


def printable(text: str, limit: int = FIELD_BYTES) -> str:
    """Make a foreign text safe to show: unprintable characters (controls, bidi marks) escaped, cut at `limit` bytes."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    octets = text.encode("utf-8", "backslashreplace")
    if len(octets) <= limit:
        return text
    return octets[: limit - 3].decode("utf-8", "ignore") + "…"


class ServiceState(StrEnum):
    """How a Service fares."""

    SERVING = "serving"
    PARTIAL = "partial"
    """Some of it is served; `reasons` say what is not, or could not be written to the API."""
    REFUSED = "refused"
    """Nothing of it is served, by decision."""
    PENDING = "pending"
    """Nothing of it is served yet: the first pass has not been, or the world said no and is asked again."""


class ReasonLine(Struct, frozen=True, gc=False):
    """Why something is not as its owner wrote it."""

    reason: str
    message: str


class PortStatus(Struct, frozen=True, gc=False):
    """One frontend of a Service; `error` is empty where it is served."""

    address: str
    port: int
    protocol: Protocol
    serving: bool
    error: str = ""


class ServiceStatus(Struct, frozen=True, gc=False, kw_only=True):
    """One Service, as `loadbalancer status` and the page show it."""

    key: Key
    state: ServiceState
    addresses: tuple[str, ...] = ()
    ports: tuple[PortStatus, ...] = ()
    plane: str = ""
    holder: str = ""
    """The machine that answers for the addresses; empty: nobody."""
    backends_up: int = 0
    backends_total: int = 0
    connections_active: int = 0
    connections_accepted: int = 0
    """Since the plane started."""
    reasons: tuple[ReasonLine, ...] = ()


class SyncProgress(Struct, frozen=True, gc=False):
    """How far the first list of one kind of object has come."""

    kind: str
    objects: int
    listed: bool


class FailureLine(Struct, frozen=True, gc=False):
    """One failure of the last pass; `subject` is a frontend, an address, a Service key, or an unread phase."""

    subject: str
    reason: str
    message: str
    permanent: bool


class PassStatus(Struct, frozen=True, gc=False, kw_only=True):
    """The last pass of the loop. `finished` in seconds since the epoch."""

    number: int
    finished: float
    duration_seconds: float
    changes: int
    failures: tuple[FailureLine, ...] = ()


class DaemonStatus(Struct, frozen=True, gc=False, kw_only=True):
    """The process and its sources: what `app` knows and the core does not."""

    version: str
    pid: int
    started: float
    """Seconds since the epoch."""
    source: str
    """Where the objects come from: the API server's URL, or the folder."""
    plane: str
    holder: str
    """The name of this machine."""
    synced: bool
    """Every kind of object was listed once."""
    connected: bool
    """The API server answers, or the folder is readable."""
    from_state_file: bool = False
    """What is served is the last known world: the source has not answered since the start."""
    progress: tuple[SyncProgress, ...] = ()
    folder_errors: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    """What the API server does not let us read, with the remedy."""
    events_dropped: int = 0


class StatusReport(Struct, frozen=True, gc=False, kw_only=True):
    """Everything `status` shows; Services in order of their keys."""

    daemon: DaemonStatus
    last_pass: PassStatus | None = None
    services: tuple[ServiceStatus, ...] = ()


class Counters(Struct, frozen=True, gc=False):
    """Connections of one frontend: open now, and accepted since the plane started."""

    active: int = 0
    accepted: int = 0


def compute_report(
    daemon: DaemonStatus,
    snapshot: Snapshot,
    desired: DesiredState,
    last_pass: PassReport | None,
    counters: Mapping[Frontend, Counters],
) -> StatusReport:
    """Merge what was decided with what became of it. `last_pass` None: nothing was applied yet.

    Its cost grows with the Services: a caller with thousands of them keeps the result until something changes.
    """
    services = tuple(
        _compute_service(daemon, snapshot, desired.decisions[key], last_pass, counters)
        for key in sorted(desired.decisions)
    )
    return StatusReport(daemon=daemon, last_pass=_compute_pass(last_pass), services=services)


def compute_unready(report: StatusReport) -> tuple[str, ...]:
    """Why `/readyz` says no, one line each; empty: ready."""
    lines: list[str] = []
    if not report.daemon.synced:
        waiting = ", ".join(f"{p.kind} ({p.objects} so far)" for p in report.daemon.progress if not p.listed)
        lines.append(f"not synced with {report.daemon.source}; waiting for: {waiting or 'the first answer'}")
    elif report.last_pass is None:
        lines.append("synced, but the first pass is not finished")
    lines += report.daemon.refused
    if report.last_pass is not None:
        lines += [f"{f.subject}: {f.message}" for f in report.last_pass.failures if f.permanent]
    return tuple(printable(line) for line in lines)


def encode(value: "StatusReport | ServiceStatus | PlanDocument | tuple[Finding, ...] | tuple[str, ...]") -> bytes:
    """Encode as indented JSON with stable keys, for `-o json` and `/status`."""
    return json.format(json.encode(value), indent=2)


def decode_report(octets: bytes) -> StatusReport:
    """Decode what `encode` made of a StatusReport. Raises msgspec.DecodeError."""
    return json.decode(octets, type=StatusReport)


def _compute_pass(last: PassReport | None) -> PassStatus | None:
    if last is None:
        return None
    wrong = ((what, failure) for what, failure in last.known.items() if failure.severity is not Severity.WAITING)
    lines = [_failure_line(str(what), failure) for what, failure in wrong]
    lines += [_failure_line(f"phase {phase.lower()}", failure) for phase, failure in last.unread.items()]
    return PassStatus(
        number=last.number,
        finished=last.finished,
        duration_seconds=last.duration_seconds,
        changes=last.changes,
        failures=tuple(sorted(lines, key=lambda line: line.subject)),
    )


def _failure_line(subject: str, failure: Failure) -> FailureLine:
    permanent = failure.severity is Severity.PERMANENT
    return FailureLine(printable(subject), failure.reason, printable(failure.message), permanent)


def _find_block(snapshot: Snapshot, key: Key, last: PassReport) -> Failure | None:
    """Find what keeps, or may keep, everything of this Service from being served.

    A Service without our claim goes no further than the claim. One that has it is served on while the API is away: its
    failure is one of publishing.
    """
    for phase in _LOCAL_PHASES:
        if phase in last.unread:
            return last.unread[phase]
    service = snapshot.services.get(key)
    if service is not None and service.has_finalizer:
        return None
    return last.known.get(key) or last.unread.get("CLAIM")


def _compute_service(
    daemon: DaemonStatus,
    snapshot: Snapshot,
    decision: Decision,
    last_pass: PassReport | None,
    counters: Mapping[Frontend, Counters],
) -> ServiceStatus:
    failures: Failures = last_pass.known if last_pass is not None else {}
    block = _find_block(snapshot, decision.service, last_pass) if last_pass is not None else None
    ports = _compute_ports(decision, failures, block, passed=last_pass is not None)
    up, total = _count_backends(snapshot, decision)
    counted = [counters[frontend] for frontend, _ in decision.forwards if frontend in counters]
    serving = any(port.serving for port in ports)
    return ServiceStatus(
        key=printable(decision.service),
        state=_select_state(decision, ports, failed=decision.service in failures),
        addresses=tuple(str(address) for address in decision.addresses),
        ports=ports,
        plane=daemon.plane if decision.forwards else "",
        holder=daemon.holder if serving else "",
        backends_up=up,
        backends_total=total,
        connections_active=sum(c.active for c in counted),
        connections_accepted=sum(c.accepted for c in counted),
        reasons=_compute_reasons(decision, failures, block),
    )


def _compute_ports(
    decision: Decision, failures: Failures, block: Failure | None, *, passed: bool
) -> tuple[PortStatus, ...]:
    """Build one line for each frontend that is wanted, then one for each that is refused by itself."""
    ports: dict[Frontend, PortStatus] = {}
    for frontend, _ in decision.forwards:
        failure = failures.get(frontend) or failures.get(frontend.address) or block
        ports[frontend] = _port(frontend, failure.reason if failure else "", serving=passed and failure is None)
    for refusal in decision.refusals:
        if refusal.frontend is not None:
            ports[refusal.frontend] = _port(refusal.frontend, refusal.reason, serving=False)
    return tuple(ports.values())


def _port(frontend: Frontend, error: str, *, serving: bool) -> PortStatus:
    return PortStatus(str(frontend.address), frontend.port, frontend.protocol, serving, str(error))


def _select_state(decision: Decision, ports: Iterable[PortStatus], *, failed: bool) -> ServiceState:
    served = [port.serving for port in ports]
    if any(served):
        whole = all(served) and not decision.refusals and not failed
        return ServiceState.SERVING if whole else ServiceState.PARTIAL
    if decision.refusals and not decision.forwards:
        return ServiceState.REFUSED
    return ServiceState.PENDING


def _compute_reasons(decision: Decision, failures: Failures, block: Failure | None) -> tuple[ReasonLine, ...]:
    subjects: list[Frontend | Ip | Key] = [decision.service, *decision.addresses]
    subjects += [frontend for frontend, _ in decision.forwards]
    lines = [ReasonLine(r.reason, printable(r.message)) for r in decision.refusals]
    lines += [
        ReasonLine(failures[subject].reason, printable(f"{subject}: {failures[subject].message}"))
        for subject in subjects
        if subject in failures
    ]
    if block is not None and block is not failures.get(decision.service):
        lines.append(ReasonLine(block.reason, printable(block.message)))
    lines += [ReasonLine(n.reason, printable(n.message)) for n in decision.notices]
    return tuple(dict.fromkeys(lines))


def _count_backends(snapshot: Snapshot, decision: Decision) -> tuple[int, int]:
    """Count distinct backend addresses in use, and all that could be: endpoints when pods serve, else those in use."""
    up = {backend.address for _, forward in decision.forwards for backend in forward.backends}
    slices = snapshot.slices.get(decision.service, ())
    endpoints = {endpoint.address for piece in slices for endpoint in piece.endpoints}
    return len(up), len(endpoints | up) if up <= endpoints else len(up)


class Verb(StrEnum):
    """What a run would do with one thing."""

    ADD = "add"
    CHANGE = "change"
    REMOVE = "remove"


class PlanLine(Struct, frozen=True, gc=False, kw_only=True):
    """One change; `before` is empty for an addition, `after` for a removal."""

    phase: str
    verb: Verb
    key: str
    before: str = ""
    after: str = ""


class PlanDocument(Struct, frozen=True, gc=False, kw_only=True):
    """What a run would change, and what could not be found out."""

    lines: tuple[PlanLine, ...] = ()
    refused: tuple[str, ...] = ()
    """What of the Services a run would not serve, and why. Their owners' affair: not an error of the plan."""
    errors: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """0 no change, 2 changes, 1 any error."""
        if self.errors:
            return 1
        return 2 if self.lines else 0


class Level(StrEnum):
    """How much a finding of `check` matters."""

    OK = "ok"
    WARN = "warn"
    ERROR = "error"


class Finding(Struct, frozen=True, gc=False, kw_only=True):
    """One thing that `check` looked at, and what to do about it."""

    level: Level
    subject: str
    message: str
    remedy: str = ""
