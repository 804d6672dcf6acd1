"""The ways of forwarding that bench/dataplane.py compares, each set up in three namespaces of its own.

client 192.0.2.16-31 -- 192.0.2.2 balancer 198.51.100.2 -- backends 198.51.100.11, .12, .13
"""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from littlelb.core.model import Backend, Forward, Frontend, Plane, Protocol
from littlelb.core.plan import Changes
from littlelb.dataplane.nft.plane import NftPlane, NftSettings
from littlelb.dataplane.pipe.crew import PipeSettings
from littlelb.dataplane.pipe.plane import PipePlane
from littlelb.testing.netns import Namespace, Network

VIP: Final = "203.0.113.7"
BACKENDS: Final = ("198.51.100.11", "198.51.100.12", "198.51.100.13")
SOURCES: Final = 16
"""Addresses of the client: behind one of them there are only 64 thousand ports."""
FIRST_SOURCE: Final = "192.0.2.16"
WEB, BULK, LOAD = 8000, 5201, 9000
FRONTENDS: Final = (("tcp", WEB), ("tcp", LOAD), ("tcp", BULK), ("udp", LOAD))
"""All ports of the Service."""
ALONE: Final = (("tcp", BULK), ("udp", LOAD))
"""Those with one backend: an iperf3 client has two connections to one server, and datagrams are counted by one."""

WEB_SERVER = """
global
    nbthread 1
defaults
    mode http
    timeout client 60s
    timeout server 60s
    timeout connect 5s
frontend web
    bind :8000 backlog 16384
    http-request return status 200 content-type text/plain string ok
"""
HAPROXY = """
global
    nbthread 2
    maxconn 8000
    tune.bufsize 65536
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
"""
NGINX = """
worker_processes 2;
worker_rlimit_nofile 16384;
error_log stderr error;
pid {folder}/nginx.pid;
{modules}
events {{ worker_connections 8000; }}
stream {{
    proxy_buffer_size 64k;
"""


@dataclass(frozen=True, slots=True)
class World:
    """The three namespaces of one way."""

    client: Namespace
    balancer: Namespace
    backend: Namespace
    target: str
    """The address that the client asks."""


@dataclass(slots=True)
class Way:
    """One way of forwarding."""

    name: str
    start: Callable[[World, Path], None]
    """Set it up in the balancer's namespace; processes end with the Network."""
    target: str = VIP
    udp: bool = True
    needs: str = ""
    """A program that must be there."""
    world: World | None = field(default=None, repr=False)


def backends_of(protocol: str, port: int) -> tuple[str, ...]:
    """Who serves a port."""
    return BACKENDS[:1] if (protocol, port) in ALONE else BACKENDS


# --- ways ------------------------------------------------------------------------------------------------------------


def start_direct(_world: World, _folder: Path) -> None:
    """Plain routing: nothing to do."""


def start_conntrack(world: World, _folder: Path) -> None:
    """Plain routing beside a firewall that asks for the connection's state."""
    load_text(
        world, "table ip bench { chain f { type filter hook forward priority 0; ct state established accept; }; }"
    )


