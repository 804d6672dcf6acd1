"""What failed in a pass, as the log has it."""

from structlog.testing import capture_logs

from littlelb.app.faults import FaultLog
from littlelb.control.reconciler import PassResult
from littlelb.core.desired import compute
from littlelb.core.plan import Failure, PassReport, Severity
from littlelb.core.publication import Failures, withhold
from littlelb.core.reasons import Reason
from littlelb.core.state import DesiredState
from tests.worlds import frontend, piece, service, snapshot

VIP = "203.0.113.7"
BUSY = Failure(Reason.FAILED, "EBUSY")
DENIED = Failure(Reason.NOT_PERMITTED, "the role lacks the verb get: apply the role", Severity.PERMANENT)
SERVED = compute(snapshot(service("web", VIP), piece("web")))


def _pass(failures: Failures, after: DesiredState = SERVED, **more: dict[str, Failure]) -> PassResult:
    return PassResult(PassReport(1, 1.0, 0.1, 0, failures, **more), SERVED, after)  # type: ignore[arg-type]


def _said(*passes: PassResult) -> list[tuple[str, str, str]]:
    faults = FaultLog()
    with capture_logs() as logs:
        for one in passes:
            faults.take(one)
    return [(entry["log_level"], entry["event"], entry["subject"]) for entry in logs]


def test_a_removal_that_fails_is_said_once_and_its_end_too() -> None:
    """However often it is tried; what will not pass by itself is an error."""
    failed = _pass({"default/gone": DENIED})
    again = _pass({}, standing={"default/gone": DENIED})
    assert _said(failed, again, failed, _pass({}), _pass({})) == [
        ("error", "pass.failed", "default/gone"),
        ("info", "pass.recovered", "default/gone"),
    ]


def test_a_world_that_cannot_be_read_is_said() -> None:
    """By the name of the phase; another reason is another line."""
    blind, denied = _pass({}, unread={"FORWARD": BUSY}), _pass({}, unread={"FORWARD": DENIED})
    assert _said(blind, denied) == [
        ("warning", "pass.failed", "phase forward"),
        ("error", "pass.failed", "phase forward"),
    ]


def test_what_the_service_tells_is_not_said_twice() -> None:
    """A port that fails is in the Service's Event and its log line."""
    failures: Failures = {frontend(VIP): DENIED}
    assert _said(_pass(failures, withhold(SERVED, failures))) == []
    assert _said(_pass({"default/web": DENIED})) == []
    stale: Failures = {frontend("203.0.113.8"): BUSY}
    assert _said(_pass(stale)) == [("warning", "pass.failed", "203.0.113.8 port 80/TCP")]
