"""Target PUBLISH: what users and other controllers read on a Service: ingress, conditions, and perhaps externalIPs.

Nothing that is not ours is ever cleared: of `ingress` and the standard condition managedFields tell the owner, our own
conditions bear our prefix, and our entries of `spec.externalIPs` are noted in an annotation written along with them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import structlog

from littlelb.core.errors import Permanent
from littlelb.core.interfaces import Clock, Phase
from littlelb.core.model import Condition, Ingress, Key, Publication, Service
from littlelb.core.plan import Changes, Failure, Severity
from littlelb.core.state import DesiredState
from littlelb.kube.client import FIELD_MANAGER
from littlelb.kube.ownership import Ownership
from littlelb.kube.writes.patches import (
    OUR_CONDITIONS,
    Patch,
    diff_conditions,
    observed_publication,
    render_external_ips,
    render_status,
)
from littlelb.kube.writes.service_writer import Current, ServiceWriter, write_each

FLIPS = 3
"""So often another writer may replace our ingress before we stop writing it."""
TRUCE_SECONDS = 600.0
"""After so long without our writing, it is tried again."""
FOREIGN_WRITER = "ForeignWriter"

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Written:
    """What we wrote last on one Service, and how often somebody replaced it."""

    ingress: tuple[Ingress, ...]
    flips: int = 0
    flipped_at: float = 0.0


class PublishTarget:
    """`core.interfaces.Target[Key, Publication]`."""

    phase = Phase.PUBLISH

    def __init__(self, writer: ServiceWriter, clock: Clock) -> None:
        """Know nothing of what was written before."""
        self._writer = writer
        self._clock = clock
        self._foreign: dict[str, Publication] = {}
        """Uid → what stands on it, all of it somebody else's."""
        self._written: dict[str, _Written] = {}
        self._settled: dict[str, tuple[Publication, Publication]] = {}
        """Uid → what the Service showed after a write, and what was wanted, where both differ and that is all right."""

    def wanted(self, state: DesiredState) -> Mapping[Key, Publication]:
        """What each Service of ours should show."""
        return state.publications

    async def observe(self, keys: frozenset[Key] | None) -> Mapping[Key, Publication]:
        """Answer from the cache: every Service that shows something, unless all of it is known not to be ours."""
        services = self._writer.cached()
        if keys is None:
            self._forget({service.uid for service in services.values()})
        chosen = services.values() if keys is None else [services[key] for key in keys if key in services]
        shown = {service.key: observed_publication(service) for service in chosen}
        return {
            key: self._as_wanted(publication)
            for key, publication in shown.items()
            if publication is not None and self._foreign.get(publication.uid) != publication
        }

    def _as_wanted(self, publication: Publication) -> Publication:
        """An address that the user entered into externalIPs too, say, is shown though it is not ours to show."""
        settled = self._settled.get(publication.uid)
        return settled[1] if settled is not None and settled[0] == publication else publication

    async def apply(self, changes: Changes[Key, Publication]) -> Mapping[Key, Failure]:
        """Write and clear."""
        coming = {**changes.add, **changes.change}
        failures = await write_each(changes.remove, lambda key: self._withdraw(key, changes.remove[key].uid))
        return failures | await write_each(coming, lambda key: self._publish(key, coming[key]))

    def _forget(self, uids: set[str]) -> None:
        for memory in (self._foreign, self._written, self._settled):
            for uid in [uid for uid in memory if uid not in uids]:
                del memory[uid]

    # --- write ---

    async def _publish(self, key: Key, publication: Publication) -> Failure | None:
        service = self._writer.cached().get(key)
        if service is not None and service.uid == publication.uid and self._is_contested(service, publication):
            return await self._yield_to_other(key)
        now = self._clock.now()
        current = await self._writer.write(
            key, publication.uid, lambda current: _compose_publication(current.service, publication, now)
        )
        if current is None:
            return None
        self._foreign.pop(publication.uid, None)
        self._written.setdefault(publication.uid, _Written(())).ingress = publication.ingress
        current = await self._write_external_ips(key, current, publication.external_ips)
        if current is not None:
            self._settle(observed_publication(current.service), publication)
        return None

    def _settle(self, shown: Publication | None, wanted: Publication) -> None:
        if shown is None or shown == wanted:
            self._settled.pop(wanted.uid, None)
        else:
            self._settled[wanted.uid] = (shown, wanted)

    def _is_contested(self, service: Service, publication: Publication) -> bool:
        """Count a replacement of what we wrote; True once it has happened too often.

        An empty ingress is nobody's text: the API server clears it when the type changes.
        """
        written = self._written.get(service.uid)
        if written is None or not service.ingress or service.ingress in (written.ingress, publication.ingress):
            return False
        now = self._clock.monotonic()
        if written.flips >= FLIPS and now - written.flipped_at < TRUCE_SECONDS:
            return True
        written.flips = 1 if now - written.flipped_at >= TRUCE_SECONDS else written.flips + 1
        written.flipped_at = now
        return written.flips >= FLIPS

    async def _yield_to_other(self, key: Key) -> Failure | None:
        current = await self._writer.fetch(key)
        if current is None or current.owned is None:
            return None
        others = ", ".join(sorted(current.owned.ingress - {FIELD_MANAGER})) or "an unnamed client"
        message = (
            f"{others} also writes status.loadBalancer of this Service and has replaced what we wrote {FLIPS} times; "
            f"we stop for {TRUCE_SECONDS / 60:g} minutes. Give the Service a loadBalancerClass of one of the two, "
            "or run littlelb with --no-class-less"
        )
        return Failure(FOREIGN_WRITER, message, Severity.PERMANENT)

    async def _write_external_ips(self, key: Key, current: Current, want: tuple[str, ...]) -> Current | None:
        """Return the Service as it is then; None if it is gone."""
        if render_external_ips(current.service, want) is None:
            return current
        try:
            return await self._writer.write(
                key, current.service.uid, lambda current: render_external_ips(current.service, want)
            )
        except Permanent as error:
            raise Permanent(
                f"spec.externalIPs of {key} cannot be written: apply the overlay for --external-ips, which adds "
                f"`services: patch` to the role, or run without --external-ips ({error})"
            ) from error

    # --- clear ---

    async def _withdraw(self, key: Key, uid: str) -> None:
        now = self._clock.now()
        self._written.pop(uid, None)
        current = await self._writer.write(key, uid, lambda current: _compose_withdrawal(current, now), fresh=True)
        if current is None:
            return
        self._settled.pop(uid, None)
        await self._write_external_ips(key, current, ())
        left = observed_publication(current.service)
        if left is not None and not left.external_ips:
            self._foreign[uid] = left
            _log.info("status.foreign", service=key, ingress=[entry.ip or entry.hostname for entry in left.ingress])


def _compose_publication(service: Service, publication: Publication, now: float) -> Patch | None:
    conditions = diff_conditions(service.conditions, publication.conditions, now)
    return render_status(service, publication.ingress, conditions)


def _compose_withdrawal(current: Current, now: float) -> Patch | None:
    """Clear what is ours; `ingress` of another type than LoadBalancer was cleared by the API server already."""
    service, owned = current
    owned = owned or Ownership()
    ingress = () if FIELD_MANAGER in owned.ingress else service.ingress
    foreign = tuple(condition for condition in service.conditions if not is_ours(condition, owned))
    return render_status(service, ingress, diff_conditions(service.conditions, foreign, now))


def is_ours(condition: Condition, owned: Ownership) -> bool:
    """Is this condition ours to clear? Ours by its prefix, or the standard one that managedFields says we wrote."""
    return condition.type.startswith(OUR_CONDITIONS) or FIELD_MANAGER in owned.conditions.get(condition.type, ())
