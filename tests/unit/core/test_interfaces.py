"""The seams."""

from littlelb.core.interfaces import Phase


def test_phases_bring_up_in_this_order() -> None:
    """Never hold what cannot be served, announce what is not held, publish what is not announced."""
    assert [phase.name for phase in sorted(Phase)] == ["CLAIM", "FORWARD", "ADDRESS", "ANNOUNCE", "PUBLISH"]
