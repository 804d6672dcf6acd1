"""What happened to a Service, as the Events that its owner reads in `kubectl describe`.

Reasons are those the field knows (cloud-provider's service controller, MetalLB): a script that greps for them goes on
working. An Event is written when something changed, not for each pass.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from msgspec.structs import replace

from littlelb.core.model import Key, Publication
from littlelb.core.publication import SERVED
from littlelb.core.reasons import Reason
from littlelb.core.state import Decision, DesiredState

ALLOCATION_FAILED = "AllocationFailed"
SYNC_FAILED = "SyncLoadBalancerFailed"


class EventType(StrEnum):
    """The two types that events.k8s.io/v1 knows."""

    NORMAL = "Normal"
    WARNING = "Warning"


@dataclass(frozen=True, slots=True)
class Happening:
    """One Event to be: about which Service, and in what words."""

    service: Key
    type: EventType
    reason: str
    action: str
    note: str

    @property
    def failed(self) -> bool:
        """Is something not served as asked? Other warnings are about what is served."""
        return self.reason in {ALLOCATION_FAILED, SYNC_FAILED}


def tell(
    before: DesiredState,
    after: DesiredState,
    keys: Iterable[Key],
    shown: Callable[[Key], Publication | None] = lambda _key: None,
) -> Iterator[Happening]:
    """Compare two states for some Services.

    `shown`: what a Service already shows of which `before` knows nothing. A restart changes nothing for its owner; but
    what is wrong is said again, for those who read the log of the new daemon.
    """
    for key in keys:
        old, new = before.publications.get(key), after.publications.get(key)
        if old is None and (old := shown(key)) is not None and _problem(new):
            old = replace(old, conditions=())
        if old != new and (new is not None or key not in after.decisions):  # else it waits: nothing to tell yet
            yield from _publication(key, old, new)
        yield from _notices(before.decisions.get(key), after.decisions.get(key))


def changed_keys(before: DesiredState, after: DesiredState) -> Iterator[Key]:
    """Find the Services about which there may be something to tell."""
    if after.touched is not None:
        yield from sorted(after.touched.services | before.withheld | after.withheld)
        return
    for key, decision in after.decisions.items():
        if before.decisions.get(key) is not decision or before.publications.get(key) is not after.publications.get(key):
            yield key
    yield from (key for key in before.decisions if key not in after.decisions)


def _publication(key: Key, old: Publication | None, new: Publication | None) -> Iterator[Happening]:
    """Granted, moved, refused, withdrawn."""
    had, has = _addresses(old), _addresses(new)
    if new is None:
        if had:
            yield Happening(key, EventType.NORMAL, "DeletedLoadBalancer", "Withdraw", f"withdrawn from {_join(had)}")
        return
    if set(has) - set(had):
        yield Happening(key, EventType.NORMAL, "IPAllocated", "Allocate", f"assigned {_join(has)}")
    problem = _problem(new)
    if problem and problem != _problem(old):
        if _reason(new) == Reason.PENDING:
            yield Happening(key, EventType.NORMAL, "EnsuringLoadBalancer", "Serve", problem)
        else:
            yield Happening(key, EventType.WARNING, SYNC_FAILED if has else ALLOCATION_FAILED, "Serve", problem)
    elif has and not problem and (not had or _problem(old)):
        yield Happening(key, EventType.NORMAL, "EnsuredLoadBalancer", "Serve", f"serving on {_join(has)}")
    elif has and had and has != had:
        yield Happening(
            key, EventType.NORMAL, "UpdatedLoadBalancer", "Serve", f"serving on {_join(has)} instead of {_join(had)}"
        )


def _notices(old: Decision | None, new: Decision | None) -> Iterator[Happening]:
    """What the owner should know, once for each text."""
    if new is None:
        return
    known = {notice.message for notice in old.notices} if old is not None else set()
    for notice in new.notices:
        if notice.warning and notice.message not in known:
            yield Happening(new.service, EventType.WARNING, notice.reason, "Serve", notice.message)


def _addresses(publication: Publication | None) -> tuple[str, ...]:
    return tuple(entry.ip for entry in publication.ingress) if publication is not None else ()


def _problem(publication: Publication | None) -> str:
    """The message of our condition, if it says that something is not as asked."""
    conditions = publication.conditions if publication is not None else ()
    return next((c.message for c in conditions if c.type == SERVED and c.status == "False"), "")


def _reason(publication: Publication) -> str:
    """The word of our condition."""
    return next(c.reason for c in publication.conditions if c.type == SERVED)


def _join(texts: Iterable[str]) -> str:
    return ", ".join(texts)
