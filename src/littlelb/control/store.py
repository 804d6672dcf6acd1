"""All that is known, in one place: sources tell it, the reconciler takes a Snapshot of it.

One writer thread (the event loop), so no locks. Mappings are shared with snapshots and copied before the next write.
"""

from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from typing import Generic, TypeVar

from msgspec.structs import replace

from littlelb.core.interfaces import Keyed
from littlelb.core.model import EndpointSlice, Grant, HostFacts, Ip, Key, Node, Service
from littlelb.core.state import Dirty, Settings, Snapshot


class Kind(StrEnum):
    """What sources list; no pass is made before each has been listed once."""

    SERVICES = "services"
    SLICES = "endpointslices"
    NODES = "nodes"


T = TypeVar("T", bound=Keyed)


class Shelf(Generic[T]):
    """The objects of one kind: a `core.interfaces.Sink` whose every real change is passed on."""

    def __init__(self, changed: Callable[[T | None, T | None], None], listed: Callable[[], None]) -> None:
        """`changed(old, new)` is called for each object that differs from what was known."""
        self._items: dict[str, T] = {}
        self._shared = False
        self._changed = changed
        self._listed = listed

    @property
    def items(self) -> Mapping[str, T]:
        """The objects as they are now, by key; only to be looked at."""
        return self._items

    def share(self) -> Mapping[str, T]:
        """Give the objects to a snapshot; the next write makes a copy."""
        self._shared = True
        return self._items

    def upsert(self, item: T) -> None:
        """Take an object that is new, or that may have changed."""
        old = self._items.get(item.key)
        if old == item:
            return
        self._own()[item.key] = item
        self._changed(old, item)

    def supplement(self, items: Iterable[T]) -> None:
        """Take objects of an earlier time: one that a source has told already is newer."""
        for item in items:
            if item.key not in self._items:
                self.upsert(item)

    def remove(self, key: str) -> None:
        """Forget the object with this key, if it is known."""
        old = self._items.get(key)
        if old is not None:
            del self._own()[key]
            self._changed(old, None)

    def retain(self, keys: frozenset[str]) -> None:
        """End of a complete list."""
        for key in [key for key in self._items if key not in keys]:
            self.remove(key)
        self._listed()

    def _own(self) -> dict[str, T]:
        if self._shared:
            self._items = dict(self._items)
            self._shared = False
        return self._items


def _asks(service: Service) -> Service:
    """Reduce a Service to what may concern others: without its version and without what balancers write on it."""
    return replace(service, resource_version="", external_ips=(), has_finalizer=False, ingress=(), conditions=())


