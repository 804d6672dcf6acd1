"""What `ingress[].ipMode` says: may kube-proxy serve the nodes and pods that ask the address, or must they come to us?

VIP: kube-proxy programs the address on every node, so nothing inside of the cluster depends on this machine. Proxy: it
leaves the address alone (KEP-1860). Policy Local with Proxy is undefined upstream.
"""

from typing import Final

from littlelb.core.ipam.requests import IP_MODE_ANNOTATION, SourceRanges, parse_word
from littlelb.core.model import Plane, Service
from littlelb.core.reasons import Notice, Reason
from littlelb.core.state import Settings

VIP: Final = "VIP"
PROXY: Final = "Proxy"
_UNDEFINED: Final = Notice(
    Reason.INVALID_ANNOTATION,
    f"{IP_MODE_ANNOTATION}: Proxy is followed, but what it means with externalTrafficPolicy Local is not defined in "
    "Kubernetes: pods and nodes may not reach the address",
)
_TOO_OPEN: Final = Notice(
    Reason.INVALID_ANNOTATION,
    f"{IP_MODE_ANNOTATION}: VIP is not followed: kube-proxy would let in clients that the source ranges shut out",
)


def choose_ip_mode(
    service: Service, plane: Plane, ranges: SourceRanges, settings: Settings
) -> tuple[str, Notice | None]:
    """Take the Service's word, else VIP, unless kube-proxy would do something else than we do."""
    word, notice = parse_word(service, IP_MODE_ANNOTATION, (VIP, PROXY))
    if service.external_traffic_policy_local:
        return (PROXY, _UNDEFINED) if word == PROXY else (VIP, notice)
    if not ranges.kube_proxy_agrees:
        return PROXY, _TOO_OPEN if word == VIP else notice
    return word or (PROXY if settings.in_cluster and plane is Plane.PIPE else VIP), notice
