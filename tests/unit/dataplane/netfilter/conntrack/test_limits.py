"""Limits of the conntrack table: when it is said to be full, and what becomes of a setting that was changed."""

from pathlib import Path

import pytest

from littlelb.core.errors import Permanent
from littlelb.dataplane.netfilter.conntrack.limits import (
    Accounting,
    Pressure,
    read_pressure,
    read_setting,
    write_setting,
)

ACCOUNTING = "nf_conntrack_acct"


class Settings(dict[str, str]):
    """Kernel settings as a mapping."""

    def write(self, name: str, value: str) -> None:
        """Set one."""
        self[name] = value


@pytest.mark.parametrize(
    ("flows", "high", "critical"),
    [(0, False, False), (799, False, False), (800, True, False), (949, True, False), (950, True, True)],
)
def test_table_is_high_from_80_and_critical_from_95_percent(flows: int, high: bool, critical: bool) -> None:
    """The warnings begin at 80 % and 95 % of the limit."""
    pressure = Pressure(flows, 1000)
    assert (pressure.is_high, pressure.is_critical) == (high, critical)
    assert pressure.remedy.startswith("sysctl -w net.netfilter.nf_conntrack_max=2000 ")


def test_pressure_is_read_from_two_settings() -> None:
    """Both numbers are read; without conntrack in the kernel there is no pressure."""
    settings = Settings(nf_conntrack_count="12", nf_conntrack_max="262144")
    assert read_pressure(settings.get) == Pressure(12, 262144)
    assert read_pressure(Settings(nf_conntrack_max="1").get) is None
    assert Pressure(0, 0).share == 0


def test_accounting_is_turned_on_and_put_back() -> None:
    """What was there before comes back."""
    settings = Settings({ACCOUNTING: "0"})
    accounting = Accounting(settings.get, settings.write)
    states = [accounting.is_on]
    accounting.turn_on()
    states.append(accounting.is_on)
    assert states == [False, True]
    assert accounting.before == "0"
    accounting.restore()
    assert settings == {ACCOUNTING: "0"}


def test_accounting_that_was_on_stays_on() -> None:
    """Who finds it on has nothing to restore."""
    settings = Settings({ACCOUNTING: "1"})
    accounting = Accounting(settings.get, settings.write)
    accounting.turn_on()
    accounting.restore()
    assert settings == {ACCOUNTING: "1"}


def test_accounting_that_somebody_changed_is_left_alone() -> None:
    """A value that is no longer ours is not touched; and nothing is restored twice."""
    settings = Settings({ACCOUNTING: "0"})
    accounting = Accounting(settings.get, settings.write)
    accounting.turn_on()
    settings[ACCOUNTING] = "2"
    accounting.restore()
    settings[ACCOUNTING] = "1"
    accounting.restore()
    assert settings == {ACCOUNTING: "1"}


def test_setting_that_cannot_be_written_names_the_remedy(tmp_path: Path) -> None:
    """What the system refuses is a Permanent error with the command that helps; a lacking setting reads as None."""
    (tmp_path / ACCOUNTING).mkdir()
    with pytest.raises(Permanent, match=r"sysctl -w net\.netfilter\.nf_conntrack_acct=1"):
        write_setting(ACCOUNTING, "1", root=tmp_path)
    assert read_setting("nf_conntrack_count", root=tmp_path) is None
    write_setting("nf_conntrack_max", "5", root=tmp_path)
    assert read_setting("nf_conntrack_max", root=tmp_path) == "5"
