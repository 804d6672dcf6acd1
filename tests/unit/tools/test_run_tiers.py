"""Tests of tools/run_tiers.py: what it makes of reports. That it runs pytest, every `make test` shows."""

import pytest

from tools.run_tiers import Outcome, parse_report, render_table, select_failures


def report(tests: int, failures: int = 0, errors: int = 0, skipped: int = 0) -> str:
    """A JUnit report as pytest writes it."""
    return (
        f'<testsuites><testsuite name="pytest" tests="{tests}" failures="{failures}" errors="{errors}" '
        f'skipped="{skipped}" time="1.0"/></testsuites>'
    )


def test_a_report_is_counted() -> None:
    """What neither failed nor was skipped has passed; errors are failures."""
    found = parse_report("lab", report(10, failures=1, errors=2, skipped=3), 1.5)
    assert found == Outcome("lab", passed=4, failed=3, skipped=3, seconds=1.5)
    assert found.ran


def test_a_tier_whose_every_test_was_skipped_did_not_run() -> None:
    """It says so, and is no success."""
    found = parse_report("lab", report(3, skipped=3), 0.1)
    assert (found.ran, found.reason) == (False, "every test was skipped (reasons above)")


def test_a_report_without_tests_says_so() -> None:
    """A tier may be empty while the tree is young."""
    assert parse_report("golden", report(0), 0.1).reason == "no tests in this tier"


def test_the_table_has_a_line_for_each_tier_with_its_reason() -> None:
    """Numbers are in columns, the reason comes last."""
    table = render_table([Outcome("unit", 120, 0, 0, 9.04), Outcome("lab", reason="needs root")])
    assert table.splitlines() == [
        "tier        passed  failed  skipped  seconds",
        "unit           120       0        0      9.0",
        "lab              0       0        0      0.0  needs root",
    ]


@pytest.mark.parametrize("everything", [False, True])
def test_a_failed_test_fails_the_run(everything: bool) -> None:
    """With and without CI."""
    assert select_failures([Outcome("unit", 9, 1)], everything=everything) == ["unit: 1 failed"]


def test_a_skipped_tier_fails_under_ci_only() -> None:
    """On a machine that cannot run it, a skipped tier is no failure; an empty one never is."""
    outcomes = [Outcome("lab", reason="needs root"), Outcome("golden", reason="no tests in this tier")]
    assert select_failures(outcomes, everything=False) == []
    assert select_failures(outcomes, everything=True) == ["lab: skipped, and CI runs every tier (needs root)"]
