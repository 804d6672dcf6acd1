"""Says in the log what failed in a pass and no Service's story tells: once when it begins, once when it is over.

What keeps a Service from being served is told there, in the owner's words. Left are removals, and phases of which the
world could not be read.
"""

from collections.abc import Iterator

import structlog

from littlelb.control.reconciler import PassResult
from littlelb.core.plan import Failure, PassReport, Severity

log = structlog.get_logger(__name__)


class FaultLog:
    """Remembers what was said."""

    def __init__(self) -> None:
        """All is well."""
        self._said: dict[str, str] = {}

    def take(self, result: PassResult) -> None:
        """Say what is new, and what is over."""
        told, known = frozenset(_subjects_told(result)), result.after.publications
        faults = {name: failure for name, failure in _faults(result.report) if name not in told and name not in known}
        for subject, failure in faults.items():
            if self._said.get(subject) != failure.message:
                say = log.error if failure.severity is Severity.PERMANENT else log.warning
                say("pass.failed", subject=subject, reason=failure.reason, error=failure.message)
        for subject in self._said.keys() - faults.keys():
            log.info("pass.recovered", subject=subject)
        self._said = {subject: failure.message for subject, failure in faults.items()}


def _faults(report: PassReport) -> Iterator[tuple[str, Failure]]:
    """Name everything that stands: what failed now, and what failed before and was not tried again."""
    yield from ((str(subject), failure) for subject, failure in {**report.standing, **report.failures}.items())
    yield from ((f"phase {phase.lower()}", failure) for phase, failure in report.unread.items())


def _subjects_told(result: PassResult) -> Iterator[str]:
    """Name frontends and addresses that the stories of Services are about; of the Services themselves, all are told."""
    for key in result.after.withheld:
        for frontend, _ in result.after.decisions[key].forwards:
            yield str(frontend)
            yield str(frontend.address)
