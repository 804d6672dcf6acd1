"""The function that decides everything."""

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_network
from typing import TypeAlias, TypeVar

from hypothesis import given
from hypothesis import strategies as st

from littlelb.core.desired import compute
from littlelb.core.model import (
    Announcement,
    Backend,
    Claim,
    Endpoint,
    EndpointSlice,
    Forward,
    Grant,
    Listener,
    Node,
    Placement,
    Protocol,
    Service,
    ServicePort,
)
from littlelb.core.reasons import Reason
from littlelb.core.state import BackendsMode, DesiredState, Dirty, Settings, Snapshot, Touched
from tests.worlds import HOST, STAND_ALONE, dirty, frontend, grant, ip, node, piece, service, snapshot

VIP, OTHER = "203.0.113.7", "203.0.113.8"


def test_a_service_is_forwarded_held_announced_and_published() -> None:
    """One value for each phase."""
    state = compute(snapshot(service("web", VIP), piece("web")))
    assert state.claims == {"default/web": Claim("uid-web")}
    assert state.forwards == {
        frontend(VIP): Forward(service="default/web", backends=(Backend(ip("10.1.0.11"), 8080),)),
    }
    assert state.placements == {ip(VIP): Placement("eth0", 32)}
    assert state.announcements == {ip(VIP): Announcement("eth0")}
    assert [entry.ip for entry in state.publications["default/web"].ingress] == [VIP]
    assert state.touched is None


def test_addresses_that_the_host_has_by_itself_are_used_and_never_placed() -> None:
    """The default address, and one that an administrator put on the device."""
    host = replace(HOST, own=(*HOST.own, ip(VIP)))
    state = compute(snapshot(service("a"), service("b", VIP), host=host))
    assert state.forwards.keys() == {frontend("192.0.2.2"), frontend(VIP)}
    assert state.placements == {}
    assert state.announcements == {}


def test_a_refused_service_has_a_publication_and_nothing_else() -> None:
    """The owner reads why; no claim, listener or address is made."""
    state = compute(snapshot(service("web", "127.0.0.1")))
    assert (state.claims, state.forwards, state.placements) == ({}, {}, {})
    (condition,) = state.publications["default/web"].conditions
    assert (condition.status, condition.reason) == ("False", Reason.FORBIDDEN_ADDRESS)


def test_ip_mode_is_proxy_only_where_kube_proxy_would_differ() -> None:
    """In the cluster the pipe must not be short-circuited; policy Local never gets Proxy by our own choice."""

    def mode(asked: Service, settings: Settings) -> str:
        return compute(snapshot(asked, settings=settings)).publications[asked.key].ingress[0].ip_mode

    assert mode(service("web", VIP), Settings()) == "VIP"
    assert mode(service("web", VIP), Settings(in_cluster=True)) == "Proxy"
    assert mode(service("web", VIP, external_traffic_policy_local=True), Settings(in_cluster=True)) == "VIP"
    assert mode(service("web", VIP, source_ranges=("junk",)), Settings()) == "Proxy"


def test_the_client_address_is_not_lost_silently() -> None:
    """Policy Local through the pipe says so."""
    state = compute(snapshot(service("web", VIP, external_traffic_policy_local=True), piece("web")))
    assert [n.reason for n in state.decisions["default/web"].notices] == [Reason.CLIENT_ADDRESS_LOST]


def test_a_port_without_reachable_backends_by_rule_is_refused() -> None:
    """Its frontend is not forwarded, the other one is."""
    far = piece("web", ["10.99.0.1"])
    mixed = service("web", VIP, [ServicePort(80), ServicePort(81, node_port=30081)])
    state = compute(snapshot(mixed, far, node("n1", "198.51.100.11"), settings=Settings()))
    assert list(state.forwards) == [frontend(VIP, 81)]
    assert [r.reason for r in state.decisions["default/web"].refusals] == [Reason.UNREACHABLE_PODS]


