"""What a trace knows of classes and slots is what the kernel plane writes."""

from ipaddress import IPv4Address, IPv6Address, ip_address

from hypothesis import given, settings
from hypothesis import strategies as st

from littlelb.core.model import Backend, Forward, Frontend, Ip, Plane, Protocol
from littlelb.core.trace.packet import Packet
from littlelb.core.trace.slots import EXACT, SEED, keeping, lay_out
from littlelb.dataplane.netfilter.sets import Verdict
from littlelb.dataplane.nft import ruleset
from littlelb.dataplane.nft.elements.layout import backend_fields, render_rules

FOUR, SIX = ip_address("203.0.113.7"), ip_address("2001:db8::7")
backends = st.tuples(st.integers(1, 200), st.integers(1, 3), st.booleans())


def build(vip: Ip, given: tuple[int, int, bool]) -> Backend:
    """Make a backend of the VIP's family."""
    number, weight, keeps = given
    kind: type[IPv4Address | IPv6Address] = type(vip)
    base = int(ip_address("10.1.0.0" if vip.version == 4 else "2001:db8:1::"))
    return Backend(kind(base + number), 8080, weight, keeps)


@settings(max_examples=60)
@given(
    st.sampled_from([FOUR, SIX]),
    st.lists(backends, min_size=1, max_size=70, unique_by=lambda one: one[0]),
    st.sampled_from([0, 600]),
)
def test_slots_are_those_of_the_plane(vip: Ip, made: list[tuple[int, int, bool]], affinity: int) -> None:
    """For any backends the class and every slot are the elements that the plane would write."""
    frontend = Frontend(vip, Protocol.TCP, 80)
    chosen = tuple(build(vip, one) for one in made)
    forward = Forward(service="a/b", backends=chosen, plane=Plane.NFT, affinity_seconds=affinity)
    slots = lay_out(frontend, forward)
    rules = render_rules(frontend, forward)
    written = {place[1]: value for place, value in rules.items() if place[0] == f"slots{vip.version}"}
    assert [written[key] for key in sorted(written, key=_slot)] == [
        backend_fields(slots.backends[index]) for index in slots.table
    ]
    chains = [value.chain for value in rules.values() if isinstance(value, Verdict)]
    assert slots.chain in chains


def _slot(key: bytes) -> int:
    """The number at the end of a key, in the byte order of this machine."""
    return int.from_bytes(key[-4:], "little")


def test_constants_are_those_of_the_skeleton() -> None:
    """The core cannot import them from the plane."""
    assert (EXACT, SEED) == (ruleset.EXACT, ruleset.HASH_SEED)


def test_slot_of_a_packet() -> None:
    """A hash needs the source port; a single slot needs nothing; a class by client needs the address only."""
    two = tuple(Backend(ip_address(f"10.1.0.{n}"), 8080, 1, keeps_source=True) for n in (2, 1))
    packet = Packet(ip_address("192.0.2.10"), 40000, FOUR, 80)
    blind = Packet(ip_address("192.0.2.10"), None, FOUR, 80)
    hashed = lay_out(Frontend(FOUR, Protocol.TCP, 80), Forward(service="a/b", backends=two))
    assert hashed.chain == "hash4-2"
    assert [str(one.address) for one in hashed.backends] == ["10.1.0.1", "10.1.0.2"]
    assert hashed.find(packet) in {0, 1}
    assert hashed.find(blind) is None
    single = lay_out(Frontend(FOUR, Protocol.TCP, 80, 90), Forward(service="a/b", backends=two[:1]))
    assert (single.chain, single.find(blind), single.find(packet)) == ("hash-range4-1", 0, 0)
    six = (Backend(ip_address("2001:db8:1::1"), 8080), Backend(ip_address("2001:db8:1::2"), 8080))
    by_client = lay_out(Frontend(SIX, Protocol.TCP, 80), Forward(service="a/b", backends=six, affinity_seconds=60))
    assert (by_client.chain, by_client.rule) == ("client6-67", "jhash ip6 saddr mod 67 seed 0x6c6c6231")
    assert by_client.find(Packet(ip_address("2001:db8::9"), None, SIX, 80)) is not None
    random = lay_out(Frontend(SIX, Protocol.TCP, 80), Forward(service="a/b", backends=six))
    assert (random.rule, random.find(Packet(ip_address("2001:db8::9"), 4, SIX, 80))) == ("numgen random mod 2", None)
    assert (
        "ip6 saddr . th sport"
        in lay_out(
            Frontend(SIX, Protocol.TCP, 80),
            Forward(service="a/b", backends=(Backend(ip_address("2001:db8:1::1"), 8080, 1, keeps_source=True),)),
        ).rule
    )


def test_keeping() -> None:
    """All, some or none of the backends see the client's address."""
    kept, lost = Backend(FOUR, 1, 1, keeps_source=True), Backend(FOUR, 2)
    assert keeping(Forward(service="a/b", backends=(kept,))) == "all"
    assert keeping(Forward(service="a/b", backends=(kept, lost))) == "some"
    assert keeping(Forward(service="a/b", backends=(lost,))) == "none"
