"""The choice of a plane."""

from dataclasses import replace

import pytest

from littlelb.core.model import Frontend, Plane, Protocol
from littlelb.core.reasons import Reason
from littlelb.core.serving.planes import choose_plane, explain_plane, explain_unable, order_planes
from littlelb.core.state import Settings
from tests.worlds import frontend, ip, service

NO_NFT = "the kernel lacks nf_tables"
BOTH = Settings(planes=(Plane.NFT, Plane.PIPE))
NO_KERNEL = Settings(planes=(Plane.PIPE,), no_nft=NO_NFT)
VIP = "203.0.113.7"
DNS, WEB, ODD = frontend(VIP, 53, Protocol.UDP), frontend(VIP), frontend(VIP, 80, Protocol.SCTP)
RANGE = Frontend(ip(VIP), Protocol.TCP, 5000, 5999)


@pytest.mark.parametrize(
    ("asked", "no_nft", "planes", "why"),
    [
        ("auto", "", (Plane.NFT, Plane.PIPE), ""),
        ("auto", "no nft", (Plane.PIPE,), "no nft"),
        ("nft", "", (Plane.NFT, Plane.PIPE), ""),
        ("nft", "no nft", (Plane.PIPE,), "no nft"),
        ("pipe", "", (Plane.PIPE,), "--plane is pipe"),
        ("pipe", "no nft", (Plane.PIPE,), "--plane is pipe"),
    ],
)
def test_the_machine_has_planes_in_an_order(asked: str, no_nft: str, planes: tuple[Plane, ...], why: str) -> None:
    """The pipe always works; the kernel is preferred, where it can and may."""
    assert order_planes(asked, no_nft) == (planes, why)


@pytest.mark.parametrize(
    ("asked", "planes", "chosen"),
    [
        ("", (Plane.NFT, Plane.PIPE), Plane.NFT),
        ("pipe", (Plane.NFT, Plane.PIPE), Plane.PIPE),
        ("nft", (Plane.PIPE,), Plane.PIPE),
        ("ebpf", (Plane.NFT, Plane.PIPE), Plane.NFT),
    ],
)
def test_the_machine_decides_unless_the_service_asks_for_what_works(
    asked: str, planes: tuple[Plane, ...], chosen: Plane
) -> None:
    """A plane that does not work here, or that nobody knows, is not taken."""
    asking = service("web", annotations={"littlelb.io/plane": asked})
    assert choose_plane(asking, Settings(planes=planes)) is chosen


@pytest.mark.parametrize(
    ("asked", "settings", "reason", "says"),
    [
        ("", NO_KERNEL, None, ""),
        ("nft", BOTH, None, ""),
        ("pipe", BOTH, None, ""),
        ("nft", NO_KERNEL, Reason.PLANE_UNAVAILABLE, "nft cannot be had: the kernel lacks nf_tables; the pipe plane"),
        ("nft", Settings(), Reason.PLANE_UNAVAILABLE, "it does not work on this machine"),
        ("pipe", Settings(planes=(Plane.NFT,)), Reason.PLANE_UNAVAILABLE, "pipe cannot be had"),
        ("ebpf", BOTH, Reason.INVALID_ANNOTATION, "'ebpf' is none of nft, pipe"),
    ],
)
def test_another_plane_than_asked_for_is_explained(
    asked: str, settings: Settings, reason: Reason | None, says: str
) -> None:
    """The Service is served all the same, and its owner reads why so."""
    notice = explain_plane(service("web", annotations={"littlelb.io/plane": asked}), settings)
    assert (notice.reason if notice else None) is reason
    assert says in (notice.message if notice else "")


@pytest.mark.parametrize(
    ("ip_mode", "local", "inside", "chosen"),
    [
        ("", True, True, Plane.NFT),
        ("VIP", False, True, Plane.NFT),
        ("Proxy", True, True, Plane.PIPE),
        ("", False, True, Plane.PIPE),
        ("", True, False, Plane.PIPE),
    ],
)
def test_the_pipe_does_not_share_an_address_with_kube_proxy(
    ip_mode: str, local: bool, inside: bool, chosen: Plane
) -> None:
    """Kube-proxy on the same node would take its connections, or drop them; where nothing else is there, it is said."""
    words = {"littlelb.io/plane": "pipe"} | ({"littlelb.io/ip-mode": ip_mode} if ip_mode else {})
    asking = service("web", annotations=words, external_traffic_policy_local=local)
    settings = replace(BOTH, in_cluster=inside)
    assert choose_plane(asking, settings) is chosen
    for known in (settings, replace(NO_KERNEL, in_cluster=inside)):
        notice = explain_plane(asking, known)
        assert ("takes new connections away" in (notice.message if notice else "")) is (chosen is Plane.NFT)
    assert choose_plane(asking, replace(NO_KERNEL, in_cluster=inside)) is Plane.PIPE


@pytest.mark.parametrize(
    ("what", "asked", "settings", "says"),
    [
        (DNS, "", BOTH, ""),
        (WEB, "pipe", BOTH, ""),
        (RANGE, "", BOTH, ""),
        (DNS, "pipe", BOTH, "port 53/UDP: the pipe plane forwards TCP only; set littlelb.io/plane: nft"),
        (
            DNS,
            "",
            NO_KERNEL,
            f"port 53/UDP: the pipe plane forwards TCP only; the nft plane could, but cannot be had: {NO_NFT}",
        ),
        (
            RANGE,
            "pipe",
            BOTH,
            "ports 5000-5999/TCP: the pipe plane forwards no ranges of ports; set littlelb.io/plane: nft",
        ),
        (ODD, "", BOTH, "port 80/SCTP: the nft plane forwards TCP and UDP only"),
        (ODD, "pipe", BOTH, "port 80/SCTP: the pipe plane forwards TCP only"),
    ],
)
def test_what_a_plane_cannot_carry_is_said_with_the_remedy(
    what: Frontend, asked: str, settings: Settings, says: str
) -> None:
    """UDP and ranges of ports need the kernel; SCTP nobody forwards."""
    asking = service("web", annotations={"littlelb.io/plane": asked})
    assert explain_unable(asking, what, replace(settings)) == says
