"""Words of `plan` for what the targets want and see: one short text for each kind of value, and one for each key."""

from typing import TypeAlias, assert_never

from littlelb.core.model import Backend, Claim, Forward, Frontend, Ip, Key, Net, Placement, Publication
from littlelb.dataplane.switch import is_settled
from littlelb.dataplane.unsettled import UNSETTLED
from littlelb.host.address import ALTERED

Value: TypeAlias = Forward | Placement | Claim | Publication
MOST = 8
"""So many backends are named, the others counted: a line of thousands is no help."""


def render_key(key: Frontend | Ip | Key) -> str:
    """`203.0.113.10:80/TCP`, `[2001:db8::1]:80/TCP`, an address, or the name of a Service."""
    if not isinstance(key, Frontend):
        return str(key)
    last = f"-{key.last_port}" if key.last_port else ""
    return f"{_with_port(key.address, key.port)}{last}/{key.protocol}"


def render_value(value: Value) -> str:
    """Say in a few words what is, or should be."""
    match value:
        case Forward():
            return _forward(value)
        case Placement():
            return "altered by somebody else" if value == ALTERED else f"/{value.prefix_length} on {value.device}"
        case Claim():
            return "finalizer"
        case Publication():
            return _publication(value)
        case _:
            assert_never(value)


def _forward(forward: Forward) -> str:
    if forward == UNSETTLED or not is_settled(forward):
        return "not as it was left: by one plane of two, by some of the workers, or with elements that others changed"
    texts = [_with_port(one.address, one.port) + _weight(one) for one in forward.backends[:MOST]]
    if len(forward.backends) > MOST:
        texts.append(f"{len(forward.backends) - MOST} more")
    details = [*([forward.service] if forward.service else []), forward.plane]
    if any(backend.keeps_source for backend in forward.backends):
        kept = all(backend.keeps_source for backend in forward.backends)
        details.append("client address kept" if kept else "client address kept for some")
    if forward.from_link_only:
        details.append("link only")
    if forward.source_ranges is not None:
        details.append(f"from {_networks(forward.source_ranges)} only")
    if forward.affinity_seconds:
        details.append("session affinity")
    if forward.drain_seconds is not None:
        details.append(f"drain {forward.drain_seconds} s")
    return f"{', '.join(texts) or 'refused: no backend'} ({', '.join(details)})"


def _weight(backend: Backend) -> str:
    return f" x{backend.weight}" if backend.weight != 1 else ""


def _networks(ranges: tuple[Net, ...]) -> str:
    return ", ".join(str(network) for network in ranges) or "nobody"


def _publication(publication: Publication) -> str:
    parts = []
    for entry in publication.ingress:
        failing = [f"{port.port}/{port.protocol} {port.error}" for port in entry.ports if port.error]
        mode = f" ({entry.ip_mode})" if entry.ip_mode else ""
        parts.append(f"{entry.ip or entry.hostname}{mode}{''.join(f', {text}' for text in failing)}")
    parts += [f"{condition.type}={condition.status} {condition.reason}" for condition in publication.conditions]
    if publication.external_ips:
        parts.append(f"externalIPs {', '.join(publication.external_ips)}")
    return "; ".join(parts)


def _with_port(address: Ip, port: int) -> str:
    where = f":{port}" if port else " (port kept)"
    return f"[{address}]{where}" if address.version == 6 else f"{address}{where}"
