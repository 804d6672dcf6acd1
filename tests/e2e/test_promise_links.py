"""The link device goes down, loses addresses, gets others, vanishes and comes back: followed without a restart."""

import json

import pytest

from tests.e2e.load import Load
from tests.e2e.rig import DEFAULT, Rig

pytestmark = pytest.mark.e2e

VIP = "203.0.113.10"
NEW_DEFAULT = "192.0.2.3"


@pytest.fixture
def served(rig: Rig) -> Rig:
    """A daemon, a Service on an address of its own, and one that shares the default address."""
    rig.start()
    rig.apply("own", loadBalancerIP=VIP)
    rig.apply("shared", ports=[{"name": "http", "port": 81, "protocol": "TCP"}])
    rig.serve_service("own", 1)
    rig.serve_service("shared", 2)
    rig.wait("both are served", lambda: both_answer(rig))
    rig.wait("both are published", lambda: (rig.ingress("own"), rig.ingress("shared")) == ([VIP], [DEFAULT]))
    return rig


def both_answer(rig: Rig, default: str = DEFAULT) -> bool:
    """Do both Services answer?"""
    return (rig.ask(VIP), rig.ask(default, 81)) == ("n1", "n2")


def places(rig: Rig) -> list[str]:
    """Return on which devices our address is."""
    found = json.loads(rig.lan.balancer.ip("-j", "addr", "show"))
    entries = [(link["ifname"], entry) for link in found for entry in link["addr_info"]]
    return [f"{entry['local']}/{entry['prefixlen']} on {device}" for device, entry in entries if entry["local"] == VIP]


def neighbour_mac(rig: Rig) -> str:
    """MAC address that the client believes our address to have."""
    (entry,) = json.loads(rig.lan.client.ip("-j", "neigh", "show", VIP))
    return str(entry.get("lladdr", ""))


def test_an_address_that_somebody_removes_comes_back(served: Rig) -> None:
    """By hand or by a network manager, again and again."""
    for _ in range(3):
        served.lan.balancer.ip("addr", "del", f"{VIP}/32", "dev", "eth0")
        served.wait("the address is back", lambda: served.held() == {VIP})
        served.wait("both are served", lambda: both_answer(served))


def test_a_device_that_goes_down_and_up_serves_again(served: Rig) -> None:
    """Meanwhile the daemon goes on; afterwards both Services answer, with the routes that came back."""
    box = served.lan.balancer
    box.ip("link", "set", "eth0", "down")
    served.wait("nobody answers", lambda: served.ask(VIP) == "")
    served.wait("it is noticed", lambda: bool(served.log_events("link.changed")))
    box.ip("link", "set", "eth0", "up")
    served.wait("both are served", lambda: both_answer(served))
    assert served.held() == {VIP}
    assert served.daemon is not None
    assert served.daemon.poll() is None


def test_a_link_that_is_down_makes_no_address_a_foreign_one(rig: Rig) -> None:
    """The kernel takes the device's routes away with it: also with `--off-subnet refuse` nobody is refused for that."""
    box = rig.lan.balancer
    rig.start("--off-subnet", "refuse")
    rig.apply("own", loadBalancerIP=VIP)
    rig.serve_service("own", 1)
    rig.wait("published", lambda: rig.ingress("own") == [VIP])
    box.ip("link", "set", "eth0", "down")
    rig.wait("it is noticed", lambda: bool(rig.log_events("link.changed")))
    box.ip("link", "set", "eth0", "up")
    rig.wait("served", lambda: rig.ask(VIP) == "n1")
    assert not [event for event in rig.log_events("service.event") if event["level"] != "info"]
    assert rig.held() == {VIP}


def test_a_changed_default_address_is_followed(served: Rig) -> None:
    """The host gets another address of its own: Services that share it move, in the status too; others stay."""
    box = served.lan.balancer
    load = Load(served.lan.client, VIP)
    box.ip("addr", "del", f"{DEFAULT}/24", "dev", "eth0")
    box.ip("addr", "del", "203.0.113.2/24", "dev", "eth0")
    box.ip("addr", "add", f"{NEW_DEFAULT}/24", "dev", "eth0")
    box.ip("addr", "add", "203.0.113.2/24", "dev", "eth0")
    served.wait("published", lambda: served.ingress("shared") == [NEW_DEFAULT])
    served.wait("both are served", lambda: both_answer(served, NEW_DEFAULT))
    assert served.held() == {VIP, NEW_DEFAULT}
    assert served.ask(DEFAULT, 81) == ""
    assert load.finish().failed == ()


def test_a_device_without_an_address_of_its_own_leaves_nothing_to_share(served: Rig) -> None:
    """The Service that shares it is told; with an address back it is served, and the other never noticed."""
    box = served.lan.balancer
    for address in (DEFAULT, "203.0.113.2"):
        box.ip("addr", "del", f"{address}/24", "dev", "eth0")
    served.wait("refused", lambda: served.condition("shared").get("reason") == "NoDefaultAddress")
    assert served.ingress("shared") == []
    box.ip("addr", "add", f"{DEFAULT}/24", "dev", "eth0")
    served.wait("both are served", lambda: both_answer(served))


def test_a_device_that_is_missing_at_the_start_is_awaited(rig: Rig) -> None:
    """The daemon starts, says which device it waits for, and serves as soon as there is one."""
    box, lan = rig.lan.balancer, rig.lan
    box.ip("link", "del", "eth0")
    rig.start()
    rig.apply("own", loadBalancerIP=VIP)
    rig.serve_service("own", 1)
    rig.wait("the owner is told", lambda: "eth0 does not exist" in rig.condition("own").get("message", ""))
    assert rig.log_events("link.missing")
    lan.network.plug(box, "eth0", lan.switch, "lan")
    box.batch(f"addr add {DEFAULT}/24 dev eth0", "addr add 203.0.113.2/24 dev eth0")
    rig.wait("served", lambda: rig.ask(VIP) == "n1")
    rig.wait("published", lambda: rig.ingress("own") == [VIP])


def test_a_device_that_is_deleted_and_made_again_serves_again(served: Rig) -> None:
    """Another index and MAC address under the same name: addresses go on it, and neighbours are told the new MAC."""
    box, lan = served.lan.balancer, served.lan
    before = box.mac("eth0")
    assert neighbour_mac(served) == before
    box.ip("link", "del", "eth0")
    served.wait("it is noticed", lambda: bool(served.log_events("link.missing")))
    served.wait("the owner is told", lambda: served.condition("own").get("status") == "False")
    lan.network.plug(box, "eth0", lan.switch, "lan")
    box.batch(f"addr add {DEFAULT}/24 dev eth0", "addr add 203.0.113.2/24 dev eth0")
    # The host's own address is announced by whoever configures the host, not by us.
    lan.client.ip("neigh", "flush", "to", DEFAULT)
    served.wait("both are served", lambda: both_answer(served))
    served.wait("the owner is told", lambda: served.condition("own").get("status") == "True")
    assert box.mac("eth0") != before
    assert neighbour_mac(served) == box.mac("eth0")
    assert places(served) == [f"{VIP}/32 on eth0"]
