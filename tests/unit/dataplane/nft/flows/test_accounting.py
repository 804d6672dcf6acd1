"""Conntrack's accounting: turned on, given back, also by a daemon after the one that turned it on."""

from pathlib import Path

import pytest
from structlog.testing import capture_logs

from littlelb.core.errors import Permanent
from littlelb.dataplane.netfilter.conntrack.limits import Accounting
from littlelb.dataplane.nft.flows.accounting import Meter


class Setting:
    """The kernel's setting, which may be read only."""

    def __init__(self, value: str = "0", *, fixed: bool = False) -> None:
        self.value = value
        self.fixed = fixed

    def write(self, _name: str, value: str) -> None:
        if self.fixed:
            raise Permanent("it is read only")
        self.value = value

    def accounting(self) -> Accounting:
        """Accounting that reads and writes here."""
        return Accounting(lambda _name: self.value, self.write)


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """Where it is remembered."""
    return tmp_path / "run" / "acct"


def test_it_is_given_back(record: Path) -> None:
    """And the record goes with it."""
    setting = Setting()
    meter = Meter(record, setting.accounting)
    assert meter.turn_on()
    assert (setting.value, meter.is_on, record.read_text()) == ("1", True, "0")
    meter.restore()
    assert (setting.value, record.exists()) == ("0", False)


def test_the_next_daemon_gives_back_what_this_one_found(record: Path) -> None:
    """It finds it turned on, by us."""
    setting = Setting()
    Meter(record, setting.accounting).turn_on()
    after = Meter(record, setting.accounting)
    assert after.turn_on()
    after.restore()
    assert setting.value == "0"


def test_what_was_on_before_us_stays_on(record: Path) -> None:
    """It is not ours."""
    setting = Setting("1")
    meter = Meter(record, setting.accounting)
    assert meter.turn_on()
    meter.restore()
    assert (setting.value, record.exists()) == ("1", False)


def test_where_it_cannot_be_written_that_is_said(record: Path) -> None:
    """Everything else goes on."""
    with capture_logs() as logs:
        assert not Meter(record, Setting(fixed=True).accounting).turn_on()
    assert [entry["event"] for entry in logs] == ["flows.no_accounting"]


def test_without_a_record_it_is_remembered_by_the_process() -> None:
    """As in a test."""
    setting = Setting()
    meter = Meter(None, setting.accounting)
    meter.turn_on()
    meter.restore()
    assert setting.value == "0"
