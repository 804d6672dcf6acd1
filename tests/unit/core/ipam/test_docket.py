"""Which cases are opened again when something changes, and who disputes with whom."""

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_network

from littlelb.core.ipam.docket import find_dispute, is_alone, open_docket, reopen_docket
from littlelb.core.model import Frontend, Listener, Protocol, Service
from littlelb.core.state import Dirty, Snapshot
from tests.worlds import HOST, frontend, grant, ip, node, service, snapshot

VIP, OTHER, DEFAULT = "203.0.113.7", "203.0.113.8", "192.0.2.2"
WORLD = snapshot(service("web", VIP), service("api", OTHER), service("plain", "", [8080]))


def _reopened(after: Snapshot, before: Snapshot = WORLD) -> frozenset[str]:
    docket, keys = reopen_docket(after, open_docket(before))
    assert docket.cases == open_docket(after).cases
    assert {thing: set(who) for thing, who in docket.contenders.items()} == {
        thing: set(who) for thing, who in open_docket(after).contenders.items()
    }
    return keys


def test_a_service_reopens_its_own_case_only() -> None:
    """One that comes, changes or goes; one that is not ours none at all."""
    new = service("new", "203.0.113.9")
    coming = replace(WORLD, services={**WORLD.services, new.key: new}, dirty=Dirty(frozenset({new.key})))
    assert _reopened(coming) == {"default/new"}
    assert _reopened(replace(WORLD, dirty=coming.dirty), coming) == {"default/new"}
    foreign = service("new", load_balancer_class="example.com/x")
    assert _reopened(replace(coming, services={**WORLD.services, foreign.key: foreign})) == frozenset()


def test_a_cluster_ip_concerns_who_asks_for_it() -> None:
    """A new one makes a good request a bad one."""
    db = service("db", cluster_ips=(VIP,), load_balancer_class="example.com/x")
    after = replace(WORLD, services={**WORLD.services, db.key: db}, dirty=Dirty(frozenset({db.key})))
    assert _reopened(after) == {"default/web"}


def test_a_node_concerns_who_asks_for_its_addresses() -> None:
    """Its own, and those of its pods."""
    nodes = {"n1": node("n1", VIP, pod_networks=(ip_network("203.0.113.8/31"),))}
    assert _reopened(replace(WORLD, nodes=nodes, dirty=Dirty(nodes=True))) == {"default/web", "default/api"}
    assert _reopened(replace(WORLD, nodes={"n1": node("n1", "198.51.100.1")}, dirty=Dirty(nodes=True))) == frozenset()


def test_a_conflict_concerns_who_asks_for_the_address() -> None:
    """When it comes and when it goes."""
    there = replace(WORLD, conflicts={ip(VIP): "02:00 has it"}, dirty=Dirty(conflicts=frozenset({ip(VIP)})))
    assert _reopened(there) == {"default/web"}
    assert _reopened(replace(there, conflicts={}), there) == {"default/web"}


def test_a_listener_concerns_who_has_its_port() -> None:
    """On whatever address."""
    listeners = (Listener(Protocol.TCP, None, 8080, "tomcat"), Listener(Protocol.UDP, None, 80, "x"))
    after = replace(WORLD, host=replace(HOST, listeners=listeners), dirty=Dirty(listeners=True))
    assert _reopened(after) == {"default/plain"}


def test_a_grant_reopens_the_case_of_its_service() -> None:
    """One that has nothing of ours has no case."""
    grants = {"default/web": grant(frontend(VIP)), "default/gone": grant(frontend(OTHER))}
    assert _reopened(replace(WORLD, grants=grants, dirty=Dirty(grants=frozenset(grants)))) == {"default/web"}


def test_borrowed_addresses_that_the_host_lost_are_given_back() -> None:
    """Keeping one would mean to put it on the device again."""
    lent = grant(frontend("192.0.2.9"), frontend(VIP), borrowed=["192.0.2.9"])
    docket = open_docket(replace(WORLD, grants={"default/web": lent}))
    assert docket.cases["default/web"].held == (ip(VIP),)


def _dispute(*services: Service, of: Iterable[str]) -> set[str]:
    docket = open_docket(snapshot(*services))
    return {key.partition("/")[2] for key in find_dispute([f"default/{name}" for name in of], docket, docket)}


def test_a_dispute_goes_on_through_others() -> None:
    """Over addresses and over ports of the shared one; who has nothing in common with them stays out."""
    both = {"littlelb.io/addresses": f"{VIP},{OTHER}"}
    found = [service("a", VIP), service("b", annotations=both), service("c", OTHER), service("d", "203.0.113.9")]
    assert _dispute(*found, of=["a"]) == {"a", "b", "c"}
    shared = [
        service("a", "", [80, 81]),
        service("b", "", [81, 82]),
        service("c", DEFAULT, [82]),
        service("d", "", [83]),
    ]
    assert _dispute(*shared, of=["c"]) == {"a", "b", "c"}
    assert _dispute(*shared, of=["d", "gone"]) == {"d", "gone"}


def test_who_left_is_in_dispute_with_who_stays() -> None:
    """What it had may be the other's now."""
    before = snapshot(service("a", VIP), service("b", VIP))
    after = replace(before, services={"default/b": service("b", VIP)}, dirty=Dirty(frozenset({"default/a"})))
    last = open_docket(before)
    docket, keys = reopen_docket(after, last)
    assert find_dispute(keys, docket, last) == {"default/a", "default/b"}
    assert is_alone("default/b", docket)
    assert not is_alone("default/b", last)


def test_a_range_of_ports_meets_everybody_who_has_one_of_them() -> None:
    """On a shared address."""
    held = Frontend(ip(DEFAULT), Protocol.TCP, 5000, 5003)
    docket = open_docket(replace(WORLD, grants={"default/plain": grant(held)}))
    assert docket.contenders[frontend(DEFAULT, 5003)] == ("default/plain",)
