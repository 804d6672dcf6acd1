"""Addresses that play a part in the cluster: nodes', pods' and cluster IPs, which no Service may ask for.

Indexed once for all, because lists would cost Services times Nodes, and followed from one snapshot to the next.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import NamedTuple, TypeAlias

from littlelb.core.immutable.index import Index, reindex
from littlelb.core.immutable.layered import Layered
from littlelb.core.model import Ip, Key, Node, Service

Pods: TypeAlias = Mapping[tuple[int, int], Mapping[int, str]]
"""(version, prefix length) → network bits → node: one look-up for each prefix length in use."""


@dataclass(frozen=True, slots=True)
class ClusterAddresses:
    """Whose is an address?"""

    nodes: Mapping[Ip, str]
    pods: Pods
    cluster_ips: Index[str]
    """Text of a cluster IP → Services, of which a folder may give several the same one."""

    def owner(self, address: Ip) -> str:
        """Say whose it is, or nothing."""
        if address in self.nodes:
            return f"node {self.nodes[address]}'s"
        for (version, length), nets in self.pods.items():
            node = nets.get(int(address) >> (address.max_prefixlen - length)) if version == address.version else None
            if node is not None:
                return f"in the pod network of node {node}"
        keys = self.cluster_ips.get(str(address))
        return f"the cluster IP of {min(keys)}" if keys else ""


class Moved(NamedTuple):
    """What may be somebody else's now."""

    addresses: frozenset[Ip] = frozenset()
    networks: frozenset[tuple[int, int, int]] = frozenset()
    """Version, prefix length and network bits."""

    def concerns(self, address: Ip) -> bool:
        """Is it in one of the networks?"""
        return any(
            version == address.version and int(address) >> (address.max_prefixlen - length) == bits
            for version, length, bits in self.networks
        )


def index_cluster(services: Mapping[Key, Service], nodes: Mapping[str, Node]) -> ClusterAddresses:
    """Index everything."""
    none: Index[str] = Layered()
    cluster_ips = reindex(none, (), _texts(services, services))
    return ClusterAddresses(_index_addresses(nodes), _index_pods(nodes), cluster_ips)


def follow_services(
    last: ClusterAddresses, before: Mapping[Key, Service], after: Mapping[Key, Service], keys: Iterable[Key]
) -> tuple[ClusterAddresses, Moved]:
    """Follow some Services that came, changed or went; of a cluster IP that several have, the others stay."""
    keys = [key for key in keys if _cluster_ips(before, key) != _cluster_ips(after, key)]
    if not keys:
        return last, Moved()
    gone, come = list(_texts(before, keys)), list(_texts(after, keys))
    moved = frozenset(address for text, _ in (*gone, *come) for address in _parse(text))
    return replace(last, cluster_ips=reindex(last.cluster_ips, gone, come)), Moved(addresses=moved)


def follow_nodes(last: ClusterAddresses, nodes: Mapping[str, Node]) -> tuple[ClusterAddresses, Moved]:
    """Follow nodes that came, changed or went."""
    addresses, pods = _index_addresses(nodes), _index_pods(nodes)
    moved = Moved(
        addresses=frozenset(address for address, _ in last.nodes.items() ^ addresses.items()),
        networks=frozenset(network for network, _ in set(_networks(last.pods)) ^ set(_networks(pods))),
    )
    return replace(last, nodes=addresses, pods=pods), moved


def _index_addresses(nodes: Mapping[str, Node]) -> dict[Ip, str]:
    return {address: node.name for node in nodes.values() for address in node.addresses}


def _index_pods(nodes: Mapping[str, Node]) -> Pods:
    pods: dict[tuple[int, int], dict[int, str]] = {}
    for node in nodes.values():
        for net in node.pod_networks:
            bits = int(net.network_address) >> (net.max_prefixlen - net.prefixlen)
            pods.setdefault((net.version, net.prefixlen), {})[bits] = node.name
    return pods


def _networks(pods: Pods) -> Iterator[tuple[tuple[int, int, int], str]]:
    for (version, length), nets in pods.items():
        for bits, node in nets.items():
            yield (version, length, bits), node


def _cluster_ips(services: Mapping[Key, Service], key: Key) -> tuple[str, ...]:
    service = services.get(key)
    return service.cluster_ips if service is not None else ()


def _texts(services: Mapping[Key, Service], keys: Iterable[Key]) -> Iterator[tuple[str, Key]]:
    """Pair cluster IPs with their Services; a headless one has none, and says so with a word."""
    for key in keys:
        for text in _cluster_ips(services, key):
            if text != "None":
                yield text, key


def _parse(text: str) -> Iterator[Ip]:
    """Read a text that should be an address; another one can be asked for by nobody."""
    try:
        yield ip_address(text)
    except ValueError:
        return