def test_a_drain_text_that_is_none_is_noted() -> None:
    """And the default holds."""
    asked = service("web", VIP, annotations={"littlelb.io/drain-seconds": "soon"})
    state = compute(snapshot(asked, piece("web")))
    assert [n.reason for n in state.decisions["default/web"].notices] == [Reason.INVALID_ANNOTATION]


def test_the_last_nodes_stay_when_none_is_left() -> None:
    """With a notice; a full decision remembers them."""
    asked = service("web", VIP, [ServicePort(80, node_port=30080)])
    before = compute(snapshot(asked, node("n1", "198.51.100.11"), settings=Settings()))
    after = compute(snapshot(asked, settings=Settings()), before)
    assert after.forwards == before.forwards
    assert [n.reason for n in after.decisions["default/web"].notices] == [Reason.STALE_NODES]


def test_only_what_is_dirty_is_decided_again() -> None:
    """The decisions of the others are the same objects, and `touched` names the rest."""
    world = snapshot(service("web", VIP), piece("web"), service("api", OTHER), piece("api"))
    before = compute(world)
    moved = replace(world, slices={**world.slices, "default/web": (piece("web", ["10.1.0.99"]),)})
    after = compute(dirty(moved, endpoints=["default/web"]), before)
    assert after.decisions["default/api"] is before.decisions["default/api"]
    assert after.allocations is before.allocations
    assert after.forwards[frontend(VIP)].backends == (Backend(ip("10.1.0.99"), 8080),)
    assert after.touched is not None
    assert after.touched.services == {"default/web"}
    assert after.touched.frontends == {frontend(VIP)}
    assert after.touched.addresses == {ip(VIP)}


def test_an_endpoint_that_becomes_a_vip_is_dropped_at_once() -> None:
    """Though its own Service did not change: it would be a loop."""
    world = snapshot(service("web", VIP), piece("web", [OTHER, "10.1.0.1"]))
    before = compute(world)
    assert len(before.forwards[frontend(VIP)].backends) == 2
    grown = replace(world, services={**world.services, "default/api": service("api", OTHER)})
    after = compute(dirty(grown, services=["default/api"]), before)
    assert after.forwards[frontend(VIP)].backends == (Backend(ip("10.1.0.1"), 8080),)


def test_the_loser_gets_its_turn_when_the_winner_goes() -> None:
    """In the same decision."""
    world = snapshot(service("a", VIP), service("b", VIP))
    before = compute(world)
    after = compute(dirty(replace(world, services={"default/b": service("b", VIP)}), services=["default/a"]), before)
    assert after.forwards[frontend(VIP)].service == "default/b"
    assert after.publications.keys() == {"default/b"}


# --- properties ------------------------------------------------------------------------------------------------------

K = TypeVar("K")
Services: TypeAlias = dict[str, Service]
Slices: TypeAlias = dict[str, tuple[EndpointSlice, ...]]
NAMES = ["a", "b", "c", "d"]
POOL = ["", VIP, OTHER, "203.0.113.9", "junk"]


@st.composite
def services(draw: st.DrawFn) -> Services:
    """Some of four Services, with a few ports and requests each."""
    found: dict[str, Service] = {}
    for name in draw(st.lists(st.sampled_from(NAMES), unique=True)):
        ports = draw(st.lists(st.sampled_from([80, 81]), min_size=1, unique=True))
        protocol = draw(st.sampled_from([Protocol.TCP, Protocol.TCP, Protocol.UDP]))
        listed = [ServicePort(port, protocol, node_port=draw(st.sampled_from([0, 30080]))) for port in ports]
        local, cluster_ips = draw(st.booleans()), draw(st.sampled_from([(), (), (OTHER,)]))
        fields = {"external_traffic_policy_local": local, "cluster_ips": cluster_ips}
        one = service(name, draw(st.sampled_from(POOL)), listed, created=float(NAMES.index(name)), **fields)
        found[one.key] = one
    return found


