"""The watches of the fake API server: changes after a version, bookmarks, initial events, 410 as an ERROR event."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass

from littlelb.testing.fake_api_cluster import selector
from littlelb.testing.fake_api_rules import RULES, Refused
from littlelb.testing.fake_api_store import Change, Expired, Json, Name, Store

DEFAULT_TIMEOUT_SECONDS = 1_800


@dataclass(frozen=True, slots=True)
class BookmarkPlan:
    """How often a watch that wants bookmarks gets one."""

    seconds: float


def watch_lines(store: Store, what: Name, query: Mapping[str, str], plan: BookmarkPlan) -> AsyncGenerator[bytes]:
    """Answer a watch: lines as they come, until its time is over. Raises Refused before the first."""
    initial = query.get("sendInitialEvents") == "true"
    if initial and query.get("resourceVersionMatch") != "NotOlderThan":
        raise Refused(422, "Invalid", "resourceVersionMatch: Forbidden: sendInitialEvents requires NotOlderThan")
    text = query.get("resourceVersion", "")
    if not text.isdecimal() and text:
        raise Refused(400, "BadRequest", f"Invalid value: {text!r}: strconv.ParseUint: invalid syntax")
    return _Watch(store, what, query, plan).lines(initial=initial)


class _Watch:
    """One watch."""

    def __init__(self, store: Store, what: Name, query: Mapping[str, str], plan: BookmarkPlan) -> None:
        self._store = store
        self._what = what
        self._wanted = selector(query)
        self._bookmarks = query.get("allowWatchBookmarks") in {"1", "true"}
        self._plan = plan
        self._timeout = float(query.get("timeoutSeconds") or DEFAULT_TIMEOUT_SECONDS)
        self._version = int(query.get("resourceVersion") or 0)

    async def lines(self, *, initial: bool) -> AsyncGenerator[bytes]:
        """Events, one a line."""
        waker = self._store.watcher()
        loop = asyncio.get_running_loop()
        end, bookmark = loop.time() + self._timeout, loop.time() + self._plan.seconds
        try:
            if initial or not self._version:
                for line in self._initial(with_end=initial):
                    yield line
            while (now := loop.time()) < end:
                for line in self._news():
                    yield line
                if now >= bookmark:
                    bookmark = now + self._plan.seconds
                    if self._bookmarks and self._version <= self._store.version:  # else: silence, as the real one
                        yield self._bookmark()
                await waker.wait(min(end, bookmark) - now)
        except Expired:
            message = f"too old resource version: {self._version}"
            status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
            yield _line("ERROR", status | {"message": message, "reason": "Expired", "code": 410})
        finally:
            waker.close()

    def _initial(self, *, with_end: bool) -> list[bytes]:
        self._version = self._store.version
        found = self._store.list_at(self._what.resource, self._what.namespace)
        lines = [_line("ADDED", thing) for _, thing in found if self._wanted(thing)]
        if with_end and self._bookmarks:
            lines.append(self._bookmark({"k8s.io/initial-events-end": "true"}))
        return lines

    def _news(self) -> list[bytes]:
        changes = self._store.changes_after(self._version)
        lines = [line for change in changes if self._concerns(change) for line in _event(change, self._wanted)]
        if changes:
            self._version = changes[-1].version
        return lines

    def _concerns(self, change: Change) -> bool:
        name, what = change.name, self._what
        return name.resource == what.resource and what.namespace in {"", name.namespace}

    def _bookmark(self, annotations: Mapping[str, str] | None = None) -> bytes:
        rules = RULES[self._what.resource]
        meta: Json = {"resourceVersion": str(self._version), "creationTimestamp": None}
        if annotations:
            meta["annotations"] = dict(annotations)
        return _line("BOOKMARK", {"kind": rules.kind, "apiVersion": rules.api_version, "metadata": meta})


def _event(change: Change, wanted: Callable[[Json], bool]) -> list[bytes]:
    """Return what a watch with a selector hears of a change: an object that no longer matches is gone for it."""
    before = change.before if change.before is not None and wanted(change.before) else None
    after = change.after if change.after is not None and wanted(change.after) else None
    if after is not None:
        return [_line("MODIFIED" if before is not None else "ADDED", after)]
    if before is None:
        return []
    last = change.after if change.after is not None else before
    return [_line("DELETED", last | {"metadata": last["metadata"] | {"resourceVersion": str(change.version)}})]


def _line(kind: str, thing: Json) -> bytes:
    return json.dumps({"type": kind, "object": thing}).encode() + b"\n"
