"""The patches that are written onto Services: pure functions from what is and what should be to JSON values.

All are strategic merge patches with the resourceVersion they were computed from: finalizers and conditions are lists
with many owners, of which only our entries are named; `ingress` and `externalIPs` are atomic and replaced as a whole.
"""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

import msgspec
from msgspec import Struct

from littlelb.core.model import Condition, Ingress, Publication, Service
from littlelb.kube.ownership import FINALIZER

OUR_CONDITIONS = "littlelb.io/"
EXTERNAL_IPS_ANNOTATION = "littlelb.io/written-external-ips"
"""Comma list of the entries of `spec.externalIPs` that we added. The list is atomic, so managedFields cannot tell."""

Json: TypeAlias = dict[str, Any]


class Patch(Struct, frozen=True):
    """A patch and where it goes."""

    body: Json
    subresource: str = "status"

    def encode(self) -> bytes:
        """Return the JSON text."""
        return msgspec.json.encode(self.body)


def _metadata(service: Service, **more: object) -> Json:
    return {"uid": service.uid, "resourceVersion": service.resource_version, **more}


def render_claim(service: Service) -> Patch:
    """Add the finalizer."""
    return Patch({"metadata": _metadata(service, finalizers=[FINALIZER])})


def render_release(service: Service) -> Patch:
    """Take the finalizer off, whatever other finalizers there are."""
    return Patch({"metadata": _metadata(service, **{"$deleteFromPrimitiveList/finalizers": [FINALIZER]})})


def render_status(service: Service, ingress: tuple[Ingress, ...], conditions: Iterable[Json]) -> Patch | None:
    """Write ingress and conditions; None if that would change nothing."""
    status: Json = {}
    if ingress != service.ingress:
        status["loadBalancer"] = {"ingress": [_ingress(entry) for entry in ingress] or None}
    if changed := list(conditions):
        status["conditions"] = changed
    return Patch({"metadata": _metadata(service), "status": status}) if status else None


def _ingress(entry: Ingress) -> Json:
    ports = [
        {"port": port.port, "protocol": port.protocol, **({"error": port.error} if port.error else {})}
        for port in entry.ports
    ]
    return {
        **({"ip": entry.ip} if entry.ip else {}),
        **({"hostname": entry.hostname} if entry.hostname else {}),
        **({"ipMode": entry.ip_mode} if entry.ip_mode else {}),
        **({"ports": ports} if ports else {}),
    }


def diff_conditions(have: tuple[Condition, ...], want: tuple[Condition, ...], now: float) -> list[Json]:
    """Entries for the patch: changed ones, and removals of those that are not wanted.

    `lastTransitionTime` (`now`, in seconds since the epoch) goes with a new status only; a merge keeps the old one.
    """
    before = {condition.type: condition for condition in have}
    entries: list[Json] = []
    for condition in want:
        old = before.pop(condition.type, None)
        if old == condition:
            continue
        entry = {name: getattr(condition, name) for name in ("type", "status", "reason", "message")}
        if old is None or old.status != condition.status:
            entry["lastTransitionTime"] = render_time(now)
        entries.append(entry)
    return entries + [{"$patch": "delete", "type": kind} for kind in before]


def render_time(now: float) -> str:
    """meta/v1 Time: RFC 3339, whole seconds, UTC."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def written_external_ips(service: Service) -> tuple[str, ...]:
    """Entries of `spec.externalIPs` that we added and that are still there, in the order in which we added them."""
    noted = service.annotations.get(EXTERNAL_IPS_ANNOTATION, "")
    return tuple(text for text in noted.split(",") if text and text in service.external_ips)


def render_external_ips(service: Service, want: tuple[str, ...]) -> Patch | None:
    """Replace our entries by `want` and keep the users'; None if that would change nothing.

    An address that a user entered too stays the user's: it is not noted as ours, so it is never removed.
    """
    ours = written_external_ips(service)
    users = tuple(text for text in service.external_ips if text not in ours)
    added = tuple(text for text in want if text not in users)
    noted = service.annotations.get(EXTERNAL_IPS_ANNOTATION)
    if (users + added) == service.external_ips and ",".join(added) == (noted or ""):
        return None
    annotations: Mapping[str, str | None] = {EXTERNAL_IPS_ANNOTATION: ",".join(added) or None}
    body = {
        "metadata": _metadata(service, annotations=annotations),
        "spec": {"externalIPs": list(users + added) or None},
    }
    return Patch(body, "")


def observed_publication(service: Service) -> Publication | None:
    """What a Service shows at this moment, in the form in which it is wanted; None if it shows nothing."""
    external_ips = written_external_ips(service)
    if not (service.ingress or service.conditions or external_ips):
        return None
    # Ours first, then the standard one: the order in which they are wanted, whatever order they were stored in.
    conditions = sorted(service.conditions, key=lambda c: (not c.type.startswith(OUR_CONDITIONS), c.type))
    return Publication(
        uid=service.uid, ingress=service.ingress, conditions=tuple(conditions), external_ips=external_ips
    )
