"""Which addresses may be given out at all."""

from dataclasses import replace
from ipaddress import ip_network

import pytest

from littlelb.core.ipam.addressing import default_address, judge_address, notices_for, prefix_length
from littlelb.core.ipam.cluster import index_cluster
from littlelb.core.model import Family, HostFacts
from littlelb.core.reasons import Reason
from littlelb.core.state import OffSubnet, PrefixMode, Settings, Snapshot
from tests.worlds import HOST, STAND_ALONE, ip, node, service, snapshot


def _judge(text: str, world: Snapshot) -> Reason | None:
    refusal = judge_address(ip(text), index_cluster(world.services, world.nodes), world)
    return refusal.reason if refusal is not None else None


WORLD = snapshot(
    service("dns", cluster_ips=("203.0.113.53",)),
    node("n1", "203.0.113.31", pod_networks=(ip_network("203.0.113.64/28"), ip_network("2001:db8:0:0:1::/80"))),
    host=replace(HOST, api_servers=frozenset({ip("203.0.113.6")})),
    conflicts={ip("203.0.113.9"): "in use by 02:00:00:00:00:09", ip("192.0.2.2"): "by us"},
    settings=replace(STAND_ALONE, refused_networks=(ip_network("203.0.113.200/29"),)),
)


@pytest.mark.parametrize(
    "text",
    [
        "0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "169.254.169.254", "255.255.255.255", "240.0.0.1", "::", "::1",
        "ff02::1", "fe80::1", "fec0::1", "192.0.2.1", "198.51.100.2", "192.0.2.0", "203.0.113.255", "203.0.113.53",
        "203.0.113.31", "203.0.113.70", "2001:db8::1:0:0:5", "203.0.113.6", "203.0.113.201",
    ],
)  # fmt: skip
def test_addresses_that_play_another_part_are_forbidden(text: str) -> None:
    """Special ones, the gateway, this machine's and the cluster's other ones, and what the configuration forbids."""
    assert _judge(text, WORLD) is Reason.FORBIDDEN_ADDRESS


@pytest.mark.parametrize("text", ["203.0.113.7", "2001:db8::7", "192.0.2.2", "198.18.0.1"])
def test_other_addresses_may_be_had(text: str) -> None:
    """In the subnet, the host's own, and off the subnet too."""
    assert _judge(text, WORLD) is None


def test_an_address_of_another_machine_is_a_conflict() -> None:
    """Unless the host has it itself: then the answer on the wire was ours."""
    assert _judge("203.0.113.9", WORLD) is Reason.ADDRESS_CONFLICT


def test_off_subnet_addresses_are_noted_or_refused() -> None:
    """By setting; the text names the device's networks of that family."""
    (notice,) = notices_for(ip("198.18.0.1"), WORLD)
    assert "none of device eth0's IPv4 subnets (192.0.2.0/24, 203.0.113.0/24)" in notice.message
    assert notices_for(ip("203.0.113.7"), WORLD) == ()
    strict = replace(WORLD, settings=replace(STAND_ALONE, off_subnet=OffSubnet.REFUSE))
    assert _judge("198.18.0.1", strict) is Reason.OUT_OF_SUBNET
    assert _judge("203.0.113.7", strict) is None
    bare = replace(strict, host=HostFacts(device="eth9"))
    refusal = judge_address(ip("198.18.0.1"), index_cluster(bare.services, bare.nodes), bare)
    assert refusal is not None
    assert "it has no IPv4 one" in refusal.message


def test_nothing_is_off_subnet_while_the_device_is_down() -> None:
    """The kernel takes the routes away with it: a flap of the link must not turn every Service into a refused one."""
    down = replace(HOST, up=False, on_link=())
    world = replace(WORLD, host=down, settings=replace(STAND_ALONE, off_subnet=OffSubnet.REFUSE))
    assert _judge("203.0.113.7", world) is None
    assert notices_for(ip("203.0.113.7"), world) == ()


def test_the_default_address_is_the_first_of_its_family() -> None:
    """In the kernel's order."""
    host = replace(HOST, own=(ip("2001:db8::2"), ip("192.0.2.2"), ip("192.0.2.3")))
    assert default_address(host, Family.IPV4) == ip("192.0.2.2")
    assert default_address(host, Family.IPV6) == ip("2001:db8::2")
    assert default_address(HOST, Family.IPV6) is None


def test_prefix_length_is_the_hosts_or_the_links() -> None:
    """With `link`, the longest on-link network that has it; without one, the host prefix."""
    link = Settings(prefix=PrefixMode.LINK)
    assert prefix_length(ip("203.0.113.7"), HOST, Settings()) == 32
    assert prefix_length(ip("2001:db8::7"), HOST, Settings()) == 128
    assert prefix_length(ip("203.0.113.7"), HOST, link) == 24
    assert prefix_length(ip("198.18.0.1"), HOST, link) == 32
