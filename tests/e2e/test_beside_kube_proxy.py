"""Packet cases on a node of a real cluster: littlelb and a real kube-proxy in one network namespace, in both its modes.

Ours is the first to see what enters by the link device; what pods and processes of this node ask stays kube-proxy's as
long as the address is published with ipMode VIP.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.controlplane.admin import Admin
from tests.controlplane.cluster import ControlPlane
from tests.e2e.kube_node import BOX_NODE, FAR, FAR_NODE, HTTP, POD, KubeNode
from tests.packet_cases import BOX, CLIENT, Outcome, Refused, Served, Silent, served

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

TIMES = 6
"""Each question is asked so often: backends are chosen at random."""
PROMPT = 0.8
"""Seconds in which a refusal must be there: it is an answer, not a silence."""
NFT, PIPE, PROXY = "nft", "pipe", "kube-proxy"


@dataclass(frozen=True, slots=True)
class Ask:
    """One question, its answer, and who is to carry it."""

    outcome: Outcome
    carrier: str = ""
    by: str = "client"
    port: int = 80
    protocol: str = "TCP"


@dataclass(frozen=True, slots=True)
class Case:
    """A Service of one's own address, and questions."""

    name: str
    asks: Sequence[Ask]
    ip_mode: str = "VIP"
    spec: Mapping[str, Any] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    endpoints: Mapping[str, str] = field(default_factory=lambda: {POD: BOX_NODE, FAR: FAR_NODE})


BOTH_PORTS = (*HTTP, {"name": "https", "port": 443, "protocol": "TCP"})
MIXED = ({"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"})
LOCAL = {"externalTrafficPolicy": "Local"}
RANGES = {"loadBalancerSourceRanges": ["192.0.2.10/32"]}
RANGES_ANNOTATION = {"service.beta.kubernetes.io/load-balancer-source-ranges": "192.0.2.10/32"}
BY_PIPE = {"littlelb.io/plane": "pipe"}
PUBLISHED_PROXY = {"littlelb.io/ip-mode": "Proxy"}
ELSEWHERE = {FAR: FAR_NODE}
OURS = Served({POD: CLIENT, FAR: BOX})
"""This node's pod sees who asked; answers of another node's are not known to come back, else."""
HIDDEN = served(POD, FAR, source=BOX)
UNTOUCHED = served(POD, FAR, source=CLIENT)

CASES = (
    Case("tcp", (Ask(OURS, NFT), Ask(HIDDEN, PROXY, "pod"), Ask(HIDDEN, PROXY, "host"))),
    Case("tcp-pipe", (Ask(HIDDEN, PIPE), Ask(HIDDEN, PIPE, "pod"), Ask(HIDDEN, PIPE, "host")), "Proxy", {}, BY_PIPE),
    Case(
        "mixed",
        (
            Ask(OURS, NFT, port=53, protocol="UDP"),
            Ask(OURS, NFT, port=53),
            Ask(HIDDEN, PROXY, "pod", port=53, protocol="UDP"),
        ),
        spec={"ports": MIXED},
    ),
    Case("two-ports", (Ask(OURS, NFT), Ask(OURS, NFT, port=443), Ask(Refused(), port=81)), spec={"ports": BOTH_PORTS}),
    Case(
        "two-ports-pipe",
        (Ask(HIDDEN, PIPE), Ask(HIDDEN, PIPE, port=443), Ask(Refused(), port=81)),
        "Proxy",
        {"ports": BOTH_PORTS},
        BY_PIPE,
    ),
    Case("ranges", (Ask(OURS, NFT), Ask(Silent(), by="other"), Ask(Silent(), by="pod")), spec=RANGES),
    Case(
        "ranges-pipe",
        (Ask(HIDDEN, PIPE), Ask(Refused(), by="other"), Ask(Refused(), by="pod")),
        "Proxy",
        RANGES,
        BY_PIPE,
    ),
    Case(
        "ranges-annotation",
        (Ask(OURS, NFT), Ask(Silent(), by="other"), Ask(Silent(), by="pod")),
        "Proxy",
        annotations=RANGES_ANNOTATION,
    ),
    Case(
        "ranges-annotation-pipe",
        (Ask(HIDDEN, PIPE), Ask(Refused(), by="other")),
        "Proxy",
        annotations=BY_PIPE | RANGES_ANNOTATION,
    ),
    Case(
        "local",
        (Ask(served(POD, source=CLIENT), NFT), Ask(UNTOUCHED, PROXY, "pod"), Ask(HIDDEN, PROXY, "host")),
        spec=LOCAL,
    ),
    Case(
        "local-pipe",
        (Ask(served(POD, source=CLIENT), NFT), Ask(UNTOUCHED, PROXY, "pod")),
        spec=LOCAL,
        annotations=BY_PIPE,
    ),
    Case(
        "local-pipe-proxy",
        (Ask(served(POD, source=BOX), PIPE), Ask(served(POD, source=BOX), PIPE, "pod")),
        "Proxy",
        LOCAL,
        BY_PIPE | PUBLISHED_PROXY,
    ),
    Case(
        "local-elsewhere",
        (Ask(served(FAR, source=BOX), NFT), Ask(served(FAR, source=CLIENT), PROXY, "pod")),
        spec=LOCAL,
        endpoints=ELSEWHERE,
    ),
    Case(
        "local-elsewhere-pipe",
        (Ask(served(FAR, source=BOX), NFT), Ask(served(FAR, source=CLIENT), PROXY, "pod")),
        spec=LOCAL,
        annotations=BY_PIPE,
        endpoints=ELSEWHERE,
    ),
    Case(
        "local-elsewhere-pipe-proxy",
        (Ask(served(FAR, source=BOX), PIPE), Ask(served(FAR, source=BOX), PIPE, "pod")),
        "Proxy",
        LOCAL,
        BY_PIPE | PUBLISHED_PROXY,
        ELSEWHERE,
    ),
    Case("no-endpoint", (Ask(Refused()), Ask(Refused(), by="pod"), Ask(Refused(), by="host")), endpoints={}),
    Case(
        "no-endpoint-pipe",
        (Ask(Refused()), Ask(Refused(), by="pod"), Ask(Refused(), by="host")),
        "Proxy",
        annotations=BY_PIPE,
        endpoints={},
    ),
    Case("no-endpoint-local", (Ask(Refused()),), spec=LOCAL, endpoints={}),
    Case(
        "proxy",
        (Ask(OURS, NFT), Ask(OURS, NFT, "pod"), Ask(HIDDEN, NFT, "host")),
        "Proxy",
        annotations=PUBLISHED_PROXY,
    ),
)


