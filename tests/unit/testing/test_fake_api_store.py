"""The store of the fake API server: versions, history, snapshots."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from littlelb.testing.clock import run_virtual
from littlelb.testing.fake_api_store import Expired, Json, Name, Store


def named(name: str, namespace: str = "default") -> Name:
    """Name a Service."""
    return Name("/services", namespace, name)


def thing(value: int) -> Json:
    """Make an object."""
    return {"metadata": {"resourceVersion": "0"}, "value": value}


def test_every_write_makes_a_version() -> None:
    """One counter for all kinds; changes come in order, with what was before."""
    store = Store(first_version=10)
    store.write(named("a"), thing(1))
    store.write(Name("/nodes", "", "n"), thing(2))
    store.write(named("a"), None)
    changes = store.changes_after(10)
    assert [change.version for change in changes] == [11, 12, 13]
    assert (changes[2].before, changes[2].after) == (thing(1), None)
    assert store.changes_after(99) == []


@given(steps=st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=30))
def test_any_version_can_be_listed(steps: list[tuple[int, bool]]) -> None:
    """A list at a version shows exactly what was there then."""
    store = Store()
    known: list[tuple[int, list[tuple[Name, Json]]]] = []
    for number, there in steps:
        name = named(str(number))
        if there or store.get(name) is not None:
            store.write(name, thing(store.version) if there else None)
        known.append((store.version, store.list_at("/services", "")))
    for version, expected in known:
        assert store.list_at("/services", "", version) == expected


def test_lists_are_sorted_and_of_one_namespace() -> None:
    """Names come as etcd sorts them; an empty namespace means all."""
    store = Store()
    for name in (named("b"), named("a"), named("c", "another")):
        store.write(name, thing(0))
    assert [name.name for name, _ in store.list_at("/services", "default")] == ["a", "b"]
    assert [name.name for name, _ in store.list_at("/services", "")] == ["c", "a", "b"]
    assert [name.name for name, _ in store] == ["c", "a", "b"]


def test_compacted_history_is_expired() -> None:
    """Before the compaction nothing can be told; after it everything."""
    store = Store(first_version=10)
    for number in range(3):
        store.write(named("a"), thing(number))
    store.compact(12)
    with pytest.raises(Expired):
        store.changes_after(11)
    assert [change.version for change in store.changes_after(12)] == [13]


def test_history_is_bounded() -> None:
    """More changes than the history holds compact by themselves."""
    store = Store(history=10, first_version=0)
    for number in range(100):
        store.write(named("a"), thing(number))
    with pytest.raises(Expired):
        store.changes_after(50)
    assert len(store.changes_after(95)) == 5


def test_a_reset_goes_back() -> None:
    """After a restored backup the objects are there, with the version of the backup."""
    store = Store(first_version=1_000)
    store.write(named("a"), thing(1))
    store.reset(500)
    assert store.version == 500
    found = store.get(named("a"))
    assert found is not None
    assert found["metadata"]["resourceVersion"] == "500"
    assert store.changes_after(1_001) == []


def test_a_watcher_is_woken() -> None:
    """A write wakes whoever waits; without one the wait ends in time."""

    async def scenario() -> None:
        store = Store()
        waker = store.watcher()
        waiting = asyncio.create_task(waker.wait(60))
        await asyncio.sleep(1)
        store.write(named("a"), thing(1))
        assert await waiting
        assert not await waker.wait(1)
        waker.close()
        store.write(named("a"), thing(2))
        assert not await waker.wait(1)

    run_virtual(scenario())
