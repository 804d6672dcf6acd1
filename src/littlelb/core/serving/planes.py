"""Which plane carries a Service: the machine's first, or the one that its annotation names; and what none can.

Where kube-proxy serves the address on this node as well (ipMode VIP), the pipe is not taken if it can be helped: its
packets are not translated before they meet kube-proxy, which takes new connections away from its listener, and under
policy Local drops them while no pod of this node serves.
"""

from collections.abc import Mapping
from typing import Final

from littlelb.core.ipam.requests import IP_MODE_ANNOTATION, PLANE_ANNOTATION, parse_source_ranges, parse_word
from littlelb.core.model import Frontend, Plane, Protocol, Service
from littlelb.core.reasons import Notice, Reason
from littlelb.core.serving.ip_mode import VIP, choose_ip_mode
from littlelb.core.state import Settings

FORWARDED: Final[Mapping[Plane, frozenset[Protocol]]] = {
    Plane.NFT: frozenset({Protocol.TCP, Protocol.UDP}),
    Plane.PIPE: frozenset({Protocol.TCP}),
}
"""What each plane can carry."""
_FAVOURITES: Final[Mapping[str, tuple[Plane, ...]]] = {
    "auto": (Plane.NFT, Plane.PIPE),
    "nft": (Plane.NFT, Plane.PIPE),
    "pipe": (Plane.PIPE,),
}
_SHARED: Final = (
    "kube-proxy, where it runs on this node, takes new connections away from the pipe while the address is published "
    "with ipMode VIP (with externalTrafficPolicy Local it drops them if no pod of this node serves)"
)
_UNSHARE: Final = f"{IP_MODE_ANNOTATION}: Proxy leaves the address to the pipe"


def order_planes(asked: str, no_nft: str) -> tuple[tuple[Plane, ...], str]:
    """Order the planes of this machine for `Settings.planes`, and say why there is no nft among them.

    `asked`: `--plane`. `no_nft`: why the kernel cannot do it, or empty.
    """
    if asked == Plane.PIPE:
        return _FAVOURITES[asked], "--plane is pipe"
    return tuple(plane for plane in _FAVOURITES[asked] if plane is not Plane.NFT or not no_nft), no_nft


def choose_plane(service: Service, settings: Settings) -> Plane:
    """Take the plane that the Service asks for if it works here, else the first that does."""
    asked = service.annotations.get(PLANE_ANNOTATION, "")
    found = next((plane for plane in settings.planes if plane == asked), settings.planes[0])
    if found is Plane.PIPE and Plane.NFT in settings.planes and _meets_kube_proxy(service, settings):
        return Plane.NFT
    return found


def _meets_kube_proxy(service: Service, settings: Settings) -> bool:
    """If the pipe carried it: would kube-proxy serve the address here too?"""
    if not settings.in_cluster:
        return False
    return choose_ip_mode(service, Plane.PIPE, parse_source_ranges(service), settings)[0] == VIP


def explain_plane(service: Service, settings: Settings) -> Notice | None:
    """Say why it is not the plane that the Service asks for, or what is wrong with the only one."""
    asked, notice = parse_word(service, PLANE_ANNOTATION, tuple(Plane))
    chosen = choose_plane(service, settings)
    if asked and asked not in settings.planes:
        text = (
            f"{PLANE_ANNOTATION}: {asked} cannot be had: {_why_not(asked, settings)}; the {settings.planes[0]} plane "
            "serves instead until that is put right (`loadbalancer check` says how)"
        )
    elif asked and asked != chosen:
        text = f"{PLANE_ANNOTATION}: {asked} is not followed: {_SHARED}; the {chosen} plane serves instead; {_UNSHARE}"
    elif chosen is Plane.PIPE and _meets_kube_proxy(service, settings):
        text = f"{_SHARED}; {_UNSHARE}"
    else:
        return notice
    return Notice(Reason.PLANE_UNAVAILABLE, text)


def explain_unable(service: Service, frontend: Frontend, settings: Settings) -> str:
    """Say why the Service's plane cannot carry one of its frontends, and what to do about it; empty: it can."""
    plane = choose_plane(service, settings)
    able = FORWARDED[plane]
    if frontend.protocol not in able:
        why = f"the {plane} plane forwards {' and '.join(sorted(able))} only"
    elif frontend.last_port and plane is Plane.PIPE:
        why = "the pipe plane forwards no ranges of ports"
    else:
        return ""
    ports = f"ports {frontend.port}-{frontend.last_port}" if frontend.last_port else f"port {frontend.port}"
    return f"{ports}/{frontend.protocol}: {why}{_remedy(frontend.protocol, plane, settings)}"


def _remedy(protocol: Protocol, plane: Plane, settings: Settings) -> str:
    """Name the plane that could, or why it cannot be had."""
    if plane is Plane.NFT or protocol not in FORWARDED[Plane.NFT]:
        return ""
    if Plane.NFT in settings.planes:
        return f"; set {PLANE_ANNOTATION}: nft"
    return f"; the nft plane could, but cannot be had: {_why_not(Plane.NFT, settings)}"


def _why_not(asked: str, settings: Settings) -> str:
    return (settings.no_nft if asked == Plane.NFT else "") or "it does not work on this machine"
