"""Who gets which address."""

from collections.abc import Mapping
from dataclasses import replace
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from littlelb.core.desired import compute
from littlelb.core.ipam.allocation import allocate
from littlelb.core.model import Family, Frontend, Grant, Key, Listener, Plane, Protocol, Service, ServicePort
from littlelb.core.reasons import Reason
from littlelb.core.state import Allocation, DefaultAddress, Dirty, Settings, Snapshot
from tests.worlds import HOST, STAND_ALONE, frontend, grant, ip, service, snapshot

VIP, OTHER, DEFAULT = "203.0.113.7", "203.0.113.8", "192.0.2.2"


def _given(world: Snapshot) -> Mapping[str, Allocation]:
    return allocate(world).allocations


def _reasons(allocation: Allocation) -> list[Reason]:
    return [refusal.reason for refusal in allocation.refusals]


def test_an_address_asked_for_is_given() -> None:
    """Every port of the Service on it."""
    given_out = _given(snapshot(service("web", VIP, [80, 443])))
    assert given_out["default/web"] == Allocation((frontend(VIP, 80), frontend(VIP, 443)))


def test_services_that_are_not_ours_get_nothing() -> None:
    """Not even an entry."""
    assert _given(snapshot(service("web", VIP, load_balancer_class="example.com/x"))) == {}


def test_the_older_service_wins_and_the_other_is_told_who() -> None:
    """By creationTimestamp, whatever the order of the mapping."""
    young, old = service("young", VIP, created=200.0), service("old", VIP, created=100.0)
    given_out = _given(snapshot(young, old))
    assert given_out["default/old"].frontends == (frontend(VIP),)
    assert _reasons(given_out["default/young"]) == [Reason.ADDRESS_IN_USE]
    assert "held by default/old" in given_out["default/young"].refusals[0].message


def test_of_two_of_one_age_the_uid_decides() -> None:
    """So that every balancer decides alike."""
    given_out = _given(snapshot(service("b", VIP, created=1.0, uid="2"), service("a", VIP, created=1.0, uid="1")))
    assert given_out["default/a"].frontends
    assert not given_out["default/b"].frontends


def test_without_a_timestamp_first_sight_decides_and_then_the_name() -> None:
    """As it is for objects from a folder."""
    given_out = _given(snapshot(service("z", VIP), service("a", VIP)))
    assert given_out["default/z"].frontends
    unseen = _given(snapshot(service("z", VIP), service("a", VIP), seen={}))
    assert unseen["default/a"].frontends


def test_who_holds_an_address_keeps_it_against_an_older_one() -> None:
    """An older Service that is edited to ask for a live address must not steal it; the refusal says since when."""
    old, holder = service("old", VIP, created=1.0), service("holder", VIP, created=2.0)
    given_out = _given(snapshot(old, holder, grants={"default/holder": grant(frontend(VIP))}))
    assert given_out["default/holder"].frontends == (frontend(VIP),)
    assert "held by default/holder since 1970-01-01 10:00:00 UTC" in given_out["default/old"].refusals[0].message


def test_a_new_address_is_served_beside_the_old_one_until_it_is_granted() -> None:
    """Make before break: and once it has been granted, the old one goes."""
    moved = service("web", OTHER)
    moving = _given(snapshot(moved, grants={"default/web": grant(frontend(VIP))}))["default/web"]
    assert moving == Allocation((frontend(OTHER), frontend(VIP)), kept=(ip(VIP),))
    done = _given(snapshot(moved, grants={"default/web": grant(frontend(VIP), frontend(OTHER))}))["default/web"]
    assert done == Allocation((frontend(OTHER),))


def test_a_refused_move_leaves_the_old_address() -> None:
    """Served where it was, with the reason; and nobody else can have that address meanwhile."""
    grants = {"default/web": grant(frontend(VIP)), "default/rival": grant(frontend(OTHER))}
    world = snapshot(service("web", OTHER), service("rival", OTHER), service("heir", VIP), grants=grants)
    given_out = _given(world)
    assert given_out["default/web"].frontends == (frontend(VIP),)
    assert given_out["default/web"].kept == (ip(VIP),)
    assert _reasons(given_out["default/web"]) == [Reason.ADDRESS_IN_USE]
    assert _reasons(given_out["default/heir"]) == [Reason.ADDRESS_IN_USE]


