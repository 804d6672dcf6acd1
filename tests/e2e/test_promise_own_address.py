"""Addresses asked for by name: one Service each, what may not be had, and neighbours that notice nothing of it."""

import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.e2e.load import Load
from tests.e2e.rig import DEFAULT, Rig

pytestmark = pytest.mark.e2e

NEIGHBOUR = "203.0.113.9"
VIP = "203.0.113.10"
OTHER_VIP = "203.0.113.11"
OFF_SUBNET = "198.18.0.5"

ON_ONE_ADDRESS = textwrap.dedent("""
    import socket, sys
    with socket.create_server((sys.argv[1], int(sys.argv[2]))) as server:
        print("listens", flush=True)
        while True:
            server.accept()[0].close()
""")
"""A process that listens on one address only."""


@contextmanager
def unaffected_neighbour(rig: Rig) -> Iterator[None]:
    """Have a neighbour Service, asked every 10 ms while the block runs: not one request may fail."""
    rig.apply("neighbour", loadBalancerIP=NEIGHBOUR)
    rig.serve_service("neighbour", 1)
    rig.wait("the neighbour is served", lambda: rig.ask(NEIGHBOUR) == "n1")
    load = Load(rig.lan.client, NEIGHBOUR)
    yield
    assert rig.ask(NEIGHBOUR) == "n1"
    outcome = load.finish()
    assert outcome.failed == ()
    assert outcome.answered > 0


def refused(rig: Rig, name: str, reason: str) -> str:
    """Wait until a Service is refused for this reason on its status, in an Event and in the log; return the message."""

    def by_condition() -> bool:
        condition = rig.condition(name)
        return (condition.get("status"), condition.get("reason")) == ("False", reason)

    rig.wait(f"{name} has the condition {reason}", by_condition)
    message = str(rig.condition(name)["message"])
    assert rig.ingress(name) == []
    rig.wait(
        f"{name} has an Event",
        lambda: any((kind, what) == ("Warning", "AllocationFailed") for kind, what, _ in rig.events(name)),
    )
    logged = [entry for entry in rig.log_events("service.event") if entry["service"] == f"{rig.namespace}/{name}"]
    assert [entry["level"] for entry in logged if entry["note"] == message] == ["error"]
    return message


def serve_web(rig: Rig, name: str, backend: int, **spec: Any) -> None:
    """Apply a Service and start its web server on one backend."""
    rig.apply(name, **spec)
    rig.serve_service(name, backend)


def test_a_requested_address_belongs_to_one_service(rig: Rig) -> None:
    """The second asker is refused, on other ports too, the first is untouched; when it goes the second has its turn."""
    rig.start()
    serve_web(rig, "first", 1, loadBalancerIP=VIP)
    rig.wait("first is served", lambda: rig.ask(VIP) == "n1")
    load = Load(rig.lan.client, VIP)
    serve_web(rig, "second", 2, loadBalancerIP=VIP, ports=[{"name": "other", "port": 81, "protocol": "TCP"}])
    message = refused(rig, "second", "AddressInUse")
    assert f"{VIP} is held by {rig.namespace}/first since" in message
    assert rig.ask(VIP, 81) == ""
    assert rig.ingress("first") == [VIP]
    assert load.finish().failed == ()
    rig.delete("first")
    rig.wait("second has its turn", lambda: rig.ask(VIP, 81) == "n2")
    rig.wait("second is published", lambda: rig.ingress("second") == [VIP])
    assert rig.ask(VIP) == ""


def test_an_administrators_address_may_be_asked_for_and_is_never_removed(rig: Rig) -> None:
    """One that was there before the daemon, and one that came while it ran; ours beside them goes as always."""
    early, late = "203.0.113.20", "203.0.113.21"
    box = rig.lan.balancer
    box.ip("addr", "add", f"{early}/24", "dev", "eth0")
    rig.start()
    serve_web(rig, "early", 1, loadBalancerIP=early)
    rig.wait("early is served", lambda: rig.ask(early) == "n1")
    box.ip("addr", "add", f"{late}/32", "dev", "eth0")
    serve_web(rig, "late", 2, loadBalancerIP=late)
    rig.wait("late is served", lambda: rig.ask(late) == "n2")
    serve_web(rig, "ours", 1, loadBalancerIP=VIP)
    rig.wait("ours is published", lambda: rig.ingress("ours") == [VIP])
    for name in ("early", "late", "ours"):
        rig.delete(name)
    rig.wait("ours has gone", lambda: rig.held() == {early, late})
    assert rig.ask(early) == ""
    assert rig.stop() == 0
    assert rig.held() == {early, late}


def test_an_address_of_ours_that_an_administrator_adds_too_is_theirs_from_then_on(rig: Rig) -> None:
    """Nobody notices the change of hands; it stays when the Service goes, and comes back as ours when they take it."""
    box = rig.lan.balancer
    rig.start()
    serve_web(rig, "web", 1, loadBalancerIP=VIP)
    rig.wait("served", lambda: rig.ask(VIP) == "n1")
    load = Load(rig.lan.client, VIP)
    box.ip("addr", "add", f"{VIP}/24", "dev", "eth0")
    rig.wait("only theirs is left", lambda: f"inet {VIP}/32" not in box.ip("addr", "show", "dev", "eth0"))
    assert rig.ask(VIP) == "n1"
    assert load.finish().failed == ()
    box.ip("addr", "del", f"{VIP}/24", "dev", "eth0")
    rig.wait("ours is back", lambda: f"inet {VIP}/32" in box.ip("addr", "show", "dev", "eth0"))
    box.ip("addr", "add", f"{VIP}/24", "dev", "eth0")
    rig.delete("web")
    rig.wait("ours is gone", lambda: f"inet {VIP}/32" not in box.ip("addr", "show", "dev", "eth0"))
    assert rig.held() == {VIP}


