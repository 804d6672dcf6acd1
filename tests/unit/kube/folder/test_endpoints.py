"""v1 Endpoints as EndpointSlices."""

from ipaddress import ip_address
from typing import Any

import msgspec

from littlelb.core.model import EndpointPort, EndpointSlice, Family, Protocol
from littlelb.kube.folder.endpoints import WireEndpoints, split_endpoints


def split(*subsets: dict[str, Any] | None) -> list[EndpointSlice]:
    """Split an Endpoints object of these subsets."""
    meta = {"name": "web", "namespace": "shop", "annotations": {"littlelb.io/weight": "3"}}
    whole = {"metadata": meta, "subsets": list(subsets) if subsets != (None,) else None}
    return list(split_endpoints(msgspec.convert(whole, WireEndpoints)))


def test_each_subset_is_a_slice_with_its_ports() -> None:
    """Ready and not ready addresses, and the ports of their subset."""
    first, second = split(
        {
            "addresses": [{"ip": "10.1.0.11", "nodeName": "n1"}],
            "notReadyAddresses": [{"ip": "10.1.0.12"}],
            "ports": [{"name": "http", "port": 8080}],
        },
        {"addresses": [{"ip": "10.1.0.13"}], "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]},
    )
    assert (first.key, first.service_key, first.family) == ("shop/web-0-ipv4", "shop/web", Family.IPV4)
    assert [(str(e.address), e.ready, e.serving, e.node) for e in first.endpoints] == [
        ("10.1.0.11", True, True, "n1"),
        ("10.1.0.12", False, False, ""),
    ]
    assert first.ports == (EndpointPort("http", Protocol.TCP, 8080),)
    assert second.ports == (EndpointPort("dns", Protocol.UDP, 53),)
    assert (first.weight, second.weight) == ("3", "3")


def test_families_are_parted() -> None:
    """A slice has one family."""
    first, second = split({"addresses": [{"ip": "2001:db8::11"}, {"ip": "10.1.0.11"}]})
    assert (first.family, [e.address for e in first.endpoints]) == (Family.IPV6, [ip_address("2001:db8::11")])
    assert (second.family, [e.address for e in second.endpoints]) == (Family.IPV4, [ip_address("10.1.0.11")])


def test_an_address_that_is_none_is_a_fault() -> None:
    """The others are kept."""
    (found,) = split({"addresses": [{"ip": "10.1.0.11"}, {"ip": "pod"}, {"nodeName": "n1"}]})
    assert len(found.endpoints) == 1
    assert found.fault == "endpoint address 'pod' is not an IP address"


def test_without_subsets_there_is_no_slice() -> None:
    """A Service without backends yet."""
    assert split(None) == []
    (empty,) = split({"addresses": None, "ports": None})
    assert (empty.endpoints, empty.ports) == ((), ())
