"""The table of hostile input: bad objects, the doors they come by, and what must become of each.

Doors: the folder takes anything; a fake API server takes any JSON; the real API server (1.37) lets through those with
`real`, because it validates the rest away. Whatever comes, the hundred neighbours are served as before.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeAlias

from littlelb.core.reasons import Reason

NAMESPACE, NAME = "tenant", "bad"
KEY = f"{NAMESPACE}/{NAME}"
FREE_ADDRESS = "203.0.113.200"
"""An address that a sound Service would get."""
NEIGHBOURS = 100
ESC = "\x1b[2J\x1b[31m\nroot: all is well\u202e"
Document: TypeAlias = Any


@dataclass(frozen=True, slots=True)
class Refused:
    """The Service is refused with this reason; it has no forward, no placement, no address."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Unserved:
    """The address is granted, but nothing reaches anything: no backend, or nobody is let in; a notice says why."""

    reason: Reason


@dataclass(frozen=True, slots=True)
class Rejected:
    """The folder says so, with this text in the reason; the object is not taken at all."""

    text: str


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nothing is decided: it cannot be told whose object it is, or it is no load balancer."""


Outcome: TypeAlias = Refused | Unserved | Rejected | Unknown


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the table."""

    id: str
    folder: Outcome
    """What becomes of it when it comes from a folder."""
    documents: Sequence[Document] = ()
    api: Outcome | None = None
    """What becomes of it when an API server sends it; None: it is no JSON, or no object."""
    real: bool = False
    """Does a real API server let it through?"""
    text: bytes = b""
    """The file's text, where it is not these documents."""


def service(metadata: Any = None, **spec: Any) -> dict[str, Any]:
    """Write the bad Service: sound, but for what is given."""
    sound = {"type": "LoadBalancer", "loadBalancerIP": FREE_ADDRESS, "ports": [{"port": 80, "protocol": "TCP"}]}
    meta = {"name": NAME, "namespace": NAMESPACE} if metadata is None else metadata
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {**sound, **spec}}


def annotated(**spec: Any) -> dict[str, Any]:
    """Write the bad Service with annotations; one that asks for an address asks for no other."""
    annotations: Mapping[str, str] = spec.pop("annotations")
    asks = any(name.endswith(("ddresses", "IPs", "ips")) for name in annotations)
    metadata = {"name": NAME, "namespace": NAMESPACE, "annotations": annotations}
    return service(metadata, **({"loadBalancerIP": ""} if asks else {}), **spec)


