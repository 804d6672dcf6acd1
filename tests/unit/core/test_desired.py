"""The function that decides everything."""

from dataclasses import replace
from typing import TypeAlias

from hypothesis import given
from hypothesis import strategies as st

from littlelb.core.desired import compute
from littlelb.core.model import (
    Announcement,
    Backend,
    Claim,
    EndpointSlice,
    Forward,
    Placement,
    Protocol,
    Service,
    ServicePort,
)
from littlelb.core.reasons import Reason
from littlelb.core.state import DesiredState, Dirty, Settings, Snapshot
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
        listed = [ServicePort(port, protocol) for port in ports]
        one = service(name, draw(st.sampled_from(POOL)), listed, created=float(NAMES.index(name)))
        found[one.key] = one
    return found


@st.composite
def slices(draw: st.DrawFn) -> Slices:
    """Endpoints for some of them, VIPs among them."""
    addresses = st.lists(st.sampled_from(["10.1.0.1", "10.1.0.2", VIP, OTHER]), unique=True, max_size=3)
    return {
        f"default/{name}": (piece(name, draw(addresses)),)
        for name in draw(st.lists(st.sampled_from(NAMES), unique=True))
    }


def _changed(old: dict[str, object], new: dict[str, object]) -> frozenset[str]:
    return frozenset(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))


def _parts(state: DesiredState) -> tuple[object, ...]:
    return (
        state.claims, state.forwards, state.placements, state.announcements, state.publications,
        dict(state.decisions), dict(state.allocations),
    )  # fmt: skip


@given(st.lists(st.tuples(services(), slices()), min_size=2, max_size=4))
def test_deciding_only_what_is_dirty_gives_the_same_as_deciding_all(
    worlds: list[tuple[Services, Slices]],
) -> None:
    """Over a history of worlds, with grants that follow what was given out."""
    state: DesiredState | None = None
    grants: dict[str, object] = {}
    old: Snapshot | None = None
    for found, pieces in worlds:
        world = Snapshot(STAND_ALONE, HOST, services=found, slices=pieces, grants=dict(grants))  # type: ignore[arg-type]
        if old is not None:
            moved = _changed(dict(old.grants), dict(world.grants))
            world = replace(
                world,
                dirty=Dirty(
                    services=_changed(dict(old.services), dict(found)) | moved,
                    endpoints=_changed(dict(old.slices), dict(pieces)),
                ),
            )
        state = compute(world, state)
        assert _parts(state) == _parts(compute(world))
        grants = {key: grant(*(f for f, _ in d.forwards)) for key, d in state.decisions.items() if d.forwards}
        old = world


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
