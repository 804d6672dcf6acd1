"""The store: what is new, what is shared, when a pass may begin."""

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

from littlelb.control.store import MANY_GRANTS, Store
from littlelb.core.model import HostFacts, Ingress, Listener, Protocol
from littlelb.core.state import Dirty, Settings
from tests.worlds import HOST, frontend, grant, ip, node, piece, service


class _Bell:
    def __init__(self) -> None:
        self.rings = 0

    def __call__(self) -> None:
        self.rings += 1


def _store() -> tuple[Store, _Bell]:
    bell = _Bell()
    return Store(Settings(), HOST, bell), bell


def _list_all(store: Store) -> None:
    for shelf in (store.services, store.slices, store.nodes):
        shelf.retain(frozenset())


def test_no_pass_before_each_kind_was_listed() -> None:
    """Services, slices and nodes."""
    store, _ = _store()
    store.services.retain(frozenset())
    store.nodes.retain(frozenset())
    assert not store.ready
    store.slices.retain(frozenset())
    assert store.ready


def test_a_snapshot_names_what_is_new_since_the_last_one() -> None:
    """First everything; then only Services and slices that changed."""
    store, bell = _store()
    _list_all(store)
    assert store.snapshot().dirty.everything
    store.services.upsert(service("web"))
    store.slices.upsert(piece("api"))
    rings = bell.rings
    dirty = store.snapshot().dirty
    assert dirty == Dirty(frozenset({"default/web"}), frozenset({"default/api"}))
    store.services.upsert(service("web"))
    assert bell.rings == rings
    assert not store.snapshot().dirty.services


def test_what_balancers_write_on_a_service_is_no_new_request() -> None:
    """Our own write, seen again, has that one Service looked at: nobody's allocation can change by it."""
    store, _ = _store()
    _list_all(store)
    store.services.upsert(service("web"))
    store.snapshot()
    store.services.upsert(service("web", resource_version="2", has_finalizer=True, ingress=(Ingress("203.0.113.7"),)))
    assert store.snapshot().dirty == Dirty(endpoints=frozenset({"default/web"}))
    store.services.upsert(service("web", "203.0.113.8", resource_version="3"))
    assert store.snapshot().dirty == Dirty(frozenset({"default/web"}))


def test_peeking_does_not_count_as_seeing() -> None:
    """Status pages look without taking the news away from the loop."""
    store, _ = _store()
    store.services.upsert(service("web"))
    assert store.peek().services.keys() == {"default/web"}
    assert store.snapshot().dirty.services == {"default/web"}


def test_a_snapshot_is_not_changed_by_later_writes() -> None:
    """Copied before the next write, of whatever kind."""
    store, _ = _store()
    store.services.upsert(service("web"))
    store.slices.upsert(piece("web"))
    store.nodes.upsert(node("n1", "198.51.100.1"))
    before = store.snapshot()
    store.services.remove("default/web")
    store.slices.remove("default/web-1")
    store.nodes.remove("n1")
    assert (set(before.services), set(before.slices), set(before.nodes)) == ({"default/web"}, {"default/web"}, {"n1"})
    after = store.snapshot()
    assert not after.services
    assert not after.slices
    assert not after.nodes
    assert after.dirty.nodes


def test_the_end_of_a_list_removes_what_was_not_in_it() -> None:
    """A deletion that nobody told is made good."""
    store, _ = _store()
    for name in ("a", "b"):
        store.services.upsert(service(name))
    store.snapshot()
    store.services.retain(frozenset({"default/a"}))
    assert store.services.items.keys() == {"default/a"}
    assert "default/b" in store.snapshot().dirty.services


def test_slices_are_found_by_their_service_even_when_they_change_it() -> None:
    """In the order of their names; the old and the new Service are both told."""
    store, _ = _store()
    store.slices.upsert(piece("web", name="b"))
    store.slices.upsert(piece("web", name="a"))
    assert [one.name for one in store.snapshot().slices["default/web"]] == ["a", "b"]
    store.slices.upsert(piece("api", name="a"))
    seen = store.snapshot()
    assert seen.dirty.endpoints == {"default/web", "default/api"}
    assert [one.name for one in seen.slices["default/web"]] == ["b"]
    store.slices.remove("default/b")
    assert "default/web" not in store.snapshot().slices


def test_first_sight_is_remembered_until_the_service_goes() -> None:
    """One that comes back is young again."""
    store, _ = _store()
    store.services.upsert(service("b"))
    store.services.upsert(service("a"))
    assert store.snapshot().seen == {"default/b": 0, "default/a": 1}
    store.services.upsert(service("b", "203.0.113.7"))
    store.services.remove("default/a")
    store.services.upsert(service("a"))
    assert store.snapshot().seen == {"default/b": 0, "default/a": 2}


