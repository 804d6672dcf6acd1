"""The table of packet cases under the real daemon, on each plane: who answers, what it sees, what is refused."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from littlelb.testing.netns import Namespace, unavailable
from tests.lab.box import Box, Document, render
from tests.lab.nft_world import ping
from tests.packet_cases import BOX, CASES, CLIENT, NODE, Ask, Case, Host, Outcome, Refused, Served, Silent

pytestmark = pytest.mark.lab

TELLER = Path(__file__).with_name("teller.py")
TIMES = 6
"""Each question is asked so often: backends are chosen at random."""
PROMPT = 0.8
"""Seconds in which a refusal must be there: it is an answer, not a silence."""


class Stage(Box):
    """A Box with two clients on the LAN, a pod of its own, and servers that tell what they see on port 9090."""

    def __init__(self, plane: str) -> None:
        """Start the daemon with all cases in its folder."""
        super().__init__()
        self.plane = plane
        self.lan.balancer.sysctl("net.ipv4.icmp_ratelimit", "0")  # ICMP errors are one a second, else
        self.lan.balancer.sysctl("net.ipv6.icmp.ratelimit", "0")
        self.lan.client.sysctl("net.ipv4.ping_group_range", "0 0")
        other, pod = self.lan.add_client(), self.lan.network.namespace("pod")
        self.lan.network.veth(self.lan.balancer, "pod0", pod, "eth0")
        self.lan.balancer.batch("addr add 10.1.0.1/24 dev pod0")
        pod.batch("addr add 10.1.0.5/24 dev eth0", "route add default via 10.1.0.1")
        self.askers = {
            "client": self.lan.client,
            "other": other,
            "pod": pod,
            "host": self.lan.balancer,
            "n1": self.lan.backends[0],
        }
        for machine in (*self.lan.backends, pod, other):
            self._tell(machine, "9090", "5000-5010")
        self._tell(self.lan.balancer, "2222")
        self.write(
            "cases.yaml", *(document for number, case in enumerate(CASES) for document in documents(case, number))
        )
        self.start("--plane", plane, "--node-name", NODE)
        self.wait("every case is decided", self._is_settled)

    @staticmethod
    def _tell(machine: Namespace, *ports: str) -> None:
        process = machine.popen([sys.executable, "-S", str(TELLER), *ports], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    def _is_settled(self) -> bool:
        """Everything that will be served is; what is refused has a reason by then."""
        states = {one.key: one.state for one in self.report().services}
        return all(states.get(f"demo/{case.name}", "pending") != "pending" for case in CASES)

    def addresses_of(self, asker: str) -> set[str]:
        """Every address of a machine."""
        words = self.askers[asker].ip("-o", "addr", "show").split()
        return {words[at + 1].partition("/")[0] for at, word in enumerate(words) if word in {"inet", "inet6"}}


def address(number: int, version: int) -> str:
    """The Service address of a case."""
    return f"203.0.113.{100 + number}" if version == 4 else f"2001:db8:0:113::{100 + number:x}"


def documents(case: Case, number: int) -> Iterator[Document]:
    """Write the objects of a case."""
    wanted = ", ".join(address(number, version) for version in case.versions)
    yield {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": case.name,
            "namespace": "demo",
            "annotations": {"littlelb.io/addresses": wanted, **case.annotations},
        },
        "spec": {"type": "LoadBalancer", "ports": [dict(port) for port in case.ports], **case.spec},
    }
    for count, slice_ in enumerate(case.slices):
        ports = [{"port": 9090, **port} for port in slice_["ports"] or ({"name": "p80"},)]
        for port in ports:
            port["port"] = 9090
        yield {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{case.name}-{count}",
                "namespace": "demo",
                "labels": {"kubernetes.io/service-name": case.name},
                "annotations": slice_.get("annotations", {}),
            },
            "addressType": "IPv6" if ":" in slice_["endpoints"][0]["addresses"][0] else "IPv4",
            "ports": ports,
            "endpoints": slice_["endpoints"],
        }


@pytest.fixture(scope="module", params=["nft", "pipe"])
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """One daemon for all cases, on each plane."""
    reason = unavailable()
    if reason is not None:
        pytest.skip(reason)
    with Stage(request.param) as made:
        yield made


QUESTIONS = [(number, at) for number, case in enumerate(CASES) for at in range(len(case.asks))]


@pytest.mark.parametrize(
    ("number", "at"),
    QUESTIONS,
    ids=[
        f"{CASES[n].name}-{CASES[n].asks[a].protocol}{CASES[n].asks[a].port}-{CASES[n].asks[a].by}"
        for n, a in QUESTIONS
    ],
)
def test_packet_case(stage: Stage, number: int, at: int) -> None:
    """What the table says is what packets meet."""
    case, ask = CASES[number], CASES[number].asks[at]
    expected = ask.nft if stage.plane == "nft" else ask.pipe
    target = address(number, ask.version)
    check(stage, case, ask, target, expected)


def check(stage: Stage, case: Case, ask: Ask, target: str, expected: Outcome) -> None:
    """Ask several times, and hold the answers against what is expected."""
    asker = stage.askers[ask.by]
    match expected:
        case Served(by):
            own = stage.addresses_of(ask.by)
            for _ in range(TIMES):
                backend, seen = question(asker, ask, target).split()
                assert backend in by
                source = CLIENT if seen in own and ask.by != "host" else BOX
                assert (backend, source) == (backend, by[backend]), f"{backend} saw {seen}"
        case Refused(reason):
            begun = time.monotonic()
            with pytest.raises(ConnectionError):
                question(asker, ask, target)
            assert time.monotonic() - begun < PROMPT
            assert reason in stage.reasons(f"demo/{case.name}")
        case Silent(reason):
            with pytest.raises((TimeoutError, OSError)) as raised:
                question(asker, ask, target)
            assert not isinstance(raised.value, ConnectionError)
            assert reason in stage.reasons(f"demo/{case.name}")
        case Host():
            assert question(asker, ask, target).split()[0] == target


def question(asker: Namespace, ask: Ask, target: str) -> str:
    """Ask once over a new flow: `BACKEND SEEN`. Raises ConnectionError, TimeoutError (after a second)."""

    def run() -> str:
        kind = socket.SOCK_STREAM if ask.protocol == "TCP" else socket.SOCK_DGRAM
        with socket.socket(socket.AF_INET6 if ask.version == 6 else socket.AF_INET, kind) as sock:
            sock.settimeout(1)
            sock.connect((target, ask.port))
            if ask.protocol == "UDP":
                sock.send(b"?" * ask.bytes)
            told = sock.recv(200).decode().split()
            if not told:
                raise ConnectionResetError("closed without an answer")
            return f"{told[0]} {told[2]}"

    return asker.call(run)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.name for case in CASES])
def test_ping(stage: Stage, number: int) -> None:
    """On the kernel plane an address of ours answers ping while a backend is up; the pipe leaves ping to the host."""
    case = CASES[number]
    if case.pings is None:
        return
    target = address(number, case.versions[0])
    answers = stage.lan.client.call(lambda: ping(target))
    assert answers is (case.pings if stage.plane == "nft" else True)


def test_the_default_address_is_left_as_it_is(stage: Stage) -> None:
    """Nothing on an address of the host's own is refused but what Services have there: ssh stays reachable."""
    stage.write_text("default.yaml", render(*default_service()))
    stage.wait_serving("demo/default")
    ask = Ask(Host(), Host(), port=2222)
    assert question(stage.lan.client, ask, "192.0.2.2").split()[0] == "192.0.2.2"
    assert question(stage.lan.client, Ask(Host(), Host(), port=8099), "192.0.2.2").split()[0] == "198.51.100.11"
    assert stage.lan.client.call(lambda: ping("192.0.2.2"))


