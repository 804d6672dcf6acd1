"""What we believe to be in the kernel, and what a change has to write there: no I/O, and little memory.

Kept are the Forwards that were applied (the loop has them anyway) and one digest for each. A frontend whose elements
were found to be others is *unsettled*: its digest is kept, and its elements are asked for when it is to be changed.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from littlelb.core.model import Forward, Frontend, Ip
from littlelb.dataplane.nft.elements.census import Census, digest
from littlelb.dataplane.nft.elements.layout import Place, Rules, render_rules
from littlelb.dataplane.nft.elements.transaction import Transaction, compute_transaction
from littlelb.dataplane.nft.elements.transitions import Step
from littlelb.dataplane.unsettled import UNSETTLED


@dataclass(frozen=True, slots=True)
class Plan:
    """One transaction, and what it makes of the ledger."""

    wanted: Mapping[Frontend, Forward | None]
    """None: it goes."""
    steps: tuple[Step, ...]
    """Those that write something."""
    digests: Mapping[Frontend, int]
    transaction: Transaction


class Ledger:
    """Frontends and addresses as the kernel has them."""

    def __init__(self) -> None:
        """Begin with an empty kernel."""
        self._forwards: dict[Frontend, Forward] = {}
        self._digests: dict[Frontend, int] = {}
        self._unsettled: dict[Frontend, int] = {}
        self._holders: Counter[Ip] = Counter()
        """Address → how many of the forwards say that it is ours alone."""
        self._live: Counter[Ip] = Counter()
        """Address → how many of the forwards have backends."""
        self._odd: dict[Ip, tuple[bool, bool]] = {}
        """Addresses of frontends → are they held, are they alive, where that is not as the forwards want it."""

    def last_applied(self, keys: Collection[Frontend]) -> dict[Frontend, Forward]:
        """Return some frontends as they were applied."""
        return {
            key: UNSETTLED if key in self._unsettled else self._forwards[key]
            for key in keys
            if key in self._forwards or key in self._unsettled
        }

    def compare(self, seen: Census) -> dict[Frontend, Forward]:
        """Take over what is in the kernel; return each frontend as it was applied, or as unsettled."""
        for frontend in [frontend for frontend in self._forwards if frontend not in seen.digests]:
            self._enter(frontend, None)
        self._unsettled = {key: number for key, number in seen.digests.items() if self._digests.get(key) != number}
        flags = {address: (address in seen.held, address in seen.alive) for address in self._addresses(seen)}
        self._odd = {address: has for address, has in flags.items() if has != self._wants(address)}
        observed = {}
        for frontend in seen.digests:
            settled = frontend not in self._unsettled and frontend.address not in self._odd
            observed[frontend] = self._forwards[frontend] if settled else UNSETTLED
        return observed

    @staticmethod
    def _addresses(seen: Census) -> set[Ip]:
        return {frontend.address for frontend in seen.digests}

    def select_strays(self, seen: Census) -> Rules:
        """Return the elements that belong to no frontend: they are to go."""
        strays = dict(seen.strays)
        for address in (seen.held | seen.alive) - self._addresses(seen):
            strays.update(_flags(address, address in seen.held, address in seen.alive))
        return strays

    def strange(self, wanted: Mapping[Frontend, Forward | None]) -> frozenset[Frontend]:
        """Of which frontends the elements have to be read before a plan can be made."""
        return frozenset(
            frontend
            for frontend, forward in wanted.items()
            if frontend in self._unsettled and self._unsettled[frontend] != digest(_render(frontend, forward))
        )

    def plan(self, wanted: Mapping[Frontend, Forward | None], rules: Mapping[Frontend, Rules]) -> Plan:
        """Say what has to be written; `rules` are the elements of those that are `strange`."""
        steps, digests = [], {}
        for frontend, forward in wanted.items():
            new = _render(frontend, forward)
            digests[frontend] = digest(new)
            before = self._forwards.get(frontend)
            if frontend not in self._unsettled:
                old = _render(frontend, before)
            elif frontend in rules:
                old = rules[frontend]
            else:
                old = new
            if old != new:
                steps.append(Step(frontend, old, new, before, forward))
        pairs = [(step.old, step.new) for step in steps]
        return Plan(wanted, tuple(steps), digests, compute_transaction([*pairs, *self._address_steps(wanted)]))

    def settle(self, plan: Plan) -> None:
        """Enter what was written."""
        for frontend, forward in plan.wanted.items():
            self._enter(frontend, forward)
            self._unsettled.pop(frontend, None)
            if forward is not None:
                self._digests[frontend] = plan.digests[frontend]
        for address in {frontend.address for frontend in plan.wanted}:
            self._odd.pop(address, None)

    def _enter(self, frontend: Frontend, forward: Forward | None) -> None:
        for address, holders, live in _deltas(frontend, self._forwards.get(frontend), forward):
            self._holders[address] += holders
            self._live[address] += live
            if not self._holders[address]:
                del self._holders[address]
            if not self._live[address]:
                del self._live[address]
        if forward is not None:
            self._forwards[frontend] = forward
        else:
            self._forwards.pop(frontend, None)
            self._digests.pop(frontend, None)

    def _address_steps(self, wanted: Mapping[Frontend, Forward | None]) -> Iterator[tuple[Rules, Rules]]:
        holders: Counter[Ip] = Counter()
        live: Counter[Ip] = Counter()
        for frontend, forward in wanted.items():
            for address, held, alive in _deltas(frontend, self._forwards.get(frontend), forward):
                holders[address] += held
                live[address] += alive
        for address in {frontend.address for frontend in wanted}:
            held = self._holders[address] + holders[address] > 0
            yield (
                _flags(address, *self._has(address)),
                _flags(address, held, held and self._live[address] + live[address] > 0),
            )

    def _wants(self, address: Ip) -> tuple[bool, bool]:
        held = self._holders[address] > 0
        return held, held and self._live[address] > 0

    def _has(self, address: Ip) -> tuple[bool, bool]:
        return self._odd.get(address) or self._wants(address)


def _render(frontend: Frontend, forward: Forward | None) -> Rules:
    return {} if forward is None else render_rules(frontend, forward)


def _deltas(frontend: Frontend, old: Forward | None, new: Forward | None) -> Iterator[tuple[Ip, int, int]]:
    """How much a change adds to the holders of an address, and to those with backends."""
    for forward, sign in ((old, -1), (new, 1)):
        if forward is not None:
            yield frontend.address, sign * forward.held, sign * bool(forward.backends)


def _flags(address: Ip, held: bool, alive: bool) -> dict[Place, None]:
    places = ((held, "held"), (alive, "alive"))
    return {(f"{name}{address.version}", address.packed, None): None for present, name in places if present}