def test_a_request_that_turns_bad_leaves_the_service_where_it_was() -> None:
    """What works keeps working: also for an object that cannot be understood any more."""
    for bad in (service("web", "garbage"), service("web", fault="ports: not a list")):
        allocation = _given(snapshot(bad, grants={"default/web": grant(frontend(VIP))}))["default/web"]
        assert allocation.frontends == (frontend(VIP),)
        assert len(allocation.refusals) == 1


def test_the_default_address_is_shared_port_by_port() -> None:
    """Asked for by nobody or by name; the second asker of a port is refused that port only."""
    world = snapshot(service("a", "", [80]), service("b", DEFAULT, [80, 81]))
    given_out = _given(world)
    assert given_out["default/a"].frontends == (frontend(DEFAULT, 80),)
    assert given_out["default/b"].frontends == (frontend(DEFAULT, 81),)
    (refusal,) = given_out["default/b"].refusals
    assert (refusal.reason, refusal.frontend) == (Reason.PORT_IN_USE, frontend(DEFAULT, 80))
    assert "held by default/a" in refusal.message


def test_an_address_that_the_host_has_lost_is_not_kept() -> None:
    """It was the host's own: to serve on would mean to put it on the device again, against its owner's will."""
    grants = {"default/web": grant(frontend("192.0.2.99"), borrowed=["192.0.2.99"])}
    moved = _given(snapshot(service("web", ""), grants=grants))["default/web"]
    assert moved == Allocation((frontend(DEFAULT),))
    alone = _given(snapshot(service("web", ""), grants=grants, host=replace(HOST, own=())))["default/web"]
    assert (alone.frontends, alone.kept) == ((), ())
    assert _reasons(alone) == [Reason.NO_DEFAULT_ADDRESS]
    by_name = _given(snapshot(service("web", "192.0.2.99"), grants=grants))["default/web"]
    assert by_name == Allocation((frontend("192.0.2.99"),))


def test_a_held_port_of_the_default_address_is_kept() -> None:
    """Against an older Service."""
    world = snapshot(service("old", ""), service("holder", ""), grants={"default/holder": grant(frontend(DEFAULT))})
    given_out = _given(world)
    assert given_out["default/holder"].frontends == (frontend(DEFAULT),)
    assert _reasons(given_out["default/old"]) == [Reason.PORT_IN_USE]


def test_moving_from_the_default_address_keeps_its_ports_meanwhile() -> None:
    """Only those that it held: a port of another Service is not taken on the way."""
    grants = {"default/web": grant(frontend(DEFAULT, 80)), "default/rest": grant(frontend(DEFAULT, 81))}
    given_out = _given(snapshot(service("web", VIP, [80, 81]), service("rest", "", [81]), grants=grants))
    assert given_out["default/web"].frontends == (frontend(VIP, 80), frontend(VIP, 81), frontend(DEFAULT, 80))
    assert given_out["default/rest"].frontends == (frontend(DEFAULT, 81),)


def test_the_default_address_of_each_family() -> None:
    """What the Service's ipFamilies say, as far as the device has one."""
    host = replace(HOST, own=(ip(DEFAULT), ip("2001:db8::2")))
    both = _given(snapshot(service(ip_families=(Family.IPV6, Family.IPV4)), host=host))["default/web"]
    assert both.frontends == (frontend("2001:db8::2"), frontend(DEFAULT))
    unsaid = _given(snapshot(service(), host=host))["default/web"]
    assert unsaid.frontends == (frontend(DEFAULT),)
    four = _given(snapshot(service(ip_families=(Family.IPV4,)), host=host))["default/web"]
    assert four.frontends == (frontend(DEFAULT),)
    six = _given(snapshot(service(ip_families=(Family.IPV6,))))["default/web"]
    assert _reasons(six) == [Reason.NO_DEFAULT_ADDRESS]


def test_the_default_address_can_be_refused() -> None:
    """`--default-address refuse`: then a Service has to ask."""
    settings = replace(STAND_ALONE, default_address=DefaultAddress.REFUSE)
    given_out = _given(snapshot(service("web"), settings=settings))
    assert _reasons(given_out["default/web"]) == [Reason.NO_DEFAULT_ADDRESS]