def test_addresses_of_the_gateway_nodes_the_api_server_and_other_devices_are_refused(rig: Rig) -> None:
    """Whoever asks for one is told whose it is; it is not put on the device, and nobody else notices."""
    gateway, node, other_device = "192.0.2.1", "198.51.100.12", "198.51.100.2"
    api_server = str(urlsplit(rig.server).hostname)
    rig.start()
    with unaffected_neighbour(rig):
        for name, address, words in (
            ("gateway", gateway, "the gateway's"),
            ("node", node, "node n2's"),
            ("api-server", api_server, "the API server's"),
            ("device", other_device, "on device eth1 of this machine"),
        ):
            rig.apply(name, loadBalancerIP=address)
            assert words in refused(rig, name, "ForbiddenAddress")
    assert rig.held() == {NEIGHBOUR}


def test_a_bad_address_text_is_reported_on_the_service(rig: Rig) -> None:
    """What the API server lets through although it is no address: the text is quoted, harmless and short."""
    rig.start()
    with unaffected_neighbour(rig):
        for number, text in enumerate(
            ("203.0.113.300", "web.example.net", "203.0.113.010", "x" * 300, "$(id)\n\x1b[31m")
        ):
            rig.apply(f"bad-{number}", loadBalancerIP=text)
            message = refused(rig, f"bad-{number}", "InvalidAddress")
            assert "is not an IP address" in message
            assert message.isprintable()
            assert len(message) < 200
    assert rig.held() == {NEIGHBOUR}


def test_an_address_that_another_machine_has_is_refused_naming_its_mac(rig: Rig) -> None:
    """The LAN is asked before an address is first held; the rival keeps it."""
    rival = rig.lan.machine("rival")
    rival.ip("addr", "add", f"{VIP}/24", "dev", "eth0")
    rig.start()
    with unaffected_neighbour(rig):
        rig.apply("web", loadBalancerIP=VIP)
        assert f"{VIP} is already in use on the LAN by {rival.mac('eth0')}" in refused(rig, "web", "AddressConflict")
    assert rig.held() == {NEIGHBOUR}


def test_a_port_in_use_on_this_machine_is_refused_naming_the_process(rig: Rig) -> None:
    """A process of the host that listens on the wildcard address has the port on every address."""
    process = rig.lan.balancer.popen([sys.executable, "-S", "-c", ON_ONE_ADDRESS, "0.0.0.0", "8443"])
    rig.start()
    with unaffected_neighbour(rig):
        rig.apply("web", loadBalancerIP=VIP, ports=[{"name": "https", "port": 8443, "protocol": "TCP"}])
        assert f"(pid {process.pid})" in refused(rig, "web", "PortInUse")
    assert rig.held() == {NEIGHBOUR}


def test_an_address_of_the_wrong_family_is_refused(rig: Rig) -> None:
    """An IPv6 address on an IPv4 Service can never have a backend."""
    rig.start()
    with unaffected_neighbour(rig):
        rig.apply("web", loadBalancerIP="2001:db8:0:113::10")
        assert "ipFamilies are IPv4" in refused(rig, "web", "WrongFamily")
    assert rig.held() == {NEIGHBOUR}


def test_an_address_outside_of_the_subnets_is_served_with_a_warning(rig: Rig) -> None:
    """The LAN must route it to this machine: when it does, the Service answers."""
    rig.lan.client.ip("route", "add", f"{OFF_SUBNET}/32", "via", DEFAULT)
    rig.start()
    with unaffected_neighbour(rig):
        serve_web(rig, "web", 2, loadBalancerIP=OFF_SUBNET)
        rig.wait("served", lambda: rig.ask(OFF_SUBNET) == "n2")
        rig.wait(
            "warned",
            lambda: any((kind, what) == ("Warning", "OutOfSubnet") for kind, what, _ in rig.events("web")),
        )
    rig.wait("published", lambda: rig.condition("web").get("status") == "True")


def test_settings_refuse_addresses_outside_of_the_subnets_and_in_forbidden_networks(rig: Rig) -> None:
    """`--off-subnet refuse` and `--refuse-addresses`: the message names the setting."""
    rig.start("--off-subnet", "refuse", "--refuse-addresses", "203.0.113.128/25,198.51.100.0/24")
    with unaffected_neighbour(rig):
        rig.apply("outside", loadBalancerIP=OFF_SUBNET)
        assert "off-subnet=refuse" in refused(rig, "outside", "OutOfSubnet")
        rig.apply("forbidden", loadBalancerIP="203.0.113.200")
        assert "203.0.113.128/25, which refuse-addresses forbids" in refused(rig, "forbidden", "ForbiddenAddress")
    assert rig.held() == {NEIGHBOUR}
