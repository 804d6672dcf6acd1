"""What allocation takes over from one run to the next."""

from littlelb.core.ipam.docket import open_docket
from tests.worlds import frontend, ip, service, snapshot


def test_cases_stand_in_the_order_of_age_and_meet_over_what_they_ask_for() -> None:
    """Over an address of one Service, or over a port of the shared one."""
    docket = open_docket(snapshot(service("b", "203.0.113.7", created=2.0), service("a", created=1.0)))
    assert list(docket.cases) == ["default/a", "default/b"]
    assert docket.contenders == {
        ip("203.0.113.7"): ("default/b",),
        frontend("192.0.2.2"): ("default/a",),
    }
