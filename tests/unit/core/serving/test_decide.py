"""One Service's Decision: what only its own inputs decide."""

from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest

from littlelb.core.desired import compute
from littlelb.core.model import (
    Backend,
    Condition,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Family,
    Frontend,
    Plane,
    Protocol,
    ServicePort,
)
from littlelb.core.publication import CLIENT_ADDRESS_KEPT
from littlelb.core.reasons import Reason
from littlelb.core.state import BackendsMode, Decision, LocalPolicy, Settings, SourceAddress
from tests.worlds import HOST, frontend, ip, node, piece, service, snapshot

VIP = "203.0.113.7"
VIP6 = "2001:db8::7"
KERNEL = Settings(planes=(Plane.NFT, Plane.PIPE), stand_alone=True)
INSIDE = Settings(planes=(Plane.NFT, Plane.PIPE), in_cluster=True, node_name="n1")
HERE, THERE = Endpoint(ip("10.1.0.1"), node="n1"), Endpoint(ip("10.1.0.2"), node="n2")
LOST = "externalTrafficPolicy is Local, but not every backend"


def _decide(*slices: EndpointSlice, settings: Settings = KERNEL, ports: Any = (80,), **fields: Any) -> Decision:
    return compute(snapshot(service("web", VIP, ports, **fields), *slices, settings=settings)).decisions["default/web"]


def test_what_the_service_says_reaches_the_forward() -> None:
    """Source ranges, affinity, drain."""
    asked = service(
        "web", VIP, source_ranges=("192.0.2.0/24",), affinity_seconds=60,
        annotations={"littlelb.io/drain-seconds": "7"},
    )  # fmt: skip
    (forward,) = compute(snapshot(asked)).forwards.values()
    assert forward.source_ranges == (ip_network("192.0.2.0/24"),)
    assert (forward.affinity_seconds, forward.drain_seconds, forward.withdraw_seconds) == (60, 7, 7)


def test_a_timeout_that_no_server_takes_is_the_default() -> None:
    """And is said."""
    decision = _decide(piece(), affinity_seconds=100_000)
    assert decision.forwards[0][1].affinity_seconds == 10_800
    assert Reason.INVALID_SERVICE in {notice.reason for notice in decision.notices}


@pytest.mark.parametrize(
    ("asked", "settings", "plane", "reasons"),
    [
        ("", KERNEL, Plane.NFT, [Reason.SOURCE_ADDRESS]),
        ("pipe", KERNEL, Plane.PIPE, []),
        ("nft", replace(KERNEL, planes=(Plane.PIPE,)), Plane.PIPE, [Reason.PLANE_UNAVAILABLE]),
    ],
)
def test_each_service_has_its_plane(asked: str, settings: Settings, plane: Plane, reasons: list[Reason]) -> None:
    """In the decision, for people, and in each forward, for the planes."""
    decision = _decide(piece(), settings=settings, annotations={"littlelb.io/plane": asked})
    assert decision.plane is plane
    assert [forward.plane for _, forward in decision.forwards] == [plane]
    assert [notice.reason for notice in decision.notices] == reasons


def test_mixed_protocols_on_one_number_are_two_frontends() -> None:
    """The kernel serves both; through the pipe UDP is refused with the remedy, SCTP by every plane."""
    ports = [ServicePort(53, name="a"), ServicePort(53, Protocol.UDP, "b"), ServicePort(53, Protocol.SCTP, "c")]
    targets = (EndpointPort("a", Protocol.TCP, 5353), EndpointPort("b", Protocol.UDP, 5354))
    decision = _decide(piece(ports=targets), ports=ports)
    assert {str(f): [b.port for b in forward.backends] for f, forward in decision.forwards} == {
        f"{VIP} port 53/TCP": [5353],
        f"{VIP} port 53/UDP": [5354],
    }
    assert [refusal.reason for refusal in decision.refusals] == [Reason.PROTOCOL_NOT_SUPPORTED]
    piped = _decide(piece(ports=targets), ports=ports, annotations={"littlelb.io/plane": "pipe"})
    assert [f.protocol for f, _ in piped.forwards] == [Protocol.TCP]
    assert "set littlelb.io/plane: nft" in piped.refusals[0].message
    assert "nft" not in piped.refusals[1].message