def test_a_port_on_which_this_host_listens_is_refused_by_name() -> None:
    """On the default address and on any other, if it listens everywhere; never one that we hold already."""
    sshd = Listener(Protocol.TCP, None, 22, "sshd (pid 812)")
    dns = Listener(Protocol.TCP, ip(DEFAULT), 53, "dnsmasq (pid 9)")
    host = replace(HOST, listeners=(sshd, dns))
    given_out = _given(snapshot(service("a", "", [22, 53, 80]), service("b", VIP, [22, 53]), host=host))
    assert given_out["default/a"].frontends == (frontend(DEFAULT, 80),)
    assert given_out["default/b"].frontends == (frontend(VIP, 53),)
    assert "sshd (pid 812)" in given_out["default/b"].refusals[0].message
    held = _given(snapshot(service("b", VIP, [22]), host=host, grants={"default/b": grant(frontend(VIP, 22))}))
    assert held["default/b"].frontends == (frontend(VIP, 22),)


def test_ports_that_cannot_be_served_are_refused_one_by_one() -> None:
    """UDP without a plane for it, ports that are none, and the same port twice."""
    ports = [ServicePort(53, Protocol.UDP), ServicePort(53), ServicePort(0), ServicePort(65_536), ServicePort(53)]
    allocation = _given(snapshot(service("dns", VIP, ports)))["default/dns"]
    assert allocation.frontends == (frontend(VIP, 53),)
    expected = [Reason.PROTOCOL_NOT_SUPPORTED, Reason.INVALID_PORT, Reason.INVALID_PORT, Reason.INVALID_PORT]
    assert _reasons(allocation) == expected


def _ranged(name: str, address: str, text: str, **fields: Any) -> Service:
    return service(name, address, annotations={"littlelb.io/port-ranges": text}, **fields)


KERNEL = replace(STAND_ALONE, planes=(Plane.NFT, Plane.PIPE))
MEDIA = Frontend(ip(DEFAULT), Protocol.UDP, 5000, 5999)


def test_a_range_of_ports_is_given_with_the_others() -> None:
    """On an address of its own nobody else can be in the way; one that cannot be read refuses the Service."""
    voice = _ranged("voice", VIP, "5000-5999/udp")
    own = Frontend(ip(VIP), Protocol.UDP, 5000, 5999)
    assert _given(snapshot(voice, settings=KERNEL))["default/voice"] == Allocation((frontend(VIP), own))
    refused = _given(snapshot(voice))["default/voice"]
    assert [refusal.frontend for refusal in refused.refusals] == [own]
    assert "ports 5000-5999/UDP: the pipe plane forwards TCP only" in refused.refusals[0].message
    bad = _given(snapshot(_ranged("voice", VIP, "5000/udp"), settings=KERNEL))["default/voice"]
    assert (bad.frontends, _reasons(bad)) == ((), [Reason.INVALID_ANNOTATION])


def test_on_a_shared_address_a_range_meets_ports_and_ranges_of_others() -> None:
    """Who came first keeps it, whichever of the two is the range; other protocols and ports are nobody's business."""
    first, second = _ranged("a", "", "5000-5999/udp", ports=[81]), _ranged("b", "", "5999-6100/udp", ports=[82])
    dns = service("c", "", [ServicePort(5500, Protocol.UDP), ServicePort(5500), ServicePort(6100, Protocol.UDP)])
    given_out = _given(snapshot(first, second, dns, settings=KERNEL))
    assert given_out["default/a"].frontends == (frontend(DEFAULT, 81), MEDIA)
    assert given_out["default/b"].frontends == (frontend(DEFAULT, 82),)
    assert "ports 5999-6100/UDP is held by default/a" in given_out["default/b"].refusals[0].message
    assert given_out["default/c"].frontends == (frontend(DEFAULT, 5500), frontend(DEFAULT, 6100, Protocol.UDP))
    turned = _given(snapshot(dns, first, settings=KERNEL))
    assert _reasons(turned["default/a"]) == [Reason.PORT_IN_USE]