def default_service() -> Iterator[Document]:
    """A Service that asks for no address."""
    yield {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "default", "namespace": "demo"},
        "spec": {"type": "LoadBalancer", "ports": [{"name": "p", "port": 8099}]},
    }
    yield {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "default", "namespace": "demo", "labels": {"kubernetes.io/service-name": "default"}},
        "addressType": "IPv4",
        "ports": [{"name": "p", "port": 9090}],
        "endpoints": [{"addresses": ["198.51.100.11"]}],
    }


def test_clients_stay_with_their_backend(stage: Stage) -> None:
    """With sessionAffinity ClientIP twenty connections of one client reach one backend, on either plane."""
    service, slice_ = default_service()
    service["metadata"]["name"] = "sticky"
    service["spec"] |= {
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
        "loadBalancerIP": "203.0.113.90",
    }
    slice_["metadata"] |= {"name": "sticky", "labels": {"kubernetes.io/service-name": "sticky"}}
    slice_["endpoints"] = [{"addresses": [one]} for one in ("198.51.100.11", "198.51.100.12")]
    stage.write_text("sticky.yaml", render(service, slice_))
    stage.wait_serving("demo/sticky")
    ask = Ask(Host(), Host(), port=8099)
    for asker in (stage.lan.client, stage.askers["other"]):
        assert len({question(asker, ask, "203.0.113.90").split()[0] for _ in range(20)}) == 1
