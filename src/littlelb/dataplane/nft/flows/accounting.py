"""Turns conntrack's accounting on while the plane counts, and back to what it was when the plane goes for good.

What it was is remembered in a file, so that a daemon after this one, or `cleanup`, can give it back. Where it cannot be
turned on, packets and bytes are not counted, and everything else is.
"""

from collections.abc import Callable
from pathlib import Path

import structlog

from littlelb.core.errors import Permanent
from littlelb.dataplane.netfilter.conntrack.limits import Accounting

_log = structlog.get_logger(__name__)


class Meter:
    """The setting, and the record of what it was."""

    def __init__(self, record: Path | None, make: Callable[[], Accounting] = Accounting) -> None:
        """`record` None: remembered only as long as this process lives."""
        self._record = record
        self._accounting = make()

    def turn_on(self) -> bool:
        """Count from now on, if that can be; does it?"""
        self._recall()
        remembered = self._accounting.before
        try:
            self._accounting.turn_on()
        except Permanent as error:
            _log.warning("flows.no_accounting", error=str(error), effect="packets and bytes are not counted")
            return False
        if self._accounting.before is not None and remembered is None:
            self._remember(self._accounting.before)
        return True

    @property
    def is_on(self) -> bool:
        """Does somebody count?"""
        return self._accounting.is_on

    def restore(self) -> None:
        """Give back what was there, if we changed it and nobody has since."""
        self._recall()
        try:
            self._accounting.restore()
        except Permanent as error:
            _log.warning("flows.accounting_left", error=str(error))
        if self._record is not None:
            self._record.unlink(missing_ok=True)

    def _recall(self) -> None:
        """Know what a daemon before us found."""
        if self._accounting.before is None and self._record is not None and self._record.exists():
            self._accounting.before = self._record.read_text().strip() or None

    def _remember(self, before: str) -> None:
        if self._record is None:
            return
        try:
            self._record.parent.mkdir(parents=True, exist_ok=True)
            self._record.write_text(before)
        except OSError as error:  # then it stays on after a crash, which costs little
            _log.warning("flows.no_record", path=str(self._record), error=str(error))
