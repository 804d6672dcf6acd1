"""All that is known, in one place: sources tell it, the reconciler takes a Snapshot of it.

One writer thread (the event loop), so no locks. A snapshot never changes, and costs as much as what is new in it.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from msgspec.structs import replace

from littlelb.control.shelf import Ledger, Shelf
from littlelb.core.model import EndpointSlice, Grant, HostFacts, Ip, Key, Node, Service
from littlelb.core.state import Dirty, Settings, Snapshot

MANY_GRANTS = 100
"""So many new ones are looked at in a pass of their own, at once: the next event shall not have to wait for it."""


class Kind(StrEnum):
    """What sources list; no pass is made before each has been listed once."""

    SERVICES = "services"
    SLICES = "endpointslices"
    NODES = "nodes"


def _asks(service: Service) -> Service:
    """Reduce a Service to what may concern others: without its version and without what balancers write on it."""
    return replace(service, resource_version="", external_ips=(), has_finalizer=False, ingress=(), conditions=())


@dataclass(slots=True)
class News:
    """What has changed since the last snapshot: `core.state.Dirty`, being written."""

    services: set[Key] = field(default_factory=set)
    endpoints: set[Key] = field(default_factory=set)
    grants: set[Key] = field(default_factory=set)
    conflicts: set[Ip] = field(default_factory=set)
    nodes: bool = False
    listeners: bool = False
    everything: bool = True

    def as_dirty(self) -> Dirty:
        """Give it to a snapshot."""
        return Dirty(
            services=frozenset(self.services),
            endpoints=frozenset(self.endpoints),
            grants=frozenset(self.grants),
            conflicts=frozenset(self.conflicts),
            nodes=self.nodes,
            listeners=self.listeners,
            everything=self.everything,
        )


class Store:
    """Everything that decisions depend on, and what of it is new since the last snapshot."""

    def __init__(self, settings: Settings, host: HostFacts, wake: Callable[[], None]) -> None:
        """`wake` is called whenever there is something new; it must be cheap, it is called very often."""
        self._settings, self._host, self._wake = settings, host, wake
        self.services: Shelf[Service] = Shelf(self._service_changed, lambda: self._mark_listed(Kind.SERVICES))
        self.slices: Shelf[EndpointSlice] = Shelf(self._slice_changed, lambda: self._mark_listed(Kind.SLICES))
        self.nodes: Shelf[Node] = Shelf(self._node_changed, lambda: self._mark_listed(Kind.NODES))
        self._by_service: dict[Key, dict[str, EndpointSlice]] = {}
        self._slices_of: Ledger[Key, tuple[EndpointSlice, ...]] = Ledger()
        self._seen: Ledger[Key, int] = Ledger()
        self._next_seen = 0
        self._grants: Ledger[Key, Grant] = Ledger()
        self._conflicts: Ledger[Ip, str] = Ledger()
        self._news = News()
        self._unlisted = set(Kind)

    @property
    def ready(self) -> bool:
        """Has each kind been listed once, or read from the state file?"""
        return not self._unlisted

    @property
    def grants(self) -> Mapping[Key, Grant]:
        """Who holds what, for the state file."""
        return self._grants.now

    @property
    def host(self) -> HostFacts:
        """What was last told of this machine."""
        return self._host

    def snapshot(self) -> Snapshot:
        """Take all that is known, and start counting what is new from here."""
        news, self._news = self._news, News(everything=False)
        return self._view(news.as_dirty())

    def peek(self) -> Snapshot:
        """Look at all that is known, without counting it as seen."""
        return self._view(Dirty())

    def _view(self, dirty: Dirty) -> Snapshot:
        return Snapshot(
            settings=self._settings,
            host=self._host,
            services=self.services.share(),
            slices=self._slices_of.share(),
            nodes=self.nodes.share(),
            seen=self._seen.share(),
            grants=self._grants.share(),
            conflicts=self._conflicts.share(),
            dirty=dirty,
        )

    def tell_host(self, facts: HostFacts) -> None:
        """Take new facts of this machine."""
        if facts == self._host:
            return
        old, self._host = self._host, facts
        if dataclasses.replace(old, listeners=facts.listeners) == facts:
            self._news.listeners = True
            self._wake()
        else:
            self._all_dirty()

    def tell_settings(self, settings: Settings) -> None:
        """Take a new configuration."""
        if settings != self._settings:
            self._settings = settings
            self._all_dirty()

    def tell_grants(self, grants: Mapping[Key, Grant | None], waiting: Iterable[Key] = ()) -> None:
        """Take what a pass really granted (None: nothing any more); `waiting` Services want to be decided again."""
        for key, grant in grants.items():
            old = self._grants.now.get(key)
            if grant is old or grant == old:
                continue
            self._news.grants.add(key)
            if grant is None:
                self._grants.drop(key)
            else:
                self._grants.put(key, grant)
        self._news.services |= set(waiting)
        if self._news.services or len(self._news.grants) >= MANY_GRANTS:
            self._wake()

    def tell_conflict(self, address: Ip, message: str) -> None:
        """Another machine has this address."""
        if self._conflicts.now.get(address) != message:
            self._conflicts.put(address, message)
            self._news.conflicts.add(address)
            self._wake()

    def forget_conflict(self, address: Ip) -> None:
        """Let the address be tried again."""
        if address in self._conflicts.now:
            self._conflicts.drop(address)
            self._news.conflicts.add(address)
            self._wake()

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
        self._news.everything = True
        self._wake()

    def _service_changed(self, old: Service | None, new: Service | None) -> None:
        service = new or old
        assert service is not None  # noqa: S101  (a change has at least one side)
        if new is None:
            self._seen.drop(service.key)
        elif service.key not in self._seen.now:
            self._seen.put(service.key, self._next_seen)
            self._next_seen += 1
        if old is not None and new is not None and _asks(old) == _asks(new):
            self._news.endpoints.add(service.key)  # our own write, seen again: nobody's allocation changes
        else:
            self._news.services.add(service.key)
        self._wake()

    def _slice_changed(self, old: EndpointSlice | None, new: EndpointSlice | None) -> None:
        if old is not None:
            self._by_service[old.service_key].pop(old.key, None)
            self._refresh_slices(old.service_key)
        if new is not None:
            self._by_service.setdefault(new.service_key, {})[new.key] = new
            self._refresh_slices(new.service_key)
        self._wake()

    def _refresh_slices(self, service: Key) -> None:
        pieces = self._by_service[service]
        self._news.endpoints.add(service)
        if pieces:
            self._slices_of.put(service, tuple(pieces[key] for key in sorted(pieces)))
        else:
            del self._by_service[service]
            self._slices_of.drop(service)

    def _node_changed(self, _old: Node | None, _new: Node | None) -> None:
        self._news.nodes = True
        self._wake()
