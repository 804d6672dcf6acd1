"""Patches and managedFields of the fake API server."""

from typing import Any

import pytest

from littlelb.testing.fake_api_fields import leaves, merge, strategic_merge, track
from littlelb.testing.fake_api_store import Json


@pytest.mark.parametrize(
    ("target", "patch", "expected"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        (["a"], ["c"], ["c"]),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_json_merge_patch(target: Any, patch: Any, expected: Any) -> None:
    """The examples of RFC 7396, appendix A."""
    assert merge(target, patch) == expected


@pytest.mark.parametrize(
    ("target", "patch", "expected"),
    [
        ({"metadata": {"finalizers": ["a"]}}, {"metadata": {"finalizers": ["b", "a"]}}, ["a", "b"]),
        ({"metadata": {"finalizers": ["a"]}}, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}, []),
        ({"metadata": {"finalizers": ["a"]}}, {"metadata": {"$setElementOrder/finalizers": ["a"]}}, ["a"]),
        ({"metadata": {"finalizers": ["a"]}}, {"metadata": {"finalizers": None}}, None),
        ({}, {"metadata": {"finalizers": ["a"]}}, ["a"]),
    ],
)
def test_sets_are_merged(target: Json, patch: Json, expected: list[str] | None) -> None:
    """A strategic patch adds to a set and can take members away."""
    assert strategic_merge(target, patch)["metadata"].get("finalizers") == expected


@pytest.mark.parametrize(
    ("patch", "expected"),
    [
        ([{"type": "A", "status": "no"}], [{"type": "A", "status": "no", "reason": "r"}, {"type": "B"}]),
        ([{"type": "C"}], [{"type": "A", "status": "yes", "reason": "r"}, {"type": "B"}, {"type": "C"}]),
        ([{"type": "A", "$patch": "delete"}], [{"type": "B"}]),
        ([{"type": "D"}, {"$patch": "replace"}], [{"type": "D"}]),
    ],
)
def test_lists_of_conditions_are_merged_by_type(patch: list[Json], expected: list[Json]) -> None:
    """Members are changed, added, deleted; or the whole list replaced."""
    target = {"status": {"conditions": [{"type": "A", "status": "yes", "reason": "r"}, {"type": "B"}]}}
    assert strategic_merge(target, {"status": {"conditions": patch}})["status"]["conditions"] == expected


def test_other_lists_are_replaced() -> None:
    """`ingress` is atomic, and so is a map that says so."""
    target = {"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}}
    assert strategic_merge(target, {"status": {"loadBalancer": {"ingress": []}}}) == {
        "status": {"loadBalancer": {"ingress": []}}
    }
    assert strategic_merge({"a": {"b": 1}}, {"a": {"$patch": "replace", "c": 2}}) == {"a": {"c": 2}}


def test_leaves_are_named_as_in_fieldsv1() -> None:
    """Fields, set members and list members have their own forms; empty values and the server's own fields are none."""
    thing = {
        "kind": "Service",
        "metadata": {"name": "web", "uid": "u", "finalizers": ["f"], "labels": {}, "annotations": {"a/b": "1"}},
        "status": {"conditions": [{"type": "A"}], "loadBalancer": {}},
    }
    assert {"/".join(path) for path in leaves(thing)} == {
        "f:metadata/f:finalizers/.",
        'f:metadata/f:finalizers/v:"f"',
        "f:metadata/f:annotations/.",
        "f:metadata/f:annotations/f:a/b",
        "f:status/f:conditions/.",
        'f:status/f:conditions/k:{"type":"A"}/.',
        'f:status/f:conditions/k:{"type":"A"}/f:type',
    }


def test_the_last_writer_owns() -> None:
    """A new value changes hands; the same value does not; what is gone has no owner."""
    first: Json = {"apiVersion": "v1", "metadata": {}, "spec": {"a": 1, "b": 1}}
    first["metadata"] = {"managedFields": track(None, first, "one", "", "t1")}
    second: Json = {"apiVersion": "v1", "metadata": {}, "spec": {"a": 2, "b": 1}}
    entries = track(first, second, "two", "status", "t2")
    assert [(entry["manager"], entry["fieldsV1"]) for entry in entries] == [
        ("one", {"f:spec": {"f:b": {}}}),
        ("two", {"f:spec": {"f:a": {}}}),
    ]
    assert entries[1]["subresource"] == "status"
    second["metadata"] = {"managedFields": entries}
    third: Json = {"apiVersion": "v1", "metadata": {}, "spec": {"a": 2}}
    assert [entry["manager"] for entry in track(second, third, "three", "", "t3")] == ["two"]