def endpoints(*addresses: Any, family: Any = "IPv4", port: Any = 8080) -> dict[str, Any]:
    """Write a slice of the bad Service."""
    labels = {"kubernetes.io/service-name": NAME}
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{NAME}-1", "namespace": NAMESPACE, "labels": labels},
        "addressType": family,
        "ports": [{"name": "", "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
    }


_ADDRESS_TEXTS: Mapping[str, tuple[str, Reason]] = {
    "word": ("abc", Reason.INVALID_ADDRESS),
    "host-name": ("lb.example.com", Reason.INVALID_ADDRESS),
    "prefix": (f"{FREE_ADDRESS}/24", Reason.INVALID_ADDRESS),
    "with-port": (f"{FREE_ADDRESS}:80", Reason.INVALID_ADDRESS),
    "brackets": ("[2001:db8:1::7]", Reason.INVALID_ADDRESS),
    "leading-zero": ("203.0.113.0200", Reason.INVALID_ADDRESS),
    "three-parts": ("203.0.113", Reason.INVALID_ADDRESS),
    "decimal": ("3405803976", Reason.INVALID_ADDRESS),
    "hexadecimal": ("0xcb0071c8", Reason.INVALID_ADDRESS),
    "padded": (f" {FREE_ADDRESS} ", Reason.INVALID_ADDRESS),
    "newline": (f"{FREE_ADDRESS}\n", Reason.INVALID_ADDRESS),
    "other-digits": ("\u0662\u0660\u0663.0.113.200", Reason.INVALID_ADDRESS),
    "v4-mapped": (f"::ffff:{FREE_ADDRESS}", Reason.INVALID_ADDRESS),
    "zone": ("fe80::1%eth0", Reason.INVALID_ADDRESS),
    "shell": ("$(reboot); rm -rf / #", Reason.INVALID_ADDRESS),
    "nft": (f"{FREE_ADDRESS} }}; flush ruleset", Reason.INVALID_ADDRESS),
    "escape-sequence": (ESC, Reason.INVALID_ADDRESS),
    "nul": (f"{FREE_ADDRESS}\0", Reason.INVALID_ADDRESS),
    "megabyte": ("9" * 1_000_000, Reason.INVALID_ADDRESS),
    "many": (",".join(f"203.0.113.{n}" for n in range(200, 220)), Reason.INVALID_ADDRESS),
    "trailing-comma": (f"{FREE_ADDRESS},", Reason.INVALID_ADDRESS),
    "unspecified": ("0.0.0.0", Reason.FORBIDDEN_ADDRESS),
    "unspecified-v6": ("::", Reason.FORBIDDEN_ADDRESS),
    "this-network": ("0.1.2.3", Reason.FORBIDDEN_ADDRESS),
    "loopback": ("127.0.0.1", Reason.FORBIDDEN_ADDRESS),
    "loopback-v6": ("::1", Reason.FORBIDDEN_ADDRESS),
    "multicast": ("224.0.0.1", Reason.FORBIDDEN_ADDRESS),
    "multicast-v6": ("ff02::1", Reason.FORBIDDEN_ADDRESS),
    "cloud-metadata": ("169.254.169.254", Reason.FORBIDDEN_ADDRESS),
    "link-local-v6": ("fe80::1", Reason.FORBIDDEN_ADDRESS),
    "site-local-v6": ("fec0::1", Reason.FORBIDDEN_ADDRESS),
    "all-hosts": ("255.255.255.255", Reason.FORBIDDEN_ADDRESS),
    "reserved": ("240.0.0.1", Reason.FORBIDDEN_ADDRESS),
    "network-address": ("203.0.113.0", Reason.FORBIDDEN_ADDRESS),
    "broadcast-address": ("203.0.113.255", Reason.FORBIDDEN_ADDRESS),
    "gateway": ("198.51.100.1", Reason.FORBIDDEN_ADDRESS),
    "api-server": ("198.51.100.5", Reason.FORBIDDEN_ADDRESS),
    "node": ("198.51.100.21", Reason.FORBIDDEN_ADDRESS),
    "other-device": ("172.17.0.1", Reason.FORBIDDEN_ADDRESS),
    "pod-network": ("10.1.1.7", Reason.FORBIDDEN_ADDRESS),
    "cluster-ip": ("10.96.0.1", Reason.FORBIDDEN_ADDRESS),
    "refused-network": ("203.0.113.230", Reason.FORBIDDEN_ADDRESS),
    "on-the-wire": ("203.0.113.150", Reason.ADDRESS_CONFLICT),
    "neighbours": ("203.0.113.1", Reason.ADDRESS_IN_USE),
}
"""What a tenant writes into `loadBalancerIP`: the API server looks at none of it."""

_PARTS: Mapping[str, tuple[Any, str, Outcome | None]] = {
    "port-zero": ({"ports": [{"port": 0}]}, "is not in 1 to 65535", Refused(Reason.INVALID_PORT)),
    "port-65536": ({"ports": [{"port": 65536}]}, "is not in 1 to 65535", Refused(Reason.INVALID_PORT)),
    "port-negative": ({"ports": [{"port": -1}]}, "is not in 1 to 65535", Refused(Reason.INVALID_PORT)),
    "port-huge": ({"ports": [{"port": 2**70}]}, "Expected `int` <= 2147483647", Refused(Reason.INVALID_SERVICE)),
    "port-text": ({"ports": [{"port": "80"}]}, "Expected `int`, got `str`", Refused(Reason.INVALID_SERVICE)),
    "port-bool": ({"ports": [{"port": True}]}, "Expected `int`, got `bool`", Refused(Reason.INVALID_SERVICE)),
    "port-float": ({"ports": [{"port": 80.5}]}, "Expected `int`, got `float`", Refused(Reason.INVALID_SERVICE)),
    "port-null": ({"ports": [{"port": None}]}, "Expected `int`, got `null`", Refused(Reason.INVALID_SERVICE)),
    "port-missing": ({"ports": [{}]}, "missing required field `port`", Refused(Reason.INVALID_SERVICE)),
    # From a fake API the first of the two is served, and the second is refused.
    "ports-twice": ({"ports": [{"name": "a", "port": 80}, {"name": "b", "port": 80}]}, "is given twice", None),
    "ports-none": ({"ports": []}, "spec.ports is needed", Refused(Reason.INVALID_SERVICE)),
    "ports-null": ({"ports": None}, "spec.ports is needed", Refused(Reason.INVALID_SERVICE)),
    "ports-mapping": ({"ports": {"port": 80}}, "Expected `array", Refused(Reason.INVALID_SERVICE)),
    "ports-numbers": ({"ports": [80]}, "Expected `object`, got `int`", Refused(Reason.INVALID_SERVICE)),
    "protocol-unknown": (
        {"ports": [{"port": 80, "protocol": "ICMP"}]},
        "Invalid enum value 'ICMP'",
        Refused(Reason.INVALID_SERVICE),
    ),
    "type-misspelt": ({"type": "LoadBalancr"}, "Invalid enum value", Unknown()),
    "type-number": ({"type": 7}, "spec.type: Expected", Unknown()),
    "address-number": ({"loadBalancerIP": 203}, "spec.loadBalancerIP: Expected", Refused(Reason.INVALID_SERVICE)),
    "address-list": ({"loadBalancerIP": [FREE_ADDRESS]}, "loadBalancerIP: Expected", Refused(Reason.INVALID_SERVICE)),
    "families-unknown": ({"ipFamilies": ["IPv5"]}, "Invalid enum value 'IPv5'", Refused(Reason.INVALID_SERVICE)),
    "affinity-timeout-huge": (
        {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 2**70}}},
        "Expected `int` <= 2147483647",
        Refused(Reason.INVALID_SERVICE),
    ),
    "affinity-config-text": (
        {"sessionAffinity": "ClientIP", "sessionAffinityConfig": "clientIP"},
        "Expected `object | null`, got `str`",
        Refused(Reason.INVALID_SERVICE),
    ),
    "health-port-text": (
        {"healthCheckNodePort": "80"},
        "Expected `int | null`, got `str`",
        Refused(Reason.INVALID_SERVICE),
    ),
    "ranges-text": ({"loadBalancerSourceRanges": "192.0.2.0/24"}, "Expected `array", Refused(Reason.INVALID_SERVICE)),
}
"""What a real API server refuses: spec, the folder's words, what becomes of it when an API sends it all the same."""

