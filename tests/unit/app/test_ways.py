"""Where forwarding is switched on, and what becomes of a frontend whose way stays closed."""

from collections.abc import Collection, Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from msgspec.structs import replace

from littlelb.app.ways import RouteTable, Ways
from littlelb.core.interfaces import Phase
from littlelb.core.model import Backend, Forward, Frontend, Plane, Protocol
from littlelb.core.plan import Changes, Severity
from littlelb.core.reasons import Reason
from littlelb.host.forwarding.devconf import Setting
from littlelb.host.forwarding.switch import Forwarding
from littlelb.host.rtnl import Link, Route
from littlelb.testing.fake_kernel import ETH0, FakeKernel
from littlelb.testing.fake_target import FakeTarget

ETH1, ETH2 = (Link(index, f"eth{index - 2}", up=True, mac=b"") for index in (3, 4))
WEB = Frontend(ip_address("203.0.113.7"), Protocol.TCP, 80)
SIX = Frontend(ip_address("2001:db8::7"), Protocol.TCP, 80)


def route(destination: str, link: Link) -> Route:
    """A route by a device."""
    return Route(ip_network(destination), link.index, (), on_link=True)


def forward(*backends: str, plane: Plane = Plane.NFT) -> Forward:
    """A rule with these backends."""
    return Forward(
        service="default/web", backends=tuple(Backend(ip_address(one), 8080) for one in backends), plane=plane
    )


class Stage:
    """Three devices, routes to pods by eth1, everything else by eth0."""

    def __init__(self, folder: Path) -> None:
        self.machine = FakeKernel(
            links=[ETH0, ETH1, ETH2],
            routes=[route("0.0.0.0/0", ETH0), route("10.1.0.0/16", ETH1), route("2001:db8:1::/48", ETH1)],
        )
        self.sysctls = {"net/ipv6/conf/all/forwarding": "0", "net/ipv6/conf/eth0/forwarding": "0"}
        self.kernel = FakeTarget[Frontend, Forward](Phase.FORWARD, lambda state: state.forwards)
        forwarding = Forwarding(self.machine, folder / "forwarding.json", read=self.sysctls.get)
        self.ways = Ways(self.kernel, forwarding, self.machine, "eth0")

    def forwarding(self) -> list[str]:
        """Names of the devices that forward IPv4."""
        settings = self.machine.settings
        return [link.name for link in (ETH0, ETH1, ETH2) if settings.get(link.index, {}).get(Setting.FORWARDING)]


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    """Nothing forwards yet."""
    return Stage(tmp_path)


def test_the_longest_prefix_that_fits_leads() -> None:
    """Routes of one length count together; without a route there is no device, and families do not mix."""
    table = RouteTable(
        [ETH0, ETH1],
        [route("0.0.0.0/0", ETH0), route("10.1.0.0/16", ETH1), route("10.1.2.0/24", ETH0), route("10.1.2.0/24", ETH1)],
    )
    assert table.devices(ip_address("192.0.2.1")) == {"eth0"}
    assert table.devices(ip_address("10.1.1.1")) == {"eth1"}
    assert table.devices(ip_address("10.1.2.1")) == {"eth0", "eth1"}
    assert table.devices(ip_address("2001:db8::1")) == frozenset()


async def test_forwarding_is_on_where_clients_and_backends_are_and_nowhere_else(stage: Stage) -> None:
    """It is on before the kernel plane hears of the backends; without backends, or for the pipe, it stays off."""
    await stage.ways.apply(Changes({WEB: forward("10.1.0.1", plane=Plane.PIPE)}))
    await stage.ways.apply(Changes({WEB: forward()}))
    assert stage.forwarding() == []
    assert await stage.ways.apply(Changes(change={WEB: forward("10.1.0.1")})) == {}
    assert stage.forwarding() == ["eth0", "eth1"]
    assert stage.kernel.world == {WEB: forward("10.1.0.1")}


