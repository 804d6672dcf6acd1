"""Packet cases on a node of a real cluster: littlelb and a real kube-proxy in one network namespace, in both its modes.

Ours is the first to see what enters by the link device; what pods and processes of this node ask stays kube-proxy's as
long as the address is published with ipMode VIP.
"""

import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.controlplane.admin import Admin
from tests.controlplane.cluster import ControlPlane
from tests.e2e.kube_node import BOX_NODE, FAR, FAR_NODE, HTTP, NODE_ADDRESS, POD, KubeNode, read_transactions
from tests.e2e.load import Load
from tests.e2e.rig import fetch
from tests.packet_cases import BOX, CLIENT, Outcome, Refused, Served, Silent, served

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

TIMES = 6
"""Each question is asked so often: backends are chosen at random."""
PROMPT = 0.8
"""Seconds in which a refusal must be there: it is an answer, not a silence."""
NFT, PIPE, PROXY = "nft", "pipe", "kube-proxy"
SPARE = "203.0.113.90"
OTHER = "203.0.113.91"
"""Addresses for Services of one test."""
KUBERNETES = "10.99.0.1"
"""The API server's own Service, which every cluster has."""
BARE = pytest.StashKey[str]()
"""Kube-proxy's rules before there was a Service."""


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
        "ranges-annotation-local",
        (Ask(served(POD, source=CLIENT), NFT), Ask(Silent(), by="other"), Ask(UNTOUCHED, PROXY, "pod")),
        spec=LOCAL,
        annotations=RANGES_ANNOTATION,
    ),
    Case(
        "ranges-local",
        (Ask(served(POD, source=CLIENT), NFT), Ask(Silent(), by="other"), Ask(Silent(), by="pod")),
        spec=LOCAL | RANGES,
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
    Case(
        "no-endpoint-udp",
        (Ask(Refused(), port=53, protocol="UDP"), Ask(Refused(), by="pod", port=53, protocol="UDP")),
        spec={"ports": MIXED},
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
        made.wait("kube-proxy's first rules", lambda: made.proxy_knows(KUBERNETES))
        request.node.stash[BARE] = made.proxy_rules()
        made.start_daemon()
        for number, case in enumerate(CASES):
            made.create(case.name, {**case.spec, "loadBalancerIP": address(number)}, case.annotations, case.endpoints)
        for number, case in enumerate(CASES):
            made.wait_published(case.name, address(number), case.ip_mode)
        yield made
        clear(controlplane.admin, namespace)
    controlplane.admin.delete(item)


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


def create(node: KubeNode, name: str, ip_mode: str = "VIP", **more: Any) -> None:
    """Make a Service on SPARE with both pods, and wait until it is published."""
    annotations, endpoints = more.pop("annotations", {}), more.pop("endpoints", {POD: BOX_NODE, FAR: FAR_NODE})
    node.create(name, {"loadBalancerIP": SPARE, **more}, annotations, endpoints)
    node.wait_published(name, SPARE, ip_mode)


@pytest.fixture
def service(node: KubeNode) -> Iterator[str]:
    """A name for a Service on SPARE; deleted after the test."""
    yield "web"
    node.delete("web")


@pytest.mark.parametrize("plane", [NFT, PIPE])
def test_clients_stay_with_their_backend(node: KubeNode, service: str, plane: str) -> None:
    """With sessionAffinity ClientIP twenty connections of one client reach one backend."""
    create(
        node,
        service,
        "VIP" if plane == NFT else "Proxy",
        annotations={"littlelb.io/plane": plane},
        sessionAffinity="ClientIP",
    )
    for by in ("client", "other"):
        answers = [node.question(by, SPARE) for _ in range(20)]
        assert {answer.carrier for answer in answers} == {plane}
        assert len({answer.backend for answer in answers}) == 1


@pytest.mark.parametrize("plane", [NFT, PIPE])
def test_node_ports_are_not_to_be_had_on_a_service_address(node: KubeNode, service: str, plane: str) -> None:
    """Kube-proxy serves them on the node's own addresses, as before; on ours only the Service's ports are answered."""
    create(node, service, "VIP" if plane == NFT else "Proxy", annotations={"littlelb.io/plane": plane})
    (port,) = node.node_ports(service)
    node.wait("kube-proxy serves the NodePort", lambda: heard(node, NODE_ADDRESS, port))
    assert node.question("client", NODE_ADDRESS, port).carrier == PROXY
    begun = time.monotonic()
    with pytest.raises(ConnectionError):
        node.question("client", SPARE, port)
    assert time.monotonic() - begun < PROMPT
    assert node.question("client", SPARE).carrier == plane


def heard(node: KubeNode, address: str, port: int) -> bool:
    """Does somebody answer?"""
    try:
        node.question("client", address, port)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("plane", [NFT, PIPE])
def test_the_health_check_of_policy_local_is_kube_proxys(node: KubeNode, service: str, plane: str) -> None:
    """It says how many pods of this node serve; with none here the others do, through us."""
    annotations = {"littlelb.io/plane": plane, "littlelb.io/ip-mode": "VIP" if plane == NFT else "Proxy"}
    create(node, service, annotations["littlelb.io/ip-mode"], annotations=annotations, externalTrafficPolicy="Local")
    port = node.get(service)["spec"]["healthCheckNodePort"]
    node.wait("a local pod is found", lambda: '"localEndpoints": 1' in health(node, port))
    node.apply_slice(service, HTTP, ELSEWHERE)
    node.wait("none is left", lambda: health(node, port) == "")
    node.wait("the other serves", lambda: node.question("client", SPARE).backend == FAR)
    assert node.question("client", SPARE).carrier == plane
    node.apply_slice(service, HTTP, {POD: BOX_NODE})
    node.wait("a local pod is found again", lambda: '"localEndpoints": 1' in health(node, port))
    node.wait("it serves", lambda: node.question("client", SPARE).backend == POD)


def health(node: KubeNode, port: int) -> str:
    """What kube-proxy says of this node; empty: 503."""
    return node.lan.client.call(lambda: fetch(NODE_ADDRESS, port, "/healthz"))


def test_a_live_service_changes_planes_beside_kube_proxy(node: KubeNode, service: str) -> None:
    """New connections move without one refused, kube-proxy is told, and established ones end where they began."""
    ports = ({**HTTP[0], "targetPort": 8080}, {"name": "echo", "port": 7, "protocol": "TCP"})
    create(node, service, ports=ports)
    node.wait("answers", lambda: node.ask(SPARE) in {"pod", "far"})
    load = Load(node.lan.client, SPARE)
    with ExitStack() as stayed:
        socks = []
        for plane, ip_mode in ((NFT, "VIP"), (PIPE, "Proxy"), (NFT, "VIP")):
            node.annotate(service, plane=plane)
            node.wait_published(service, SPARE, ip_mode)
            assert {node.question("client", SPARE, 7).carrier for _ in range(TIMES)} == {plane}
            socks.append(stayed.enter_context(node.lan.client.call(lambda: converse(SPARE, 7))))
        outcome = load.finish()
        assert outcome.failed == ()
        assert outcome.answered > 50
        for sock in socks:
            sock.sendall(b"still there?")
            assert sock.recv(12, socket.MSG_WAITALL) == b"still there?"


def converse(address: str, port: int) -> socket.socket:
    """Open a connection, and hear who is there."""
    sock = socket.create_connection((address, port), 5)
    assert sock.recv(200).endswith(b"\n")
    return sock


@pytest.mark.parametrize("policy", ["Cluster", "Local"])
def test_udp_flows_of_ours_outlive_a_change_of_kube_proxys(node: KubeNode, service: str, policy: str) -> None:
    """It deletes UDP flows to endpoints that it does not know, at every change; ours lead to those that it knows."""
    create(node, service, ports=MIXED[:1], externalTrafficPolicy=policy, endpoints=ELSEWHERE)
    with node.lan.client.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.connect((SPARE, 53))
        before = ask_again(node, sock)
        node.create("nudge", {"loadBalancerIP": OTHER, "ports": MIXED[:1]}, {}, {POD: BOX_NODE})
        node.wait_published("nudge", OTHER, "VIP")
        node.delete("nudge")
        node.wait("kube-proxy has forgotten it", lambda: not node.proxy_knows(OTHER))
        assert ask_again(node, sock) == before


def ask_again(node: KubeNode, sock: socket.socket) -> str:
    """Send a datagram, hear the answer; return the number of the flow."""
    sock.send(b"?")
    assert sock.recv(200).split()[0] == FAR.encode()
    return node.flow(sock.getsockname(), SPARE, 53, "UDP").partition("id=")[2]


def test_when_all_services_have_gone_nothing_of_ours_is_left(node: KubeNode, request: pytest.FixtureRequest) -> None:
    """No address and no element; kube-proxy's rules are what they were before any Service was there."""
    clear(node.plane.admin, node.namespace)
    node.wait("no address is held", lambda: node.held() == set())
    node.wait("no element is left", lambda: "203.0.113." not in our_table(node), 90)
    bare = request.node.parent.stash[BARE]
    node.wait("kube-proxy has caught up", lambda: node.proxy_rules() == bare)
    node.stop()
    assert "littlelb" not in node.lan.balancer.run(["nft", "list", "tables"]).stdout
    assert node.proxy_rules() == bare


def test_no_table_was_written_by_two_owners(node: KubeNode) -> None:
    """Of all that was written to nf_tables while both ran, not one transaction touched tables of the other."""
    writers: dict[bool, set[str]] = {True: set(), False: set()}
    for program, tables in read_transactions(node.monitor):
        ours = {table for table in tables if table.startswith("inet littlelb")}
        assert ours in (set(), tables), f"{program} wrote to {tables}"
        writers[bool(ours)].add(program)
    assert "loadbalancer" in writers[True]
    assert "loadbalancer" not in writers[False]
    if node.mode == "iptables":  # else kube-proxy runs nft as we do
        assert {program.partition("-")[0] for program in writers[False]} == {"iptables", "ip6tables"}
        assert writers[True] <= {"loadbalancer", "nft"}


def our_table(node: KubeNode) -> str:
    """All of the kernel plane's elements."""
    return node.lan.balancer.run(["nft", "--stateless", "list", "table", "inet", "littlelb"]).stdout
