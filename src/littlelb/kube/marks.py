"""Reads what on Services of the API server bears our mark: for commands that only look, and for those that clear.

A finalizer, a status and an address list prove whose they are by managedFields alone, which the cache does not keep:
so each Service that shows something is read once more.
"""

import asyncio
from collections.abc import Iterable, Mapping

from msgspec import Struct

from littlelb.core.model import Key, Publication, Service
from littlelb.kube.client import FIELD_MANAGER
from littlelb.kube.ownership import Ownership
from littlelb.kube.status import is_ours
from littlelb.kube.writes.patches import (
    diff_conditions,
    observed_publication,
    render_external_ips,
    render_status,
    written_external_ips,
)
from littlelb.kube.writes.service_writer import AT_A_TIME, Current, ServiceWriter


class Marks(Struct, frozen=True):
    """What on one Service is ours."""

    finalizer: bool = False
    ingress: tuple[str, ...] = ()
    """Published addresses or host names."""
    conditions: tuple[str, ...] = ()
    """Types."""
    external_ips: tuple[str, ...] = ()

    @property
    def shown(self) -> bool:
        """Is there anything that PUBLISH would clear?"""
        return bool(self.ingress or self.conditions or self.external_ips)


def shows_something(service: Service) -> bool:
    """May anything on it be ours? Costs nothing, and says nothing of whose it is."""
    return service.has_finalizer or observed_publication(service) is not None


def compute_marks(current: Current) -> Marks:
    """Select what is ours on a Service that was read with its owners."""
    service, owned = current.service, current.owned or Ownership()
    ours = FIELD_MANAGER in owned.ingress
    return Marks(
        finalizer=service.has_finalizer and FIELD_MANAGER in owned.finalizer,
        ingress=tuple(entry.ip or entry.hostname for entry in service.ingress) if ours else (),
        conditions=tuple(condition.type for condition in service.conditions if is_ours(condition, owned)),
        external_ips=written_external_ips(service),
    )


async def read_marks(writer: ServiceWriter, keys: Iterable[Key]) -> Mapping[Key, Marks]:
    """Read these Services, eight at a time; one that is gone has no marks. Raises `Transient`, `Permanent`."""
    turn = asyncio.Semaphore(AT_A_TIME)

    async def read(key: Key) -> tuple[Key, Marks]:
        async with turn:
            current = await writer.fetch(key)
        return key, compute_marks(current) if current is not None else Marks()

    return dict(await asyncio.gather(*(read(key) for key in keys)))


def would_change(service: Service, wanted: Publication) -> bool:
    """Would publishing this write anything? An address that its owner also entered into externalIPs is theirs."""
    conditions = diff_conditions(service.conditions, wanted.conditions, 0.0)
    return (
        render_status(service, wanted.ingress, conditions) is not None
        or render_external_ips(service, wanted.external_ips) is not None
    )
