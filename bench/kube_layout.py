"""The ruleset that kube-proxy's nftables mode (KEP-3866) has for LoadBalancer Services, as text for `nft -f -`.

    services map ─→ external chain ─┐
                 └────────────────→ service chain ─→ one of the endpoint chains ─→ dnat

A chain for each Service and one for each endpoint. For one change kube-proxy flushes and writes anew the chains of that
Service; its map elements stay.
"""

import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Final

_TABLE: Final = "ip kube-proxy"
_CLUSTER: Final = int(IPv4Address("10.96.0.0"))
_CLUSTER_CIDR: Final = "10.0.0.0/8"
SKELETON: Final = f"""
add table {_TABLE}
add chain {_TABLE} mark-for-masquerade
add rule {_TABLE} mark-for-masquerade mark set mark or 0x4000
add map {_TABLE} firewall-ips {{ type ipv4_addr . inet_proto . inet_service : verdict ; }}
add map {_TABLE} service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict ; }}
add chain {_TABLE} services
add rule {_TABLE} services ip daddr . meta l4proto . th dport vmap @service-ips
add chain {_TABLE} firewall-check
add rule {_TABLE} firewall-check ip daddr . meta l4proto . th dport vmap @firewall-ips
add chain {_TABLE} filter-prerouting {{ type filter hook prerouting priority -110 ; }}
add rule {_TABLE} filter-prerouting ct state new jump firewall-check
add chain {_TABLE} nat-prerouting {{ type nat hook prerouting priority -100 ; }}
add rule {_TABLE} nat-prerouting jump services
add chain {_TABLE} nat-output {{ type nat hook output priority -100 ; }}
add rule {_TABLE} nat-output jump services
add chain {_TABLE} nat-postrouting {{ type nat hook postrouting priority 100 ; }}
add rule {_TABLE} nat-postrouting mark and 0x4000 != 0 masquerade fully-random
"""


@dataclass(frozen=True, slots=True)
class Shape:
    """One TCP Service on port 80."""

    number: int
    address: str
    """What clients ask."""
    backends: Sequence[tuple[str, int]]
    ranges: Sequence[str] = ()

    @property
    def name(self) -> str:
        """As kube-proxy names its chains: a hash, then who it is."""
        return f"{self.number:08X}-default/svc-{self.number}/tcp/http"

    def endpoint(self, backend: tuple[str, int]) -> str:
        """The chain of one backend."""
        return f"endpoint-{self.name}__{backend[0]}/{backend[1]}"


def render_all(shapes: Sequence[Shape]) -> str:
    """All of it, into an empty kernel, in one transaction."""
    lines = [SKELETON]
    for shape in shapes:
        lines += _chains(shape, shape.backends)
        lines += _firewall(shape)
        lines += _elements(shape)
    return "\n".join(lines) + "\n"


def render_endpoints(old: Shape, new: Shape) -> str:
    """The endpoints of one Service change; chains that are no longer needed go."""
    lines = list(_chains(new, new.backends))
    for backend in old.backends:
        if backend not in new.backends:
            lines += [f"flush chain {_TABLE} {old.endpoint(backend)}", f"delete chain {_TABLE} {old.endpoint(backend)}"]
    return "\n".join(lines) + "\n"


def render_ranges(new: Shape) -> str:
    """The source ranges of one Service change: its other chains are written anew, too."""
    return "\n".join((*_chains(new, new.backends), *_firewall(new))) + "\n"


def run_nft(text: str) -> None:
    """Run nft as kube-proxy does."""
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)


def _chain(name: str, *rules: str) -> Iterator[str]:
    yield f"add chain {_TABLE} {name}"
    yield f"flush chain {_TABLE} {name}"
    for rule in rules:
        yield f"add rule {_TABLE} {name} {rule}"


def _chains(shape: Shape, backends: Sequence[tuple[str, int]]) -> Iterator[str]:
    jumps = ", ".join(f"{at} : goto {shape.endpoint(backend)}" for at, backend in enumerate(backends))
    for address, port in backends:
        hairpin = f"ip saddr {address} jump mark-for-masquerade"
        yield from _chain(shape.endpoint((address, port)), hairpin, f"meta l4proto tcp dnat to {address}:{port}")
    outside = f"ip daddr {_cluster_ip(shape)} tcp dport 80 ip saddr != {_CLUSTER_CIDR} jump mark-for-masquerade"
    service = f"service-{shape.name}"
    yield from _chain(service, outside, f"numgen random mod {len(backends)} vmap {{ {jumps} }}")
    yield from _chain(f"external-{shape.name}", "jump mark-for-masquerade", f"goto {service}")


def _firewall(shape: Shape) -> Iterator[str]:
    if shape.ranges:
        yield from _chain(f"firewall-{shape.name}", f"ip saddr != {{ {', '.join(shape.ranges)} }} drop")


def _elements(shape: Shape) -> Iterator[str]:
    key = f"{shape.address} . tcp . 80"
    elements = [
        ("service-ips", f"{key} : goto external-{shape.name}"),
        ("service-ips", f"{_cluster_ip(shape)} . tcp . 80 : goto service-{shape.name}"),
    ]
    if shape.ranges:
        elements.append(("firewall-ips", f"{key} : goto firewall-{shape.name}"))
    for table_map, element in elements:
        yield f"add element {_TABLE} {table_map} {{ {element} }}"


def _cluster_ip(shape: Shape) -> IPv4Address:
    return IPv4Address(_CLUSTER + shape.number + 2)
