"""Reads from managedFields who wrote what: the only proof that a finalizer, a status or an address list is ours.

Theory: server-side apply keeps, for every field manager and subresource, the set of fields it wrote last (meta/v1
ManagedFieldsEntry, "FieldsV1"). A key is `f:NAME` for a field, `v:JSON` for an entry of a set list, `k:JSON` for an
entry of a map list. `status.loadBalancer.ingress` and `spec.externalIPs` are atomic lists: one owner for the whole
list, and no keys below. A manager that writes a field with a new value takes it from all others; several own one
field only where they applied the same value.
"""

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import msgspec
from msgspec import Struct

FINALIZER = "service.kubernetes.io/load-balancer-cleanup"

_Json: TypeAlias = object
_NOBODY: frozenset[str] = frozenset()


class Ownership(Struct, frozen=True):
    """Field managers by what they own. Empty: nobody, the field is not there, or the server tracks no owners."""

    finalizer: frozenset[str] = _NOBODY
    """Of `service.kubernetes.io/load-balancer-cleanup` alone, whoever owns the other finalizers."""
    ingress: frozenset[str] = _NOBODY
    """Of `status.loadBalancer.ingress` as a whole, or of anything else below `status.loadBalancer`."""
    external_ips: frozenset[str] = _NOBODY
    """Of `spec.externalIPs` as a whole: the list is atomic, single entries have no owner."""
    conditions: Mapping[str, frozenset[str]] = {}
    """By the condition's type."""


def owners(object_json: bytes) -> Ownership:
    """Read the owners out of a whole object as the API server sends it.

    Raises `msgspec.DecodeError` when the text is not JSON; entries of a form we do not know own nothing.
    """
    entries = _child(_child(msgspec.json.decode(object_json), "metadata"), "managedFields")
    finalizer, ingress, external_ips = set[str](), set[str](), set[str]()
    conditions: dict[str, set[str]] = {}
    for entry in entries if isinstance(entries, list) else ():
        manager, fields = _child(entry, "manager"), _child(entry, "fieldsV1")
        if not isinstance(manager, str) or not manager:
            continue
        if FINALIZER in _set_members(_child(_child(fields, "f:metadata"), "f:finalizers")):
            finalizer.add(manager)
        if _child(_child(fields, "f:status"), "f:loadBalancer") is not None:
            ingress.add(manager)
        if _child(_child(fields, "f:spec"), "f:externalIPs") is not None:
            external_ips.add(manager)
        for kind in _map_types(_child(_child(fields, "f:status"), "f:conditions")):
            conditions.setdefault(kind, set()).add(manager)
    return Ownership(
        finalizer=frozenset(finalizer),
        ingress=frozenset(ingress),
        external_ips=frozenset(external_ips),
        conditions={kind: frozenset(managers) for kind, managers in conditions.items()},
    )


def _child(node: _Json, key: str) -> _Json:
    return node.get(key) if isinstance(node, dict) else None


def _parsed_keys(node: _Json, prefix: str) -> Iterator[_Json]:
    """JSON values behind the keys that begin with `v:` or `k:`; a key that is no JSON is of a form we do not know."""
    for key in node if isinstance(node, dict) else ():
        if key.startswith(prefix):
            try:
                yield msgspec.json.decode(key.removeprefix(prefix))
            except msgspec.DecodeError:
                continue


def _set_members(node: _Json) -> frozenset[str]:
    return frozenset(member for member in _parsed_keys(node, "v:") if isinstance(member, str))


def _map_types(node: _Json) -> frozenset[str]:
    kinds = (_child(entry, "type") for entry in _parsed_keys(node, "k:"))
    return frozenset(kind for kind in kinds if isinstance(kind, str))
