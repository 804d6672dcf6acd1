"""The way to the backends is open before the kernel plane sends packets there: forwarding, device by device.

    elements that name new backends ─► their devices, by the routes ─► forwarding on there and on the link device
                                                        └─ it stays off ─► the frontend fails, with the remedy

A device that leads to no backend of ours is left as it is. What was switched on is remembered below the run directory
and put back when everything is withdrawn.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from typing import Final, Protocol, TypeAlias

import structlog

from littlelb.core.errors import Transient
from littlelb.core.model import Family, Forward, Frontend, Ip, Plane
from littlelb.core.plan import Changes, Failure, Severity
from littlelb.core.reasons import Reason
from littlelb.dataplane.switch import Carrier
from littlelb.host.forwarding.switch import Forwarding, ForwardingFinding
from littlelb.host.rtnl import Link, Route

log = structlog.get_logger(__name__)
RECORD: Final = "forwarding.json"
"""Below the run directory."""
_FAMILIES: Final = {4: Family.IPV4, 6: Family.IPV6}


FindOwners: TypeAlias = Callable[[Collection[Frontend]], Awaitable[Mapping[Frontend, str]]]


async def _nobody(_frontends: Collection[Frontend]) -> Mapping[Frontend, str]:
    return {}


class Tables(Protocol):
    """What of `host.netlink.Netlink` is read here. Both raise OSError."""

    async def read_links(self) -> list[Link]:
        """Return all devices."""
        ...

    async def read_routes(self) -> list[Route]:
        """Return the unicast routes of the main table."""
        ...


class RouteTable:
    """Finds devices by the longest prefix that fits; routes of the same length count together."""

    def __init__(self, links: Iterable[Link], routes: Iterable[Route]) -> None:
        """Sort the routes."""
        names = {link.index: link.name for link in links}
        self.names = frozenset(names.values())
        """All devices: what happens on one that is missing is not for forwarding to say."""
        self._tables: dict[tuple[int, int], dict[int, set[str]]] = {}
        for route in routes:
            if route.index in names:
                net = route.destination
                table = self._tables.setdefault((net.version, net.prefixlen), {})
                table.setdefault(_cut(net.network_address, net.prefixlen), set()).add(names[route.index])
        self._lengths = sorted(self._tables, reverse=True)

    def devices(self, address: Ip) -> frozenset[str]:
        """Return the devices that lead there; none where no route does."""
        for version, length in self._lengths:
            found = version == address.version and self._tables[version, length].get(_cut(address, length))
            if found:
                return frozenset(found)
        return frozenset()


def _cut(address: Ip, length: int) -> int:
    return int(address) >> address.max_prefixlen - length


class Ways:
    """The kernel plane, behind forwarding that is on where it has to be."""

    def __init__(self, kernel: Carrier, forwarding: Forwarding, tables: Tables, device: str) -> None:
        """`device`: the link device, by which clients come."""
        self._kernel, self._forwarding, self._tables, self._device = kernel, forwarding, tables, device
        self.find_owners: FindOwners = _nobody
        """Which of these ports processes of this host wait on now, and which process."""
        self._routes: RouteTable | None = None
        self._present: frozenset[str] = frozenset()
        self._leads: dict[Ip, frozenset[str]] = {}
        """Backend → devices."""
        self._states: dict[tuple[str, Family], ForwardingFinding] = {}

    async def prepare(self) -> None:
        """Let the link device answer questions for host prefixes."""
        await self._forwarding.answer_arp(self._device)

    async def restore(self) -> None:
        """Put back what was switched on, here or by an earlier daemon."""
        for restored in await self._forwarding.restore():
            if restored.reason:
                log.warning("forwarding.left", setting=restored.key, reason=restored.reason)

    def forget(self) -> None:
        """Routes have changed: read them again before the next way is looked for."""
        self._routes = None

    async def observe(self, keys: frozenset[Frontend] | None) -> Mapping[Frontend, Forward]:
        """Return what the kernel plane carries; a look at the world sees to it that the ways are still open."""
        if keys is None:
            await self._look_again()
        return await self._kernel.observe(keys)

    async def apply(self, changes: Changes[Frontend, Forward]) -> Mapping[Frontend, Failure]:
        """Open the ways to new backends, then make the changes; where one stays closed, the frontend fails."""
        wanted = {one: rule for one, rule in {**changes.add, **changes.change}.items() if rule.plane is Plane.NFT}
        await self._open(wanted.values())
        failures = {one: failure for one, rule in wanted.items() if (failure := self._judge(one, rule)) is not None}
        failures |= await self._judge_ports([one for one in changes.add if one in wanted and not wanted[one].held])
        able = Changes(
            {one: rule for one, rule in changes.add.items() if one not in failures},
            {one: rule for one, rule in changes.change.items() if one not in failures},
            changes.remove,
        )
        return {**failures, **await self._kernel.apply(able)}

    async def _judge_ports(self, fresh: Collection[Frontend]) -> dict[Frontend, Failure]:
        """On an address that the host has for itself, its own processes come first: ssh is not taken away."""
        owners = await self.find_owners(fresh) if fresh else {}
        text = "{} on this machine already has {}; stop it, or ask for another port or address"
        return {one: Failure(Reason.PORT_IN_USE, text.format(owner, one)) for one, owner in owners.items()}

    async def _look_again(self) -> None:
        """Read the routes anew; switch on again what somebody else switched off."""
        await self._read_routes()
        known, self._leads, self._states = self._leads, {}, {}
        await self._lead(known)

    async def _read_routes(self) -> RouteTable:
        try:
            self._routes = RouteTable(await self._tables.read_links(), await self._tables.read_routes())
        except OSError as error:
            raise Transient(f"the routes to the backends cannot be read: {error.strerror}") from error
        self._present = self._routes.names
        return self._routes

    async def _open(self, forwards: Iterable[Forward]) -> None:
        await self._lead({backend.address for forward in forwards for backend in forward.backends})

    async def _lead(self, backends: Collection[Ip]) -> None:
        """Find the devices of these backends, and let the kernel forward what comes in by them."""
        fresh = [address for address in backends if not self._leads.get(address)]
        if fresh:
            routes = self._routes or await self._read_routes()
            self._leads.update({address: routes.devices(address) for address in fresh})
        needed = {
            (device, _FAMILIES[address.version])
            for address in backends
            for device in (self._device, *self._leads[address])
        }
        closed = {device for device, family in needed if not self._is_open(device, family)}
        for finding in await self._forwarding.enable(sorted(closed)) if closed else ():
            self._states[finding.device, finding.family] = finding

    def _is_open(self, device: str, family: Family) -> bool:
        """Is it known to be? Of IPv6 nothing is known where the kernel has none."""
        finding = self._states.get((device, family))
        return finding.forwards if finding is not None else (device, Family.IPV4) in self._states

    def _judge(self, frontend: Frontend, forward: Forward) -> Failure | None:
        """Say which way to a backend stays closed, and what its owner can do; None: all are open."""
        family = _FAMILIES[frontend.address.version]
        devices = {device for backend in forward.backends for device in self._leads.get(backend.address, ())}
        for device in sorted({self._device, *devices} if devices else ()):
            finding = self._states.get((device, family))
            if (
                finding is not None
                and not finding.forwards
                and self._routes is not None
                and device in self._routes.names
            ):
                remedy = f": {finding.remedy}" if finding.remedy else ""
                message = (
                    f"{family} is not forwarded on {device}: {finding.message}{remedy}; or littlelb.io/plane: pipe"
                )
                return Failure(Reason.PLANE_UNAVAILABLE, message, Severity.PERMANENT)
        return None
