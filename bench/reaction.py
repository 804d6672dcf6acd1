"""How soon the daemon follows: from a change in the API, or by hand, to what a client sees on the wire.

    python -m bench.reaction                  15 rounds and an outage of 60 s, about four minutes
    python -m bench.reaction --rounds 2 --outage 5 --trial

The stage is that of the end-to-end tests: the real API server, a LAN of network namespaces, the real daemon with the
shipped role. A time runs from before the request to the API until the first look that sees the effect; a look is a
connection from the client (or a question to the API or the kernel) every few milliseconds.
"""

import argparse
import logging
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import structlog

from bench.record import Figure, report
from littlelb.testing.netns import Namespace
from tests.controlplane import build
from tests.controlplane.admin import Object
from tests.controlplane.cluster import ControlPlane
from tests.controlplane.objects import create_pod
from tests.e2e.load import Load
from tests.e2e.rig import FINALIZER, Rig

LOOK_SECONDS = 0.005
LIMIT_SECONDS = 20.0
VIP, MOVED = "203.0.113.10", "203.0.113.11"
LOADED = "203.0.113.20"
GOAL = 1.0
Round = Callable[[Rig, int], dict[str, float]]


def watch(look: Callable[[], bool]) -> float:
    """Look until it is so; the seconds it took."""
    began = time.monotonic()
    while not look():
        assert time.monotonic() - began < LIMIT_SECONDS, "waited in vain"
        time.sleep(LOOK_SECONDS)
    return time.monotonic() - began


class Client:
    """Asks from inside a namespace, in a thread that stays there: entering anew for each look would cost more."""

    def __init__(self, namespace: Namespace) -> None:
        """Nothing is asked yet."""
        self._namespace = namespace

    def ask(self, address: str, port: int = 80) -> str:
        """Body of an answer over a new connection; empty: none within a quarter of a second."""
        with self._namespace.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.settimeout(0.25)
            try:
                sock.connect((address, port))
                sock.sendall(b"GET / HTTP/1.0\r\n\r\n")
                text = b""
                while piece := sock.recv(4096):
                    text += piece
            except OSError:
                return ""
        return text.partition(b"\r\n\r\n")[2].decode().strip() if b" 200 " in text[:20] else ""


# --- rounds ----------------------------------------------------------------------------------------------------------


def come_and_go(rig: Rig, number: int) -> dict[str, float]:
    """Create a Service, move it, retype it, delete another."""
    client, name = Client(rig.lan.client), f"bench-{number}"
    found: dict[str, float] = {}

    def timed(what: str, change: Callable[[], object], look: Callable[[], bool]) -> None:
        began = time.monotonic()
        change()
        watch(look)
        found[what] = time.monotonic() - began

    port = 30_100
    ports = ({"name": "http", "port": 80, "protocol": "TCP", "nodePort": port},)
    timed(
        "Service created: a client is answered",
        lambda: rig.apply(name, loadBalancerIP=VIP, ports=ports),
        lambda: client.ask(VIP) != "",
    )
    watch(lambda: rig.ingress(name) == [VIP])
    timed(
        "loadBalancerIP changed: answers on the new one",
        lambda: rig.apply(name, loadBalancerIP=MOVED, ports=ports),
        lambda: client.ask(MOVED) != "",
    )
    watch(lambda: rig.ingress(name) == [MOVED] and rig.held() & {VIP, MOVED} == {MOVED})
    timed("address removed by hand: back", lambda: take(rig, MOVED), lambda: MOVED in rig.held())
    watch(lambda: client.ask(MOVED) != "")
    found |= retype(rig, client, name)
    rig.apply(name, loadBalancerIP=VIP, ports=ports)
    watch(lambda: client.ask(VIP) != "" and rig.ingress(name) == [VIP])
    timed(
        "Service deleted: closed and the address gone",
        lambda: rig.plane.admin.delete(rig.get(name)),
        lambda: client.ask(VIP) == "" and VIP not in rig.held(),
    )
    watch(lambda: not any(one["metadata"]["name"] == name for one in rig.plane.admin.items("v1", "Service")))
    return found


