"""Walks a packet through the planes as `DesiredState` has them, in the order of `dataplane.nft.ruleset`.

prerouting or output ─ link_only ─ services, staged, ranges ─┬─ guard ─ mixed ─ sticky ─ class ─ postrouting
                                                             ├─ accept ─ socket of a worker (the pipe)
                                                             └─ held ─ refuse
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from msgspec.structs import replace

from littlelb.core.model import Backend, Forward, Frontend, HostFacts, Ip, Key, Net, Plane, Protocol
from littlelb.core.plan import Failure
from littlelb.core.shown.text import printable
from littlelb.core.state import DesiredState, Settings
from littlelb.core.trace.packet import Destination, Entering, Outcome, Packet, Step, Trace, render_place
from littlelb.core.trace.slots import Slots, keeping, lay_out

SHOWN = 16
"""So many backends are named where a packet may go to any of them."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What a trace depends on besides the packet."""

    desired: DesiredState
    settings: Settings
    host: HostFacts
    devices: Mapping[Ip, str] = field(default_factory=dict)
    """The device that leads to each backend, as the kernel routes; missing: judged by the link device's networks."""
    failures: Mapping[Frontend | Ip | Key, Failure] = field(default_factory=dict)
    """What of the desired state is not in force."""


def trace(packet: Packet, facts: Facts) -> Trace:
    """Follow the first packet of a connection to its end."""
    return _Walk(packet, facts).run()


def find_forward(packet: Packet, desired: DesiredState) -> tuple[Frontend, Forward] | None:
    """Find the Service's frontend that such a packet meets: one port goes before a range."""
    exact = Frontend(packet.destination, packet.protocol, packet.port)
    if exact in desired.forwards:
        return exact, desired.forwards[exact]
    for frontend, forward in desired.forwards.items():
        same = (frontend.address, frontend.protocol) == (packet.destination, packet.protocol)
        if same and frontend.port <= packet.port <= frontend.last_port:
            return frontend, forward
    return None


