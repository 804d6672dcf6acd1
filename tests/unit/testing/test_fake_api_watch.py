"""The watches of the fake API server, without HTTP: bookmarks, ends, errors."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from littlelb.testing.clock import LoopClock, run_virtual
from littlelb.testing.fake_api_cluster import Cluster
from littlelb.testing.fake_api_rules import Refused
from littlelb.testing.fake_api_store import Name, Store
from littlelb.testing.fake_api_watch import BookmarkPlan, watch_lines

ALL = Name("/services", "", "")


def heard(query: dict[str, str], prepare: Callable[[Cluster], None] = lambda _: None) -> list[dict[str, Any]]:
    """Watch from version 1002, which is after the two namespaces, until the watch ends."""

    async def scenario() -> list[dict[str, Any]]:
        cluster = Cluster(LoopClock().now, Store(first_version=1_000))
        prepare(cluster)
        return [json.loads(line) async for line in watch_lines(cluster.store, ALL, query, BookmarkPlan(60))]

    return run_virtual(scenario())


def create(cluster: Cluster) -> None:
    """Make a Service, version 1003."""
    cluster.create(Name("/services", "default", "web"), {"spec": {"ports": [{"port": 80}]}})


def test_bookmarks_come_by_the_minute() -> None:
    """A watch of 200 s that asks for bookmarks gets three, with the store's version; one that does not gets none."""
    query = {"resourceVersion": "1002", "timeoutSeconds": "200", "allowWatchBookmarks": "true"}
    events = heard(query, create)
    assert [event["type"] for event in events] == ["ADDED", "BOOKMARK", "BOOKMARK", "BOOKMARK"]
    assert events[-1]["object"]["metadata"]["resourceVersion"] == "1003"
    assert heard({"resourceVersion": "1002", "timeoutSeconds": "200"}) == []


def test_the_future_has_no_bookmarks() -> None:
    """A watch from a version that is yet to come hears nothing at all."""
    query = {"resourceVersion": "9000", "timeoutSeconds": "200", "allowWatchBookmarks": "true"}
    assert heard(query, create) == []


def test_compacted_is_an_error_event() -> None:
    """A version that is gone ends the watch with ERROR 410."""

    def compact(cluster: Cluster) -> None:
        create(cluster)
        cluster.store.compact()

    events = heard({"resourceVersion": "1002"}, compact)
    assert [(event["type"], event["object"]["code"]) for event in events] == [("ERROR", 410)]


@pytest.mark.parametrize(
    ("query", "code"),
    [({"resourceVersion": "x"}, 400), ({"sendInitialEvents": "true"}, 422), ({"fieldSelector": "spec.x=1"}, 400)],
)
def test_what_is_refused_before_it_begins(query: dict[str, str], code: int) -> None:
    """Bad parameters are a refusal, not an event."""
    with pytest.raises(Refused) as caught:
        watch_lines(Store(), ALL, query, BookmarkPlan(60))
    assert caught.value.code == code
