"""What allocation takes over from one run to the next: each Service's case, judged alone; the cluster's addresses."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from littlelb.core.model import Grant, Ip, Key, Service
from littlelb.core.reasons import Refusal

Age: TypeAlias = tuple[float, int, str, str]
"""creationTimestamp, order of first sight, uid, key: the smaller, the older."""


@dataclass(frozen=True, slots=True)
class ClusterAddresses:
    """Addresses that play a part in the cluster, indexed once for all: lists would cost Services times Nodes."""

    nodes: Mapping[Ip, str]
    pods: Mapping[tuple[int, int], Mapping[int, str]]
    """(version, prefix length) → network bits → node: one look-up for each prefix length in use."""
    cluster_ips: Mapping[str, str]

    def owner(self, address: Ip) -> str:
        """Say whose it is, or nothing."""
        if address in self.nodes:
            return f"node {self.nodes[address]}'s"
        for (version, length), nets in self.pods.items():
            node = nets.get(int(address) >> (address.max_prefixlen - length)) if version == address.version else None
            if node is not None:
                return f"in the pod network of node {node}"
        key = self.cluster_ips.get(str(address))
        return f"the cluster IP of {key}" if key else ""


@dataclass(frozen=True, slots=True)
class Case:
    """One Service before the court: what it wants, what it holds, what is wrong with the request itself."""

    service: Service
    age: Age
    granted: Grant
    """As the store has it."""
    grant: Grant
    """Less what it cannot keep."""
    asked: tuple[Ip, ...]
    """Addresses asked for by name, good or bad."""
    wants: tuple[Ip, ...]
    refusals: tuple[Refusal, ...]
    held: tuple[Ip, ...]
    """Addresses it holds, in a stable order."""
    settled: bool
    """Has it got all it wants? Then it lets go of everything else."""


@dataclass(frozen=True, slots=True)
class Docket:
    """All cases, oldest first, and the index that they were judged with."""

    cases: Mapping[Key, Case]
    cluster: ClusterAddresses