@st.composite
def slices(draw: st.DrawFn) -> Slices:
    """Endpoints for some of them, VIPs among them."""
    at = [*(Endpoint(ip(f"10.1.0.{n}"), node=f"n{n}") for n in (1, 2)), Endpoint(ip(VIP)), Endpoint(ip(OTHER))]
    addresses = st.lists(st.sampled_from(at), unique=True, max_size=3)
    return {
        f"default/{name}": (piece(name, draw(addresses)),)
        for name in draw(st.lists(st.sampled_from(NAMES), unique=True))
    }


@st.composite
def nodes(draw: st.DrawFn) -> dict[str, Node]:
    """Up to three nodes, ready or not, going or not, perhaps with a VIP for an address or in their pod network."""
    found: dict[str, Node] = {}
    for name in draw(st.lists(st.sampled_from(["n1", "n2", "n3"]), unique=True)):
        address = draw(st.sampled_from([f"198.51.100.{name[1]}", "198.51.100.9", OTHER]))
        nets = draw(st.sampled_from([(), (), (ip_network("203.0.113.8/29"),), (ip_network("10.1.0.0/24"),)]))
        flags = {"ready": draw(st.booleans()), "leaving": draw(st.sampled_from([False, False, True]))}
        found[name] = node(name, address, pod_networks=nets, **flags)
    return found


LISTENERS = [Listener(Protocol.TCP, None, 80, "nginx"), Listener(Protocol.TCP, ip("192.0.2.2"), 81, "sshd")]


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    """A world; the settings are given later, because they do not change in a history."""
    conflicts = {ip(text): "02:00 has it" for text in draw(st.sets(st.sampled_from([VIP, OTHER]), max_size=1))}
    listeners = draw(st.lists(st.sampled_from(LISTENERS), unique=True, max_size=1))
    return Snapshot(
        STAND_ALONE,
        replace(HOST, listeners=tuple(listeners)),
        services=draw(services()),
        slices=draw(slices()),
        nodes=draw(nodes()),
        conflicts=conflicts,
    )


SETTINGS = [
    STAND_ALONE,
    Settings(),
    Settings(backends=BackendsMode.NODES),
    Settings(backends=BackendsMode.NODES, max_nodes=1),
    Settings(in_cluster=True),
]


def _changed(old: Mapping[K, object], new: Mapping[K, object]) -> frozenset[K]:
    return frozenset(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))


def _dirt(old: Snapshot, new: Snapshot) -> Dirty:
    """What a store would have told between the two."""
    return Dirty(
        services=_changed(old.services, new.services),
        endpoints=_changed(old.slices, new.slices),
        grants=_changed(old.grants, new.grants),
        conflicts=_changed(old.conflicts, new.conflicts),
        nodes=old.nodes != new.nodes,
        listeners=old.host.listeners != new.host.listeners,
    )


def _parts(state: DesiredState) -> tuple[object, ...]:
    return (
        state.claims, state.forwards, state.placements, state.announcements, state.publications,
        dict(state.decisions), dict(state.allocations), {ip: set(keys) for ip, keys in state.holders.items()},
    )  # fmt: skip


@given(st.sampled_from(SETTINGS), st.lists(snapshots(), min_size=2, max_size=4), st.sets(st.sampled_from(NAMES)))
def test_deciding_only_what_is_dirty_gives_the_same_as_deciding_all(
    settings: Settings, worlds: list[Snapshot], denied: set[str]
) -> None:
    """Over a history of worlds, with grants that follow what was given out, to all but those denied."""
    state: DesiredState | None = None
    grants: dict[str, Grant] = {}
    old: Snapshot | None = None
    for one in worlds:
        world = replace(one, settings=settings, grants=dict(grants))
        if old is not None:
            world = replace(world, dirty=_dirt(old, world))
        before, state = state, compute(world, state)
        whole = compute(replace(world, dirty=Dirty(everything=True)), before)
        assert _parts(state) == _parts(whole)
        if state.touched is not None and before is not None:
            _check_touched(before, state, state.touched)
        given_out = {key: d for key, d in state.decisions.items() if d.forwards and key.split("/")[1] not in denied}
        grants = {key: grant(*(f for f, _ in d.forwards)) for key, d in given_out.items()}
        old = world


