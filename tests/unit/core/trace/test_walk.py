"""Where packets end, and what is said on the way."""

from ipaddress import ip_address, ip_network

import pytest
from msgspec.structs import replace

from littlelb.core.model import Backend, Forward, Frontend, HostFacts, Ip, Key, Plane, Protocol
from littlelb.core.plan import Failure
from littlelb.core.state import DesiredState, Settings
from littlelb.core.trace.packet import Entering, Outcome, Trace, parse_packet
from littlelb.core.trace.walk import Facts, find_forward, select_ranges, trace

VIP = ip_address("203.0.113.10")
HTTP = Frontend(VIP, Protocol.TCP, 80)
GAMES = Frontend(VIP, Protocol.UDP, 5000, 5999)
POD, OTHER = ip_address("10.1.0.1"), ip_address("10.1.0.2")
NEAR = ip_address("192.0.2.50")
HOST = HostFacts("eth0", own=(ip_address("192.0.2.2"),), on_link=(ip_network("192.0.2.0/24"),))
BOTH = Settings(planes=(Plane.NFT, Plane.PIPE))
CLIENT = "192.0.2.10:40000"


def keep(*addresses: Ip) -> tuple[Backend, ...]:
    """Backends that see the client's address."""
    return tuple(Backend(address, 8080, 1, keeps_source=True) for address in addresses)


WEB = Forward(service="demo/web", backends=keep(POD, OTHER), plane=Plane.NFT)


def follow(
    forwards: dict[Frontend, Forward],
    destination: str = "203.0.113.10:80",
    source: str = CLIENT,
    entering: Entering = Entering.LINK,
    settings: Settings = BOTH,
    devices: dict[Ip, str] | None = None,
) -> Trace:
    """Trace one packet."""
    packet = parse_packet(source, destination, entering)
    return trace(packet, Facts(DesiredState(forwards=forwards), settings, HOST, devices or {}))


def stages(found: Trace) -> list[str]:
    """Names of the stages with their verdicts."""
    return [f"{step.stage} {step.verdict}" for step in found.steps]


def test_a_hashed_packet_is_followed_to_its_backend() -> None:
    """With all sources kept the slot is a hash: one backend, with the client's address."""
    found = follow({HTTP: WEB})
    assert (found.outcome, found.service, found.plane) == (Outcome.FORWARDED, "demo/web", "nft")
    assert found.slot in {0, 1}
    assert found.slots == 2
    (backend,) = found.backends
    assert (backend.address, backend.port, backend.sees) == (f"10.1.0.{found.slot + 1}", 8080, "192.0.2.10")
    assert stages(found) == [
        "prerouting go on",
        "services4 goto hash4-2",
        "hash4-2 dnat",
        "postrouting snat to 192.0.2.10",
    ]
    assert f"mod 2 seed 0x6c6c6231 = {found.slot}" in found.steps[2].rule
    assert "another machine would choose the same" in found.why


def test_without_a_source_port_the_hash_is_open() -> None:
    """All backends are named."""
    found = follow({HTTP: WEB}, source="192.0.2.10")
    assert [one.address for one in found.backends] == ["10.1.0.1", "10.1.0.2"]
    assert (found.slot, found.why) == (None, "chosen by the client's address and port")


def test_masqueraded_backends_are_chosen_at_random() -> None:
    """Their answers have to come back here: they see an address of this machine."""
    found = follow({HTTP: replace(WEB, backends=(Backend(POD, 8080), Backend(OTHER, 8080)))})
    assert stages(found)[1:] == ["services4 goto random4-2", "random4-2 dnat", "postrouting masquerade"]
    assert {one.sees for one in found.backends} == {""}
    assert found.why == "chosen at random"
    single = follow({HTTP: replace(WEB, backends=(Backend(POD, 8080),))})
    assert (single.slot, single.why) == (0, "the only backend")


def test_mixed_backends_each_say_what_they_see() -> None:
    """One keeps the client's address, the other does not."""
    found = follow({HTTP: replace(WEB, backends=(*keep(POD), Backend(OTHER, 8080)))})
    assert stages(found)[1:4] == ["staged4 jump stages4", "stages4 go on", "classes4 goto random4-2"]
    assert [one.sees for one in found.backends] == ["192.0.2.10", ""]
    assert stages(found)[5:] == ["postrouting snat to 192.0.2.10", "postrouting masquerade"]