def test_host_and_settings_concern_everybody() -> None:
    """If they really changed."""
    store, bell = _store()
    store.snapshot()
    rings = bell.rings
    store.tell_host(HOST)
    store.tell_settings(Settings())
    assert bell.rings == rings
    assert not store.snapshot().dirty.everything
    news: tuple[Callable[[], None], ...] = (
        lambda: store.tell_host(HostFacts(device="eth9")),
        lambda: store.tell_settings(Settings(max_nodes=3)),
    )
    for tell in news:
        tell()
        assert store.snapshot().dirty.everything
    assert store.host.device == "eth9"


def test_nodes_conflicts_and_listeners_concern_some() -> None:
    """Whom, the core finds out; a node's heartbeat is no news at all."""
    store, bell = _store()
    store.nodes.upsert(node("n1", "198.51.100.1"))
    store.snapshot()
    rings = bell.rings
    store.nodes.upsert(node("n1", "198.51.100.1"))
    assert bell.rings == rings
    store.nodes.upsert(node("n1", "198.51.100.2"))
    assert store.snapshot().dirty == Dirty(nodes=True)
    store.tell_conflict(ip("203.0.113.9"), "02:00:00:00:00:09 has it")
    assert store.snapshot().dirty == Dirty(conflicts=frozenset({ip("203.0.113.9")}))
    store.forget_conflict(ip("203.0.113.9"))
    assert store.snapshot().dirty == Dirty(conflicts=frozenset({ip("203.0.113.9")}))
    store.tell_host(replace(HOST, listeners=(Listener(Protocol.TCP, None, 22, "sshd"),)))
    assert store.snapshot().dirty == Dirty(listeners=True)
    assert bell.rings == rings + 4


def test_a_known_conflict_is_no_news() -> None:
    """Nor is one that nobody knew."""
    store, _ = _store()
    store.tell_conflict(ip("203.0.113.9"), "taken")
    assert store.snapshot().conflicts == {ip("203.0.113.9"): "taken"}
    store.tell_conflict(ip("203.0.113.9"), "taken")
    store.forget_conflict(ip("203.0.113.8"))
    assert not store.snapshot().dirty.conflicts


def test_grants_are_kept_and_only_those_who_wait_are_decided_again() -> None:
    """What a pass granted to ten thousand is no reason for ten thousand decisions."""
    store, bell = _store()
    store.snapshot()
    held = grant(frontend("203.0.113.7"))
    store.tell_grants({"default/a": held, "default/b": held})
    assert bell.rings == 0
    store.tell_grants({"default/b": None, "default/c": None}, waiting=["default/a"])
    seen = store.snapshot()
    assert seen.grants == store.grants == {"default/a": held}
    assert seen.dirty.services == {"default/a"}
    assert seen.dirty.grants == {"default/a", "default/b"}
    store.tell_grants({"default/a": held, "default/b": None})
    assert not store.snapshot().dirty.grants


def test_the_recalled_world_never_replaces_what_a_source_has_told() -> None:
    """A slow first list: what came before the state file was taken is newer, and a kind that is listed is complete."""
    store, _ = _store()
    store.services.upsert(service("web", "203.0.113.8"))
    store.slices.retain(frozenset())
    store.recall(
        [service("web", "203.0.113.7"), service("api", "203.0.113.9")], [piece("web")], [node("n1", "198.51.100.11")]
    )
    assert store.services.items["default/web"].load_balancer_ip == "203.0.113.8"
    assert set(store.services.items) == {"default/web", "default/api"}
    assert store.peek().slices == {}
    assert set(store.nodes.items) == {"n1"}


def test_the_recalled_world_counts_until_each_kind_is_listed() -> None:
    """A restart with the API server down; what the list then lacks goes."""
    store, _ = _store()
    store.recall([service("web")], [piece("web")], [node("n1", "198.51.100.1")])
    assert store.ready
    seen = store.snapshot()
    assert seen.services.keys() == seen.slices.keys() == {"default/web"}
    assert seen.nodes["n1"].addresses == (ip_address("198.51.100.1"),)
    store.services.retain(frozenset())
    assert not store.snapshot().services


def test_very_many_new_grants_are_looked_at_before_the_next_event_comes() -> None:
    """After the first pass over a large world: else that event would wait for it."""
    store, bell = _store()
    store.snapshot()
    held = grant(frontend("203.0.113.7"))
    store.tell_grants({f"default/s{number}": held for number in range(MANY_GRANTS)})
    assert bell.rings == 1
    assert len(store.snapshot().dirty.grants) == MANY_GRANTS
