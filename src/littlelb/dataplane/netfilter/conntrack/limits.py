"""Reads how full the conntrack table is, and turns the accounting of flows on: kernel settings of this namespace.

A full table drops the first packet of every new flow, of everybody on this machine. Its size (`nf_conntrack_max`) is
one number for all namespaces and can be set in the first one only; its count is of this namespace.

Accounting (`nf_conntrack_acct`) is off by default; it counts flows that begin after it was turned on. Where /proc/sys
cannot be written, a rule with `ct bytes` in it turns it on too (nft_ct.c).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from littlelb.core.errors import Permanent

WARN_SHARE: Final = 0.80
ALARM_SHARE: Final = 0.95

_ROOT: Final = Path("/proc/sys/net/netfilter")
_COUNT, _MAX, _ACCOUNTING = "nf_conntrack_count", "nf_conntrack_max", "nf_conntrack_acct"

Read: TypeAlias = Callable[[str], str | None]
Write: TypeAlias = Callable[[str, str], None]


def read_setting(name: str, *, root: Path = _ROOT) -> str | None:
    """Return a setting in this thread's namespace; None: conntrack is not loaded, or hides it."""
    try:
        return (root / name).read_text().strip()
    except OSError:  # then there is no table to judge, and nothing to turn on
        return None


def write_setting(name: str, value: str, *, root: Path = _ROOT) -> None:
    """Write a setting in this thread's namespace. Raises Permanent with the remedy."""
    try:
        (root / name).write_text(value)
    except OSError as error:
        remedy = f"sysctl -w net.netfilter.{name}={value}"
        raise Permanent(f"net.netfilter.{name} cannot be written ({error.strerror}): {remedy}") from error


@dataclass(frozen=True, slots=True)
class Pressure:
    """How many entries this namespace has, and how many the machine allows."""

    flows: int
    limit: int

    @property
    def share(self) -> float:
        """Part of the table that is taken: 0 to 1."""
        return self.flows / self.limit if self.limit else 0.0

    @property
    def is_high(self) -> bool:
        """At 80 % or more: time to tell somebody."""
        return self.share >= WARN_SHARE

    @property
    def is_critical(self) -> bool:
        """At 95 % or more: a burst fills it."""
        return self.share >= ALARM_SHARE

    @property
    def remedy(self) -> str:
        """What helps, wherever it is said that it is high."""
        return f"sysctl -w net.netfilter.{_MAX}={self.limit * 2} on the machine, outside of any container"


def read_pressure(read: Read = read_setting) -> Pressure | None:
    """Read how full the table is; None: there is none."""
    count, limit = read(_COUNT), read(_MAX)
    return None if count is None or limit is None else Pressure(int(count), int(limit))


class Accounting:
    """The setting `nf_conntrack_acct`, and what it was before us."""

    def __init__(self, read: Read = read_setting, write: Write = write_setting) -> None:
        """Nothing is read or written yet."""
        self._read = read
        self._write = write
        self.before: str | None = None
        """What we found when we turned it on; None: we did not. It can be given back after a restart."""

    @property
    def is_on(self) -> bool:
        """Are flows that begin now counted?"""
        return self._read(_ACCOUNTING) == "1"

    def turn_on(self) -> None:
        """Count flows that begin from now on. Raises Permanent where it cannot be written."""
        found = self._read(_ACCOUNTING)
        if found == "1":
            return
        self._write(_ACCOUNTING, "1")
        self.before = found

    def restore(self) -> None:
        """Put back what was there, if we changed it and nobody has since. Raises Permanent."""
        if self.before is not None and self._read(_ACCOUNTING) == "1":
            self._write(_ACCOUNTING, self.before)
        self.before = None
