"""Makes the report: Snapshot + DesiredState + PassReport + counters ─ compute_report ─→ StatusReport."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from littlelb.core.counters import BackendCounters, BackendKey, ServiceCounters, add
from littlelb.core.model import Frontend, Ip, Key
from littlelb.core.plan import Failure, PassReport, Severity
from littlelb.core.publication import Failures
from littlelb.core.reasons import Reason
from littlelb.core.shown.status import (
    BackendStatus,
    DaemonStatus,
    FailureLine,
    PassStatus,
    PortStatus,
    ReasonLine,
    ServiceState,
    ServiceStatus,
    StatusReport,
)
from littlelb.core.shown.text import printable
from littlelb.core.state import Decision, DesiredState, Snapshot

_LOCAL_PHASES = ("FORWARD", "ADDRESS", "ANNOUNCE")
"""Names of `core.interfaces.Phase`: where one of these cannot be read, nobody knows what is served."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What became of the decisions: the last pass (None: nothing was applied yet), and what the planes count."""

    last_pass: PassReport | None = None
    counters: Mapping[Frontend, ServiceCounters] = field(default_factory=dict)


def compute_report(
    daemon: DaemonStatus, snapshot: Snapshot, desired: DesiredState, observed: Observed, *, with_backends: bool = False
) -> StatusReport:
    """Merge what was decided with what became of it.

    Its cost grows with the Services, and `with_backends` with the backends: a caller with thousands of them keeps the
    result until something changes.
    """
    frame = _Frame(daemon.holder, snapshot, observed, with_backends)
    services = tuple(_compute_service(frame, desired.decisions[key]) for key in sorted(desired.decisions))
    return StatusReport(daemon=daemon, last_pass=_compute_pass(observed.last_pass), services=services)


@dataclass(frozen=True, slots=True)
class _Frame:
    """What the reports of all Services share."""

    holder: str
    snapshot: Snapshot
    observed: Observed
    with_backends: bool


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


def _compute_service(frame: _Frame, decision: Decision) -> ServiceStatus:
    last_pass = frame.observed.last_pass
    failures: Failures = last_pass.known if last_pass is not None else {}
    block = _find_block(frame.snapshot, decision.service, last_pass) if last_pass is not None else None
    ports = _compute_ports(decision, failures, block, passed=last_pass is not None)
    up, total = _count_backends(frame.snapshot, decision)
    counted = _count(decision, frame.observed.counters)
    return ServiceStatus(
        key=printable(decision.service),
        state=_select_state(decision, ports, failed=decision.service in failures),
        addresses=tuple(str(address) for address in decision.addresses),
        ports=ports,
        plane=", ".join(dict.fromkeys(forward.plane.value for _, forward in decision.forwards)),
        holder=frame.holder if any(port.held for port in ports) else "",
        backends_up=up,
        backends_total=total,
        backends_draining=len({address for address, _ in counted.draining}),
        connections_active=counted.total.active,
        connections_accepted=counted.total.connections,
        connections_draining=sum(one.active or 0 for one in counted.draining.values()),
        packets=counted.total.packets,
        bytes_in=counted.total.bytes_in,
        bytes_out=counted.total.bytes_out,
        backends=_list_backends(decision, counted) if frame.with_backends else (),
        reasons=_compute_reasons(decision, failures, block),
    )


@dataclass(frozen=True, slots=True)
class _Counted:
    """One Service, over all its frontends."""

    total: BackendCounters
    backends: Mapping[BackendKey, BackendCounters]
    draining: Mapping[BackendKey, BackendCounters]
    """Those of them that it no longer has, and that have connections left."""


_NOTHING = _Counted(BackendCounters(), {}, {})


def _count(decision: Decision, counters: Mapping[Frontend, ServiceCounters]) -> _Counted:
    """Sum what is counted for the frontends of one Service."""
    total = BackendCounters()
    backends: dict[BackendKey, BackendCounters] = {}
    for frontend, _ in decision.forwards:
        counted = counters.get(frontend)
        if counted is not None:
            total = add(total, counted.total)
            for key, one in counted.backends.items():
                backends[key] = add(backends[key], one) if key in backends else one
    if not backends:
        return replace(_NOTHING, total=total)
    wanted = {(backend.address, backend.port) for _, forward in decision.forwards for backend in forward.backends}
    draining = {key: one for key, one in backends.items() if one.active and key not in wanted}
    return _Counted(total, backends, draining)


def _list_backends(decision: Decision, counted: _Counted) -> tuple[BackendStatus, ...]:
    """Backends in use, in the order of the decision, then those that drain."""
    wanted = {(b.address, b.port): b.weight for _, forward in decision.forwards for b in forward.backends}
    weights = {**wanted, **dict.fromkeys(counted.draining, 0)}
    nothing = BackendCounters()
    return tuple(
        BackendStatus(
            address=str(address),
            port=port,
            weight=weight,
            connections=one.connections,
            active=one.active,
            packets=one.packets,
            bytes_in=one.bytes_in,
            bytes_out=one.bytes_out,
            draining=(address, port) not in wanted,
        )
        for (address, port), weight in weights.items()
        for one in (counted.backends.get((address, port), nothing),)
    )


def _compute_ports(
    decision: Decision, failures: Failures, block: Failure | None, *, passed: bool
) -> tuple[PortStatus, ...]:
    """Build one line for each frontend that is wanted, then one for each that is refused by itself."""
    ports: dict[Frontend, PortStatus] = {}
    for frontend, forward in decision.forwards:
        failure = failures.get(frontend) or failures.get(frontend.address) or block
        error = failure.reason if failure else "" if forward.backends else Reason.NO_BACKENDS
        ports[frontend] = _port(frontend, error, held=passed and failure is None)
    for refusal in decision.refusals:
        if refusal.frontend is not None:
            ports[refusal.frontend] = _port(refusal.frontend, refusal.reason, held=False)
    return tuple(ports.values())


def _port(frontend: Frontend, error: str, *, held: bool) -> PortStatus:
    return PortStatus(
        address=str(frontend.address),
        port=frontend.port,
        protocol=frontend.protocol,
        serving=held and not error,
        error=str(error),
        last_port=frontend.last_port,
        held=held,
    )


def _select_state(decision: Decision, ports: Iterable[PortStatus], *, failed: bool) -> ServiceState:
    served = [port.serving for port in ports]
    if any(served):
        whole = all(served) and not decision.refusals and not failed
        return ServiceState.SERVING if whole else ServiceState.PARTIAL
    if decision.refusals and not decision.forwards:
        return ServiceState.REFUSED
    return ServiceState.NO_BACKENDS if any(port.held for port in ports) else ServiceState.PENDING


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
    lines += [ReasonLine(n.reason, printable(n.message), n.warning) for n in decision.notices]
    return tuple(dict.fromkeys(lines))


def _count_backends(snapshot: Snapshot, decision: Decision) -> tuple[int, int]:
    """Count distinct backend addresses in use, and all that could be: endpoints when pods serve, else those in use."""
    up = {backend.address for _, forward in decision.forwards for backend in forward.backends}
    slices = snapshot.slices.get(decision.service, ())
    endpoints = {endpoint.address for piece in slices for endpoint in piece.endpoints}
    return len(up), len(endpoints | up) if up <= endpoints else len(up)