def test_an_incumbent_keeps_its_range_and_may_change_it() -> None:
    """A younger holder stays before an older Service; its own new port inside of its old range is no collision."""
    holder, older = _ranged("a", "", "5000-5999/udp", created=2.0), service("b", "", [ServicePort(5500, Protocol.UDP)])
    older = replace_created(older, 1.0)
    held = {"default/a": grant(frontend(DEFAULT), MEDIA)}
    given_out = _given(snapshot(holder, older, settings=KERNEL, grants=held))
    assert MEDIA in given_out["default/a"].frontends
    assert _reasons(given_out["default/b"]) == [Reason.PORT_IN_USE]
    moved = _ranged("a", "", "5600-5999/udp", ports=[ServicePort(5500, Protocol.UDP)])
    fresh = _given(snapshot(moved, settings=KERNEL, grants=held))["default/a"]
    assert not fresh.refusals
    assert len(fresh.frontends) == 2


def replace_created(asked: Service, created: float) -> Service:
    """The same Service of another age."""
    return structs.replace(asked, created=created)


def test_a_range_in_which_this_host_listens_is_refused() -> None:
    """Any port of it is enough; a holder keeps it."""
    host = replace(HOST, listeners=(Listener(Protocol.UDP, None, 5353, "avahi (pid 7)"),))
    voice = _ranged("voice", "", "5000-5999/udp")
    refused = _given(snapshot(voice, settings=KERNEL, host=host))["default/voice"]
    assert refused.frontends == (frontend(DEFAULT),)
    assert "avahi (pid 7)" in refused.refusals[0].message
    held = snapshot(voice, settings=KERNEL, host=host, grants={"default/voice": grant(MEDIA)})
    assert MEDIA in _given(held)["default/voice"].frontends


def test_an_address_of_which_nothing_can_be_served_stays_free() -> None:
    """A Service that only refuses does not block the address for others."""
    udp = service("udp", VIP, [ServicePort(53, Protocol.UDP)])
    given_out = _given(snapshot(udp, service("web", VIP)))
    assert given_out["default/udp"].frontends == ()
    assert given_out["default/web"].frontends == (frontend(VIP),)


def test_a_service_without_ports_is_refused() -> None:
    """There is nothing to serve."""
    assert _reasons(_given(snapshot(service("web", VIP, [])))["default/web"]) == [Reason.INVALID_SERVICE]


def test_bad_and_good_addresses_of_one_request_part_ways() -> None:
    """The good one is served, the other refused."""
    allocation = _given(snapshot(service(annotations={"littlelb.io/addresses": f"{VIP},127.0.0.1"})))["default/web"]
    assert allocation.frontends == (frontend(VIP),)
    assert _reasons(allocation) == [Reason.FORBIDDEN_ADDRESS]


def test_an_unsupported_annotation_refuses_the_service() -> None:
    """Nothing is given out for it."""
    allocation = _given(snapshot(service("web", VIP, annotations={"littlelb.io/device": "eth7"})))["default/web"]
    assert (allocation.frontends, _reasons(allocation)) == ((), [Reason.INVALID_ANNOTATION])


def test_an_address_off_the_subnet_is_noted() -> None:
    """Served, with the advice that the LAN must route it."""
    allocation = _given(snapshot(service("web", "198.18.0.7")))["default/web"]
    assert allocation.frontends == (frontend("198.18.0.7"),)
    assert [notice.reason for notice in allocation.notices] == [Reason.OUT_OF_SUBNET]


# --- what is taken over from the run before ---------------------------------------------------------------------------


def _next(before: Snapshot, new: Service) -> tuple[Mapping[Key, Allocation], Mapping[Key, Allocation]]:
    """Add or change one Service: what was given out before, and then."""
    state = compute(before)
    after = replace(before, services={**before.services, new.key: new}, dirty=Dirty(frozenset({new.key})))
    found = allocate(after, state).allocations
    assert found == _given(replace(after, dirty=Dirty(everything=True)))
    return state.allocations, found


def test_who_holds_all_it_wants_is_not_asked_again() -> None:
    """The very same object, on an address of its own and on a shared one, though somebody else comes."""
    grants = {"default/web": grant(frontend(VIP)), "default/api": grant(frontend(DEFAULT))}
    before, after = _next(snapshot(service("web", VIP), service("api"), grants=grants), service("new", OTHER))
    assert after["default/web"] is before["default/web"]
    assert after["default/api"] is before["default/api"]
    assert after["default/new"].frontends == (frontend(OTHER),)


