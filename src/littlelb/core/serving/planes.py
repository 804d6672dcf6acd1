"""Which plane carries a Service: the machine's first, or the one that its annotation names; and what none can."""

from collections.abc import Mapping
from typing import Final

from littlelb.core.ipam.requests import PLANE_ANNOTATION, parse_word
from littlelb.core.model import Frontend, Plane, Protocol, Service
from littlelb.core.reasons import Notice, Reason
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
    return next((plane for plane in settings.planes if plane == asked), settings.planes[0])


def explain_plane(service: Service, settings: Settings) -> Notice | None:
    """Say why it is not the plane that the Service asks for."""
    asked, notice = parse_word(service, PLANE_ANNOTATION, tuple(Plane))
    if not asked or asked in settings.planes:
        return notice
    text = (
        f"{PLANE_ANNOTATION}: {asked} cannot be had: {_why_not(asked, settings)}; the {settings.planes[0]} plane "
        "serves instead until that is put right (`loadbalancer check` says how)"
    )
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
