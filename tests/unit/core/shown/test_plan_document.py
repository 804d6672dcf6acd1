"""What the exit code of a plan says."""

from littlelb.core.shown.plan_document import PlanDocument, PlanLine, Verb
from littlelb.core.shown.status import encode


def test_plan_exit_codes() -> None:
    """0 no change, 2 changes, 1 any error."""
    line = PlanLine(phase="ADDRESS", verb=Verb.ADD, key="203.0.113.7", after="/32 on eth0")
    assert PlanDocument().exit_code == 0
    assert PlanDocument(lines=(line,)).exit_code == 2
    assert PlanDocument(lines=(line,), errors=("no API server",)).exit_code == 1
    assert b'"verb": "add"' in encode(PlanDocument(lines=(line,)))