def retype(rig: Rig, client: Client, name: str) -> dict[str, float]:
    """The type is changed away: closed, and then nothing of ours is left on the object."""
    began = time.monotonic()
    rig.plane.admin.patch(
        rig.get(name), {"spec": {"type": "ClusterIP", "loadBalancerIP": None, "ports": plain(rig, name)}}
    )
    watch(lambda: client.ask(MOVED) == "" and MOVED not in rig.held())
    closed = time.monotonic() - began
    watch(lambda: is_clean(rig.get(name)))
    return {
        "type changed away: closed and the address gone": closed,
        "type changed away: status and finalizer cleared": time.monotonic() - began,
    }


def plain(rig: Rig, name: str) -> list[Object]:
    """Ports of a Service without NodePorts."""
    return [{k: v for k, v in port.items() if k != "nodePort"} for port in rig.get(name)["spec"]["ports"]]


def is_clean(found: Object) -> bool:
    """Is nothing of ours left on a Service?"""
    finalizers, status = found["metadata"].get("finalizers") or [], found.get("status", {})
    return FINALIZER not in finalizers and not status.get("conditions") and not status.get("loadBalancer")


def take(rig: Rig, address: str) -> None:
    """Remove an address as an administrator would."""
    rig.lan.balancer.ip("addr", "del", f"{address}/32", "dev", "eth0")


def follow_nodes(rig: Rig, _number: int) -> dict[str, float]:
    """A node loses its label and gets it back; turns unready and ready again."""
    client = Client(rig.lan.client)
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n2"}}

    def only_first() -> bool:
        return {client.ask(LOADED) for _ in range(4)} == {"n1"}

    def both() -> bool:
        return {client.ask(LOADED) for _ in range(4)} == {"n1", "n2"}

    def timed(change: Object, subresource: str, look: Callable[[], bool]) -> float:
        began = time.monotonic()
        rig.plane.admin.patch(node, change, subresource)
        watch(look)
        return time.monotonic() - began

    def ready(value: str) -> Object:
        condition = {"type": "Ready", "status": value, "reason": "Bench", "message": "as the bench says"}
        return {"status": {"conditions": [condition]}}

    watch(both)
    return {
        "node loses its label: not asked any more": timed({"metadata": {"labels": {"bench": None}}}, "", only_first),
        "node gets its label: asked again": timed({"metadata": {"labels": {"bench": "yes"}}}, "", both),
        "node unready: not asked any more": timed(ready("False"), "status", only_first),
        "node ready: asked again": timed(ready("True"), "status", both),
    }


def follow_endpoints(rig: Rig, number: int) -> dict[str, float]:
    """Of two endpoints one goes: no new connection to it."""
    client, name, address = Client(rig.lan.client), "pods", "203.0.113.30"
    pod = create_pod(rig.plane.admin, f"pod-{number}", "n2", "198.51.100.12", name, rig.namespace)
    watch(lambda: {client.ask(address) for _ in range(4)} == {"n1", "n2"})
    began = time.monotonic()
    rig.plane.admin.delete(pod, grace_seconds=0)
    watch(lambda: {client.ask(address) for _ in range(4)} == {"n1"})
    return {"endpoint removed: no new connection to it": time.monotonic() - began}


def repeat(rig: Rig, rounds: int, round_: Round) -> list[Figure]:
    """Run a round so many times, and put its times together."""
    seen: dict[str, list[float]] = {}
    for number in range(rounds):
        for name, seconds in round_(rig, number).items():
            seen.setdefault(name, []).append(seconds)
    return [Figure(name, "s", tuple(values), GOAL, judged=max(values)) for name, values in seen.items()]


# --- under load ------------------------------------------------------------------------------------------------------