def address(number: int) -> str:
    """The Service address of a case."""
    return f"203.0.113.{100 + number}"


@pytest.fixture(scope="module", params=["nftables", "iptables"])
def node(request: pytest.FixtureRequest, controlplane: ControlPlane) -> Iterator[KubeNode]:
    """One node for all cases, in each mode of kube-proxy."""
    namespace = f"beside-{request.param}"
    item = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    controlplane.admin.create(item)
    with KubeNode(controlplane, namespace, request.param) as made:
        made.proxy.start()
        made.start_daemon()
        for number, case in enumerate(CASES):
            made.create(case.name, {**case.spec, "loadBalancerIP": address(number)}, case.annotations, case.endpoints)
        for number, case in enumerate(CASES):
            made.wait(f"{case.name} is settled", lambda n=number, c=case: settled(made, n, c))  # type: ignore[misc]
        yield made
        clear(controlplane.admin, namespace)
    controlplane.admin.delete(item)


def settled(node: KubeNode, number: int, case: Case) -> bool:
    """It is published as it should be, and kube-proxy knows."""
    known = f"{address(number)} " in node.proxy_rules() or f"{address(number)}/32" in node.proxy_rules()
    return node.ip_mode(case.name) == case.ip_mode and known is (case.ip_mode == "VIP")


def clear(admin: Admin, namespace: str) -> None:
    """Delete what is left, daemon or not."""
    for found in admin.items("v1", "Service", namespace):
        item = {"apiVersion": "v1", "kind": "Service", "metadata": found["metadata"]}
        admin.delete(item)
        admin.wait(item, lambda left: left is None)


QUESTIONS = [(number, at) for number, case in enumerate(CASES) for at in range(len(case.asks))]


@pytest.mark.parametrize(
    ("number", "at"),
    QUESTIONS,
    ids=[
        f"{CASES[n].name}-{CASES[n].asks[a].protocol}{CASES[n].asks[a].port}-{CASES[n].asks[a].by}"
        for n, a in QUESTIONS
    ],
)
def test_packet_case(node: KubeNode, number: int, at: int) -> None:
    """What the table says is what packets meet, and who it says carries them."""
    ask = CASES[number].asks[at]
    match ask.outcome:
        case Served(by):
            for _ in range(TIMES):
                answer = node.question(ask.by, address(number), ask.port, ask.protocol)
                whose = CLIENT if answer.seen in node.addresses_of(ask.by) and ask.by != "host" else BOX
                assert (answer.carrier, whose) == (ask.carrier, by.get(answer.backend)), answer
        case Refused():
            begun = time.monotonic()
            with pytest.raises(ConnectionError):
                node.question(ask.by, address(number), ask.port, ask.protocol)
            assert time.monotonic() - begun < PROMPT
        case Silent():
            with pytest.raises(TimeoutError):
                node.question(ask.by, address(number), ask.port, ask.protocol)
        case other:
            raise AssertionError(other)