class Store:
    """Everything that decisions depend on, and what of it is new since the last snapshot."""

    def __init__(self, settings: Settings, host: HostFacts, wake: Callable[[], None]) -> None:
        """`wake` is called whenever there is something new; it must be cheap, it is called very often."""
        self._settings, self._host, self._wake = settings, host, wake
        self.services: Shelf[Service] = Shelf(self._service_changed, lambda: self._mark_listed(Kind.SERVICES))
        self.slices: Shelf[EndpointSlice] = Shelf(self._slice_changed, lambda: self._mark_listed(Kind.SLICES))
        self.nodes: Shelf[Node] = Shelf(self._node_changed, lambda: self._mark_listed(Kind.NODES))
        self._by_service: dict[Key, dict[str, EndpointSlice]] = {}
        self._slices_of: dict[Key, tuple[EndpointSlice, ...]] = {}
        self._slices_shared = False
        self._seen: dict[Key, int] = {}
        self._next_seen = 0
        self._grants: dict[Key, Grant] = {}
        self._conflicts: dict[Ip, str] = {}
        self._dirty_services: set[Key] = set()
        self._dirty_endpoints: set[Key] = set()
        self._everything = True
        self._unlisted = set(Kind)

    @property
    def ready(self) -> bool:
        """Has each kind been listed once, or read from the state file?"""
        return not self._unlisted

    @property
    def grants(self) -> Mapping[Key, Grant]:
        """Who holds what, for the state file."""
        return self._grants

    @property
    def host(self) -> HostFacts:
        """What was last told of this machine."""
        return self._host

    def snapshot(self) -> Snapshot:
        """Take all that is known, and start counting what is new from here."""
        dirty = Dirty(frozenset(self._dirty_services), frozenset(self._dirty_endpoints), self._everything)
        self._dirty_services, self._dirty_endpoints, self._everything = set(), set(), False
        return self._view(dirty)

    def peek(self) -> Snapshot:
        """Look at all that is known, without counting it as seen."""
        return self._view(Dirty())

    def _view(self, dirty: Dirty) -> Snapshot:
        self._slices_shared = True
        return Snapshot(
            settings=self._settings,
            host=self._host,
            services=self.services.share(),
            slices=self._slices_of,
            nodes=self.nodes.share(),
            seen=dict(self._seen) if dirty.services or dirty.everything else self._seen,
            grants=dict(self._grants),
            conflicts=dict(self._conflicts),
            dirty=dirty,
        )

    def tell_host(self, facts: HostFacts) -> None:
        """Take new facts of this machine."""
        if facts != self._host:
            self._host = facts
            self._all_dirty()

    def tell_settings(self, settings: Settings) -> None:
        """Take a new configuration."""
        if settings != self._settings:
            self._settings = settings
            self._all_dirty()

    def tell_grants(self, grants: Mapping[Key, Grant | None], waiting: Iterable[Key] = ()) -> None:
        """Take what a pass really granted (None: nothing any more); `waiting` Services want to be decided again."""
        for key, grant in grants.items():
            if grant is None:
                self._grants.pop(key, None)
            else:
                self._grants[key] = grant
        again = set(waiting)
        if again:
            self._dirty_services |= again
            self._wake()

    def tell_conflict(self, address: Ip, message: str) -> None:
        """Another machine has this address."""
        if self._conflicts.get(address) != message:
            self._conflicts[address] = message
            self._all_dirty()

    def forget_conflict(self, address: Ip) -> None:
        """Let the address be tried again."""
        if self._conflicts.pop(address, None) is not None:
            self._all_dirty()

    def recall(self, services: Iterable[Service], slices: Iterable[EndpointSlice], nodes: Iterable[Node]) -> None:
        """Take the last known world from the state file: it counts until each kind is listed, and never against it."""
        if Kind.SERVICES in self._unlisted:
            self.services.supplement(services)
        if Kind.SLICES in self._unlisted:
            self.slices.supplement(slices)
        if Kind.NODES in self._unlisted:
            self.nodes.supplement(nodes)
        self._unlisted.clear()
        self._all_dirty()

    def _mark_listed(self, kind: Kind) -> None:
        if kind in self._unlisted:
            self._unlisted.discard(kind)
            self._all_dirty()

    def _all_dirty(self) -> None:
        self._everything = True
        self._wake()

    def _service_changed(self, old: Service | None, new: Service | None) -> None:
        service = new or old
        assert service is not None  # noqa: S101  (a change has at least one side)
        if new is None:
            self._seen.pop(service.key, None)
        elif service.key not in self._seen:
            self._seen[service.key] = self._next_seen
            self._next_seen += 1
        if old is not None and new is not None and _asks(old) == _asks(new):
            self._dirty_endpoints.add(service.key)  # our own write, seen again: nobody's allocation changes
        else:
            self._dirty_services.add(service.key)
        self._wake()

    def _slice_changed(self, old: EndpointSlice | None, new: EndpointSlice | None) -> None:
        if self._slices_shared:
            self._slices_of = dict(self._slices_of)
            self._slices_shared = False
        if old is not None:
            self._by_service[old.service_key].pop(old.key, None)
            self._refresh_slices(old.service_key)
        if new is not None:
            self._by_service.setdefault(new.service_key, {})[new.key] = new
            self._refresh_slices(new.service_key)
        self._wake()

    def _refresh_slices(self, service: Key) -> None:
        pieces = self._by_service[service]
        self._dirty_endpoints.add(service)
        if pieces:
            self._slices_of[service] = tuple(pieces[key] for key in sorted(pieces))
        else:
            del self._by_service[service]
            self._slices_of.pop(service, None)

    def _node_changed(self, _old: Node | None, _new: Node | None) -> None:
        self._all_dirty()
