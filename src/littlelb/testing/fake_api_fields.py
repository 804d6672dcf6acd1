"""How the fake API server merges patches and keeps managedFields: pure functions on JSON.

Theory: JSON merge patch is RFC 7396. Strategic merge patch (core/v1 `patchStrategy: merge`) merges some lists by a key
and some as sets. managedFields is the bookkeeping of server-side apply ("FieldsV1"): `f:` field, `v:` member of a set,
`k:` member of a keyed list; a writer takes what it changes from everybody else.
"""

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

from littlelb.testing.fake_api_store import Json

Path: TypeAlias = tuple[str, ...]

MERGE_KEYS: Mapping[Path, str] = {
    ("status", "conditions"): "type",
    ("spec", "ports"): "port",
    ("status", "addresses"): "type",
    ("metadata", "ownerReferences"): "uid",
    ("spec", "taints"): "key",
}
"""Lists that a strategic merge patch merges by one key."""
SETS = frozenset({("metadata", "finalizers")})
MAP_LISTS: Mapping[Path, tuple[str, ...]] = {
    ("status", "conditions"): ("type",),
    ("spec", "ports"): ("port", "protocol"),
    ("status", "addresses"): ("type",),
}
"""Lists whose members are owned one by one."""
MAPS = frozenset({("metadata", "annotations"), ("metadata", "labels"), ("spec", "selector")})
_NOBODYS = frozenset(
    {"uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "name", "namespace", "generateName"}
    | {"deletionTimestamp", "deletionGracePeriodSeconds"}
)


def merge(target: Any, patch: Any) -> Any:
    """Apply a JSON merge patch (RFC 7396)."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def strategic_merge(target: Any, patch: Any, path: Path = ()) -> Any:
    """Apply a strategic merge patch."""
    if isinstance(patch, list):
        return _merge_list(target if isinstance(target, list) else [], patch, path)
    if not isinstance(patch, dict):
        return patch
    if patch.get("$patch") == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if key.startswith("$deleteFromPrimitiveList/"):
            field = key.partition("/")[2]
            merged[field] = [member for member in merged.get(field, []) if member not in value]
        elif key.startswith("$"):
            continue
        elif value is None:
            merged.pop(key, None)
        else:
            merged[key] = strategic_merge(merged.get(key), value, (*path, key))
    return merged


def _merge_list(target: list[Any], patch: list[Any], path: Path) -> list[Any]:
    if path in SETS:
        return target + [member for member in patch if member not in target]
    key = MERGE_KEYS.get(path)
    if key is None:
        return patch
    if any(member.get("$patch") == "replace" for member in patch):
        return [member for member in patch if "$patch" not in member]
    merged = {member.get(key): member for member in target}
    for member in patch:
        if member.get("$patch") == "delete":
            merged.pop(member.get(key), None)
        else:
            merged[member.get(key)] = strategic_merge(merged.get(member.get(key)), member, (*path, "*"))
    return list(merged.values())


# --- managedFields ---------------------------------------------------------------------------------------------------


def leaves(thing: Any, path: Path = (), owned: Path = ()) -> dict[Path, Any]:
    """Flatten an object: path of FieldsV1 keys → value. `.` stands for the existence of a map, set or member."""
    if path in SETS:
        return {(*owned, "."): True} | {(*owned, f"v:{json.dumps(member)}"): True for member in thing}
    if path in MAP_LISTS:
        return {(*owned, "."): True} | _member_leaves(thing, path, owned)
    if isinstance(thing, dict) and thing:
        return _field_leaves(thing, path, owned)
    return {} if thing in (None, {}) else {owned: thing}


def _field_leaves(thing: Json, path: Path, owned: Path) -> dict[Path, Any]:
    found: dict[Path, Any] = {(*owned, "."): True} if path in MAPS else {}
    for key, value in thing.items():
        if not (path == ("metadata",) and key in _NOBODYS) and not (not path and key in {"kind", "apiVersion"}):
            found |= leaves(value, (*path, key), (*owned, f"f:{key}"))
    return found


def _member_leaves(members: list[Json], path: Path, owned: Path) -> dict[Path, Any]:
    found: dict[Path, Any] = {}
    for member in members:
        keys = {name: member[name] for name in MAP_LISTS[path] if name in member}
        key = f"k:{json.dumps(keys, separators=(',', ':'), sort_keys=True)}"
        found |= {(*owned, key, "."): True} | leaves(member, (*path, "*"), (*owned, key))
    return found


def _nest(paths: set[Path]) -> Json:
    root: Json = {}
    for path in sorted(paths):
        node = root
        for key in path:
            node = node.setdefault(key, {})
    return root


def _flatten(node: Json, path: Path = ()) -> set[Path]:
    if not node:
        return {path} if path else set()
    return set().union(*(_flatten(child, (*path, key)) for key, child in node.items()))


def track(before: Json | None, after: Json, manager: str, subresource: str, when: str) -> list[Json]:
    """Compute managedFields of `after`, which `manager` wrote through `subresource` (empty: the object itself)."""
    old, new = leaves(before or {}), leaves(after)
    changed = {path for path, value in new.items() if path not in old or old[path] != value}
    entries: list[Json] = []
    mine: set[Path] = set(changed)
    for entry in (before or {}).get("metadata", {}).get("managedFields", []):
        paths = {path for path in _flatten(entry["fieldsV1"]) if path in new}
        if (entry["manager"], entry.get("subresource", "")) == (manager, subresource):
            mine |= paths
            if not changed and len(paths) == len(_flatten(entry["fieldsV1"])):
                when = entry["time"]
        elif kept := {path for path in paths if path not in changed}:
            entries.append(entry | {"fieldsV1": _nest(kept)})
    if mine:
        entries.append(_entry(after, mine, manager, subresource, when))
    return entries


def _entry(after: Json, paths: set[Path], manager: str, subresource: str, when: str) -> Json:
    entry = {
        "manager": manager,
        "operation": "Update",
        "apiVersion": after["apiVersion"],
        "time": when,
        "fieldsType": "FieldsV1",
        "fieldsV1": _nest(paths),
    }
    return entry | ({"subresource": subresource} if subresource else {})
