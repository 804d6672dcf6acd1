"""Target CLAIM: the finalizer that keeps a Service from vanishing before we have cleaned up after it.

`service.kubernetes.io/load-balancer-cleanup` is shared by all balancers, so its presence says nothing about whose it
is: it is put on through services/status under our field manager, and taken off only where managedFields names us.
"""

from collections.abc import Mapping

import structlog

from littlelb.core.interfaces import Phase
from littlelb.core.model import Claim, Key
from littlelb.core.plan import Changes, Failure
from littlelb.core.state import DesiredState
from littlelb.kube.client import FIELD_MANAGER
from littlelb.kube.writes.patches import Patch, render_claim, render_release
from littlelb.kube.writes.service_writer import Current, ServiceWriter, write_each

_log = structlog.get_logger(__name__)


class ClaimTarget:
    """`core.interfaces.Target[Key, Claim]`."""

    phase = Phase.CLAIM

    def __init__(self, writer: ServiceWriter) -> None:
        """Know nothing of whose the finalizers are."""
        self._writer = writer
        self._foreign: set[str] = set()
        """Uids of Services whose finalizer turned out to be somebody else's."""

    def wanted(self, state: DesiredState) -> Mapping[Key, Claim]:
        """Services that must not vanish yet."""
        return state.claims

    async def observe(self, keys: frozenset[Key] | None) -> Mapping[Key, Claim]:
        """Answer from the cache: every Service that has the finalizer, unless it is known not to be ours."""
        services = self._writer.cached()
        if keys is None:
            self._foreign &= {service.uid for service in services.values()}
        chosen = services.values() if keys is None else [services[key] for key in keys if key in services]
        return {
            service.key: Claim(service.uid)
            for service in chosen
            if service.has_finalizer and service.uid not in self._foreign
        }

    async def apply(self, changes: Changes[Key, Claim]) -> Mapping[Key, Failure]:
        """Put finalizers on and take ours off."""
        coming = {**changes.add, **changes.change}
        failures = await write_each(coming, lambda key: self._claim(key, coming[key].uid))
        return failures | await write_each(changes.remove, lambda key: self._release(key, changes.remove[key].uid))

    async def _claim(self, key: Key, uid: str) -> None:
        self._foreign.discard(uid)
        await self._writer.write(key, uid, _compose_claim)

    async def _release(self, key: Key, uid: str) -> None:
        left = await self._writer.write(key, uid, _compose_release, fresh=True)
        if left is not None and left.service.has_finalizer:
            self._foreign.add(uid)
            others = sorted(left.owned.finalizer) if left.owned is not None else []
            _log.info("claim.foreign", service=key, managers=others)


def _compose_claim(current: Current) -> Patch | None:
    """Nothing may be added to a Service that is being deleted (the API answers 422)."""
    service = current.service
    return None if service.has_finalizer or service.deleting else render_claim(service)


def _compose_release(current: Current) -> Patch | None:
    service, owned = current
    ours = owned is not None and FIELD_MANAGER in owned.finalizer
    return render_release(service) if service.has_finalizer and ours else None
