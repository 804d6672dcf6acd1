"""What kube-proxy is told."""

import pytest

from littlelb.core.ipam.requests import parse_source_ranges
from littlelb.core.model import Plane
from littlelb.core.serving.ip_mode import choose_ip_mode
from littlelb.core.state import Settings
from tests.worlds import service

BY_ANNOTATION = {"service.beta.kubernetes.io/load-balancer-source-ranges": "192.0.2.0/24"}
"""Source ranges that kube-proxy does not know."""


def _mode(
    asked: str = "", plane: Plane = Plane.NFT, *, local: bool = False, inside: bool = True, ranges: bool = False
) -> tuple[str, str]:
    annotations = ({"littlelb.io/ip-mode": asked} if asked else {}) | (BY_ANNOTATION if ranges else {})
    wanted = service(annotations=annotations, external_traffic_policy_local=local)
    mode, notice = choose_ip_mode(wanted, plane, parse_source_ranges(wanted), Settings(in_cluster=inside))
    return mode, notice.message if notice else ""


def test_the_kernel_plane_leaves_pods_and_nodes_to_kube_proxy() -> None:
    """The pipe beside a kube-proxy must not be short-circuited; outside of the cluster nothing can be."""
    assert _mode() == ("VIP", "")
    assert _mode(plane=Plane.PIPE) == ("Proxy", "")
    assert _mode(plane=Plane.PIPE, inside=False) == ("VIP", "")


def test_the_services_word_is_followed() -> None:
    """One that is none is named."""
    assert _mode("Proxy") == ("Proxy", "")
    assert _mode("VIP", Plane.PIPE) == ("VIP", "")
    mode, why = _mode("proxy")
    assert mode == "VIP"
    assert why == "littlelb.io/ip-mode: 'proxy' is none of VIP, Proxy; the default holds"


def test_policy_local_is_proxy_only_by_the_owners_word() -> None:
    """It is undefined upstream, and the owner is told so."""
    assert _mode(plane=Plane.PIPE, local=True) == ("VIP", "")
    assert _mode(local=True, ranges=True) == ("VIP", "")
    mode, why = _mode("Proxy", local=True)
    assert mode == "Proxy"
    assert "is not defined in Kubernetes" in why
    assert _mode("vip", local=True)[0] == "VIP"


@pytest.mark.parametrize("inside", [True, False])
def test_where_kube_proxy_would_let_in_more_it_is_proxy(inside: bool) -> None:
    """Whatever the annotation says: the source ranges are the stronger word."""
    assert _mode(ranges=True, inside=inside) == ("Proxy", "")
    mode, why = _mode("VIP", ranges=True, inside=inside)
    assert mode == "Proxy"
    assert "would let in clients that the source ranges shut out" in why
