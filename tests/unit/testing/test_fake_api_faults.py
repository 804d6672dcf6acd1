"""The fault plan: which request is hit, and how often."""

import pytest

from littlelb.testing.fake_api_faults import NO_FAULT, Fault, FaultPlan, Seen

LIST = Seen("GET", "/api/v1/services", {}, 0.0)
WATCH = Seen("GET", "/api/v1/services", {"watch": "true"}, 0.0)
PATCH = Seen("PATCH", "/api/v1/namespaces/a/services/b/status", {}, 0.0)


@pytest.mark.parametrize(
    ("fault", "hit"),
    [
        (Fault(), [LIST, WATCH, PATCH]),
        (Fault(watch=True), [WATCH]),
        (Fault(watch=False), [LIST, PATCH]),
        (Fault(method="PATCH|PUT"), [PATCH]),
        (Fault(path=".*/status"), [PATCH]),
        (Fault(path="/api"), []),
        (Fault(skip=1), [WATCH, PATCH]),
        (Fault(times=2), [LIST, WATCH]),
        (Fault(skip=1, times=1), [WATCH]),
    ],
)
def test_what_is_hit(fault: Fault, hit: list[Seen]) -> None:
    """Method, path, kind and number choose."""
    assert [seen for seen in (LIST, WATCH, PATCH) if fault.strikes(seen)] == hit
    assert fault.hits == len(hit)


def test_the_first_that_strikes_counts() -> None:
    """Requests are remembered, hit or not; cleared faults strike no more."""
    plan = FaultPlan()
    first, second = plan.add(Fault(watch=True)), plan.add(Fault())
    assert [plan.meet(seen) for seen in (LIST, WATCH)] == [second, first]
    plan.clear()
    assert plan.meet(PATCH) is NO_FAULT
    assert plan.seen == [LIST, WATCH, PATCH]