def _check_touched(before: DesiredState, after: DesiredState, touched: Touched) -> None:
    """Whatever differs is named: targets look at nothing else."""
    assert _changed(before.claims, after.claims) <= touched.services
    assert _changed(before.publications, after.publications) <= touched.services
    assert _changed(before.decisions, after.decisions) <= touched.services
    assert _changed(before.forwards, after.forwards) <= touched.frontends
    assert _changed(before.placements, after.placements) <= touched.addresses
    assert _changed(before.announcements, after.announcements) <= touched.addresses


@given(services(), slices())
def test_no_vip_is_ever_a_backend_and_no_address_is_held_in_vain(
    found: dict[str, Service], pieces: dict[str, tuple[EndpointSlice, ...]]
) -> None:
    """Never a loop; never an address without a frontend on it; every frontend's Service is claimed and published."""
    state = compute(Snapshot(STAND_ALONE, HOST, services=found, slices=pieces))
    vips = {one.address for one in state.forwards}
    assert not vips & {backend.address for forward in state.forwards.values() for backend in forward.backends}
    assert state.placements.keys() <= vips
    assert {forward.service for forward in state.forwards.values()} == state.claims.keys()
    assert state.claims.keys() <= state.publications.keys()


_NAMES = ["n1", "n2", "n3", "n4"]
_SORTS = st.tuples(st.sampled_from(["", "0", "3", "x"]), st.booleans())
"""The weight of a node, and whether it is Ready."""
_Nodes: TypeAlias = dict[str, tuple[str, bool]]


@st.composite
def _moves(draw: st.DrawFn) -> tuple[_Nodes, _Nodes]:
    """Nodes before and after: some go, and some others come or change, or nothing else happens."""
    old = draw(st.dictionaries(st.sampled_from(_NAMES), st.just(("", True)) | _SORTS, max_size=4))
    gone = draw(st.sets(st.sampled_from(_NAMES)))
    come = draw(st.just({}) | st.dictionaries(st.sampled_from(_NAMES), _SORTS, max_size=2))
    return old, {name: sort for name, sort in old.items() if name not in gone} | come


def _nodes(drawn: _Nodes) -> list[Node]:
    return [node(name, f"198.51.100.1{name[1]}", weight=weight, ready=ready) for name, (weight, ready) in drawn.items()]


@given(_moves())
def test_following_the_nodes_decides_as_deciding_anew(moves: tuple[_Nodes, _Nodes]) -> None:
    """Whoever is left out when nodes come, go, or change their weight would have got the same."""
    old, new = moves
    ports = [ServicePort(80, node_port=30080)]
    placed = [Endpoint(ip(f"10.1.0.{n}"), node=f"n{n}") for n in (1, 2)]
    objects = (
        service("few", VIP, ports),
        service("local", OTHER, ports, external_traffic_policy_local=True),
        piece("local", placed),
        service("pods", "203.0.113.9"),
        piece("pods", placed),
    )
    before = compute(snapshot(*objects, *_nodes(old), settings=Settings(max_nodes=2)))
    later = snapshot(*objects, *_nodes(new), settings=Settings(max_nodes=2))
    followed = compute(replace(later, dirty=Dirty(nodes=True)), before)
    anew = compute(later, before)
    assert followed.forwards == anew.forwards
    assert followed.decisions == anew.decisions


def test_an_address_is_served_on_by_those_that_have_a_frontend_there() -> None:
    """One that is given an address and whose only port is refused has none."""
    far = service("far", "")
    state = compute(
        snapshot(far, piece("far", ["10.99.0.1"]), service("near", "", [81]), piece("near"), settings=Settings())
    )
    assert list(state.served_on(ip("192.0.2.2"))) == ["default/near"]
