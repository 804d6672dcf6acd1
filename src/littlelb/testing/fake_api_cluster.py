"""The verbs of the fake API server, without HTTP: create, get, list, update, patch, delete on one Store.

Tests use it directly to play the users and controllers of a cluster: everything it does is seen by watches at once.
"""

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any
from uuid import UUID

from littlelb.testing.fake_api_fields import merge, strategic_merge, track
from littlelb.testing.fake_api_rules import RULES, Refused, Rules, check_name, invalid, separate
from littlelb.testing.fake_api_store import Expired, Json, Name, Store

GONE = Refused(410, "Expired", "The provided continue parameter is too old to display a consistent list result.")


@dataclass(frozen=True, slots=True)
class Writer:
    """Who writes, and through which path."""

    manager: str = "tests"
    subresource: str = ""


BY_TESTS = Writer()


class Cluster:
    """Objects as JSON; every method raises Refused where a real server would answer with a Status."""

    def __init__(self, now: Callable[[], float], store: Store | None = None, seed: int = 0) -> None:
        """`now` gives seconds since the epoch."""
        self.store = store or Store()
        self._now = now
        self._random = Random(seed)  # noqa: S311  # uids that are the same in every run
        for namespace in ("default", "kube-system"):
            self.create(Name("/namespaces", "", namespace), {})

    def get(self, name: Name) -> Json:
        """Return one object with kind and apiVersion."""
        found = self.store.get(name)
        if found is None:
            plural = name.resource.rpartition("/")[2]
            raise Refused(404, "NotFound", f'{plural} "{name.name}" not found')
        return found

    def create(self, name: Name, thing: Json, writer: Writer = BY_TESTS) -> Json:
        """Create an object; an empty name means metadata.name or metadata.generateName."""
        rules = RULES[name.resource]
        meta = dict(thing.get("metadata") or {})
        meta["name"] = name.name or meta.get("name") or self._generated(meta)
        name = name._replace(name=meta["name"])
        if rules.namespaced:
            meta["namespace"] = name.namespace
            self.get(Name("/namespaces", "", name.namespace))
        check_name(rules, name.name)
        if self.store.get(name) is not None:
            plural = name.resource.rpartition("/")[2]
            raise Refused(409, "AlreadyExists", f'{plural} "{name.name}" already exists')
        meta |= {"uid": str(UUID(int=self._random.getrandbits(128), version=4)), "creationTimestamp": self._stamp()}
        if rules.has_generation:
            meta["generation"] = 1
        new = {**thing, "kind": rules.kind, "apiVersion": rules.api_version, "metadata": meta}
        if rules.has_status and rules.kind != "Node":
            new["status"] = {}
        return self._store(rules, name, new, None, writer)

    def replace(self, name: Name, thing: Json, writer: Writer = BY_TESTS) -> Json:
        """Write an object as a whole (PUT)."""
        old = self.get(name)
        if (thing.get("metadata") or {}).get("uid", old["metadata"]["uid"]) != old["metadata"]["uid"]:
            raise Refused(409, "Conflict", f"{name.name}: Precondition failed: UID in precondition differs")
        return self._update(name, old, thing, writer)

    def patch(self, name: Name, patch: Json, writer: Writer = BY_TESTS, *, strategic: bool = False) -> Json:
        """Write parts of an object: as JSON merge patch, or strategic merge patch."""
        old = self.get(name)
        return self._update(name, old, strategic_merge(old, patch) if strategic else merge(old, patch), writer)

    def delete(self, name: Name) -> Json:
        """Delete an object, or mark it as leaving while it has finalizers."""
        old = self.get(name)
        meta = old["metadata"]
        if not meta.get("finalizers"):
            self._remove(name, old)
        elif "deletionTimestamp" not in meta:
            leaving = {"deletionTimestamp": self._stamp(), "deletionGracePeriodSeconds": 0}
            self._write(name, old | {"metadata": meta | leaving})
        return old

    def list(self, resource: str, namespace: str, query: Mapping[str, str]) -> Json:
        """Return one page of a list, in which the items have no kind."""
        start = _Token.parse(query.get("continue", ""))
        try:
            found = self.store.list_at(resource, namespace, start.version if start else None)
        except Expired:
            raise GONE from None
        version = start.version if start else self.store.version
        wanted = selector(query)
        items = [thing for name, thing in found if (start is None or name > start.after) and wanted(thing)]
        limit = int(query.get("limit", "0")) or len(items)
        page, rest = items[:limit], items[limit:]
        meta: Json = {"resourceVersion": str(version)}
        if rest:
            last = page[-1]["metadata"]
            after = Name(resource, last.get("namespace", ""), last["name"])
            meta |= {"continue": _Token(version, after).text(), "remainingItemCount": len(rest)}
            if query.get("labelSelector") or query.get("fieldSelector"):
                del meta["remainingItemCount"]
        rules = RULES[resource]
        bare = [{key: value for key, value in thing.items() if key not in {"kind", "apiVersion"}} for thing in page]
        return {"kind": f"{rules.kind}List", "apiVersion": rules.api_version, "metadata": meta, "items": bare}

    # --- inside ---

    def _generated(self, meta: Json) -> str:
        prefix = meta.get("generateName") or ""
        return f"{prefix}{self._random.getrandbits(25):05x}"[: len(prefix) + 5] if prefix else ""

    def _stamp(self) -> str:
        return datetime.fromtimestamp(int(self._now()), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _update(self, name: Name, old: Json, new: Json, writer: Writer) -> Json:
        rules = RULES[name.resource]
        meta = dict(new.get("metadata") or {})
        version = meta.get("resourceVersion")
        if not version and not rules.unconditional_update:
            raise invalid(rules.kind, name.name, "metadata.resourceVersion: Invalid value: must be specified")
        if version and version != old["metadata"]["resourceVersion"]:
            raise Refused(409, "Conflict", f"{name.name}: the object has been modified; please apply your changes to …")
        if meta.get("uid", old["metadata"]["uid"]) != old["metadata"]["uid"]:
            raise invalid(rules.kind, name.name, "metadata.uid: Invalid value: field is immutable")
        for kept in ("name", "namespace", "uid", "creationTimestamp", "generation", "deletionTimestamp"):
            meta.pop(kept, None)
            if kept in old["metadata"]:
                meta[kept] = old["metadata"][kept]
        new = {**new, "kind": rules.kind, "apiVersion": rules.api_version, "metadata": meta}
        return self._store(rules, name, separate(rules, new, old, writer.subresource), old, writer)

    def _store(self, rules: Rules, name: Name, new: Json, old: Json | None, writer: Writer) -> Json:
        new = rules.complete(new, old)
        if problem := rules.check(new, old):
            raise invalid(rules.kind, name.name, problem)
        if old is not None and _bare(new) == _bare(old):
            return old
        meta = {key: value for key, value in new["metadata"].items() if value not in (None, [], {})}
        if old is not None and rules.has_generation and _content(new) != _content(old):
            meta["generation"] = old["metadata"]["generation"] + 1
        new = new | {"metadata": meta}
        meta["managedFields"] = track(old, new, writer.manager, writer.subresource, self._stamp())
        if "deletionTimestamp" in meta and not meta.get("finalizers"):
            return self._remove(name, new)
        return self._write(name, new)

    def _write(self, name: Name, new: Json) -> Json:
        new = new | {"metadata": new["metadata"] | {"resourceVersion": str(self.store.next_version())}}
        self.store.write(name, json.loads(json.dumps(new)))  # nobody outside holds a part of it
        return self.get(name)

    def _remove(self, name: Name, last: Json) -> Json:
        self.store.write(name, None)
        return last


def _bare(thing: Json) -> Json:
    """An object without what a write that changes nothing would change."""
    meta = {key: value for key, value in thing["metadata"].items() if key not in {"managedFields", "resourceVersion"}}
    return {**thing, "metadata": {key: value for key, value in meta.items() if value not in (None, [], {})}}


def _content(thing: Json) -> Json:
    """What a new generation counts: everything but status and metadata, and of that the labels."""
    content = {key: value for key, value in thing.items() if key not in {"metadata", "status"}}
    return content | {"labels": thing["metadata"].get("labels") or {}}


@dataclass(frozen=True, slots=True)
class _Token:
    """A continue token: the version of the list, and the last name of the page before."""

    version: int
    after: Name

    @classmethod
    def parse(cls, text: str) -> "_Token | None":
        if not text:
            return None
        try:
            version, *after = json.loads(base64.urlsafe_b64decode(text))
            return cls(version, Name(*after))
        except (ValueError, TypeError):
            raise Refused(400, "BadRequest", "continue key is not valid") from None

    def text(self) -> str:
        return base64.urlsafe_b64encode(json.dumps([self.version, *self.after]).encode()).decode()


# --- selectors -------------------------------------------------------------------------------------------------------

_SET_TERM = re.compile(r"\s*([\w./-]+)\s+(in|notin)\s+\(([^)]*)\)\s*")
_FIELDS = {"metadata.name", "metadata.namespace", "spec.type", "spec.clusterIP", "spec.unschedulable"}


def selector(query: Mapping[str, str]) -> Callable[[Json], bool]:
    """Build the test that `labelSelector` and `fieldSelector` of a request stand for."""
    labels = [_label_term(term) for term in re.split(r",(?![^(]*\))", query.get("labelSelector", "")) if term]
    fields = [_field_term(term) for term in query.get("fieldSelector", "").split(",") if term]
    return lambda thing: all(term(thing) for term in (*labels, *fields))


def _label_term(term: str) -> Callable[[Json], bool]:
    if match := _SET_TERM.fullmatch(term):
        key, operator, members = match.groups()
        wanted = {member.strip() for member in members.split(",")}
        return lambda thing: (_labels(thing).get(key) in wanted) == (operator == "in")
    key, operator, value = (part.strip() for part in _split(term))
    if operator:
        return lambda thing: (_labels(thing).get(key) == value) == (operator == "=")
    absent = key.startswith("!")
    return lambda thing: (key.lstrip("!") in _labels(thing)) != absent


def _field_term(term: str) -> Callable[[Json], bool]:
    key, operator, value = _split(term)
    if key not in _FIELDS:
        raise Refused(400, "BadRequest", f"field label not supported: {key}")
    return lambda thing: (_field(thing, key) == value) == (operator == "=")


def _split(term: str) -> tuple[str, str, str]:
    """Cut `a=b`, `a==b`, `a!=b` into name, `=` or `!=`, value; operator and value are empty where there is none."""
    match = re.fullmatch(r"([^=!]+)(==|=|!=)(.*)", term)
    if match is None:
        return term, "", ""
    return match[1], "!=" if match[2] == "!=" else "=", match[3]


def _labels(thing: Json) -> Mapping[str, str]:
    return thing["metadata"].get("labels") or {}


def _field(thing: Json, path: str) -> str:
    value: Any = thing
    for part in path.split("."):
        value = value.get(part, {}) if isinstance(value, dict) else {}
    return str(value).lower() if isinstance(value, bool) else (value or "")
