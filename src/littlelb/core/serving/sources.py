"""Whose address a backend sees: the client's, or this machine's.

A backend that sees the client's address answers to the client, and the answer is lost unless its way leads back through
this machine, which alone can translate it. Where that is not known, this machine's address is put in its place.

    auto        the client's for pods of this node, and for backends in networks declared as routed through this machine
    keep        the client's for all
    masquerade  this machine's for all

The pipe opens connections of its own, so its backends see this machine's address whatever is asked for.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from littlelb.core.ipam.requests import SOURCE_ANNOTATION, parse_word
from littlelb.core.model import Backend, Ip, Net, Plane, Service
from littlelb.core.reasons import Notice, Reason
from littlelb.core.state import Settings, SourceAddress

_OURS: Final = "backends see this machine's address"
_THEIRS: Final = "backends see the client's address"
_KEPT: Final = Notice(
    Reason.SOURCE_ADDRESS,
    f"{_THEIRS}, as source-address is keep: their answers must come back through this machine",
    warning=False,
)
_MASQUERADED: Final = Notice(Reason.SOURCE_ADDRESS, f"{_OURS}, as source-address is masquerade", warning=False)
_ALL: Final = Notice(
    Reason.SOURCE_ADDRESS, f"{_THEIRS}: they are pods of this node, or in a routed network", warning=False
)
_NONE: Final = Notice(
    Reason.SOURCE_ADDRESS, f"{_OURS}: their answers are not known to come back through it otherwise", warning=False
)
_SOME: Final = Notice(
    Reason.SOURCE_ADDRESS,
    "backends on this node or in a routed network see the client's address, the others this machine's: their answers "
    "are not known to come back through it otherwise",
    warning=False,
)
_PIPE_CANNOT: Final = Notice(
    Reason.SOURCE_ADDRESS,
    f"{SOURCE_ANNOTATION} asks for the client's address, but the pipe plane hides it: {_OURS}",
)
_LOST: Final = Notice(
    Reason.CLIENT_ADDRESS_LOST,
    "externalTrafficPolicy is Local, but not every backend sees the client's address: route their answers through this "
    "machine and say so by --source-address keep or --routed-networks, or set externalTrafficPolicy: Cluster",
)
_LOST_IN_PIPE: Final = Notice(
    Reason.CLIENT_ADDRESS_LOST,
    "externalTrafficPolicy is Local, but the pipe plane hides the client's address: backends see this machine's; the "
    "nft plane can keep it, or set externalTrafficPolicy: Cluster",
)


@dataclass(frozen=True, slots=True)
class Source:
    """What decides whose address the backends of one Service see."""

    mode: SourceAddress
    by_kernel: bool
    """False: the pipe carries it."""
    routed: tuple[Net, ...] = ()
    node: str = ""
    """This machine's name as a node; empty: it is none."""
    asked: bool = False
    """The Service itself says so."""

    def keeps(self, address: Ip, node: str = "") -> bool:
        """Does the backend at this address see the client's? `node`: the one that it runs on, if it is a pod."""
        if not self.by_kernel or self.mode is SourceAddress.MASQUERADE:
            return False
        if self.mode is SourceAddress.KEEP or (node != "" and node == self.node):
            return True
        return any(net.version == address.version and address in net for net in self.routed)


def choose_source(service: Service, plane: Plane, settings: Settings) -> tuple[Source, Notice | None]:
    """Take the Service's word, else the setting; the notice is about a word that nobody understands."""
    word, notice = parse_word(service, SOURCE_ANNOTATION, tuple(SourceAddress))
    mode = SourceAddress(word) if word else settings.source_address
    kernel = plane is Plane.NFT
    return Source(mode, kernel, settings.routed_networks, settings.node_name, asked=bool(word)), notice


def explain_source(source: Source, backends: Iterable[Backend]) -> Notice | None:
    """Say whose address backends see, and why; nothing where there are none, or where the pipe leaves no choice."""
    if not source.by_kernel:
        return _PIPE_CANNOT if source.asked and source.mode is SourceAddress.KEEP else None
    kept = {backend.keeps_source for backend in backends}
    if not kept:
        return None
    if source.mode is SourceAddress.AUTO:
        return _SOME if len(kept) == 2 else _ALL if True in kept else _NONE
    return _KEPT if source.mode is SourceAddress.KEEP else _MASQUERADED


def explain_loss(service: Service, source: Source, backends: Iterable[Backend]) -> Notice | None:
    """Policy Local is there for the client's address: say where a backend does not see it, and the remedy."""
    if not service.external_traffic_policy_local:
        return None
    if not source.by_kernel:
        return _LOST_IN_PIPE
    return None if all(backend.keeps_source for backend in backends) else _LOST
