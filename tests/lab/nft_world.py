"""The stage of the kernel plane's lab tests: a LAN whose backends tell what they see, and the plane in the balancer.

client 192.0.2.10 ── eth0 balancer eth1 ── backends 198.51.100.11, .12 (port 8080, 5000-5009)
"""

import asyncio
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from littlelb.core.model import Backend, Forward, Frontend, Ip, Plane, Protocol
from littlelb.core.plan import diff
from littlelb.dataplane.netfilter.conntrack.probe import Support
from littlelb.dataplane.nft.flows.flows import Flows, Sockets
from littlelb.dataplane.nft.plane import NftPlane, NftSettings
from littlelb.testing.lan import Lan, backend_address, vip
from littlelb.testing.netns import Namespace

TELLER: Final = Path(__file__).with_name("teller.py")
SECONDS: Final = 10.0
TCP, UDP = Protocol.TCP, Protocol.UDP
VIP4, VIP6 = vip(7)
REFUSED: Final = "refused"
SILENCE: Final = "silence"


class Told(NamedTuple):
    """What a backend said."""

    backend: str
    port: int
    client: str


def frontend(address: Ip = VIP4, protocol: Protocol = TCP, port: int = 80, last_port: int = 0) -> Frontend:
    """Where clients of a test knock."""
    return Frontend(address, protocol, port, last_port)


def backends(*numbers: int, version: int = 4, port: int = 8080, **more: Any) -> tuple[Backend, ...]:
    """Backends by the last number of their addresses; the LAN has 11 and 12."""
    return tuple(Backend(backend_address(number)[version == 6], port, **more) for number in numbers)


def forward(*served: Backend, **more: Any) -> Forward:
    """A rule for the kernel plane."""
    return Forward(service="default/web", backends=served, plane=Plane.NFT, **more)


class World:
    """Machines, servers, and what a client hears; leaving the `with` block removes all."""

    def __init__(self, *, clients: int = 1) -> None:
        """Start the servers and wait for them; the balancer forwards, and has both VIPs."""
        self.lan = Lan(clients=clients, prefix="llbnft")
        self.box = self.lan.balancer
        try:
            for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
                self.box.sysctl(key, "1")
            self.box.batch(f"addr add {VIP4}/32 dev eth0", f"addr add {VIP6}/128 dev eth0 nodad")
            for key in ("net.ipv4.icmp_ratelimit", "net.ipv6.icmp.ratelimit"):  # else most refusals of UDP are silent
                self.box.sysctl(key, "0")
            for client in self.lan.clients:
                client.sysctl("net.ipv4.ping_group_range", "0 0")
            for backend in self.lan.backends:
                self._tell(backend)
        except BaseException:
            self.lan.close()
            raise

    @staticmethod
    def _tell(backend: Namespace) -> None:
        argv = [sys.executable, "-S", str(TELLER), "8080", "5000-5009"]
        process = backend.popen(argv, stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    def ask(self, asked: Frontend, *, port: int = 0, number: int = 0) -> Told | str:
        """Ask from a client over a new flow: what was told, or REFUSED, or SILENCE after a second."""
        return self.ask_from(self.lan.clients[number], asked, port)

    @staticmethod
    def ask_from(asker: Namespace, asked: Frontend, port: int = 0) -> Told | str:
        """Do the same from any machine."""
        return asker.call(lambda: _ask(str(asked.address), port or asked.port, asked.protocol))

    def hear(self, asked: Frontend, times: int = 40, **more: Any) -> dict[str, int]:
        """Ask so often; how often each backend answered."""
        heard: dict[str, int] = {}
        for _ in range(times):
            told = self.ask(asked, **more)
            name = told if isinstance(told, str) else told.backend
            heard[name] = heard.get(name, 0) + 1
        return heard

    def pings(self, address: Ip) -> bool:
        """Does it answer an echo request within a second?"""
        return self.lan.client.call(lambda: ping(str(address)))

    @contextmanager
    def connection(self, asked: Frontend) -> Iterator[socket.socket]:
        """Open a TCP connection from the client; the backend has told."""
        sock = self.lan.client.call(lambda: socket.create_connection((str(asked.address), asked.port), timeout=SECONDS))
        with sock:
            assert sock.recv(200).endswith(b"\n")
            yield sock

    def play(self, script: "Callable[[Keeper], Awaitable[None]]", **more: Any) -> None:
        """Run a script with a plane in the balancer; the plane ends without a trace."""

        async def main() -> None:
            keeper = Keeper(**more)
            await keeper.plane.start()
            task = asyncio.gather(keeper.keep(), keeper.plane.run())
            try:
                await script(keeper)
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
                await keeper.plane.stop(keep=keeper.leave)

        self.box.call(lambda: asyncio.run(main()))

    def close(self) -> None:
        """End everything and remove it."""
        self.lan.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Keeper:
    """The loop, reduced to FORWARD: what is wanted is applied, and again after a hint."""

    def __init__(self, support: Support | None = None) -> None:
        self.hints = 0
        self.leave = False
        """Keep the table at the end."""
        self.wanted: dict[Frontend, Forward] = {}
        self._hint = asyncio.Event()
        self._lock = asyncio.Lock()
        self.plane = NftPlane(NftSettings("eth0"), self._hear, partial(Sockets, support))

    @property
    def flows(self) -> Flows:
        """The plane's."""
        assert self.plane._flows is not None
        return self.plane._flows

    def _hear(self) -> None:
        self.hints += 1
        self._hint.set()

    async def serve(self, wanted: dict[Frontend, Forward]) -> None:
        """Reach this, by a full pass; the next would have nothing to do."""
        self.wanted = wanted
        await self.full_pass()
        assert not diff(wanted, await self.plane.observe(None))

    async def full_pass(self) -> None:
        """Look at everything, apply what differs."""
        async with self._lock:
            changes = diff(self.wanted, await self.plane.observe(None))
            if changes:
                assert await self.plane.apply(changes) == {}

    async def change(self, wanted: dict[Frontend, Forward]) -> None:
        """Reach this, by an incremental pass."""
        async with self._lock:
            keys = frozenset({**self.wanted, **wanted})
            self.wanted = wanted
            assert await self.plane.apply(diff(wanted, await self.plane.observe(keys), keys)) == {}

    async def keep(self) -> None:
        """Answer hints."""
        while True:
            await self._hint.wait()
            self._hint.clear()
            await self.full_pass()


async def until(condition: Callable[[], object], seconds: float = SECONDS) -> float:
    """Ask until it holds; how many seconds it took."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "waited in vain"
        await asyncio.sleep(0.01)
    return time.monotonic() - start


def _ask(address: str, port: int, protocol: Protocol) -> Told | str:
    kind = socket.SOCK_STREAM if protocol is TCP else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind) as sock:
        sock.settimeout(1)
        try:
            sock.connect((address, port))
            if protocol is UDP:
                sock.send(b"?")
            backend, told, client = sock.recv(200).decode().split()
        except ConnectionRefusedError:
            return REFUSED
        except TimeoutError:
            return SILENCE
        return Told(backend, int(told), client)


def ping(address: str) -> bool:
    """Send an echo request by a ping socket: the kernel makes the checksum (icmp(7), icmpv6(7))."""
    six = ":" in address
    family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
    with socket.socket(family, socket.SOCK_DGRAM, protocol) as sock:
        sock.settimeout(1)
        sock.sendto(struct.pack("!BBHHH", 128 if six else 8, 0, 0, 0, 1), (address, 0))
        try:
            return sock.recv(100)[0] == (129 if six else 0)
        except TimeoutError:
            return False