def restart(rig: Rig, flags: tuple[str, ...], rounds: int) -> list[Figure]:
    """Ended by kill -9 and by SIGUSR2: the next start adopts what is there, under a connect every 10 ms."""
    figures = []
    for name, number in (("kill -9", signal.SIGKILL), ("SIGUSR2", signal.SIGUSR2)):
        load = Load(rig.lan.client, LOADED)
        for _ in range(rounds):
            time.sleep(1)
            rig.stop(number)
            rig.start(*flags)
        time.sleep(1)
        found = load.finish()
        print(f"{name}: {found}", flush=True)
        lost = (float(len(found.failed)),)
        figures.append(Figure(f"{rounds} restarts by {name}: lost of {found.answered:,} connects", "lost", lost, 0.0))
        figures.append(Figure("  slowest answer meanwhile", "s", (found.slowest_seconds,)))
    return figures


def outage(rig: Rig, seconds: float) -> list[Figure]:
    """The API server is away; a Service that came while nobody could hear of it is served after its return."""
    load = Load(rig.lan.client, LOADED, seconds=seconds + 120)
    rig.plane.api.stop(timeout=20)
    time.sleep(seconds)
    rig.plane.api.start()
    began = time.monotonic()
    rig.apply("after", loadBalancerIP=VIP, ports=({"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30_100},))
    client = Client(rig.lan.client)
    watch(lambda: client.ask(VIP) != "")
    applied = time.monotonic() - began
    time.sleep(1)
    found = load.finish()
    print(f"outage: {found}", flush=True)
    lost = (float(len(found.failed)),)
    return [
        Figure(f"API server away for {seconds:.0f} s: lost of {found.answered:,} connects", "lost", lost, 0.0),
        Figure("  slowest answer meanwhile", "s", (found.slowest_seconds,)),
        Figure("  a change made at its return is applied", "s", (applied,), 10.0),
    ]


# --- the command -----------------------------------------------------------------------------------------------------


def prepare(rig: Rig) -> None:
    """Two nodes with web servers, the Service under load, and one whose backends are pods."""
    for number in (1, 2):
        rig.add_node(number, {"bench": "yes"})
        rig.serve(number, 30_100, 30_200, 8888)
    ports: Any = ({"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30_200},)
    rig.apply("loaded", loadBalancerIP=LOADED, ports=ports)
    ports = ({"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8888},)
    rig.apply("pods", loadBalancerIP="203.0.113.30", ports=ports, allocateLoadBalancerNodePorts=False)
    create_pod(rig.plane.admin, "first", "n1", "198.51.100.11", "pods", rig.namespace)


def measure(plane: ControlPlane, options: argparse.Namespace) -> list[Figure]:
    """All of it in turn."""
    flags = ("--node-selector", "bench=yes")
    with Rig(plane, "default") as rig:
        prepare(rig)
        rig.start(*flags)
        client = Client(rig.lan.client)
        watch(lambda: client.ask(LOADED) != "" and client.ask("203.0.113.30") != "")
        figures: list[Figure] = []
        for round_ in (come_and_go, follow_nodes, follow_endpoints):
            figures += repeat(rig, options.rounds, round_)
            print(*(figure.cells() for figure in figures), sep="\n", flush=True)
        figures += restart(rig, flags, max(1, options.rounds // 5))
        figures += outage(rig, options.outage)
        with suppress(AssertionError):
            rig.stop()
    return figures


def main(arguments: Sequence[str] | None = None) -> list[Figure]:
    """Measure, print, and write the dated result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--outage", type=float, default=60.0, help="seconds")
    parser.add_argument("--trial", action="store_true", help="write no result")
    options = parser.parse_args(arguments)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    with ControlPlane(build.ensure(print)) as plane:
        figures = measure(plane, options)
    note = (
        f"Kubernetes {build.KUBERNETES_VERSION} on the same machine. Times are held against the goal by their worst. "
        "An address is probed for 0.6 s before it is first held; a look at a closed address takes up to 0.25 s."
    )
    report("reaction", "Reaction", figures, [note], keep=not options.trial)
    return figures


if __name__ == "__main__":
    main()
