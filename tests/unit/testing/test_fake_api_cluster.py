"""The verbs of the fake API server as tests use them, without HTTP."""

import pytest

from littlelb.testing.fake_api_cluster import Cluster, Writer, selector
from littlelb.testing.fake_api_rules import Refused
from littlelb.testing.fake_api_store import Json, Name

WEB = Name("/services", "default", "web")
SPEC: Json = {"spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}


@pytest.fixture
def cluster() -> Cluster:
    """Make an empty cluster in 2026."""
    return Cluster(lambda: 1_767_225_600.0)


def test_create_get_delete(cluster: Cluster) -> None:
    """What was created can be read until it is deleted."""
    made = cluster.create(WEB, SPEC)
    assert made["metadata"]["creationTimestamp"] == "2026-01-01T00:00:00Z"
    assert cluster.get(WEB) == made
    cluster.delete(WEB)
    with pytest.raises(Refused) as caught:
        cluster.get(WEB)
    assert caught.value.code == 404


def test_every_object_has_its_own_uid(cluster: Cluster) -> None:
    """Two objects differ, the same one made anew differs too, and every run is the same."""
    uids = [cluster.create(WEB, SPEC)["metadata"]["uid"]]
    cluster.delete(WEB)
    uids.append(cluster.create(WEB, SPEC)["metadata"]["uid"])
    assert len(set(uids)) == 2
    again = Cluster(lambda: 0.0)
    assert again.create(WEB, SPEC)["metadata"]["uid"] == uids[0]


def test_nobody_holds_a_part_of_the_store(cluster: Cluster) -> None:
    """Changing what was given does not change what is stored."""
    mine: Json = {"metadata": {"labels": {"a": "1"}}, "spec": {"ports": [{"port": 80}]}}
    cluster.create(WEB, mine)
    mine["metadata"]["labels"]["a"] = "2"
    mine["spec"]["ports"][0]["port"] = 81
    stored = cluster.get(WEB)
    assert (stored["metadata"]["labels"]["a"], stored["spec"]["ports"][0]["port"]) == ("1", 80)


def test_writers_are_told_apart(cluster: Cluster) -> None:
    """Manager and subresource of a write stand in managedFields."""
    cluster.create(WEB, SPEC)
    patch = {"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}}}
    entries = cluster.patch(WEB, patch, Writer("littlelb", "status"))["metadata"]["managedFields"]
    assert [(entry["manager"], entry.get("subresource")) for entry in entries] == [
        ("tests", None),
        ("littlelb", "status"),
    ]


def test_a_bad_continue_token(cluster: Cluster) -> None:
    """Nonsense is a 400, not a crash."""
    with pytest.raises(Refused) as caught:
        cluster.list("/services", "", {"continue": "nonsense"})
    assert caught.value.code == 400


@pytest.mark.parametrize(
    ("query", "matches"),
    [
        ({}, True),
        ({"labelSelector": "a=1"}, True),
        ({"labelSelector": "a==1,b!=1"}, True),
        ({"labelSelector": "a=2"}, False),
        ({"labelSelector": "a in (1,2),!c"}, True),
        ({"labelSelector": "a notin (1)"}, False),
        ({"labelSelector": "c"}, False),
        ({"fieldSelector": "metadata.name=web"}, True),
        ({"fieldSelector": "metadata.name!=web"}, False),
        ({"labelSelector": "a=1", "fieldSelector": "spec.type=ClusterIP"}, False),
    ],
)
def test_selectors(query: dict[str, str], *, matches: bool) -> None:
    """Terms are joined by and."""
    thing: Json = {"metadata": {"name": "web", "labels": {"a": "1"}}, "spec": {"type": "LoadBalancer"}}
    assert selector(query)(thing) is matches
