"""From the kernel's tables to HostFacts."""

import errno
from ipaddress import ip_address, ip_network

import pytest

from littlelb.core.errors import Transient
from littlelb.core.model import HostFacts, Listener, Protocol
from littlelb.host.facts import compute_facts, read_host_facts
from littlelb.host.rtnl import Address, Route
from littlelb.testing.fake_kernel import ETH0, ETH1, FakeKernel


def entry(text: str, index: int = 2, *, marked: bool = False, deprecated: bool = False, usable: bool = True) -> Address:
    """Make an address from `192.0.2.2/24`."""
    address, _, length = text.partition("/")
    scope = not address.startswith(("fe80", "127."))
    return Address(
        ip_address(address), int(length), index, marked, deprecated=deprecated, usable=usable, scope_global=scope
    )


def route(destination: str, index: int = 2, *gateways: str) -> Route:
    """Make a route."""
    return Route(ip_network(destination), index, tuple(map(ip_address, gateways)), on_link=not gateways)


def test_default_address_is_the_first_usable_own() -> None:
    """Marked, tentative and link-local addresses are no default; deprecated ones come last."""
    facts = compute_facts(
        "eth0",
        [ETH0, ETH1],
        [
            entry("203.0.113.7/32", marked=True),
            entry("192.0.2.9/24", deprecated=True),
            entry("192.0.2.2/24"),
            entry("192.0.2.3/24"),
            entry("2001:db8::5/64", usable=False),
            entry("fe80::1/64"),
            entry("2001:db8::6/64"),
        ],
        [],
    )
    assert [str(address) for address in facts.own] == ["192.0.2.2", "192.0.2.3", "2001:db8::6", "192.0.2.9"]


def test_networks_gateways_and_other_devices() -> None:
    """On-link networks are the link device's; gateways and routes are everybody's; link-local networks are nobody's."""
    listener = Listener(Protocol.TCP, None, 22, "sshd (pid 812)")
    facts = compute_facts(
        "eth0",
        [ETH0, ETH1],
        [entry("192.0.2.2/24"), entry("198.51.100.2/24", 3), entry("203.0.113.8/32", 3, marked=True)],
        [
            route("0.0.0.0/0", 2, "192.0.2.1"),
            route("192.0.2.0/24"),
            route("192.0.2.0/24"),
            route("fe80::/64"),
            route("198.51.100.0/24", 3),
            route("10.1.0.0/16", 3, "198.51.100.11", "198.51.100.12"),
        ],
        (listener,),
    )
    assert facts == HostFacts(
        device="eth0",
        own=(ip_address("192.0.2.2"),),
        on_link=(ip_network("192.0.2.0/24"),),
        gateways=frozenset(map(ip_address, ("192.0.2.1", "198.51.100.11", "198.51.100.12"))),
        elsewhere={ip_address("198.51.100.2"): "eth1"},
        routed=tuple(map(ip_network, ("192.0.2.0/24", "fe80::/64", "198.51.100.0/24", "10.1.0.0/16"))),
        listeners=(listener,),
    )


async def test_missing_device_is_a_fact() -> None:
    """Without the device there are still facts: it is absent, and all addresses are elsewhere."""
    kernel = FakeKernel(links=[ETH1], addresses=[entry("198.51.100.2/24", 3), entry("192.0.2.2/24", 2)])
    facts = await read_host_facts(kernel, "eth0")
    assert (facts.present, facts.up, facts.own, facts.on_link) == (False, False, (), ())
    assert facts.elsewhere == {ip_address("198.51.100.2"): "eth1", ip_address("192.0.2.2"): "?"}


async def test_unreadable_tables_are_transient() -> None:
    """A kernel that says no is the world's failure, not ours."""
    with pytest.raises(Transient, match="Permission denied"):
        await read_host_facts(FakeKernel(unreadable=errno.EACCES), "eth0")
