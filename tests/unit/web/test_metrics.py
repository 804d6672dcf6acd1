"""What a scrape shows."""

from ipaddress import ip_address

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from littlelb.core.model import Frontend, Plane, Protocol
from littlelb.core.plan import Failure, PassReport
from littlelb.core.shown.status import StatusReport
from littlelb.web.metrics import Metrics

Samples = dict[tuple[str, tuple[str, ...]], float]


def scrape(report: StatusReport, metrics: Metrics | None = None) -> Samples:
    """Parse a scrape: name and label values in order of their names → value."""
    families = text_string_to_metric_families((metrics or Metrics()).render(report).decode())
    return {
        (s.name, tuple(s.labels[name] for name in sorted(s.labels))): s.value
        for family in families
        for s in family.samples
    }


def test_report_becomes_metrics(report: StatusReport) -> None:
    """Services by state, addresses, connections and the source's state are computed from the report at each scrape."""
    seen = scrape(report)
    assert seen["littlelb_services", ("serving",)] == 1
    assert seen["littlelb_services", ("refused",)] == 1
    assert seen["littlelb_services", ("pending",)] == 0
    assert seen["littlelb_addresses_held", ()] == 1
    assert seen["littlelb_services", ("no-backends",)] == 0
    assert seen["littlelb_connections_active", ("pipe", "default/web")] == 5
    assert seen["littlelb_connections_draining", ("pipe", "default/web")] == 1
    assert seen["littlelb_connections_accepted_total", ("pipe", "default/web")] == 100
    assert seen["littlelb_bytes_total", ("in", "pipe", "default/web")] == 2048
    assert seen["littlelb_bytes_total", ("out", "pipe", "default/web")] == 4096
    assert seen["littlelb_conntrack_entries", ()] == 50
    assert seen["littlelb_conntrack_entries_limit", ()] == 1000
    assert seen["littlelb_backends_up", ("default/web",)] == 2
    assert seen["littlelb_source_connected", ()] == 1
    assert seen["littlelb_events_dropped_total", ()] == 4
    assert seen["littlelb_failing", ()] == 1
    assert seen["littlelb_info", ("pipe", "https://192.0.2.1:6443", "1.2")] == 1


def test_passes_are_counted(report: StatusReport) -> None:
    """Each pass adds to the counters; failures count under the phase of what failed."""
    metrics = Metrics()
    vip = ip_address("203.0.113.7")
    failure = Failure("Failed", "EBUSY")
    metrics.observe_pass(PassReport(1, 1.0, 0.02, 3, {}, {"FORWARD": failure}))
    metrics.observe_pass(
        PassReport(2, 2.0, 0.02, 1, {Frontend(vip, Protocol.TCP, 80): failure, vip: failure, "default/web": failure})
    )
    seen = scrape(report, metrics)
    assert seen["littlelb_passes_total", ()] == 2
    assert seen["littlelb_changes_total", ()] == 4
    assert seen["littlelb_pass_duration_seconds_count", ()] == 2
    assert [seen["littlelb_failures_total", (phase,)] for phase in ("forward", "address", "publish", "claim")] == [
        2,
        1,
        1,
        0,
    ]


def test_what_nobody_counts_has_no_series(report: StatusReport) -> None:
    """Zero would be a claim; a kernel without connection tracking has none to show either."""
    web = msgspec.structs.replace(report.services[1], connections_active=None, bytes_in=None, bytes_out=None, packets=7)
    daemon = msgspec.structs.replace(report.daemon, conntrack=None)
    seen = scrape(msgspec.structs.replace(report, services=(web,), daemon=daemon))
    names = {name for name, _ in seen}
    assert not names & {"littlelb_connections_active", "littlelb_bytes_total", "littlelb_conntrack_entries"}
    assert seen["littlelb_packets_total", ("pipe", "default/web")] == 7


def test_writes_of_a_plane_are_timed(report: StatusReport) -> None:
    """How long a plane took is there as a histogram and as the last value."""
    metrics = Metrics()
    metrics.observe_write(Plane.NFT, 0.0003)
    metrics.observe_write(Plane.NFT, 0.003)
    seen = scrape(report, metrics)
    assert seen["littlelb_plane_write_seconds_count", ("nft",)] == 2
    assert seen["littlelb_plane_write_seconds_bucket", ("0.0005", "nft")] == 1
    assert seen["littlelb_plane_last_write_seconds", ("nft",)] == 0.003


def test_cardinality(report: StatusReport) -> None:
    """A Service has at most ten series, and the number of the others does not depend on the Services."""
    one = report.services[1]
    many = tuple(msgspec.structs.replace(one, key=f"default/web-{number}") for number in range(100))
    base = len(scrape(msgspec.structs.replace(report, services=())))
    full = len(scrape(msgspec.structs.replace(report, services=many)))
    assert full - base <= 10 * 100


def test_registries_do_not_meet(report: StatusReport) -> None:
    """Two of them in one process do not share a counter."""
    first, second = Metrics(), Metrics()
    first.observe_pass(PassReport(1, 1.0, 0.02, 3))
    assert scrape(report, second)["littlelb_passes_total", ()] == 0