_RANGES: Mapping[str, tuple[list[str], bool]] = {
    "range-word": (["everybody"], False),
    "range-host-bits": (["192.0.2.1/24"], False),
    "range-leading-zero": (["192.0.2.010/32"], False),
    "range-length-33": (["192.0.2.0/33"], False),
    "range-escape-sequence": ([ESC], False),
    "ranges-many": ([f"10.{n // 250}.{n % 250}.0/24" for n in range(300)], True),
    "range-megabyte": (["1" * 1_000_000], False),
}
"""Source ranges that cannot be read let nobody in."""

_ENDPOINTS: Mapping[str, tuple[str, str, bool]] = {
    "endpoint-loopback": ("127.0.0.1", "IPv4", False),
    "endpoint-cloud-metadata": ("169.254.169.254", "IPv4", False),
    "endpoint-unspecified": ("0.0.0.0", "IPv4", False),
    "endpoint-multicast": ("224.0.0.1", "IPv4", False),
    "endpoint-own-address": ("198.51.100.10", "IPv4", True),
    "endpoint-other-device": ("172.17.0.1", "IPv4", True),
    "endpoint-own-vip": (FREE_ADDRESS, "IPv4", True),
    "endpoint-neighbours-vip": ("203.0.113.1", "IPv4", True),
}
"""Endpoints that would turn the balancer against itself or its host."""

_TEXTS: Mapping[str, tuple[bytes, str]] = {
    "file-empty": (b"", "no object in it"),
    "file-comments": (b"# nothing\n", "no object in it"),
    "file-binary": (b"\x7fELF\x02\x01\x01" + bytes(256), "not YAML: control character"),
    "file-latin-1": ("kind: Sérvice".encode("latin-1"), "not UTF-8 text"),
    "file-utf-16": ("kind: Service".encode("utf-16"), "not UTF-8 text"),
    "file-truncated": (b"apiVersion: v1\nkind: Service\nmetadata: {name: [", "not YAML"),
    "file-tabs": (b"apiVersion: v1\n\tkind: Service\n", "not YAML"),
    "file-python-object": (b"!!python/object/apply:os.system [reboot]\n", "is not allowed"),
    "file-recursive-anchor": (b"kind: &a [*a]\n", "an alias inside of what it refers to"),
    "file-alias-bomb": (
        b"a0: &a0 [x]\n" + b"".join(b"a%d: &a%d [%s]\n" % (n, n, b"*a%d," % (n - 1) * 9) for n in range(1, 10)),
        "aliases counted",
    ),
    "file-deep": (b"- " * 1_000_000, "nested more than 64 deep"),
    "file-deep-flow": (b"[{a: " * 500_000, "nested more than 64 deep"),
    "file-key-twice": (b"apiVersion: v1\nkind: Service\nkind: Node\n", "'kind' is given twice"),
    "file-key-number": (b"1: 2\n", "a key that is not a text"),
    "file-number-of-5000-digits": (b"apiVersion: " + b"9" * 5000, "does not fit"),
    "file-4-mib": (b"#" * (4 * 2**20 + 1), "larger than 4 MiB"),
    "file-many-documents": (b"a: 1\n---\n" * 10_001, "apiVersion and kind are needed"),
}
"""Texts that are no objects: only a folder can bring them."""