class _Walk:
    """One packet on its way."""

    def __init__(self, packet: Packet, facts: Facts) -> None:
        self._packet = packet
        self._facts = facts
        self._steps: list[Step] = []
        self._number = packet.destination.version
        self._family = "ip" if self._number == 4 else "ip6"
        self._key = f"{packet.destination} . {packet.protocol.lower()} . {packet.port}"
        self._hook = "output" if packet.entering is Entering.LOCAL else "prerouting"
        self._base = Trace(packet=str(packet), steps=(), outcome=Outcome.HOST, why="")

    def run(self) -> Trace:
        found = find_forward(self._packet, self._facts.desired)
        kernel = Plane.NFT in self._facts.settings.planes
        if kernel:
            self._open()
        if found is None:
            return self._nobody(kernel=kernel)
        frontend, forward = found
        self._base = self._about(frontend, forward)
        if forward.plane is Plane.PIPE:
            return self._pipe(frontend, forward, kernel=kernel)
        return self._nft(frontend, forward)

    def _step(self, stage: str, rule: str, verdict: str, why: str = "") -> None:
        self._steps.append(Step(stage, rule, verdict, why))

    def _end(self, outcome: Outcome, why: str, **more: object) -> Trace:
        return replace(self._base, steps=tuple(self._steps), outcome=outcome, why=why, **more)

    def _about(self, frontend: Frontend, forward: Forward) -> Trace:
        """Begin the answer with what is said of a Service, however it ends."""
        failures = self._facts.failures
        subjects = (frontend, frontend.address, forward.service)
        doubts = tuple(printable(f"{one}: {failures[one].message}") for one in subjects if one in failures)
        service = printable(forward.service)
        return replace(self._base, service=service, plane=forward.plane.value, doubts=doubts)

    # --- the kernel plane --------------------------------------------------------------------------------------------

    def _open(self) -> None:
        if self._packet.protocol is Protocol.TCP:
            self._step(self._hook, "tcp flags & (fin | syn | rst | ack) == syn", "go on", "it opens a connection")
        else:
            self._step(self._hook, "meta l4proto udp", "go on", "no flow is known yet")

    def _nobody(self, *, kernel: bool) -> Trace:
        """No Service has this port on this address."""
        address = self._packet.destination
        on_it = [forward for frontend, forward in self._facts.desired.forwards.items() if frontend.address == address]
        if not on_it:
            return self._end(Outcome.HOST, f"no Service of ours is on {address}")
        if not any(forward.held for forward in on_it):
            why = f"{address} is this machine's own, and no Service has this port: its own sockets answer"
            return self._end(Outcome.HOST, why)
        if not kernel:
            why = f"no Service has this port on {address}: the kernel refuses unless a process of this machine listens"
            return self._end(Outcome.HOST, why)
        self._step(f"services{self._number}", self._key, "go on", "no Service has this port")
        self._step(self._hook, f"{self._family} daddr @held{self._number}", f"goto refuse{self._number}")
        return self._refuse(f"no Service has this port on {address}, which is ours alone")

    def _refuse(self, why: str) -> Trace:
        tcp = self._packet.protocol is Protocol.TCP
        rule, answer = (
            ("reject with tcp reset", "TCP RST")
            if tcp
            else ("reject with icmpx port-unreachable", "ICMP port unreachable")
        )
        self._step(f"refuse{self._number}", rule, "refuse")
        return self._end(Outcome.REFUSED, why, answer=answer)

    def _nft(self, frontend: Frontend, forward: Forward) -> Trace:
        prefix = "range_" if frontend.last_port else ""
        if forward.from_link_only and self._packet.entering is not Entering.LINK:
            self._step(f"{prefix}link_only{self._number}", self._key, "accept", "it does not enter by the link device")
            return self._end(Outcome.HOST, "kube-proxy of this node serves the pods and processes of the node")
        entry = f"{'ranges' if prefix else 'services'}{self._number}"
        if not forward.backends:
            self._step(entry, self._key, f"goto refuse{self._number}", f"{forward.service} has no backend")
            return self._refuse(f"{forward.service} has no backend")
        if forward.source_ranges == ():
            self._step(entry, self._key, "drop", f"the source ranges of {forward.service} let nobody in")
            return self._end(Outcome.DROPPED, "its source ranges let nobody in")
        slots = lay_out(frontend, forward)
        admitted = self._stages(entry, frontend, forward, slots)
        if not admitted:
            return self._end(Outcome.DROPPED, f"{self._packet.source} is in none of its source ranges")
        slot, chosen = self._choose(slots)
        keeps = keeping(forward)
        kept = {backend.address for backend in forward.backends if backend.keeps_source}
        backends = tuple(self._source(backend, keeps, kept) for backend in chosen)
        self._leave(backends, keeps)
        doubts = self._base.doubts
        if self._number == 4 and forward.affinity_seconds:
            seconds = forward.affinity_seconds
            doubts += (f"if {self._packet.source} was here within {seconds} s, it keeps the backend of then",)
        self._base = replace(self._base, slot=slot, slots=len(slots.table), doubts=doubts)
        return self._end(Outcome.FORWARDED, _chosen(slots, slot), backends=backends[:SHOWN])

    def _stages(self, entry: str, frontend: Frontend, forward: Forward, slots: Slots) -> bool:
        """Pass the stages that the Service needs, up to its class; False: it ends at the guard."""
        prefix, kind = ("range_", "-range") if frontend.last_port else ("", "")
        ranges = select_ranges(forward, self._number)
        place, why = entry, forward.service
        if ranges is not None or keeping(forward) == "some" or self._is_sticky(forward):
            chain = f"stages{kind}{self._number}"
            self._step(f"{prefix}staged{self._number}", self._key, f"jump {chain}", why)
            if ranges is not None and not self._guard(chain, ranges):
                return False
            if keeping(forward) == "some":
                rule = f"@{prefix}mixed{self._number}: ct mark set"
                self._step(chain, rule, "go on", "some backends see the client's address, some do not")
            if self._is_sticky(forward):
                self._remember(chain, prefix, forward)
            place, why = entry if prefix else f"classes{self._number}", ""
        self._step(place, self._key, f"goto {slots.chain}", why)
        return True

    def _is_sticky(self, forward: Forward) -> bool:
        return self._number == 4 and forward.affinity_seconds > 0

    def _guard(self, chain: str, ranges: tuple[Net, ...]) -> bool:
        inside = [str(network) for network in ranges if self._packet.source in network]
        rule = f"{self._family} saddr @allowed{self._number}"
        if not inside:
            self._step(chain, rule, "drop", f"{self._packet.source} is in none of its source ranges")
            return False
        self._step(chain, rule, "go on", f"{self._packet.source} is in {inside[0]}")
        return True

    def _remember(self, chain: str, prefix: str, forward: Forward) -> None:
        name = "_keep" if keeping(forward) == "all" else ""
        inner = f"sticky{name.replace('_', '-')}4"
        self._step(chain, f"@{prefix}sticky{name}4", f"jump {inner}")
        seen = f"seen within {forward.affinity_seconds} s: it keeps its backend; else it goes on"
        self._step(inner, "ip saddr . … map @affinity4", "dnat or go on", seen)

    def _choose(self, slots: Slots) -> tuple[int | None, tuple[Backend, ...]]:
        slot = slots.find(self._packet)
        if slot is None:
            several = f"to one of {len(slots.backends)} backends"
            self._step(slots.chain, slots.rule, "dnat", several)
            return None, slots.backends
        backend = slots.backends[slots.table[slot]]
        where = render_place(backend.address, backend.port or self._packet.port)
        self._step(slots.chain, f"{slots.rule} = {slot}", "dnat", f"to {where}")
        return slot, (backend,)

    def _source(self, backend: Backend, keeps: str, kept: set[Ip]) -> Destination:
        """Say whose address this backend sees, in the order of the chain `postrouting`."""
        address, port = str(backend.address), backend.port or self._packet.port
        if keeps == "none":
            return Destination(address, port, "", "answers of its backends are not known to come back through here")
        if self._packet.entering is Entering.LOCAL:
            return Destination(address, port, "", "this machine sends it")
        if self._returns(backend.address):
            return Destination(address, port, "", "it leaves by the device it came by: the answer would not come back")
        if backend.address in kept:
            return Destination(address, port, str(self._packet.source), "its answers come back through this machine")
        return Destination(address, port, "", "its answers are not known to come back through this machine")

    def _returns(self, address: Ip) -> bool:
        """Does a packet to this backend leave by the link device, by which it came?"""
        host = self._facts.host
        if self._packet.entering is not Entering.LINK:
            return False
        if address in self._facts.devices:
            return self._facts.devices[address] == host.device
        return any(network.version == address.version and address in network for network in host.on_link)

    def _leave(self, backends: tuple[Destination, ...], keeps: str) -> None:
        for sees, why in dict.fromkeys((backend.sees, backend.why) for backend in backends):
            rule = {"all": "ct mark: all keep", "some": f"{self._family} daddr @kept{self._number}"}.get(
                keeps, "ct mark"
            )
            verdict = f"snat to {sees}" if sees else "masquerade"
            self._step("postrouting", rule, verdict, why)

    # --- the pipe ----------------------------------------------------------------------------------------------------

    def _pipe(self, frontend: Frontend, forward: Forward, *, kernel: bool) -> Trace:
        if kernel:
            self._step(f"services{self._number}", self._key, "accept", f"{forward.service} is the pipe's")
        where = render_place(frontend.address, frontend.port)
        if not forward.backends:
            self._step("socket", where, "refuse", "nobody accepts: there is no backend")
            return self._end(Outcome.REFUSED, f"{forward.service} has no backend", answer="TCP RST")
        self._step("socket", where, "accept", "one of the worker processes takes the connection")
        ranges = select_ranges(forward, self._number)
        if ranges is not None and not any(self._packet.source in network for network in ranges):
            self._step("worker", "source ranges", "refuse", f"{self._packet.source} is in none of them")
            why = f"{self._packet.source} is in none of its source ranges"
            return self._end(Outcome.REFUSED, why, answer="TCP RST")
        rule, why = _policy(forward)
        self._step("worker", rule, "connect", f"to one of {len(forward.backends)} backends; if it fails, the next one")
        seen = "a worker opens a connection of its own"
        backends = tuple(Destination(str(one.address), one.port, "", seen) for one in forward.backends)
        return self._end(Outcome.FORWARDED, why, backends=backends[:SHOWN])


def select_ranges(forward: Forward, version: int) -> tuple[Net, ...] | None:
    """Source ranges that concern a family; None: everybody; empty: nobody."""
    ranges = forward.source_ranges
    if not ranges:
        return ranges
    own = tuple(network for network in ranges if network.version == version)
    return own if own and all(network.prefixlen for network in own) else None


def _chosen(slots: Slots, slot: int | None) -> str:
    """Say how the backend was chosen."""
    if slot is None:
        return "chosen at random" if slots.kind == "random" else "chosen by the client's address and port"
    return {
        "random": "the only backend",
        "hash": "chosen by the client's address and port: another machine would choose the same",
    }.get(slots.kind, "chosen by the client's address: the same for all its connections")


def _policy(forward: Forward) -> tuple[str, str]:
    """Say how a worker chooses."""
    if forward.affinity_seconds:
        return "rendezvous of the client's address", "chosen by the client's address: the same in every worker"
    weighted = " by weight" if len({backend.weight for backend in forward.backends}) > 1 else ""
    return f"round robin{weighted}", "each worker takes the backends in turn"