async def test_what_somebody_switched_off_is_on_again_after_a_look(stage: Stage) -> None:
    """A look at the world repairs it, and follows backends to other devices when routes change."""
    await stage.ways.apply(Changes({WEB: forward("10.1.0.1")}))
    stage.machine.settings.clear()
    stage.machine.routes.append(route("10.1.0.0/24", ETH2))
    assert await stage.ways.observe(frozenset({WEB})) == {WEB: forward("10.1.0.1")}
    assert stage.forwarding() == []
    assert await stage.ways.observe(None) == {WEB: forward("10.1.0.1")}
    assert stage.forwarding() == ["eth0", "eth2"]


async def test_a_way_that_stays_closed_is_said_with_the_remedy(stage: Stage) -> None:
    """IPv6 is not ours to switch on here: that frontend fails, its neighbour does not, and it is tried again."""
    wanted = {WEB: forward("10.1.0.1"), SIX: forward("2001:db8:1::1")}
    failures = await stage.ways.apply(Changes(wanted))
    (failed,) = failures.items()
    assert failed[0] == SIX
    assert failed[1].severity is Severity.PERMANENT
    assert "sysctl -w net/ipv6/conf/all/forwarding=1 net/ipv6/conf/eth0/accept_ra=2" in failed[1].message
    assert stage.kernel.world == {WEB: forward("10.1.0.1")}
    stage.sysctls["net/ipv6/conf/all/forwarding"] = "1"
    assert await stage.ways.apply(Changes({SIX: forward("2001:db8:1::1")})) == {}


async def test_routes_that_changed_are_read_again(stage: Stage) -> None:
    """A new backend is looked for in the routes of now."""
    await stage.ways.apply(Changes({WEB: forward("10.1.0.1")}))
    stage.machine.routes.append(route("10.2.0.0/16", ETH2))
    stage.ways.forget()
    await stage.ways.apply(Changes(change={WEB: forward("10.2.0.1")}))
    assert stage.forwarding() == ["eth0", "eth1", "eth2"]


async def test_a_backend_without_a_route_is_left_to_the_kernel(stage: Stage) -> None:
    """No device, nothing to switch on; when a route comes, a look finds it."""
    stage.machine.routes = [route("192.0.2.0/24", ETH0)]
    assert await stage.ways.apply(Changes({WEB: forward("10.1.0.1")})) == {}
    stage.machine.routes.append(route("10.1.0.0/16", ETH1))
    await stage.ways.observe(None)
    assert stage.forwarding() == ["eth0", "eth1"]


async def test_a_port_of_the_host_is_not_taken_from_it(stage: Stage) -> None:
    """On the host's own address processes come first; what is served there already stays."""
    own = replace(forward("10.1.0.1"), held=False)
    asked: list[Frontend] = []

    async def find(frontends: Collection[Frontend]) -> Mapping[Frontend, str]:
        asked.extend(frontends)
        return dict.fromkeys(frontends, "sshd (pid 812)")

    stage.ways.find_owners = find
    failures = await stage.ways.apply(Changes({WEB: own, SIX: forward()}))
    assert [(one, failure.reason) for one, failure in failures.items()] == [(WEB, Reason.PORT_IN_USE)]
    assert "sshd (pid 812)" in failures[WEB].message
    assert await stage.ways.apply(Changes(change={WEB: own})) == {}
    assert asked == [WEB]


async def test_a_device_that_is_missing_is_not_for_forwarding_to_tell(stage: Stage) -> None:
    """The address that cannot be put on it says so, and nothing else stands in the way when it is back."""
    stage.machine.links.remove(ETH0)
    assert await stage.ways.apply(Changes({WEB: forward("10.1.0.1")})) == {}
    assert stage.forwarding() == ["eth1"]
    stage.machine.links.append(ETH0)
    await stage.ways.observe(None)
    assert stage.forwarding() == ["eth0", "eth1"]