@pytest.mark.parametrize(
    ("address", "devices", "entering", "sees"),
    [
        (NEAR, {}, Entering.LINK, ""),
        (NEAR, {NEAR: "eth1"}, Entering.LINK, "192.0.2.10"),
        (POD, {POD: "eth0"}, Entering.LINK, ""),
        (POD, {}, Entering.LOCAL, ""),
        (NEAR, {}, Entering.OTHER, "192.0.2.10"),
    ],
)
def test_who_cannot_keep_the_source(address: Ip, devices: dict[Ip, str], entering: Entering, sees: str) -> None:
    """A packet of this machine, or one that leaves by the device it came by, is masqueraded whatever is asked."""
    found = follow({HTTP: replace(WEB, backends=keep(address))}, entering=entering, devices=devices)
    assert found.backends[0].sees == sees
    assert found.steps[0].stage == ("output" if entering is Entering.LOCAL else "prerouting")


def test_the_guard() -> None:
    """Who is in a range goes on, who is in none is dropped; nobody at all where the list denies all."""
    guarded = replace(WEB, source_ranges=(ip_network("198.51.100.0/24"), ip_network("192.0.2.0/28")))
    found = follow({HTTP: guarded})
    assert stages(found)[1:4] == ["staged4 jump stages4", "stages4 go on", "classes4 goto hash4-2"]
    assert found.steps[2].why == "192.0.2.10 is in 192.0.2.0/28"
    found = follow({HTTP: guarded}, source="192.0.2.77")
    assert (found.outcome, found.steps[-1].verdict) == (Outcome.DROPPED, "drop")
    assert follow({HTTP: replace(WEB, source_ranges=())}).outcome is Outcome.DROPPED


def test_ranges_of_a_family() -> None:
    """A family without a range, or with /0, is open."""
    six = ip_network("2001:db8::/32")
    assert select_ranges(replace(WEB, source_ranges=(six,)), 4) is None
    assert select_ranges(replace(WEB, source_ranges=(six, ip_network("0.0.0.0/0"))), 4) is None
    assert select_ranges(replace(WEB, source_ranges=(six,)), 6) == (six,)


def test_affinity() -> None:
    """A client that was here lately keeps its backend; IPv6 hashes the client's address."""
    found = follow({HTTP: replace(WEB, affinity_seconds=600)})
    assert stages(found)[1:5] == [
        "staged4 jump stages4",
        "stages4 jump sticky-keep4",
        "sticky-keep4 dnat or go on",
        "classes4 goto hash4-2",
    ]
    assert found.doubts == ("if 192.0.2.10 was here within 600 s, it keeps the backend of then",)
    lost = replace(WEB, backends=(Backend(POD, 8080), Backend(OTHER, 8080)), affinity_seconds=600)
    assert stages(follow({HTTP: lost}))[2] == "stages4 jump sticky4"
    vip = ip_address("2001:db8::10")
    pods = (Backend(ip_address("2001:db8:1::1"), 8080), Backend(ip_address("2001:db8:1::2"), 8080))
    six = {Frontend(vip, Protocol.TCP, 80): replace(lost, backends=pods)}
    found = follow(six, "[2001:db8::10]:80", "2001:db8:9::1")
    assert found.slots == 67
    assert "the same for all its connections" in found.why


def test_port_ranges() -> None:
    """A port inside of a range is the Service's, and stays as it is; a Service of that very port goes before it."""
    forwards = {GAMES: replace(WEB, backends=keep(POD)), HTTP: WEB}
    forwards[GAMES] = replace(forwards[GAMES], backends=(Backend(POD, 0, 1, keeps_source=True),))
    found = follow(forwards, "203.0.113.10:5123/udp")
    assert stages(found)[1:3] == ["ranges4 goto hash-range4-1", "hash-range4-1 dnat"]
    assert found.backends[0].port == 5123
    assert follow(forwards, "203.0.113.10:6000/udp").answer == "ICMP port unreachable"
    single = Frontend(VIP, Protocol.UDP, 5123)
    packet = parse_packet(CLIENT, "203.0.113.10:5123/udp")
    assert find_forward(packet, DesiredState(forwards={**forwards, single: WEB})) == (single, WEB)


