"""A large world in memory: a store full of Services, a reconciler on targets that only remember, kinds of change."""

from collections.abc import Callable
from ipaddress import IPv4Address, ip_address, ip_network
from random import Random
from typing import Any

import msgspec

from littlelb.app.faults import FaultLog
from littlelb.control.loop import Loop
from littlelb.control.reconciler import PassResult, Reconciler
from littlelb.control.store import Store
from littlelb.core.interfaces import Phase
from littlelb.core.model import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Family,
    HostFacts,
    Node,
    Protocol,
    Service,
    ServicePort,
    ServiceType,
)
from littlelb.core.state import BackendsMode, DesiredState, Settings
from littlelb.core.story import changed_keys, tell
from littlelb.testing.clock import LoopClock
from littlelb.testing.fake_target import FakeTarget
from littlelb.web.metrics import Metrics

VIPS = int(IPv4Address("198.18.0.0"))
"""Service addresses: the network of RFC 2544."""
PODS = int(IPv4Address("10.1.0.0"))
HOST = HostFacts(
    device="eth0",
    own=(ip_address("192.0.2.2"),),
    on_link=(ip_network("192.0.2.0/24"), ip_network("198.18.0.0/15")),
    gateways=frozenset({ip_address("192.0.2.1")}),
    routed=(ip_network("10.0.0.0/8"),),
)


class Silent(FakeTarget[Any, Any]):
    """A target that remembers what it was told, and writes no transcript."""

    def _do(self, verb: str, key: Any, value: Any) -> None:
        if verb == "remove":
            self.world.pop(key, None)
        else:
            self.world[key] = value


def make_service(number: int, node_port: int = 0) -> Service:
    """Service with two ports and an address of its own."""
    return Service(
        namespace="default",
        name=f"svc-{number}",
        uid=f"00000000-0000-0000-0000-{number:012}",
        resource_version=str(number + 1),
        created=1_700_000_000.0 + number // 7,
        type=ServiceType.LOAD_BALANCER,
        load_balancer_ip=str(IPv4Address(VIPS + 256 + number)),
        ports=tuple(ServicePort(port, name=name, node_port=node_port) for port, name in ((80, "http"), (443, "https"))),
        cluster_ips=(str(IPv4Address(int(IPv4Address("10.99.0.0")) + number)),),
        ip_families=(Family.IPV4,),
        has_finalizer=True,
    )


def make_slice(number: int, *, away: int | None = None) -> EndpointSlice:
    """The Service's slice: 2 to 9 endpoints, of which `away` is not ready."""
    endpoints = tuple(
        Endpoint(IPv4Address(PODS + number * 16 + at), ready=at != away, serving=at != away, node=f"node-{at}")
        for at in range(2 + number % 8)
    )
    ports = (EndpointPort("http", Protocol.TCP, 8080), EndpointPort("https", Protocol.TCP, 8443))
    names = {"namespace": "default", "name": f"svc-{number}-x", "service": f"svc-{number}"}
    return EndpointSlice(**names, family=Family.IPV4, ports=ports, endpoints=endpoints)


def make_node(number: int) -> Node:
    """A ready node with a pod network of its own."""
    address = IPv4Address((198 << 24) + number)
    return Node(name=f"node-{number}", addresses=(address,), pod_networks=(ip_network(f"10.64.{number % 256}.0/24"),))


class LargeWorld:
    """A store full of Services, and a reconciler that has seen them all."""

    def __init__(self, services: int, nodes: int, *, by_nodes: bool = False) -> None:
        """Fill the store; no pass is made yet. `by_nodes`: backends are nodes, not pods."""
        self.services, self.random = services, Random(1)  # noqa: S311  (the same order in every run)
        settings = Settings(backends=BackendsMode.NODES if by_nodes else BackendsMode.AUTO)
        self.loop: Loop | None = None
        self.store = Store(settings, HOST, self._wake)
        for number in range(services):
            self.store.services.upsert(make_service(number, 30_080 if by_nodes else 0))
            self.store.slices.upsert(make_slice(number))
        for number in range(nodes):
            self.store.nodes.upsert(make_node(number))
        for shelf in (self.store.services, self.store.slices, self.store.nodes):
            shelf.retain(frozenset(shelf.items))
        selections: dict[Phase, Callable[[DesiredState], Any]] = {
            Phase.CLAIM: lambda state: state.claims,
            Phase.FORWARD: lambda state: state.forwards,
            Phase.ADDRESS: lambda state: state.placements,
            Phase.ANNOUNCE: lambda state: state.announcements,
            Phase.PUBLISH: lambda state: state.publications,
        }
        self.targets = [Silent(phase, select) for phase, select in selections.items()]
        self.reconciler = Reconciler(self.store, self.targets, LoopClock())
        self.told = 0
        metrics = Metrics()
        self._listeners = (FaultLog().take, lambda result: metrics.observe_pass(result.report))
        self._away = 0
        self._added = services
        self._joined = nodes

    def _wake(self) -> None:
        if self.loop is not None:
            self.loop.wake()

    def hear(self, result: PassResult) -> None:
        """Do what the daemon does after a pass."""
        self.told += sum(1 for _ in tell(result.before, result.after, changed_keys(result.before, result.after)))
        for listener in self._listeners:
            listener(result)

    async def run_pass(self, *, full: bool = False) -> int:
        """One pass and its story; the number of changes."""
        result = await self.reconciler.run_pass(full=full)
        self.hear(result)
        return result.report.changes

    # --- kinds of change ---------------------------------------------------------------------------------------------

    def change_endpoint(self) -> None:
        """Another endpoint of one Service is away than before: always a change."""
        self._away += 1
        number = self._away // 2 * 7_919 % self.services  # a prime: from one end to the other
        self.store.slices.upsert(make_slice(number, away=self._away % 2))

    def change_service(self) -> None:
        """One Service is edited."""
        service = self.store.services.items[make_service(self.random.randrange(self.services)).key]
        self._away += 1
        edited = {"littlelb.io/drain-seconds": str(self._away % 1_000)}
        self.store.services.upsert(msgspec.structs.replace(service, annotations=edited))

    def write_back(self) -> None:
        """Our own write on a Service comes back by the watch: its version and status are new, no decision is."""
        service = self.store.services.items[make_service(self.random.randrange(self.services)).key]
        self._away += 1
        self.store.services.upsert(msgspec.structs.replace(service, resource_version=str(100_000 + self._away)))

    def add_service(self) -> None:
        """One Service more, with its slice."""
        self.store.services.upsert(make_service(self._added))
        self.store.slices.upsert(make_slice(self._added))
        self._added += 1

    def remove_service(self) -> None:
        """The last one goes, and its slice."""
        self._added -= 1
        self.store.services.remove(make_service(self._added).key)
        self.store.slices.remove(make_slice(self._added).key)

    def _node(self) -> Node:
        return self.store.nodes.items[f"node-{self.random.randrange(self._joined)}"]

    def flap_node(self) -> None:
        """A node turns unready, or ready again."""
        node = self._node()
        self.store.nodes.upsert(msgspec.structs.replace(node, ready=not node.ready))

    def label_node(self) -> None:
        """A node gets a label that nobody asks for."""
        self._away += 1
        self.store.nodes.upsert(msgspec.structs.replace(self._node(), labels={"example.com/lease": str(self._away)}))

    def join_node(self) -> None:
        """One node more."""
        self.store.nodes.upsert(make_node(self._joined))
        self._joined += 1

    def leave_node(self) -> None:
        """The last node goes."""
        self._joined -= 1
        self.store.nodes.remove(make_node(self._joined).key)
