"""What a Service asks for, read strictly: addresses, source ranges, times, and what we cannot do for it.

Texts come from strangers. Nothing here trusts them: an address is what `ipaddress` accepts and nothing more (no leading
zeros, CVE-2021-29923; no zone; no v4-mapped form), and a text that is quoted in a message is shortened and escaped.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network

from littlelb.core.model import Family, Ip, Net, Service, ServiceType
from littlelb.core.reasons import Notice, Reason, Refusal
from littlelb.core.state import Settings

OURS = "littlelb.io/"
ADDRESS_ANNOTATIONS = (
    "littlelb.io/addresses",
    "metallb.io/loadBalancerIPs",
    "metallb.universe.tf/loadBalancerIPs",
    "kube-vip.io/loadbalancerIPs",
    "lbipam.cilium.io/ips",
    "io.cilium/lb-ipam-ips",
    "purelb.io/addresses",
)
POOL_ANNOTATIONS = (
    "littlelb.io/pool",
    "metallb.io/address-pool",
    "metallb.universe.tf/address-pool",
    "purelb.io/service-group",
)
RANGES_ANNOTATION = "service.beta.kubernetes.io/load-balancer-source-ranges"
DRAIN_ANNOTATION = "littlelb.io/drain-seconds"
PLANE_ANNOTATION = "littlelb.io/plane"
SOURCE_ANNOTATION = "littlelb.io/source-address"
IP_MODE_ANNOTATION = "littlelb.io/ip-mode"
PORT_RANGES_ANNOTATION = "littlelb.io/port-ranges"
BINDING_ANNOTATIONS = ("littlelb.io/proxy-protocol", "littlelb.io/device")
"""Asked-for behaviour that backends or clients rely on: serving without it would be wrong, so it is refused."""
WRITTEN_EXTERNAL_IPS_ANNOTATION = "littlelb.io/written-external-ips"
"""Ours to write: which entries of `spec.externalIPs` we added."""
KNOWN_ANNOTATIONS = frozenset(
    {
        "littlelb.io/addresses",
        "littlelb.io/pool",
        DRAIN_ANNOTATION,
        PLANE_ANNOTATION,
        SOURCE_ANNOTATION,
        IP_MODE_ANNOTATION,
        PORT_RANGES_ANNOTATION,
        WRITTEN_EXTERNAL_IPS_ANNOTATION,
        *BINDING_ANNOTATIONS,
    }
)
MAX_DRAIN_SECONDS = 86_400
MAX_AFFINITY_SECONDS = 86_400
DEFAULT_AFFINITY_SECONDS = 10_800
MAX_ADDRESSES = 8
MAX_SOURCE_RANGES = 256


def quote(text: str, limit: int = 64) -> str:
    """Make a stranger's text fit for a message: printable, one line, not long."""
    shown = ascii(text if len(text) <= limit else text[:limit] + "…")
    return shown.replace("\\u2026", "…")


def family_of(address: Ip) -> Family:
    """Name the family of an address as Kubernetes does."""
    return Family.IPV4 if address.version == 4 else Family.IPV6


def selects(service: Service, settings: Settings) -> bool:
    """Is this Service ours to serve? As cloud-provider's `wantsLoadBalancer`, with a class of our own."""
    if service.type is not ServiceType.LOAD_BALANCER or service.deleting:
        return False
    if service.load_balancer_class is None:
        return settings.class_less
    return service.load_balancer_class == settings.load_balancer_class


def parse_address(text: str) -> Ip | Refusal:
    """Read one address strictly."""
    try:
        address = ip_address(text)
    except ValueError:
        return Refusal(Reason.INVALID_ADDRESS, f"{quote(text)} is not an IP address; write it like 203.0.113.7")
    if isinstance(address, IPv6Address) and (address.scope_id is not None or address.ipv4_mapped is not None):
        return Refusal(Reason.INVALID_ADDRESS, f"{quote(text)} has a zone or is v4-mapped; write the plain address")
    return address


@dataclass(frozen=True, slots=True)
class AddressRequest:
    """The addresses that a Service asks for by name; none and no refusal: the default address will do."""

    addresses: tuple[Ip, ...] = ()
    refusals: tuple[Refusal, ...] = ()


def parse_request(service: Service) -> AddressRequest:
    """Collect what `loadBalancerIP` and the annotations ask for; two that disagree are refused, naming both."""
    sources = {
        f"annotation {name}": service.annotations[name] for name in ADDRESS_ANNOTATIONS if name in service.annotations
    }
    if service.load_balancer_ip:
        sources["spec.loadBalancerIP"] = service.load_balancer_ip
    asked: dict[str, tuple[Ip, ...]] = {}
    for source, text in sources.items():
        read = _parse_list(text)
        if isinstance(read, Refusal):
            return AddressRequest(refusals=(Refusal(read.reason, f"{source}: {read.message}"),))
        asked[source] = read
    return _agree(service, asked)


def _parse_list(text: str) -> tuple[Ip, ...] | Refusal:
    """Read a comma list of addresses."""
    parts = text.split(",", MAX_ADDRESSES + 1)
    if len(parts) > MAX_ADDRESSES:
        return Refusal(Reason.INVALID_ADDRESS, f"more than {MAX_ADDRESSES} addresses: {quote(text)}")
    found: list[Ip] = []
    for part in parts:
        address = parse_address(part.strip() if len(parts) > 1 else part)
        if isinstance(address, Refusal):
            return address
        found.append(address)
    return tuple(dict.fromkeys(found))


