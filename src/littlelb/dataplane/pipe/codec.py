"""Between the loop's nouns (Frontend, Forward, counters) and the words of the wire: pure, the daemon's side only."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network

from littlelb.core import counters
from littlelb.core.counters import ServiceCounters
from littlelb.core.model import Backend, Forward, Frontend, Plane, Protocol
from littlelb.dataplane.pipe.routes import MAX_WEIGHT
from littlelb.dataplane.pipe.wire import BATCH_BYTES, MAX_FDS, Json, WireError, integer, sequence, text
from littlelb.dataplane.unsettled import UNSETTLED

_MOST = 1 << 62


def render_frontend(frontend: Frontend) -> str:
    """Return `TCP 192.0.2.7 80`."""
    return f"{frontend.protocol} {frontend.address} {frontend.port}"


def parse_frontend(value: object) -> Frontend:
    """Read it back. Raises WireError."""
    try:
        protocol, address, port = text(value).split(" ")
        return Frontend(ip_address(address), Protocol(protocol), integer(int(port), 1, 65535))
    except ValueError as error:
        raise WireError(f"{value!r:.80} is not a frontend") from error


def render_rule(frontend: Frontend, forward: Forward, *, lent: bool) -> Json:
    """Return the rule of one frontend; `lent`: its listener travels with the message."""
    ranges = forward.source_ranges
    return {
        "frontend": render_frontend(frontend),
        "service": forward.service,
        "backends": [[str(one.address), one.port, one.weight, one.keeps_source] for one in forward.backends],
        "ranges": None if ranges is None else [str(network) for network in ranges],
        "plane": forward.plane,
        "affinity": forward.affinity_seconds,
        "link_only": forward.from_link_only,
        "held": forward.held,
        "drain": forward.drain_seconds,
        "withdraw": forward.withdraw_seconds,
        "lent": lent,
    }


def parse_rule(item: object) -> tuple[Frontend, Forward]:
    """Read a rule that a worker serves. Raises WireError."""
    if not isinstance(item, dict):
        raise WireError("a rule is an object")
    try:
        ranges, drain = item.get("ranges"), item.get("drain")
        return parse_frontend(item.get("frontend")), Forward(
            service=text(item.get("service")),
            backends=tuple(_backend(pair) for pair in sequence(item.get("backends"))),
            source_ranges=None if ranges is None else tuple(ip_network(text(network)) for network in sequence(ranges)),
            plane=Plane(text(item.get("plane"))),
            affinity_seconds=integer(item.get("affinity"), 0, 1 << 31),
            from_link_only=item.get("link_only") is True,
            held=item.get("held") is True,
            drain_seconds=None if drain is None else integer(drain, 0, 1 << 31),
            withdraw_seconds=integer(item.get("withdraw"), 0, 1 << 31),
        )
    except ValueError as error:
        raise WireError(str(error)) from error


def _backend(pair: object) -> Backend:
    match sequence(pair):
        case [address, port, weight, keeps]:
            weight = integer(weight, 1, MAX_WEIGHT)
            return Backend(ip_address(text(address)), integer(port, 1, 65535), weight, keeps is True)
        case _:
            raise WireError(f"{pair!r:.80} is not a backend")


def merge_rules(answers: Sequence[Mapping[Frontend, Forward]]) -> dict[Frontend, Forward]:
    """Say what all workers serve together; UNSETTLED where they do not agree.

    Flows of a frontend that the other plane serves now may be left in some of them only.
    """
    merged: dict[Frontend, Forward] = {}
    for frontend, forward in ((frontend, forward) for answer in answers for frontend, forward in answer.items()):
        here = [answer[frontend] for answer in answers if frontend in answer]
        whole = len(here) == len(answers) or forward.plane is not Plane.PIPE
        merged[frontend] = forward if whole and all(rule == forward for rule in here) else UNSETTLED
    return merged


def cut_batches(
    rules: Mapping[Frontend, Forward], lent: Iterable[Frontend]
) -> Iterator[tuple[list[Json], list[Frontend]]]:
    """Cut into messages of bounded size: (rules, the frontends whose listeners go with them, in that order)."""
    fresh = frozenset(lent)
    batch: list[Json] = []
    travelling: list[Frontend] = []
    size = 0
    for frontend, forward in rules.items():
        estimate = 200 + 50 * len(forward.backends) + 50 * len(forward.source_ranges or ())
        if batch and (size + estimate > BATCH_BYTES or len(travelling) == MAX_FDS):
            yield batch, travelling
            batch, travelling, size = [], [], 0
        batch.append(render_rule(frontend, forward, lent=frontend in fresh))
        size += estimate
        if frontend in fresh:
            travelling.append(frontend)
    if batch:
        yield batch, travelling


@dataclass(frozen=True, slots=True)
class BackendCounters:
    """One backend of one frontend."""

    accepted: int = 0
    """Connections begun to it, those that failed included."""
    active: int = 0


@dataclass(frozen=True, slots=True)
class Counters:
    """One frontend since its workers began to serve it."""

    accepted: int = 0
    active: int = 0
    failed_connects: int = 0
    """Attempts to reach a backend, not clients: most are made good by another backend."""
    bytes_in: int = 0
    """From clients."""
    bytes_out: int = 0
    backends: Mapping[Backend, BackendCounters] = field(default_factory=dict)


def add_counters(total: dict[Frontend, Counters], page: object) -> None:
    """Add one answer of one worker. Raises WireError."""
    for item in sequence(page):
        match sequence(item):
            case [frontend, *numbers, backends] if len(numbers) == 5:
                key = parse_frontend(frontend)
                counts = [integer(number, 0, _MOST) for number in numbers]
                total[key] = _sum(total.get(key, Counters()), counts, sequence(backends))
            case _:
                raise WireError("counters of a frontend are seven fields")


def _sum(seen: Counters, counts: list[int], backends: list[object]) -> Counters:
    accepted, active, failed, bytes_in, bytes_out = counts
    merged = dict(seen.backends)
    for item in backends:
        match sequence(item):
            case [address, port, begun, now]:
                backend = Backend(ip_address(text(address)), integer(port, 1, 65535))
                old = merged.get(backend, BackendCounters())
                merged[backend] = BackendCounters(
                    old.accepted + integer(begun, 0, _MOST), old.active + integer(now, 0, _MOST)
                )
            case _:
                raise WireError("counters of a backend are four fields")
    return replace(
        seen,
        accepted=seen.accepted + accepted,
        active=seen.active + active,
        failed_connects=seen.failed_connects + failed,
        bytes_in=seen.bytes_in + bytes_in,
        bytes_out=seen.bytes_out + bytes_out,
        backends=merged,
    )


def count_services(counted: Mapping[Frontend, Counters]) -> dict[Frontend, ServiceCounters]:
    """Say it in the form that all planes share; a worker sees bytes, not packets, and those of a frontend only."""
    return {
        frontend: ServiceCounters(
            total=counters.BackendCounters(one.accepted, one.active, None, one.bytes_in, one.bytes_out),
            backends={
                (backend.address, backend.port): counters.BackendCounters(tally.accepted, tally.active)
                for backend, tally in one.backends.items()
            },
        )
        for frontend, one in counted.items()
    }