def test_an_older_holder_of_the_same_address_is_noticed() -> None:
    """Two records of one address, as a state file that was tampered with may have them."""
    grants = {"default/web": grant(frontend(VIP)), "default/old": grant(frontend(VIP))}
    world = snapshot(service("web", VIP, created=2.0), grants=grants)
    _, after = _next(world, service("old", VIP, created=1.0))
    assert after["default/old"].frontends == (frontend(VIP),)
    assert _reasons(after["default/web"]) == [Reason.ADDRESS_IN_USE]


def test_a_new_cluster_ip_is_nobodys_to_ask_for() -> None:
    """Also for a Service that asked for it before it was one; texts that are no addresses harm nobody."""
    world = snapshot(service("web", "203.0.113.9"), service("api", VIP))
    _, after = _next(world, service("db", OTHER, cluster_ips=("None", "203.0.113.9")))
    assert _reasons(after["default/web"]) == [Reason.FORBIDDEN_ADDRESS]
    assert after["default/api"].frontends == (frontend(VIP),)


# --- properties ------------------------------------------------------------------------------------------------------

ADDRESSES = ["", DEFAULT, "203.0.113.7", "203.0.113.8", "203.0.113.9", "127.0.0.1", "junk"]


@st.composite
def worlds(draw: st.DrawFn) -> Snapshot:
    """A few Services that fight for a few addresses, some of which hold something already."""
    services: list[Service] = []
    for number in range(draw(st.integers(1, 7))):
        ports = draw(st.lists(st.sampled_from([80, 81, 443]), min_size=1, max_size=2, unique=True))
        created = draw(st.one_of(st.none(), st.floats(0, 3)))
        services.append(service(f"s{number}", draw(st.sampled_from(ADDRESSES)), ports, created=created))
    free: set[Frontend] = {frontend(a, p) for a in ("203.0.113.7", "203.0.113.8", DEFAULT) for p in (80, 81)}
    grants: dict[str, Grant] = {}
    for one in services:
        holds: bool = draw(st.booleans())
        if free and holds:
            first = draw(st.sampled_from(sorted(free, key=str)))
            mine = {f for f in free if f.address == first.address} if str(first.address) != DEFAULT else {first}
            grants[one.key] = grant(*mine)
            free -= mine
    return snapshot(*services, settings=Settings(stand_alone=True), grants=grants)


@given(worlds())
def test_no_frontend_is_given_twice_and_no_exclusive_address_either(world: Snapshot) -> None:
    """Whatever is asked for and held."""
    owners: dict[object, str] = {}
    for key, allocation in _given(world).items():
        for one in allocation.frontends:
            what = one if str(one.address) == DEFAULT else one.address
            assert owners.setdefault(what, key) == key


@given(worlds())
def test_nobody_loses_what_it_holds_and_still_asks_for(world: Snapshot) -> None:
    """Incumbents first."""
    for key, allocation in _given(world).items():
        held = world.grants.get(key)
        if held is None:
            continue
        wanted = {f for f in held.frontends if world.services[key].load_balancer_ip == str(f.address)}
        still = {port.port for port in world.services[key].ports}
        assert {f for f in wanted if f.port in still} <= set(allocation.frontends)


@given(worlds(), st.randoms())
def test_the_order_of_the_mapping_does_not_matter(world: Snapshot, random: Random) -> None:
    """Two balancers with the same objects decide alike."""
    keys = list(world.services)
    random.shuffle(keys)
    assert _given(replace(world, services={key: world.services[key] for key in keys})) == _given(world)


@given(worlds())
def test_granting_what_was_allocated_settles(world: Snapshot) -> None:
    """Round by round, as one lets go and the next one gets its turn, until nothing changes any more."""
    for _ in range(len(world.services) + 2):
        allocations = _given(world)
        grants = {key: Grant(frozenset(a.frontends), 1.0) for key, a in allocations.items() if a.frontends}
        world = replace(world, grants=grants)
    settled = {key: set(a.frontends) for key, a in _given(world).items()}
    assert settled == {key: set(a.frontends) for key, a in allocations.items()}
