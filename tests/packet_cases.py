"""The table of packet cases: who asks for what, and what happens on each plane. Run in tests/lab/test_packet_cases.py.

Each case has an address of its own, so that all of them stand beside each other in one folder under one daemon. What
a plane cannot do is part of the table: it refuses, and says why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

Document = dict[str, Any]

# --- outcomes --------------------------------------------------------------------------------------------------------

CLIENT: Final = "client"
"""The backend sees the address of who asked."""
BOX: Final = "box"
"""The backend sees an address of the balancer."""


@dataclass(frozen=True, slots=True)
class Served:
    """One of these backends answers."""

    by: Mapping[str, str]
    """Backend → whose address it sees."""


@dataclass(frozen=True, slots=True)
class Refused:
    """TCP RST or ICMP unreachable, at once; `reason`: what the Service is told, where it is told something."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Silent:
    """No answer: packets are dropped, or nobody holds the address; `reason`: what the Service is told."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class Host:
    """A process of the balancer's own answers."""


Outcome = Served | Refused | Silent | Host

N1, N2, POD, LAN = "198.51.100.11", "198.51.100.12", "10.1.0.5", "192.0.2.11"
"""Backends: two beyond the balancer, one pod of the balancer, one beside the client on the LAN."""
N1_V6, N2_V6 = "2001:db8:0:51::b", "2001:db8:0:51::c"
NODE: Final = "box"
"""The balancer's name as a node."""


def served(*backends: str, source: str) -> Served:
    """Short for Served."""
    return Served(dict.fromkeys(backends, source))


# --- questions -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ask:
    """One question, and the answer on each plane."""

    nft: Outcome
    pipe: Outcome
    by: str = "client"
    """client, other (a second client), pod, host (the balancer itself), n1 (a backend)."""
    port: int = 80
    protocol: str = "TCP"
    version: int = 4
    bytes: int = 1
    """Size of a datagram: above 1,472 it travels in fragments."""


@dataclass(frozen=True, slots=True)
class Case:
    """A Service of one's own address, its EndpointSlices, and questions."""

    name: str
    asks: Sequence[Ask]
    spec: Mapping[str, Any] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    ports: Sequence[Mapping[str, Any]] = ({"name": "p80", "port": 80},)
    slices: Sequence[Document] = ()
    versions: tuple[int, ...] = (4,)
    pings: bool | None = True
    """Does the address answer ping on the kernel plane? None: not asked."""


def endpoint(address: str, *, node: str = "", **conditions: bool) -> Document:
    """One endpoint; conditions ready, serving, terminating."""
    entry: Document = {"addresses": [address]}
    if conditions:
        entry["conditions"] = conditions
    if node:
        entry["nodeName"] = node
    return entry


def piece(*endpoints: Document, ports: Sequence[Mapping[str, Any]] = (), **metadata: Any) -> Document:
    """One EndpointSlice; every port leads to 9090."""
    return {"endpoints": list(endpoints), "ports": list(ports), **metadata}


BOTH = (endpoint(N1), endpoint(N2))
BOTH_V6 = (endpoint(N1_V6), endpoint(N2_V6))
DNS = ({"name": "t", "port": 53}, {"name": "u", "port": 53, "protocol": "UDP"})
PLAIN = served(N1, N2, source=BOX)
KEPT = served(N1, N2, source=CLIENT)
NO_UDP = Refused("ProtocolNotSupported")
UNHELD = Silent("ProtocolNotSupported")
"""Not one port of the Service can be served: its address is not held."""
KEEP = {"littlelb.io/source-address": "keep"}