@dataclass(frozen=True, slots=True)
class _Odd:
    """An object whose frame is broken."""

    document: Document
    folder: str
    api: Outcome | None = field(default_factory=Unknown)


_FRAMES: Mapping[str, _Odd] = {
    "object-null-metadata": _Odd({**service(), "metadata": None}, "metadata.name is needed"),
    "object-no-metadata": _Odd({"apiVersion": "v1", "kind": "Service"}, "metadata.name is needed"),
    "object-text-metadata": _Odd(service("bad"), "metadata: Expected `object | null`"),
    "object-spec-list": _Odd({**service(), "spec": []}, "spec: Expected `object | null`"),
    "object-list": _Odd([service()], "not an object"),
    "object-number": _Odd(7, "not an object"),
    "object-no-kind": _Odd({**service(), "kind": None}, "apiVersion and kind are needed", None),
    "name-number": _Odd(service({"name": 7, "namespace": NAMESPACE}), "metadata.name: Expected"),
    "name-slash": _Odd(service({"name": "../../bad", "namespace": NAMESPACE}), "is not a valid name", None),
    "name-escape-sequence": _Odd(service({"name": ESC, "namespace": NAMESPACE}), "is not a valid name", None),
    "name-long": _Odd(service({"name": "a" * 100_000, "namespace": NAMESPACE}), "is not a valid name", None),
    "namespace-dots": _Odd(service({"name": NAME, "namespace": "../.."}), "is not a valid name", None),
    "labels-numbers": _Odd(
        service({"name": NAME, "namespace": NAMESPACE, "labels": {"a": 7}}),
        "Expected `str`, got `int`",
        Refused(Reason.INVALID_SERVICE),
    ),
    "annotations-list": _Odd(
        service({"name": NAME, "namespace": NAMESPACE, "annotations": ["a"]}),
        "metadata.annotations: Expected",
        Refused(Reason.INVALID_SERVICE),
    ),
    "field-misspelt": _Odd(service(loadbalancerIP="203.0.113.201"), "unknown field 'loadbalancerIP' in spec", None),
}

_ANNOTATIONS: Mapping[str, tuple[Mapping[str, str], Reason]] = {
    "annotation-garbage": ({"littlelb.io/addresses": "all of them"}, Reason.INVALID_ADDRESS),
    "annotation-empty": ({"littlelb.io/addresses": ""}, Reason.INVALID_ADDRESS),
    "annotation-escape-sequence": ({"metallb.io/loadBalancerIPs": ESC}, Reason.INVALID_ADDRESS),
    "annotation-dhcp": ({"kube-vip.io/loadbalancerIPs": "0.0.0.0"}, Reason.FORBIDDEN_ADDRESS),
    "annotation-loopback": ({"lbipam.cilium.io/ips": "127.0.0.1"}, Reason.FORBIDDEN_ADDRESS),
    "annotation-256-kib": ({"littlelb.io/addresses": "203.0.113.200," * 18_000}, Reason.INVALID_ADDRESS),
    "annotations-disagree": (
        {"littlelb.io/addresses": FREE_ADDRESS, "purelb.io/addresses": "203.0.113.201"},
        Reason.CONTRADICTION,
    ),
    "annotation-pool": ({"metallb.universe.tf/address-pool": "gold"}, Reason.UNKNOWN_POOL),
    "annotation-proxy-protocol": ({"littlelb.io/proxy-protocol": "v2"}, Reason.INVALID_ANNOTATION),
    "annotation-device": ({"littlelb.io/device": "lo; reboot"}, Reason.INVALID_ANNOTATION),
    "annotation-port-ranges": ({"littlelb.io/port-ranges": "1-65535"}, Reason.INVALID_ANNOTATION),
    "annotation-port-ranges-own-port": ({"littlelb.io/port-ranges": "1-100/tcp"}, Reason.INVALID_ANNOTATION),
    "annotation-port-ranges-garbage": ({"littlelb.io/port-ranges": "\x1b[2J/udp"}, Reason.INVALID_ANNOTATION),
    "annotation-port-ranges-256-kib": ({"littlelb.io/port-ranges": "1-2/udp," * 32_000}, Reason.INVALID_ANNOTATION),
}


