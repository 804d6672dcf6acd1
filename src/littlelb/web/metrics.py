"""Metrics in the Prometheus text format, from the same StatusReport that people see.

Counters of passes and failures are kept here; everything else is computed when somebody scrapes. The registry is our
own, and each Service has at most ten series.
"""

from collections import Counter as Tally
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from littlelb.core.interfaces import Phase
from littlelb.core.model import Frontend, Plane
from littlelb.core.plan import PassReport, Severity
from littlelb.core.shown.status import ServiceState, ServiceStatus, StatusReport

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_WRITE_BUCKETS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 1.0)
_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)


class Metrics:
    """What `/metrics` answers: what `observe_pass` counted, and a report as it is at the time of the scrape."""

    def __init__(self) -> None:
        """Make a registry of our own, so that nothing else in the process shows up in it."""
        self._registry = CollectorRegistry()
        self._passes = Counter("littlelb_passes", "Passes of the loop.", registry=self._registry)
        self._changes = Counter("littlelb_changes", "Changes applied, over all phases.", registry=self._registry)
        self._seconds = Histogram(
            "littlelb_pass_duration_seconds", "How long passes took.", buckets=_BUCKETS, registry=self._registry
        )
        self._failures = Counter(
            "littlelb_failures", "Failures of passes, by what failed.", ["phase"], registry=self._registry
        )
        self._writes = Histogram(
            "littlelb_plane_write_seconds",
            "How long a plane took to carry out the changes of one pass.",
            ["plane"],
            buckets=_WRITE_BUCKETS,
            registry=self._registry,
        )
        self._last_write = Gauge(
            "littlelb_plane_last_write_seconds", "The same, the last time.", ["plane"], registry=self._registry
        )
        for phase in Phase:
            self._failures.labels(phase.name.lower())

    def observe_pass(self, report: PassReport) -> None:
        """Count one pass."""
        self._passes.inc()
        self._changes.inc(report.changes)
        self._seconds.observe(report.duration_seconds)
        for what, failure in report.failures.items():
            if failure.severity is not Severity.WAITING:
                self._failures.labels(_phase(what)).inc()
        for phase in report.unread:
            self._failures.labels(phase.lower()).inc()

    def observe_write(self, plane: Plane, seconds: float) -> None:
        """Note how long a plane took for the changes of one pass."""
        self._writes.labels(plane.value).observe(seconds)
        self._last_write.labels(plane.value).set(seconds)

    def render(self, report: StatusReport) -> bytes:
        """Render all metrics as `CONTENT_TYPE`. May be called in another thread."""
        scraped = CollectorRegistry()
        scraped.register(_ReportCollector(report))
        return generate_latest(self._registry) + generate_latest(scraped)


def _phase(what: object) -> str:
    """Say which phase a failure belongs to: a frontend is forwarded, an address held and announced, a key published."""
    match what:
        case Frontend():
            return "forward"
        case IPv4Address() | IPv6Address():
            return "address"
        case _:
            return "publish"


class _ReportCollector(Collector):
    """Turns one StatusReport into metrics."""

    def __init__(self, report: StatusReport) -> None:
        self._report = report

    def describe(self) -> Iterable[Metric]:
        """Name nothing in advance: the registry would collect everything once more to learn the names."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Compute all families."""
        yield from _daemon_metrics(self._report)
        yield from _service_metrics(self._report.services)


def _daemon_metrics(report: StatusReport) -> Iterator[Metric]:
    daemon = report.daemon
    info = {"version": daemon.version, "plane": daemon.plane, "source": daemon.source}
    yield InfoMetricFamily("littlelb", "The running program.", value=info)
    yield GaugeMetricFamily("littlelb_start_time_seconds", "When it started.", value=daemon.started)
    yield GaugeMetricFamily("littlelb_source_connected", "Does the API server answer?", value=daemon.connected)
    yield GaugeMetricFamily("littlelb_source_synced", "Was everything listed once?", value=daemon.synced)
    yield CounterMetricFamily("littlelb_events_dropped", "Events that were not written.", value=daemon.events_dropped)
    failing = len(report.last_pass.failures) if report.last_pass is not None else 0
    yield GaugeMetricFamily("littlelb_failing", "Failures of the last pass.", value=failing)
    if daemon.conntrack is not None:
        used, limit = daemon.conntrack.used, daemon.conntrack.limit
        yield GaugeMetricFamily("littlelb_conntrack_entries", "Connections that the kernel tracks.", value=used)
        yield GaugeMetricFamily("littlelb_conntrack_entries_limit", "At most so many.", value=limit)


def _service_metrics(services: Iterable[ServiceStatus]) -> Iterator[Metric]:
    states = Tally(dict.fromkeys(ServiceState, 0))
    held: set[str] = set()
    up = GaugeMetricFamily("littlelb_backends_up", "Backends in use.", labels=["service"])
    traffic = _Traffic()
    for service in services:
        states[service.state] += 1
        held.update(port.address for port in service.ports if port.held)
        up.add_metric([service.key], service.backends_up)
        traffic.add(service)
    by_state = GaugeMetricFamily("littlelb_services", "Services, by state.", labels=["state"])
    for state, number in states.items():
        by_state.add_metric([state], number)
    yield from (by_state, up, *traffic.families)
    yield GaugeMetricFamily("littlelb_addresses_held", "Addresses for which this machine answers.", value=len(held))


class _Traffic:
    """Connections, packets and bytes by Service and plane; what nobody counts has no series."""

    def __init__(self) -> None:
        labels = ["service", "plane"]
        self._active = GaugeMetricFamily("littlelb_connections_active", "Open connections.", labels=labels)
        self._draining = GaugeMetricFamily(
            "littlelb_connections_draining", "Open connections to backends that are no longer wanted.", labels=labels
        )
        self._accepted = CounterMetricFamily("littlelb_connections_accepted", "Connections begun.", labels=labels)
        self._packets = CounterMetricFamily("littlelb_packets", "Packets, both ways.", labels=labels)
        self._octets = CounterMetricFamily(
            "littlelb_bytes", "Bytes from clients (in) and to them (out).", labels=[*labels, "direction"]
        )

    @property
    def families(self) -> Iterator[Metric]:
        """All families."""
        yield from (self._active, self._draining, self._accepted, self._packets, self._octets)

    def add(self, service: ServiceStatus) -> None:
        """Add the series of one Service."""
        labels = [service.key, service.plane]
        self._accepted.add_metric(labels, service.connections_accepted)
        if service.connections_active is not None:
            self._active.add_metric(labels, service.connections_active)
            self._draining.add_metric(labels, service.connections_draining)
        if service.packets is not None:
            self._packets.add_metric(labels, service.packets)
        for direction, octets in (("in", service.bytes_in), ("out", service.bytes_out)):
            if octets is not None:
                self._octets.add_metric([*labels, direction], octets)
