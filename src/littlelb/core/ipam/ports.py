"""Which ports a Service asks for: those of spec.ports, and ranges that are forwarded as they are."""

import re
from dataclasses import dataclass

from littlelb.core.ipam.requests import PORT_RANGES_ANNOTATION, quote
from littlelb.core.model import Frontend, Ip, Protocol, Service
from littlelb.core.reasons import Reason, Refusal

MAX_RANGES = 8
MAX_RANGE_PORTS = 10_000
"""Of all ranges of one Service together."""
_RANGE = re.compile(r"([0-9]{1,5})-([0-9]{1,5})/(tcp|udp)", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class PortRange:
    """Ports that are forwarded as they are, to the same port of a pod."""

    protocol: Protocol
    first: int
    last: int

    def __str__(self) -> str:
        """`5000-5999/udp`, as it is written."""
        return f"{self.first}-{self.last}/{self.protocol.lower()}"

    def meets(self, protocol: Protocol, first: int, last: int) -> bool:
        """Has it a port in common with another one?"""
        return self.protocol is protocol and self.first <= last and first <= self.last


def parse_port_ranges(service: Service) -> tuple[PortRange, ...] | Refusal:
    """Read `littlelb.io/port-ranges`; one that is wrong refuses the Service: its clients rely on all of them."""
    parts = service.annotations.get(PORT_RANGES_ANNOTATION, "").split(",", MAX_RANGES)
    if parts == [""]:
        return ()
    if len(parts) > MAX_RANGES:
        return _bad_ranges(f"more than {MAX_RANGES} ranges")
    found: list[PortRange] = []
    for part in parts:
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            return _bad_ranges(f"{quote(part)} cannot be read; write ranges like 5000-5999/udp, 7000-7010/tcp")
        found.append(PortRange(Protocol(match[3].upper()), int(match[1]), int(match[2])))
    why = _judge_ranges(service, found)
    return _bad_ranges(why) if why else tuple(found)


def _judge_ranges(service: Service, ranges: list[PortRange]) -> str:
    """Name what is wrong with ranges that could be read, or nothing."""
    if sum(one.last - one.first + 1 for one in ranges) > MAX_RANGE_PORTS:
        return f"more than {MAX_RANGE_PORTS} ports"
    for index, one in enumerate(ranges):
        if not 1 <= one.first <= one.last <= 65_535:
            return f"{one} is not within 1-65535, or runs backwards"
        earlier = next((other for other in ranges[:index] if one.meets(other.protocol, other.first, other.last)), None)
        if earlier is not None:
            return f"{earlier} and {one} overlap"
        port = next((port for port in service.ports if one.meets(port.protocol, port.port, port.port)), None)
        if port is not None:
            return f"{one} holds port {port.port}/{port.protocol} of spec.ports"
    return ""


def _bad_ranges(why: str) -> Refusal:
    return Refusal(Reason.INVALID_ANNOTATION, f"{PORT_RANGES_ANNOTATION}: {why}")


def frontends_on(service: Service, address: Ip) -> tuple[Frontend, ...]:
    """Name the frontends that a Service asks for on an address, good or bad, as often as it lists them."""
    single = tuple(Frontend(address, port.protocol, port.port) for port in service.ports)
    if PORT_RANGES_ANNOTATION not in service.annotations:
        return single
    ranges = parse_port_ranges(service)
    if isinstance(ranges, Refusal):
        return single
    return (*single, *(Frontend(address, one.protocol, one.first, one.last) for one in ranges))


def overlap(one: Frontend, other: Frontend) -> bool:
    """Have two frontends a port in common?"""
    return (
        (one.address, one.protocol) == (other.address, other.protocol)
        and one.port <= (other.last_port or other.port)
        and other.port <= (one.last_port or one.port)
    )