def test_udp_on_both_families() -> None:
    """Dual stack: each family has its own backends, also without NodePorts and with endpoints that are not ready."""
    asked = service(
        "dns",
        ports=[ServicePort(53, Protocol.UDP)],
        ip_families=(Family.IPV4, Family.IPV6),
        publish_not_ready_addresses=True,
        annotations={"littlelb.io/addresses": f"{VIP},{VIP6}"},
    )
    port = (EndpointPort("", Protocol.UDP, 5353),)
    four = piece("dns", [Endpoint(ip("10.1.0.1"), ready=False)], ports=port)
    six = piece("dns", ["2001:db8:1::1"], ports=port, name="six", family=Family.IPV6)
    outside = replace(KERNEL, stand_alone=False, routed_networks=(ip_network("2001:db8:1::/48"),))
    host = replace(HOST, routed=(*HOST.routed, ip_network("2001:db8:1::/48")))
    forwards = compute(snapshot(asked, four, six, node("n1", "198.51.100.11"), settings=outside, host=host)).forwards
    assert {frontend: forward.backends for frontend, forward in forwards.items()} == {
        frontend(VIP, 53, Protocol.UDP): (Backend(ip("10.1.0.1"), 5353),),
        frontend(VIP6, 53, Protocol.UDP): (Backend(ip("2001:db8:1::1"), 5353, keeps_source=True),),
    }


def test_ranges_of_ports_are_forwarded_beside_the_single_ones() -> None:
    """Ports kept; `ingress.ports` would list those of the spec only."""
    ranged = {"littlelb.io/port-ranges": "5000-5999/udp"}
    decision = _decide(piece(), annotations=ranged)
    media = Frontend(ip(VIP), Protocol.UDP, 5000, 5999)
    assert dict(decision.forwards)[media].backends == (Backend(ip("10.1.0.11"), 0),)
    assert decision.ports == ((Protocol.TCP, 80),)
    nodes = _decide(piece(), annotations=ranged, settings=replace(KERNEL, backends=BackendsMode.NODES))
    assert [(refusal.reason, refusal.frontend) for refusal in nodes.refusals] == [(Reason.INVALID_PORT, media)]
    assert nodes.addresses == (ip(VIP),)


def test_beside_a_kube_proxy_the_kernel_plane_takes_what_enters_by_the_link_only() -> None:
    """In mode VIP the node's own pods and processes are kube-proxy's; in mode Proxy, and elsewhere, they are ours."""
    inside = _decide(piece(), settings=INSIDE)
    assert (inside.ip_mode, inside.forwards[0][1].from_link_only) == ("VIP", True)
    proxy = _decide(piece(), settings=INSIDE, annotations={"littlelb.io/ip-mode": "Proxy"})
    assert (proxy.ip_mode, proxy.forwards[0][1].from_link_only) == ("Proxy", False)
    pipe = _decide(piece(), settings=replace(INSIDE, planes=(Plane.PIPE,)), annotations={"littlelb.io/ip-mode": "VIP"})
    assert (pipe.ip_mode, pipe.forwards[0][1].from_link_only) == ("VIP", False)
    assert not _decide(piece()).forwards[0][1].from_link_only


def test_policy_local_on_this_node_keeps_the_clients_address() -> None:
    """The condition says so; with policy Cluster nobody relies on it, and there is none."""
    decision = _decide(piece(addresses=[HERE, THERE]), settings=INSIDE, external_traffic_policy_local=True)
    assert decision.forwards[0][1].backends == (Backend(HERE.address, 8080, keeps_source=True),)
    assert decision.client_address == ""
    assert not any(notice.warning for notice in decision.notices)
    cluster = _decide(piece(addresses=[HERE, THERE]), settings=INSIDE)
    assert [b.keeps_source for b in cluster.forwards[0][1].backends] == [True, False]
    assert cluster.client_address is None