def _services() -> Iterator[Case]:
    """Services that are bad in one place."""
    for name, (text, reason) in _ADDRESS_TEXTS.items():
        yield Case(f"address-{name}", Refused(reason), [service(loadBalancerIP=text)], Refused(reason), real=True)
    for name, (annotations, reason) in _ANNOTATIONS.items():
        yield Case(name, Refused(reason), [annotated(annotations=annotations)], Refused(reason), real=True)
    for name, (spec, text, api) in _PARTS.items():
        yield Case(name, Rejected(text), [service(**spec)], api)
    for name, odd in _FRAMES.items():
        yield Case(name, Rejected(odd.folder), [odd.document], odd.api)
    wrong, sctp = Refused(Reason.WRONG_FAMILY), Refused(Reason.PROTOCOL_NOT_SUPPORTED)
    yield Case(
        "address-v6-on-v4-service",
        wrong,
        [service(loadBalancerIP="2001:db8:1::7", ipFamilies=["IPv4"])],
        wrong,
        real=True,
    )
    yield Case("protocol-sctp", sctp, [service(ports=[{"port": 80, "protocol": "SCTP"}])], sctp, real=True)
    ssh = Refused(Reason.PORT_IN_USE)
    yield Case("port-of-this-hosts-ssh", ssh, [service(loadBalancerIP="", ports=[{"port": 22}])], ssh, real=True)


def _closed() -> Iterator[Case]:
    """Services that are granted an address and serve nobody."""
    closed, unusable = Unserved(Reason.INVALID_SOURCE_RANGES), Unserved(Reason.UNUSABLE_ENDPOINT)
    pods = endpoints("10.1.0.200")
    for name, (ranges, real) in _RANGES.items():
        yield Case(name, closed, [service(loadBalancerSourceRanges=ranges), pods], closed, real=real)
    annotation = {"service.beta.kubernetes.io/load-balancer-source-ranges": "192.0.2.0/24,*"}
    yield Case("range-annotation", closed, [annotated(annotations=annotation), pods], closed)
    for name, (address, family, real) in _ENDPOINTS.items():
        yield Case(name, unusable, [service(), endpoints(address, family=family)], unusable, real=real)
    loop = [service(loadBalancerIP="2001:db8:1::7"), endpoints("::1", family="IPv6")]
    yield Case("endpoint-loopback-v6", unusable, loop, unusable)
    for name, text, piece, api in (
        ("endpoint-word", "is not an IPv4 address", endpoints("pod-1"), Reason.UNUSABLE_ENDPOINT),
        ("endpoint-number", "Expected `str`, got `int`", endpoints(7), Reason.UNUSABLE_ENDPOINT),
        ("endpoint-other-family", "is not an IPv4 address", endpoints("2001:db8::1"), Reason.UNUSABLE_ENDPOINT),
        ("endpoint-port-zero", "is not in 1 to 65535", endpoints("10.1.0.200", port=0), Reason.NO_BACKENDS),
        ("endpoint-port-text", "ports[0].port: Expected", endpoints("10.1.0.200", port="80"), Reason.UNUSABLE_ENDPOINT),
        ("endpoint-family-unknown", "addressType", endpoints("10.1.0.200", family="IPX"), Reason.UNUSABLE_ENDPOINT),
    ):
        # Of these a real server looks at the port's type only: a slice may say port 0.
        yield Case(name, Rejected(text), [service(), piece], Unserved(api), real=name == "endpoint-port-zero")


def cases() -> list[Case]:
    """Write the whole table."""
    texts = [Case(name, Rejected(reason), text=text) for name, (text, reason) in _TEXTS.items()]
    return [*_services(), *_closed(), *texts]


# --- the neighbours ------------------------------------------------------------------------------------------------


def neighbour(number: int) -> list[dict[str, Any]]:
    """Write a sound Service with a backend."""
    name = f"good-{number}"
    meta = {"name": f"{name}-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": name}}
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "shop", "creationTimestamp": "2020-01-01T00:00:00Z"},
            "spec": {
                "type": "LoadBalancer",
                "loadBalancerIP": f"203.0.113.{number}",
                "clusterIP": f"10.96.0.{number}",
                "ports": [{"port": 80}],
            },
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": meta,
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 8080}],
            "endpoints": [{"addresses": [f"10.1.0.{number}"]}],
        },
    ]


@cache
def good_documents() -> list[dict[str, Any]]:
    """Write the hundred neighbours and a node."""
    node = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "n1"},
        "spec": {"podCIDRs": ["10.1.1.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "198.51.100.21"}]},
    }
    return [node, *(document for number in range(1, NEIGHBOURS + 1) for document in neighbour(number))]
