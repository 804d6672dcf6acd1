"""The state of the daemon and of every Service as values with a JSON form: what `status`, page and metrics show."""

from enum import StrEnum

from msgspec import Struct, json

from littlelb.core.model import Key, Protocol
from littlelb.core.shown.text import printable, render_bytes


class ServiceState(StrEnum):
    """How a Service fares."""

    SERVING = "serving"
    PARTIAL = "partial"
    """Some of it is served; `reasons` say what is not, or could not be written to the API."""
    REFUSED = "refused"
    """Nothing of it is served, by decision."""
    NO_BACKENDS = "no-backends"
    """This machine answers for it, but nobody is behind it: connections are refused at once."""
    PENDING = "pending"
    """Nothing of it is served yet: the first pass has not been, or the world said no and is asked again."""


class ReasonLine(Struct, frozen=True, gc=False):
    """Why something is not as its owner wrote it, or why it is as it is."""

    reason: str
    message: str
    warning: bool = True
    """False: nothing is wrong; a list of many Services leaves it out."""


class PortStatus(Struct, frozen=True, gc=False):
    """One frontend of a Service; `error` is empty where it is served."""

    address: str
    port: int
    protocol: Protocol
    serving: bool
    error: str = ""
    last_port: int = 0
    """The last one of a range; 0: it is one port."""
    held: bool = False
    """This machine answers here, if only to refuse."""


class BackendStatus(Struct, frozen=True, gc=False, kw_only=True):
    """One backend of a Service, over all frontends that it stands behind; null: nobody counts it."""

    address: str
    port: int
    """0: the port that the client chose, behind a range."""
    weight: int
    """0: it gets no new connections."""
    connections: int = 0
    """Begun since the plane started to serve it."""
    active: int | None = None
    packets: int | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    draining: bool = False
    """It is no longer wanted, and has connections left."""


class ServiceStatus(Struct, frozen=True, gc=False, kw_only=True):
    """One Service, as `loadbalancer status` and the page show it."""

    key: Key
    state: ServiceState
    addresses: tuple[str, ...] = ()
    ports: tuple[PortStatus, ...] = ()
    plane: str = ""
    """What moves its packets: nft or pipe; why it is this one stands in `reasons` where it is not the first choice."""
    holder: str = ""
    """The machine that answers for the addresses; empty: nobody."""
    backends_up: int = 0
    backends_total: int = 0
    backends_draining: int = 0
    connections_active: int | None = None
    """Null: nobody counts them."""
    connections_accepted: int = 0
    """Since the plane started to serve it."""
    connections_draining: int = 0
    """Open ones to backends that are no longer wanted."""
    packets: int | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    backends: tuple[BackendStatus, ...] = ()
    """Only where somebody asks for them (`status -o json`): there may be hundreds of thousands."""
    reasons: tuple[ReasonLine, ...] = ()


class TableUse(Struct, frozen=True, gc=False):
    """How full the kernel's connection tracking table is: at `limit` new connections are dropped, ours and others'."""

    used: int
    limit: int


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
    """Those that work here, the preferred one first: `nft, pipe`."""
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
    no_nft: str = ""
    """Why the kernel plane does not work here, or is not used."""
    conntrack: TableUse | None = None
    """Null: it cannot be read here."""


class StatusReport(Struct, frozen=True, gc=False, kw_only=True):
    """Everything `status` shows; Services in order of their keys."""

    daemon: DaemonStatus
    last_pass: PassStatus | None = None
    services: tuple[ServiceStatus, ...] = ()


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


def encode(value: object) -> bytes:
    """Encode a value of this room, or a tuple of them, as indented JSON with stable keys, for `-o json` and HTTP."""
    return json.format(json.encode(value), indent=2)


def decode_report(octets: bytes) -> StatusReport:
    """Decode what `encode` made of a StatusReport. Raises msgspec.DecodeError."""
    return json.decode(octets, type=StatusReport)


def render_ports(port: PortStatus) -> str:
    """`80/TCP`, `5000-5999/UDP`."""
    return f"{port.port}{f'-{port.last_port}' if port.last_port else ''}/{port.protocol}"


def render_backends(service: ServiceStatus) -> str:
    """`2/3`, and how many still have connections though they are no longer wanted."""
    draining = f", {service.backends_draining} draining" if service.backends_draining else ""
    return f"{service.backends_up}/{service.backends_total}{draining}"


def render_traffic(service: ServiceStatus) -> str:
    """`5 open (1 draining), 100 so far, 2.0 KiB in, 1.5 MiB out`; what nobody counts is left out."""
    parts = []
    if service.connections_active is not None:
        ending = f" ({service.connections_draining} draining)" if service.connections_draining else ""
        parts.append(f"{service.connections_active} open{ending}")
    parts.append(f"{service.connections_accepted} so far")
    for number, direction in ((service.bytes_in, "in"), (service.bytes_out, "out")):
        if number is not None:
            parts.append(f"{render_bytes(number)} {direction}")
    return ", ".join(parts)
