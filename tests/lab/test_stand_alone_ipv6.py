"""The same promises with IPv6: addresses of one's own, the shared default address, nodes, conflicts, a lost address."""

from typing import Any

import pytest

from tests.lab.box import BACKENDS_V6, Box, Document, both, endpoints, service

pytestmark = [pytest.mark.lab, pytest.mark.timeout(90)]

VIP = "2001:db8:0:113::10"
DEFAULT = "2001:db8:0:2::2"


def v6_service(name: str, address: str = "", *ports: int, **spec: Any) -> Document:
    """Write a single-stack IPv6 Service."""
    made = service(name, address, *ports)
    made["spec"] |= {"ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack", **spec}
    return made


def v6(name: str, address: str = "", *ports: int) -> list[Document]:
    """Write a single-stack IPv6 Service and its EndpointSlice."""
    return [v6_service(name, address, *ports), endpoints(name, *BACKENDS_V6, ports=ports or (80,))]


def node(number: int) -> Document:
    """Write a Node that has an IPv6 address only, that of web server `number`."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"n{number}"},
        "status": {
            "addresses": [{"type": "InternalIP", "address": BACKENDS_V6[number - 1]}],
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


@pytest.fixture
def served(box: Box) -> Box:
    """A daemon that serves one IPv6 Service."""
    box.write("web.yaml", *v6("web", VIP))
    box.start()
    box.wait("both backends answer", lambda: box.answers(VIP) == {"n1", "n2"})
    return box


def test_a_service_answers_on_its_ipv6_address(served: Box) -> None:
    """It is held as a host prefix, never as a source of the host's own traffic, and goes with the Service."""
    (line,) = [one for one in served.lan.balancer.ip("-o", "addr", "show", "dev", "eth0").splitlines() if VIP in one]
    assert f"{VIP}/128" in line
    assert "deprecated" in line
    assert "src 2001:db8:0:113::2 " in served.lan.balancer.ip("route", "get", "2001:db8:0:113::77")
    (served.manifests / "web.yaml").unlink()
    served.wait("the address is gone", lambda: served.held() == set())
    assert served.ask(VIP) == ""


def test_ipv6_services_share_the_default_address_of_their_family(box: Box) -> None:
    """Without an address, and by name; an IPv4 Service on the same port has the IPv4 one."""
    box.write("six.yaml", *v6("six"))
    box.write("named.yaml", *v6("named", DEFAULT, 81))
    four = both("four")
    four[0]["spec"]["ipFamilies"] = ["IPv4"]
    box.write("four.yaml", *four)
    box.start()
    for name in ("six", "named", "four"):
        box.wait_serving(f"demo/{name}")
    addresses = {one.key: one.addresses for one in box.report().services}
    assert addresses == {"demo/six": (DEFAULT,), "demo/named": (DEFAULT,), "demo/four": ("192.0.2.2",)}
    assert box.ask(DEFAULT)
    assert box.ask(DEFAULT, 81)
    assert box.ask("192.0.2.2")
    assert box.held() == set()


def test_ipv6_node_addresses_and_node_ports_serve(box: Box) -> None:
    """A single-stack IPv6 cluster: nodes have IPv6 InternalIPs only."""
    web = v6_service("web", VIP, ports=[{"name": "http", "port": 80, "nodePort": 8080}])
    box.write("web.yaml", web, node(1), node(2))
    box.start()
    box.wait("both nodes answer", lambda: box.answers(VIP) == {"n1", "n2"})
    box.write("web.yaml", web, node(2))
    box.wait("only the other one answers", lambda: box.answers(VIP) == {"n2"})


def test_an_ipv6_address_on_an_ipv4_service_is_refused(box: Box) -> None:
    """And the other way round: the family cannot be served."""
    four = both("four", VIP)
    four[0]["spec"]["ipFamilies"] = ["IPv4"]
    box.write("four.yaml", *four)
    box.write("six.yaml", *v6("six", "203.0.113.10"))
    box.start()
    for name in ("four", "six"):
        box.wait(f"{name} is refused", lambda name=name: "WrongFamily" in box.reasons(f"demo/{name}"))  # type: ignore[misc]
    assert box.held() == set()


def test_an_ipv6_address_that_another_machine_has_is_refused_naming_its_mac(box: Box) -> None:
    """By neighbour discovery, before the address is first held."""
    rival = box.lan.machine("rival")
    rival.ip("addr", "add", f"{VIP}/64", "dev", "eth0", "nodad")
    box.write("web.yaml", *v6("web", VIP))
    box.write("neighbour.yaml", *v6("neighbour", "2001:db8:0:113::11"))
    box.start()
    box.wait("it is refused", lambda: rival.mac("eth0") in box.reasons("demo/web"))
    box.wait("the neighbour is served", lambda: box.ask("2001:db8:0:113::11"))
    assert box.held() == {"2001:db8:0:113::11"}


def test_an_ipv6_address_that_is_lost_comes_back(served: Box) -> None:
    """Removed by hand, or with the device, from which the kernel takes IPv6 addresses when it goes down."""
    balancer = served.lan.balancer
    balancer.ip("addr", "del", f"{VIP}/128", "dev", "eth0")
    served.wait("it is held again", lambda: served.held() == {VIP})
    balancer.ip("link", "set", "eth0", "down")
    served.wait("it is noticed", lambda: bool(served.log_events("link.changed")))
    balancer.ip("link", "set", "eth0", "up")
    served.wait("it is held again", lambda: served.held() == {VIP})
    balancer.ip("addr", "add", f"{DEFAULT}/64", "dev", "eth0", "nodad")  # the host's own went with the device
    served.wait("it answers", lambda: served.answers(VIP) == {"n1", "n2"})
