"""A small LAN ready to use: clients, a switch, the balancer, backends behind it (or beside it).

    client0 192.0.2.10 ──┐     192.0.2.2     198.51.100.2     ┌── backend0 198.51.100.11
    client1 192.0.2.11 ──┴─ lan ── eth0 balancer eth1 ── back ─┴── backend1 198.51.100.12

Service addresses are 203.0.113.0/24 and 2001:db8:0:113::/64. Clients reach them on-link, that is by ARP and neighbour
discovery, as on a LAN with two subnets on one wire. For the balancer they are foreign, unless `vips_on_link`: then it
has 203.0.113.2/24 on eth0 as a second own address. Every address has an IPv6 twin with the same last number (written in
hexadecimal), in 2001:db8:0:2::/64 (LAN) and 2001:db8:0:51::/64 (backends). The default route of the balancer leads
to 192.0.2.1, where nobody answers, and that of the backends to the balancer.
"""

from ipaddress import IPv4Address, IPv6Address
from types import TracebackType
from typing import Self

from littlelb.testing.netns import Namespace, Network


def _both(ipv4_net: str, ipv6_net: str, number: int) -> tuple[IPv4Address, IPv6Address]:
    return IPv4Address(f"{ipv4_net}.{number}"), IPv6Address(f"{ipv6_net}::{number:x}")


def lan_address(number: int) -> tuple[IPv4Address, IPv6Address]:
    """Return the IPv4 and IPv6 address with this number on the clients' side."""
    return _both("192.0.2", "2001:db8:0:2", number)


def backend_address(number: int) -> tuple[IPv4Address, IPv6Address]:
    """Return the IPv4 and IPv6 address with this number on the backends' side."""
    return _both("198.51.100", "2001:db8:0:51", number)


def vip(number: int) -> tuple[IPv4Address, IPv6Address]:
    """Return the IPv4 and IPv6 address with this number among those that Services may ask for."""
    return _both("203.0.113", "2001:db8:0:113", number)


class Lan:
    """The machines of the drawing above, as namespaces; a context manager that removes them all.

    `one_link`: the backends are on the clients' switch too, and the balancer has only eth0, with both its addresses.
    """

    def __init__(
        self,
        *,
        clients: int = 1,
        backends: int = 2,
        vips_on_link: bool = False,
        one_link: bool = False,
        prefix: str = "llb",
    ) -> None:
        """Build it; takes about 30 ms a machine."""
        self.network = Network(prefix)
        try:
            self.switch = self.network.namespace("switch")
            self.network.bridge(self.switch, "lan")
            self.backend_bridge = "lan" if one_link else "back"
            if not one_link:
                self.network.bridge(self.switch, "back")
            self.balancer = self._balancer(vips_on_link=vips_on_link, one_link=one_link)
            self.clients: list[Namespace] = []
            self.backends: list[Namespace] = []
            for _ in range(clients):
                self.add_client()
            for _ in range(backends):
                self.add_backend()
        except BaseException:
            self.network.close()
            raise

    @property
    def client(self) -> Namespace:
        """The first client."""
        return self.clients[0]

    def add_client(self) -> Namespace:
        """Plug one more machine into the LAN: 192.0.2.10, .11 and so on."""
        number = 10 + len(self.clients)
        client = self.machine(f"client{len(self.clients)}", "lan")
        address, address6 = lan_address(number)
        client.batch(
            f"addr add {address}/24 dev eth0",
            f"addr add {address6}/64 dev eth0 nodad",
            "route add 203.0.113.0/24 dev eth0",
            "route add 2001:db8:0:113::/64 dev eth0",
        )
        self.clients.append(client)
        return client

    def add_backend(self) -> Namespace:
        """Plug one more backend in: 198.51.100.11, .12 and so on; its default route leads to the balancer."""
        number = 11 + len(self.backends)
        backend = self.machine(f"backend{len(self.backends)}", self.backend_bridge)
        address, address6 = backend_address(number)
        router, router6 = backend_address(2)
        backend.batch(
            f"addr add {address}/24 dev eth0",
            f"addr add {address6}/64 dev eth0 nodad",
            f"route add default via {router}",
            f"route add default via {router6}",
        )
        self.backends.append(backend)
        return backend

    def machine(self, label: str, bridge: str = "lan") -> Namespace:
        """Make one more machine with a bare eth0 on the bridge `lan` or `back`; it goes with the others."""
        made = self.network.namespace(label)
        self.network.plug(made, "eth0", self.switch, bridge)
        return made

    def _balancer(self, *, vips_on_link: bool, one_link: bool) -> Namespace:
        balancer = self.machine("balancer")
        backend_device = "eth0" if one_link else "eth1"
        if not one_link:
            self.network.plug(balancer, "eth1", self.switch, "back")
        own, own6 = lan_address(2)
        back, back6 = backend_address(2)
        second, second6 = vip(2)
        lines = [f"addr add {own}/24 dev eth0"]
        if vips_on_link:  # the kernel lists the newest IPv6 address first, and the first is the default address
            lines += [f"addr add {second}/24 dev eth0", f"addr add {second6}/64 dev eth0 nodad"]
        lines += [f"addr add {own6}/64 dev eth0 nodad"]
        lines += [f"addr add {back}/24 dev {backend_device}", f"addr add {back6}/64 dev {backend_device} nodad"]
        lines += [f"route add default via {lan_address(1)[0]}", f"route add default via {lan_address(1)[1]}"]
        balancer.batch(*lines)
        return balancer

    def close(self) -> None:
        """Remove everything."""
        self.network.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
