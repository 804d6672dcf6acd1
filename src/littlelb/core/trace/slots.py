"""How the kernel plane spreads one frontend over its backends: the class, its slots, and the slot of a packet.

The plane writes its elements from the same rules (`dataplane.nft.layout`); a property test holds the two together, and
a lab test holds both to the kernel.
"""

from dataclasses import dataclass
from typing import Final

from littlelb.core.hashing import maglev, maglev_size
from littlelb.core.model import Backend, Forward, Frontend
from littlelb.core.trace.jhash import jhash, scale
from littlelb.core.trace.packet import Packet

EXACT: Final = 64
"""Up to so many backends of equal weight get one slot each."""
SEED: Final = 0x6C6C6231


@dataclass(frozen=True, slots=True)
class Slots:
    """The class of one frontend."""

    kind: str
    """random, hash, client, client-keep."""
    chain: str
    backends: tuple[Backend, ...]
    """In the order of the slots' numbers."""
    table: tuple[int, ...]
    """Slot → index in `backends`."""

    @property
    def rule(self) -> str:
        """How a slot is found, in the words of nft."""
        family = "ip6" if self.backends[0].address.version == 6 else "ip"
        if self.kind == "random":
            return f"numgen random mod {len(self.table)}"
        key = f"{family} saddr" if self.kind.startswith("client") else f"{family} saddr . th sport"
        return f"jhash {key} mod {len(self.table)} seed {SEED:#010x}"

    def find(self, packet: Packet) -> int | None:
        """Find the slot of a packet; None: it is not decided by the packet, or its source port is not known."""
        key = packet.source.packed
        if self.kind == "random" or (self.kind == "hash" and packet.source_port is None):
            return 0 if len(self.table) == 1 else None
        if self.kind == "hash":
            key += (packet.source_port or 0).to_bytes(2, "big") + b"\0\0"
        return scale(jhash(key, SEED), len(self.table))


def keeping(forward: Forward) -> str:
    """Say how many of the backends see the client's address: all, some, none."""
    count = sum(backend.keeps_source for backend in forward.backends)
    return "none" if not count else "all" if count == len(forward.backends) else "some"


def lay_out(frontend: Frontend, forward: Forward) -> Slots:
    """Choose the class and fill its table. `forward` has backends, all of the frontend's family."""
    backends = tuple(sorted(forward.backends, key=lambda backend: (backend.address, backend.port)))
    weights = tuple(backend.weight for backend in backends)
    by_client = frontend.address.version == 6 and forward.affinity_seconds > 0
    if not by_client and len(backends) <= EXACT and len(set(weights)) == 1:
        table = tuple(range(len(backends)))
    else:
        names = [(f"{backend.address} {backend.port}", backend.weight) for backend in backends]
        table = tuple(maglev(names, maglev_size(weights)))
    keeps = keeping(forward) == "all"
    kind = ("client-keep" if keeps else "client") if by_client else ("hash" if keeps else "random")
    ranged = "-range" if frontend.last_port else ""
    return Slots(kind, f"{kind}{ranged}{frontend.address.version}-{len(table)}", backends, table)
