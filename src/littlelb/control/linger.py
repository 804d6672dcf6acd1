"""Addresses that stay on the device while flows of a withdrawn Service end by themselves (`drain-seconds`)."""

from collections.abc import Callable, Mapping

from littlelb.core.model import Forward, Frontend, Ip, Key


class Linger:
    """Deadlines of draining addresses, in monotonic seconds."""

    def __init__(self) -> None:
        """Nothing drains."""
        self._until: dict[Ip, tuple[float, frozenset[Key]]] = {}

    def start(self, removed: Mapping[Frontend, Forward], is_served: Callable[[Ip], bool], now: float) -> None:
        """Forget what has ended, begin the drain of frontends that go now; an address that is served does not drain."""
        self._until = {ip: entry for ip, entry in self._until.items() if entry[0] > now and not is_served(ip)}
        for frontend, forward in removed.items():
            if forward.withdraw_seconds > 0:
                until, services = self._until.get(frontend.address, (now, frozenset()))
                until = max(until, now + forward.withdraw_seconds)
                self._until[frontend.address] = (until, services | {forward.service})

    def end(self) -> None:
        """Nothing flows any more."""
        self._until = {}

    def holds(self, address: Ip, now: float) -> bool:
        """Must the address stay for now?"""
        return address in self._until and self._until[address][0] > now

    def services(self, now: float) -> frozenset[Key]:
        """Services that still have a draining address."""
        return frozenset(key for until, services in self._until.values() if until > now for key in services)

    @property
    def next_deadline(self) -> float | None:
        """When the next drain ends."""
        return min((until for until, _ in self._until.values()), default=None)
