"""What the owner reads, and what is withheld after a failure."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from littlelb.core.desired import compute
from littlelb.core.model import Frontend, Ip, PortError, Protocol, Publication, ServicePort
from littlelb.core.plan import Failure, Severity
from littlelb.core.publication import PORTS_ERROR, SERVED, withhold
from tests.worlds import STAND_ALONE, frontend, grant, ip, piece, service, snapshot

VIP, OTHER = "203.0.113.7", "203.0.113.8"
BUSY = Failure("PortInUse", "port taken by nginx (pid 5)")


def _condition(publication: Publication) -> tuple[str, str, str]:
    (condition,) = (c for c in publication.conditions if c.type == SERVED)
    return condition.status, condition.reason, condition.message


def test_a_service_that_is_served_says_where() -> None:
    """No ports are listed while none fails; externalIPs only by setting."""
    (publication,) = compute(snapshot(service("web", VIP))).publications.values()
    assert [(entry.ip, entry.ip_mode, entry.ports) for entry in publication.ingress] == [(VIP, "VIP", ())]
    assert _condition(publication) == ("True", "Served", f"served on {VIP}")
    assert publication.external_ips == ()
    written = compute(snapshot(service("web", VIP), settings=replace(STAND_ALONE, external_ips=True)))
    assert written.publications["default/web"].external_ips == (VIP,)


def test_a_port_that_fails_is_named_and_every_port_listed() -> None:
    """core/v1 wants an entry for every port then."""
    mixed = service("dns", VIP, [ServicePort(53), ServicePort(53, Protocol.UDP)])
    (publication,) = compute(snapshot(mixed)).publications.values()
    assert publication.ingress[0].ports == (
        PortError(53, Protocol.TCP, ""),
        PortError(53, Protocol.UDP, "littlelb.io/ProtocolNotSupported"),
    )
    assert [c.type for c in publication.conditions] == [SERVED, PORTS_ERROR]
    assert _condition(publication)[2].startswith(f"served on {VIP}, but port 53/UDP")


def test_a_range_that_fails_is_no_port_of_the_spec() -> None:
    """`ingress.ports` and the condition for ports know spec.ports only; our own condition says it."""
    ranged = service("web", VIP, annotations={"littlelb.io/port-ranges": "5000-5999/udp"})
    (publication,) = compute(snapshot(ranged)).publications.values()
    assert [entry.ports for entry in publication.ingress] == [()]
    assert [c.type for c in publication.conditions] == [SERVED]
    assert _condition(publication)[:2] == ("False", "ProtocolNotSupported")


def test_while_it_moves_only_the_new_address_is_published() -> None:
    """The old one is served meanwhile, and published again if the new one fails."""
    state = compute(snapshot(service("web", OTHER), grants={"default/web": grant(frontend(VIP))}))
    assert [entry.ip for entry in state.publications["default/web"].ingress] == [OTHER]
    assert state.forwards.keys() == {frontend(OTHER), frontend(VIP)}
    failed = withhold(state, {ip(OTHER): Failure("AddressConflict", f"{OTHER} is in use by 02:00:00:00:00:09")})
    assert [entry.ip for entry in failed.publications["default/web"].ingress] == [VIP]
    assert failed.placements.keys() == {ip(VIP)}
    assert _condition(failed.publications["default/web"])[:2] == ("False", "AddressConflict")


def test_a_refused_move_publishes_where_it_still_is() -> None:
    """With the reason."""
    world = snapshot(service("web", "junk"), grants={"default/web": grant(frontend(VIP))})
    publication = compute(world).publications["default/web"]
    assert [entry.ip for entry in publication.ingress] == [VIP]
    assert _condition(publication)[2].startswith(f"served on {VIP}, but spec.loadBalancerIP: 'junk'")


def test_a_failed_frontend_takes_only_itself() -> None:
    """The other port of the same address goes on; the address is held for it."""
    state = withhold(compute(snapshot(service("web", VIP, [80, 443]))), {frontend(VIP, 443): BUSY})
    assert state.forwards.keys() == {frontend(VIP, 80)}
    assert state.placements.keys() == {ip(VIP)}
    assert state.publications["default/web"].ingress[0].ports[1] == PortError(
        443, Protocol.TCP, "littlelb.io/PortInUse"
    )


def test_an_address_without_any_frontend_left_is_not_held() -> None:
    """Never hold an address that cannot be served."""
    state = withhold(compute(snapshot(service("web", VIP), service("api", OTHER))), {frontend(VIP): BUSY})
    assert state.placements.keys() == state.announcements.keys() == {ip(OTHER)}
    assert state.publications["default/web"].ingress == ()
    assert _condition(state.publications["default/web"]) == ("False", "PortInUse", f"not served: {BUSY.message}")


def test_a_failed_claim_takes_the_whole_service() -> None:
    """Nothing is made for a Service that could vanish before we have cleaned up; others on its address go on."""
    state = compute(snapshot(service("a", "", [80]), service("b", "", [81])))
    left = withhold(state, {"default/a": Failure("NotPermitted", "the role lacks services/status patch")})
    assert left.forwards.keys() == {frontend("192.0.2.2", 81)}
    assert left.publications["default/b"] == state.publications["default/b"]


def test_without_failures_nothing_is_copied() -> None:
    """The same object comes back."""
    state = compute(snapshot(service("web", VIP)))
    assert withhold(state, {}) is state
    assert withhold(state, {"gone/away": BUSY}).forwards == state.forwards


def test_messages_stay_within_what_the_api_accepts() -> None:
    """A condition's message is cut."""
    ports = [ServicePort(n, Protocol.UDP) for n in range(1, 60)]
    (publication,) = compute(snapshot(service("web", VIP, ports))).publications.values()
    assert all(len(condition.message) <= 1024 for condition in publication.conditions)