CASES: Final = (
    Case("tcp", (Ask(PLAIN, PLAIN), Ask(PLAIN, PLAIN, by="host")), slices=(piece(*BOTH),)),
    Case(
        "tcp6",
        (Ask(served(N1_V6, N2_V6, source=BOX), served(N1_V6, N2_V6, source=BOX), version=6),),
        slices=(piece(*BOTH_V6),),
        spec={"ipFamilies": ["IPv6"]},
        versions=(6,),
    ),
    Case(
        "mixed",
        (Ask(PLAIN, PLAIN, port=53), Ask(PLAIN, NO_UDP, port=53, protocol="UDP")),
        ports=DNS,
        slices=(piece(*BOTH, ports=DNS),),
    ),
    Case(
        "fragments",
        (Ask(PLAIN, UNHELD, port=53, protocol="UDP", bytes=4000),),
        ports=DNS[1:],
        slices=(piece(*BOTH, ports=DNS[1:]),),
        pings=None,
    ),
    Case(
        "udp6",
        (Ask(served(N1_V6, N2_V6, source=BOX), UNHELD, port=53, protocol="UDP", version=6),),
        ports=DNS[1:],
        slices=(piece(*BOTH_V6, ports=DNS[1:]),),
        spec={"ipFamilies": ["IPv6"]},
        versions=(6,),
        pings=None,
    ),
    Case(
        "dual",
        (Ask(PLAIN, PLAIN), Ask(served(N1_V6, N2_V6, source=BOX), served(N1_V6, N2_V6, source=BOX), version=6)),
        slices=(piece(*BOTH), piece(*BOTH_V6)),
        spec={"ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack"},
        versions=(4, 6),
    ),
    Case(
        "keep",
        (Ask(KEPT, PLAIN), Ask(PLAIN, PLAIN, by="host"), Ask(PLAIN, PLAIN, by="n1"), Ask(KEPT, NO_UDP, protocol="UDP")),
        ports=({"name": "p80", "port": 80}, {"name": "u", "port": 80, "protocol": "UDP"}),
        slices=(piece(*BOTH, ports=({"name": "p80"}, {"name": "u", "protocol": "UDP"})),),
        annotations=KEEP,
    ),
    Case(
        "keep6",
        (Ask(served(N1_V6, N2_V6, source=CLIENT), served(N1_V6, N2_V6, source=BOX), version=6),),
        slices=(piece(*BOTH_V6),),
        spec={"ipFamilies": ["IPv6"]},
        annotations=KEEP,
        versions=(6,),
    ),
    Case(
        "same-link",
        (Ask(served(LAN, source=BOX), served(LAN, source=BOX)),),
        slices=(piece(endpoint(LAN)),),
        annotations=KEEP,
    ),
    Case(
        "own-pod",
        (
            Ask(served(POD, source=CLIENT), served(POD, source=BOX)),
            Ask(served(POD, source=BOX), served(POD, source=BOX), by="pod"),
        ),
        slices=(piece(endpoint(POD, node=NODE)),),
    ),
    Case(
        "some-kept",
        (Ask(Served({POD: CLIENT, N1: BOX}), served(POD, N1, source=BOX)),),
        slices=(piece(endpoint(POD, node=NODE), endpoint(N1, node="n1")),),
    ),
    Case("hairpin", (Ask(PLAIN, PLAIN, by="n1"),), slices=(piece(*BOTH),)),
    Case("from-pod", (Ask(PLAIN, PLAIN, by="pod"),), slices=(piece(*BOTH),)),
    Case(
        "no-backend",
        (Ask(Refused("NoBackends"), Refused("NoBackends")), Ask(Refused("NoBackends"), NO_UDP, protocol="UDP")),
        ports=({"name": "p80", "port": 80}, {"name": "u", "port": 80, "protocol": "UDP"}),
        slices=(piece(endpoint(N1, ready=False)),),
        pings=False,
    ),
    Case(
        "other-port",
        (
            Ask(Refused(), Refused(), port=81),
            Ask(Refused(), Refused(), port=81, protocol="UDP"),
            Ask(Refused(), Host(), port=2222),
            Ask(Refused(), Host(), port=2222, by="host"),
        ),
        slices=(piece(*BOTH),),
    ),
    Case(
        "ranges",
        (Ask(PLAIN, PLAIN), Ask(Silent(), Refused(), by="other")),
        slices=(piece(*BOTH),),
        spec={"loadBalancerSourceRanges": ["192.0.2.10/32", "192.0.2.0/29", " 192.0.2.4/30 "]},
    ),
    Case(
        "ranges-annotation",
        (Ask(PLAIN, PLAIN), Ask(Silent(), Refused(), by="other")),
        slices=(piece(*BOTH),),
        annotations={"service.beta.kubernetes.io/load-balancer-source-ranges": "192.0.2.10/32"},
    ),
    Case(
        "ranges-other-family",
        (Ask(PLAIN, PLAIN), Ask(PLAIN, PLAIN, by="other")),
        slices=(piece(*BOTH),),
        spec={"loadBalancerSourceRanges": ["2001:db8:9::/48"]},
    ),
    Case(
        "ranges-keep",
        (Ask(KEPT, PLAIN), Ask(Silent(), Refused(), by="other")),
        slices=(piece(*BOTH),),
        spec={"loadBalancerSourceRanges": ["192.0.2.10/32"]},
        annotations=KEEP,
    ),
    Case(
        "terminating",
        (Ask(served(N1, source=BOX), served(N1, source=BOX)),),
        slices=(piece(endpoint(N1, ready=False, serving=True, terminating=True), endpoint(N2, ready=False)),),
    ),
    Case(
        "ready-first",
        (Ask(served(N2, source=BOX), served(N2, source=BOX)),),
        slices=(piece(endpoint(N1, ready=False, serving=True, terminating=True), endpoint(N2)),),
    ),
    Case(
        "not-ready-published",
        (Ask(served(N1, source=BOX), served(N1, source=BOX)),),
        slices=(piece(endpoint(N1, ready=False)),),
        spec={"publishNotReadyAddresses": True},
    ),
    Case(
        "local",
        (Ask(served(POD, source=CLIENT), served(POD, source=BOX)),),
        slices=(piece(endpoint(POD, node=NODE), endpoint(N1, node="n1")),),
        spec={"externalTrafficPolicy": "Local"},
    ),
    Case(
        "local-elsewhere",
        (Ask(served(N1, source=BOX), served(N1, source=BOX)),),
        slices=(piece(endpoint(N1, node="n1")),),
        spec={"externalTrafficPolicy": "Local"},
    ),
    Case(
        "local-elsewhere-kept",
        (Ask(served(N1, source=CLIENT), served(N1, source=BOX)),),
        slices=(piece(endpoint(N1, node="n1")),),
        spec={"externalTrafficPolicy": "Local"},
        annotations=KEEP,
    ),
    Case(
        "weight-zero",
        (Ask(served(N2, source=BOX), served(N2, source=BOX)),),
        slices=(
            piece(endpoint(N1), annotations={"littlelb.io/weight": "0"}),
            piece(endpoint(N2), annotations={"littlelb.io/weight": "7"}),
        ),
    ),
    Case(
        "port-range",
        (
            Ask(PLAIN, Refused("ProtocolNotSupported"), port=5003),
            Ask(PLAIN, Refused("ProtocolNotSupported"), port=5009, protocol="UDP"),
            Ask(Refused(), Refused(), port=5010, protocol="UDP"),
            Ask(PLAIN, PLAIN),
        ),
        annotations={"littlelb.io/port-ranges": "5000-5009/udp, 5003-5003/tcp"},
        slices=(piece(*BOTH),),
    ),
    Case(
        "plane-pipe",
        (Ask(PLAIN, PLAIN), Ask(Refused(), Refused(), port=81)),
        annotations={"littlelb.io/plane": "pipe"},
        slices=(piece(*BOTH),),
    ),
)