def _agree(service: Service, asked: dict[str, tuple[Ip, ...]]) -> AddressRequest:
    """Reduce several sources to one; check pools and families."""
    pool = next((name for name in POOL_ANNOTATIONS if service.annotations.get(name)), None)
    if pool is not None:
        message = f"annotation {pool} asks for pool {quote(service.annotations[pool])}, but no pools are configured"
        return AddressRequest(refusals=(Refusal(Reason.UNKNOWN_POOL, message),))
    if len({frozenset(addresses) for addresses in asked.values()}) > 1:
        said = "; ".join(f"{source} says {', '.join(map(str, addresses))}" for source, addresses in asked.items())
        return AddressRequest(refusals=(Refusal(Reason.CONTRADICTION, f"{said}: remove one of them"),))
    addresses = next(iter(asked.values()), ())
    for address in addresses:
        if service.ip_families and family_of(address) not in service.ip_families:
            families = " and ".join(service.ip_families)
            message = f"address {address} is {family_of(address)}, but the Service's ipFamilies are {families}"
            return AddressRequest(refusals=(Refusal(Reason.WRONG_FAMILY, message),))
    return AddressRequest(addresses)


def parse_word(service: Service, name: str, words: Iterable[str]) -> tuple[str, Notice | None]:
    """Read an annotation that is one of some words; empty where it says nothing, or what nobody understands."""
    text = service.annotations.get(name, "")
    if not text or text in words:
        return text, None
    message = f"{name}: {quote(text)} is none of {', '.join(words)}; the default holds"
    return "", Notice(Reason.INVALID_ANNOTATION, message)


def parse_affinity(service: Service) -> tuple[int, Notice | None]:
    """Read how long a client keeps its backend, in seconds; 0: every connection is chosen for anew."""
    if 0 <= service.affinity_seconds <= MAX_AFFINITY_SECONDS:
        return service.affinity_seconds, None
    message = (
        f"sessionAffinityConfig.clientIP.timeoutSeconds is not from 1 to {MAX_AFFINITY_SECONDS}; "
        f"{DEFAULT_AFFINITY_SECONDS} holds"
    )
    return DEFAULT_AFFINITY_SECONDS, Notice(Reason.INVALID_SERVICE, message)


@dataclass(frozen=True, slots=True)
class SourceRanges:
    """Who may connect. `nets` None: everybody; empty: nobody."""

    nets: tuple[Net, ...] | None = None
    kube_proxy_agrees: bool = True
    """False: kube-proxy would let more clients in than we do, so the Service is published with ipMode Proxy."""
    notice: Notice | None = None


def parse_source_ranges(service: Service) -> SourceRanges:
    """Read `loadBalancerSourceRanges`, or the annotation when the field is empty; what cannot be read denies all."""
    texts, from_field = service.source_ranges, True
    if not texts and service.annotations.get(RANGES_ANNOTATION, "").strip():
        texts, from_field = tuple(service.annotations[RANGES_ANNOTATION].split(",", MAX_SOURCE_RANGES + 1)), False
    if not texts:
        return SourceRanges()
    if len(texts) > MAX_SOURCE_RANGES:
        return _deny_all(f"more than {MAX_SOURCE_RANGES} source ranges")
    nets: list[Net] = []
    for text in texts:
        try:
            nets.append(ip_network(text.strip()))
        except ValueError:
            return _deny_all(f"source range {quote(text)} cannot be read")
    return SourceRanges(tuple(dict.fromkeys(nets)), from_field)


def _deny_all(why: str) -> SourceRanges:
    """Unreadable means nobody: the other reading would open the Service to everybody."""
    message = f"{why}: nobody is let in until it is corrected"
    return SourceRanges((), kube_proxy_agrees=False, notice=Notice(Reason.INVALID_SOURCE_RANGES, message))


def parse_drain_seconds(service: Service) -> tuple[int | None, Notice | None]:
    """Read `littlelb.io/drain-seconds`; None where the Service says nothing."""
    text = service.annotations.get(DRAIN_ANNOTATION)
    if text is None:
        return None, None
    if text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= MAX_DRAIN_SECONDS:
        return int(text), None
    message = f"{DRAIN_ANNOTATION}: {quote(text)} is not a number from 0 to {MAX_DRAIN_SECONDS}; the default holds"
    return None, Notice(Reason.INVALID_ANNOTATION, message)


def judge_annotations(service: Service) -> tuple[tuple[Refusal, ...], tuple[Notice, ...]]:
    """Name the annotations that this version cannot honour: those that matter refuse the Service."""
    refusals = tuple(
        Refusal(Reason.INVALID_ANNOTATION, f"annotation {name} is not supported by this version; remove it")
        for name in BINDING_ANNOTATIONS
        if name in service.annotations
    )
    notices = tuple(
        Notice(Reason.INVALID_ANNOTATION, f"annotation {quote(name)} has no effect in this version")
        for name in sorted(service.annotations)
        if name.startswith(OURS) and name not in KNOWN_ANNOTATIONS
    )
    return refusals, notices[:8]