SUBJECTS: list[Frontend | Ip | str] = [
    frontend(VIP, 80), frontend(VIP, 81), frontend(OTHER, 80), ip(VIP), ip(OTHER), "default/a", "default/c",
]  # fmt: skip


@given(st.sets(st.sampled_from(SUBJECTS)))
def test_what_failed_never_reaches_a_later_phase(subjects: set[Frontend | Ip | str]) -> None:
    """No frontend, placement, announcement or ingress entry of it is left; everything else is as it was."""
    world = snapshot(service("a", VIP, [80, 81]), service("b", OTHER), service("c", "", [90]), piece("a"))
    state = compute(world)
    left = withhold(state, dict.fromkeys(subjects, BUSY))
    for one, forward in state.forwards.items():
        failed = bool({one, one.address, forward.service} & subjects)
        assert (one in left.forwards) is not failed
        published = {entry.ip: entry for entry in left.publications[forward.service].ingress}
        entry = published.get(str(one.address))
        errors = [port.error for port in entry.ports if port.port == one.port] if entry is not None else ["gone"]
        assert any(errors) is failed
    held = {one.address for one in left.forwards}
    assert left.placements.keys() == left.announcements.keys() == held & state.placements.keys()


WAITING = Failure("Pending", f"asking the LAN whether {OTHER} is free", Severity.WAITING)


def test_what_waits_shows_what_it_showed_before() -> None:
    """A Service that moves is published where it was until the new address is known to be free."""
    state = compute(snapshot(service("web", OTHER), grants={"default/web": grant(frontend(VIP))}))
    shown = compute(snapshot(service("web", VIP))).publications
    left = withhold(state, {ip(OTHER): WAITING}, shown)
    assert left.publications == shown
    assert left.forwards.keys() == {frontend(VIP)}
    assert left.withheld == {"default/web"}


def test_what_waits_and_showed_nothing_is_not_published() -> None:
    """A write for each of ten thousand Services that are served a second later would be one too many."""
    state = compute(snapshot(service("web", OTHER), service("api", VIP)))
    left = withhold(state, {ip(OTHER): WAITING})
    assert left.publications.keys() == {"default/api"}
    of_another = {"default/web": Publication(uid="of the Service of this name before")}
    assert withhold(state, {ip(OTHER): WAITING}, of_another).publications.keys() == {"default/api"}