def start_ours(word: str) -> Callable[[World, Path], None]:
    """One of our planes, programmed by its own code, in a process that stays."""

    def start(world: World, folder: Path) -> None:
        process = subprocess.Popen(
            world.balancer.command([sys.executable, "-m", "bench.ways", word, str(folder)]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        SERVING.append(process)
        assert process.stdout is not None
        while (line := process.stdout.readline()) != "serving\n":
            assert line, f"{word} did not start"

    return start


SERVING: list[subprocess.Popen[str]] = []


def start_kube_proxy(world: World, _folder: Path) -> None:
    """The layout of kube-proxy's nftables mode (KEP-3866): a chain for each Service, one for each endpoint."""
    lines = ["table ip bench {"]
    entries = []
    for protocol, port in FRONTENDS:
        name, verdicts = f"{protocol}-{port}", []
        backends = backends_of(protocol, port)
        for number, backend in enumerate(backends):
            lines += [
                f"chain endpoint-{name}-{number} {{",
                f"ip saddr {backend} meta mark set meta mark or 0x4000",
                f"meta l4proto {protocol} dnat to {backend}:{port}",
                "}",
            ]
            verdicts.append(f"{number} : goto endpoint-{name}-{number}")
        choice = f"numgen random mod {len(backends)} vmap {{ {', '.join(verdicts)} }}"
        lines += [f"chain service-{name} {{", choice, "}"]
        lines += [f"chain external-{name} {{", "meta mark set meta mark or 0x4000", f"goto service-{name}", "}"]
        entries.append(f"{VIP} . {protocol} . {port} : goto external-{name}")
    lines += [
        "map services { type ipv4_addr . inet_proto . inet_service : verdict",
        f"elements = {{ {', '.join(entries)} }}",
        "}",
        "chain pre { type nat hook prerouting priority dstnat",
        "ip daddr . meta l4proto . th dport vmap @services",
        "}",
        "chain post { type nat hook postrouting priority srcnat",
        "meta mark and 0x4000 != 0 masquerade fully-random",
        "}",
        "}",
    ]
    load_text(world, "\n".join(lines))


def start_klipper(world: World, _folder: Path) -> None:
    """What klipper-lb does: iptables, DNAT to one address, masquerade everything."""
    table = ["iptables", "-w", "-t", "nat"]
    for protocol, port in FRONTENDS:
        goal = ["-j", "DNAT", "--to-destination", f"{BACKENDS[0]}:{port}"]
        world.balancer.run([*table, "-A", "PREROUTING", "-d", VIP, "-p", protocol, "--dport", str(port), *goal])
    world.balancer.run([*table, "-A", "POSTROUTING", "-o", "eth1", "-j", "MASQUERADE"])


def start_haproxy(world: World, folder: Path) -> None:
    """Two threads, 64 KiB buffers."""
    text = HAPROXY
    for port in (WEB, LOAD, BULK):
        text += f"listen p{port}\n    bind {VIP}:{port} backlog 16384\n"
        text += "".join(f"    server s{at} {backend}:{port}\n" for at, backend in enumerate(backends_of("tcp", port)))
    (folder / "haproxy.cfg").write_text(text)
    world.balancer.popen(["haproxy", "-f", str(folder / "haproxy.cfg"), "-db"], stderr=subprocess.DEVNULL)


def start_nginx(world: World, folder: Path) -> None:
    """Two workers, the stream module."""
    module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    text = NGINX.format(folder=folder, modules=f"load_module {module};" if module.exists() else "")
    for port in (WEB, LOAD, BULK):
        servers = "".join(f"server {backend}:{port};" for backend in backends_of("tcp", port))
        text += (
            f"upstream t{port} {{ {servers} }}\nserver {{ listen {VIP}:{port} backlog=16384; proxy_pass t{port}; }}\n"
        )
    text += f"server {{ listen {VIP}:{LOAD} udp; proxy_pass {BACKENDS[0]}:{LOAD}; proxy_timeout 10s; }}\n}}\n"
    (folder / "nginx.conf").write_text(text)
    world.balancer.popen(["nginx", "-c", str(folder / "nginx.conf"), "-g", "daemon off;"], stderr=subprocess.DEVNULL)


WAYS: Final = (
    Way("plain routing", start_direct, target=BACKENDS[0]),
    Way("routing + conntrack", start_conntrack, target=BACKENDS[0]),
    Way("nft, address kept", start_ours("keep")),
    Way("nft, masquerade", start_ours("masquerade")),
    Way("kube-proxy's layout", start_kube_proxy),
    Way("klipper's way", start_klipper, needs="iptables"),
    Way("pipe", start_ours("pipe"), udp=False),
    Way("HAProxy", start_haproxy, udp=False, needs="haproxy"),
    Way("nginx stream", start_nginx, needs="nginx"),
)


def load_text(world: World, text: str) -> None:
    """Give a table to nft."""
    subprocess.run(world.balancer.command(["nft", "-f", "-"]), input=text, text=True, check=True)


async def serve(word: str, folder: Path) -> None:
    """Be one of our planes in its namespace until stdin ends."""
    forwards: dict[Frontend, Forward] = {}
    for protocol, port in FRONTENDS:
        backends = backends_of(protocol, port)
        forwards[Frontend(ip_address(VIP), Protocol(protocol.upper()), port)] = Forward(
            service="bench/load",
            plane=Plane.PIPE if word == "pipe" else Plane.NFT,
            backends=tuple(Backend(ip_address(one), port, keeps_source=word == "keep") for one in backends),
        )
    plane: NftPlane | PipePlane
    if word == "pipe":
        forwards = {f: v for f, v in forwards.items() if f.protocol is Protocol.TCP}
        plane = PipePlane(PipeSettings(folder / "run", workers=2), lambda _: "", lambda: None)
    else:
        plane = NftPlane(NftSettings("eth0"), lambda: None)
    await plane.start()
    failures = await plane.apply(Changes(forwards))
    assert not failures, failures
    print("serving", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await plane.stop(keep=False)


# --- the stage -------------------------------------------------------------------------------------------------------


def build(net: Network, way: Way, number: int, folder: Path, tool: Path) -> None:
    """Lay client -- balancer -- backends, start the servers, then the way itself."""
    client, balancer, backend = (net.namespace(f"{label}{number}") for label in ("client", "lb", "backend"))
    net.veth(client, "eth0", balancer, "eth0")
    net.veth(balancer, "eth1", backend, "eth0")
    first = int(ip_address(FIRST_SOURCE))
    client.batch(
        *(f"addr add {ip_address(first + at)}/24 dev eth0" for at in range(SOURCES)), "route add default via 192.0.2.2"
    )
    balancer.batch("addr add 192.0.2.2/24 dev eth0", "addr add 198.51.100.2/24 dev eth1", f"addr add {VIP}/32 dev eth0")
    backend.batch(*(f"addr add {ip}/24 dev eth0" for ip in BACKENDS), "route add default via 198.51.100.2")
    balancer.sysctl("net.ipv4.ip_forward", "1")
    for box in (client, balancer, backend):
        box.sysctl("net.ipv4.tcp_congestion_control", "reno")
        box.sysctl("net.ipv4.ip_local_port_range", "1024 65000")
    (folder / "web.cfg").write_text(WEB_SERVER)
    backend.popen(["haproxy", "-f", str(folder / "web.cfg"), "-db"], stderr=subprocess.DEVNULL)
    for ip in BACKENDS:
        backend.popen(["iperf3", "-s", "-B", ip, "-p", str(BULK)], stdout=subprocess.DEVNULL)
    backend.popen([str(tool), "serve", str(LOAD)])
    way.world = World(client, balancer, backend, way.target)
    way.start(way.world, folder)
    _wait_until_served(way.world, tool)


def _wait_until_served(world: World, tool: Path) -> None:
    deadline = time.monotonic() + 20
    words = [str(tool), "connect", world.target, str(LOAD), FIRST_SOURCE, "1", "1", "0.1"]
    while not json.loads(world.client.run(words, check=False).stdout or '{"done": 0}')["done"]:
        assert time.monotonic() < deadline, f"nobody answers on {world.target}"
        time.sleep(0.1)
    time.sleep(0.3)  # the other servers of this world were started before the one that has just answered


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2])))