def test_link_only() -> None:
    """What does not enter by the link device is left to kube-proxy."""
    only = {HTTP: replace(WEB, from_link_only=True)}
    assert follow(only).outcome is Outcome.FORWARDED
    for entering in (Entering.OTHER, Entering.LOCAL):
        found = follow(only, entering=entering)
        assert (found.outcome, found.steps[-1].stage) == (Outcome.HOST, "link_only4")


def test_refusals() -> None:
    """No backend, or no Service on an address that is ours alone: TCP hears RST, UDP hears ICMP, at once."""
    empty = {HTTP: replace(WEB, backends=())}
    assert (follow(empty).outcome, follow(empty).answer) == (Outcome.REFUSED, "TCP RST")
    found = follow({HTTP: WEB}, "203.0.113.10:53/udp")
    assert (found.outcome, found.answer, found.service) == (Outcome.REFUSED, "ICMP port unreachable", "")
    assert found.steps[-2].verdict == "goto refuse4"


def test_what_is_not_ours() -> None:
    """Another address, or an address that the machine has by itself, is the host's affair."""
    assert follow({HTTP: WEB}, "203.0.113.99:80").outcome is Outcome.HOST
    own = follow({HTTP: replace(WEB, held=False)}, "203.0.113.10:22")
    assert (own.outcome, own.why[:29]) == (Outcome.HOST, "203.0.113.10 is this machine'")
    alone = follow({HTTP: WEB}, "203.0.113.10:22", settings=Settings(planes=(Plane.PIPE,)))
    assert (alone.outcome, alone.steps) == (Outcome.HOST, ())


PIPED = replace(WEB, plane=Plane.PIPE)


@pytest.mark.parametrize(
    ("forward", "outcome", "last", "why"),
    [
        (PIPED, Outcome.FORWARDED, "connect", "each worker takes the backends in turn"),
        (
            replace(PIPED, backends=(Backend(POD, 8080, 3), Backend(OTHER, 8080))),
            Outcome.FORWARDED,
            "connect",
            "each worker takes the backends in turn",
        ),
        (
            replace(PIPED, affinity_seconds=5),
            Outcome.FORWARDED,
            "connect",
            "chosen by the client's address: the same in every worker",
        ),
        (replace(PIPED, backends=()), Outcome.REFUSED, "refuse", "demo/web has no backend"),
        (replace(PIPED, source_ranges=()), Outcome.REFUSED, "refuse", "192.0.2.10 is in none of its source ranges"),
        (
            replace(PIPED, source_ranges=(ip_network("192.0.2.0/24"),)),
            Outcome.FORWARDED,
            "connect",
            "each worker takes the backends in turn",
        ),
    ],
)
@pytest.mark.parametrize("settings", [BOTH, Settings()])
def test_the_pipe(forward: Forward, outcome: Outcome, last: str, why: str, settings: Settings) -> None:
    """A worker takes the connection, and refuses by RST; the backend sees this machine; the kernel lets it pass."""
    found = follow({HTTP: forward}, settings=settings)
    assert (found.outcome, found.steps[-1].verdict, found.why) == (outcome, last, why)
    assert ("services4 accept" in stages(found)) == (settings is BOTH)
    assert {one.sees for one in found.backends} <= {""}


def test_the_pipe_names_its_policy() -> None:
    """Weights are said."""
    weighted = follow({HTTP: replace(PIPED, backends=(Backend(POD, 8080, 3), Backend(OTHER, 8080)))})
    assert weighted.steps[-1].rule == "round robin by weight"


@pytest.mark.parametrize("subject", [HTTP, VIP, "demo/web"])
def test_what_is_not_in_force_is_a_doubt(subject: Frontend | Ip | Key) -> None:
    """A failure of the last pass is named beside the answer."""
    facts = Facts(DesiredState(forwards={HTTP: WEB}), BOTH, HOST, failures={subject: Failure("Failed", "EBUSY")})
    assert trace(parse_packet(CLIENT, "203.0.113.10:80"), facts).doubts == (f"{subject}: EBUSY",)
