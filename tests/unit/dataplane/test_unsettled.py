"""The value of what is not as it was applied."""

from littlelb.core.model import Forward
from littlelb.core.plan import diff
from littlelb.dataplane.unsettled import UNSETTLED


def test_nobody_wants_it() -> None:
    """Every Service has a name, so the loop always finds a difference."""
    wanted = Forward(service="default/web", backends=())
    assert diff({"here": wanted}, {"here": UNSETTLED, "gone": UNSETTLED}).change == {"here": wanted}