def test_a_clients_address_that_is_lost_is_said_by_warning_and_condition() -> None:
    """No pod is here: those elsewhere serve, and the owner reads what to do."""
    world = snapshot(service("web", VIP, external_traffic_policy_local=True), piece(addresses=[THERE]), settings=INSIDE)
    state = compute(world)
    decision = state.decisions["default/web"]
    assert decision.forwards
    assert [n.reason for n in decision.notices if n.warning] == [Reason.CLIENT_ADDRESS_LOST]
    kept, served = state.publications["default/web"].conditions
    assert isinstance(kept, Condition)
    assert (kept.type, kept.status, kept.reason) == (CLIENT_ADDRESS_KEPT, "False", Reason.CLIENT_ADDRESS_LOST)
    assert kept.message.startswith(LOST)
    assert served.status == "True"
    keep = replace(INSIDE, source_address=SourceAddress.KEEP)
    kept, _ = compute(replace(world, settings=keep)).publications["default/web"].conditions
    assert (kept.status, kept.message) == ("True", "every backend sees the client's address")


@pytest.mark.parametrize("plane", ["nft", "pipe"])
def test_a_strict_policy_refuses_what_would_lose_the_clients_address(plane: str) -> None:
    """Port by port, with the same words; nothing is forwarded, held or announced."""
    strict = replace(INSIDE, local_policy=LocalPolicy.STRICT)
    asked = {"external_traffic_policy_local": True, "annotations": {"littlelb.io/plane": plane}}
    decision = _decide(piece(addresses=[THERE]), settings=strict, ports=(80, 443), **asked)
    assert (decision.forwards, decision.placements) == ((), ())
    assert [r.reason for r in decision.refusals] == [Reason.CLIENT_ADDRESS_LOST] * 2
    assert [r.frontend for r in decision.refusals] == [frontend(VIP), frontend(VIP, 443)]
    assert not any(notice.reason is Reason.CLIENT_ADDRESS_LOST for notice in decision.notices)
    served = _decide(piece(addresses=[HERE]), settings=strict, external_traffic_policy_local=True)
    assert served.forwards


def test_a_strict_policy_refuses_only_the_ports_that_lose() -> None:
    """A port whose backends are all in a routed network stays, and one that is refused otherwise keeps its reason."""
    strict = replace(KERNEL, local_policy=LocalPolicy.STRICT, routed_networks=(ip_network("10.1.0.2/32"),))
    ports = [ServicePort(80, name="a"), ServicePort(81, name="b")]
    slices = (
        piece(name="a", addresses=["10.1.0.1"], ports=(EndpointPort("a", Protocol.TCP, 8080),)),
        piece(name="b", addresses=["10.1.0.2"], ports=(EndpointPort("b", Protocol.TCP, 8080),)),
    )
    decision = _decide(*slices, settings=strict, ports=ports, external_traffic_policy_local=True)
    assert [f.port for f, _ in decision.forwards] == [81]
    assert [r.frontend for r in decision.refusals] == [frontend(VIP, 80)]
    far = replace(strict, stand_alone=False)
    unreachable = _decide(piece(addresses=["10.99.0.1"]), settings=far, external_traffic_policy_local=True)
    assert [r.reason for r in unreachable.refusals] == [Reason.UNREACHABLE_PODS]


def test_weights_reach_the_backends_and_follow_the_nodes() -> None:
    """A node that is given a weight changes the Services whose pods it runs, also when only nodes are dirty."""
    pods = piece(addresses=[HERE, THERE])
    world = snapshot(service("web", VIP), pods, node("n1", "198.51.100.11"), settings=INSIDE)
    before = compute(world)
    heavy = replace(world, nodes={"n1": node("n1", "198.51.100.11", weight="5")})
    after = compute(replace(heavy, dirty=replace(heavy.dirty, everything=False, nodes=True)), before)
    assert [b.weight for b in after.forwards[frontend(VIP)].backends] == [5, 1]
    assert after.forwards == compute(heavy).forwards
