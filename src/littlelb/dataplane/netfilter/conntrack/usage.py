"""Adds up flows by frontend and backend: how many there are, and what went through them.

The sums are those of the flows in the table: when a flow is forgotten, what it carried is gone from them. Who wants
counters that only grow adds the differences up, or listens to the notifications of the flows' ends.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from msgspec import Struct

from littlelb.core.model import Ip, Protocol
from littlelb.dataplane.netfilter.conntrack.flows import PROTOCOLS, Flow


class Pair(Struct, frozen=True, gc=False, cache_hash=True):
    """Where clients knocked, and who answers them."""

    protocol: Protocol
    frontend: Ip
    frontend_port: int
    backend: Ip
    backend_port: int


@dataclass(slots=True)
class Usage:
    """Sums over the flows of one pair; packets and bytes of a flow without accounting are not in it."""

    flows: int = 0
    """Entries of the table."""
    live: int = 0
    """Those that are connections still (see `Flow.live`)."""
    sent_packets: int = 0
    sent_bytes: int = 0
    """From the clients."""
    received_packets: int = 0
    received_bytes: int = 0
    """From the backend."""

    def add(self, flow: Flow) -> None:
        """Count one flow."""
        self.flows += 1
        self.live += flow.live
        if flow.sent is not None:
            self.sent_packets += flow.sent.packets
            self.sent_bytes += flow.sent.octets
        if flow.received is not None:
            self.received_packets += flow.received.packets
            self.received_bytes += flow.received.octets


_Number: TypeAlias = tuple[int, int, int, int, int, int]


class Tally:
    """Sums that grow with each flow that is shown to it; flows of protocols that no Service has are passed over."""

    def __init__(self) -> None:
        """Begin at nothing."""
        # Addresses hash slowly: by numbers the sum of 50,000 flows takes half the time.
        self._found: dict[_Number, tuple[Pair, Usage]] = {}

    def add(self, flows: Iterable[Flow]) -> None:
        """Count some flows."""
        for flow in flows:
            one, other = flow.original.destination, flow.reply.source
            ports = flow.original.destination_port, flow.reply.source_port
            number = (flow.protocol, one.version, int(one), int(other), *ports)
            found = self._found.get(number)
            if found is None:
                if flow.protocol not in PROTOCOLS:
                    continue
                pair = Pair(PROTOCOLS[flow.protocol], one, ports[0], other, ports[1])
                found = self._found[number] = (pair, Usage())
            found[1].add(flow)

    def usage(self) -> Mapping[Pair, Usage]:
        """Return the sums so far."""
        return dict(self._found.values())
