"""One Service's Decision: what only its own inputs decide."""

from ipaddress import ip_network

from littlelb.core.desired import compute
from tests.worlds import service, snapshot

VIP = "203.0.113.7"


def test_what_the_service_says_reaches_the_forward() -> None:
    """Source ranges, affinity, drain."""
    asked = service(
        "web", VIP, source_ranges=("192.0.2.0/24",), affinity_seconds=60,
        annotations={"littlelb.io/drain-seconds": "7"},
    )  # fmt: skip
    (forward,) = compute(snapshot(asked)).forwards.values()
    assert forward.source_ranges == (ip_network("192.0.2.0/24"),)
    assert (forward.affinity_seconds, forward.drain_seconds, forward.withdraw_seconds) == (60, 7, 7)
