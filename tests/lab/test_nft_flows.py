"""Flows that are under way while the kernel plane changes: cut, drained, ended with an RST; by real packets."""

import asyncio
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from littlelb.core.model import Forward, Frontend, Ip
from littlelb.dataplane.netfilter.conntrack.probe import Support
from tests.lab.nft_world import SECONDS, TCP, UDP, VIP4, VIP6, Keeper, World, backends, forward, frontend, until

pytestmark = pytest.mark.lab

FAMILIES = pytest.mark.parametrize("vip", [VIP4, VIP6], ids=["IPv4", "IPv6"])
RESET, DEAF = "reset", "silence"


@pytest.fixture
def world() -> Iterator[World]:
    """One client, the balancer, two backends that tell what they see."""
    with World() as made:
        yield made


def to(*numbers: int, vip: Ip, **more: Any) -> Forward:
    """A rule with these backends, of the address's family."""
    return forward(*backends(*numbers, version=vip.version), **more)


def talk(sock: socket.socket, seconds: float = 1.0) -> str:
    """Say something over a connection: the echo, RESET, or DEAF."""
    sock.settimeout(seconds)
    try:
        sock.sendall(b"on")
        return sock.recv(10).decode() or "end"
    except (ConnectionResetError, BrokenPipeError):
        return RESET
    except TimeoutError:
        return DEAF


def chains(world: World) -> set[str]:
    """Those that see every packet."""
    text = world.box.run(["nft", "list", "chains", "inet"]).stdout
    return {word for word in text.split() if word.startswith("ending-")}


def tracked(world: World, one: Frontend) -> int:
    """How many flows to a frontend conntrack knows."""
    family = "ipv4" if one.address.version == 4 else "ipv6"
    asked = ["-f", family, "-p", one.protocol.lower(), "-d", str(one.address), "--dport", str(one.port)]
    return len(world.box.run(["conntrack", "-L", *asked]).stdout.splitlines())


@contextmanager
def datagrams(world: World, asked: Frontend) -> Iterator[Callable[[], str]]:
    """One UDP flow from the client, always of the same port: asks, and tells who answered, RESET for ICMP, or DEAF."""
    family = socket.AF_INET if asked.address.version == 4 else socket.AF_INET6
    with world.lan.client.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(0.5)
        sock.connect((str(asked.address), asked.port))

        def ask() -> str:
            try:
                sock.send(b"?")
                return sock.recv(200).decode().split()[0]
            except ConnectionRefusedError:
                return RESET
            except TimeoutError:
                return DEAF

        yield ask


@pytest.fixture(params=["probed", "listed"])
def way(request: pytest.FixtureRequest) -> Support | None:
    """How conntrack is asked to forget: as this kernel can, or by a list and a deletion for each flow."""
    return Support() if request.param == "listed" else None


def name(number: int, vip: Ip) -> str:
    """Address of a backend."""
    return str(backends(number, version=vip.version)[0].address)


@FAMILIES
def test_connections_of_a_removed_backend_go_on(world: World, vip: Ip) -> None:
    """Without a deadline they end by themselves; new ones go to the backend that is left."""

    async def script(keeper: Keeper) -> None:
        one = frontend(vip)
        await keeper.serve({one: to(11, vip=vip)})
        with world.connection(one) as sock:
            await keeper.change({one: to(12, vip=vip)})
            assert world.hear(one, times=5).keys() == {name(12, vip)}
            assert talk(sock) == "on"
            assert chains(world) == set()

    world.play(script)


@FAMILIES
def test_connections_end_with_a_reset_when_their_drain_is_over(world: World, vip: Ip) -> None:
    """Each side hears it at its next packet; until then they work. The chains go when nothing is left."""

    async def script(keeper: Keeper) -> None:
        one = frontend(vip)
        await keeper.serve({one: to(11, vip=vip)})
        with world.connection(one) as sock:
            await keeper.change({one: to(12, vip=vip, drain_seconds=1)})
            assert talk(sock) == "on"
            await until(lambda: chains(world))
            assert talk(sock) == RESET
            assert world.hear(one, times=5).keys() == {name(12, vip)}

    world.play(script)


@FAMILIES
def test_a_backend_that_comes_back_stops_the_drain(world: World, vip: Ip) -> None:
    """Its connections go on; also where they were being ended, if nobody has said anything yet."""

    async def script(keeper: Keeper) -> None:
        one = frontend(vip)
        with ExitStack() as stack:
            await keeper.serve({one: to(11, vip=vip)})
            sock = stack.enter_context(world.connection(one))
            await keeper.change({one: to(12, vip=vip, drain_seconds=0)})
            await until(lambda: chains(world))
            await keeper.change({one: to(11, 12, vip=vip, drain_seconds=0)})
            await until(lambda: not chains(world))
            assert talk(sock) == "on"

    world.play(script)


@FAMILIES
def test_a_frontend_that_goes_ends_its_connections(world: World, vip: Ip) -> None:
    """All of them, those to a backend of before, too; also when its address has left the device before it."""

    async def script(keeper: Keeper) -> None:
        one = frontend(vip)
        await keeper.serve({one: to(11, vip=vip)})
        with world.connection(one) as older:
            await keeper.change({one: to(12, vip=vip)})
            with world.connection(one) as newer:
                prefix = 32 if vip.version == 4 else 128
                world.box.ip("addr", "del", f"{vip}/{prefix}", "dev", "eth0")
                assert (talk(older), talk(newer)) == ("on", "on")
                await keeper.change({})
                await until(lambda: chains(world), 1)
                assert (talk(older), talk(newer)) == (RESET, RESET)

    world.play(script)


@FAMILIES
def test_connections_to_a_range_of_ports_are_cut_when_their_drain_is_over(world: World, vip: Ip) -> None:
    """Conntrack forgets them; the client's next packet is none of a connection, and the balancer itself resets it."""

    async def script(keeper: Keeper) -> None:
        one = frontend(vip, TCP, 5000, 5009)
        before, after = (forward(*backends(n, version=vip.version, port=0), drain_seconds=1) for n in (11, 12))
        await keeper.serve({one: before})
        with world.connection(one) as sock:
            await keeper.change({one: after})
            assert talk(sock) == "on"
            await until(lambda: not tracked(world, one))
            assert talk(sock) == RESET
            assert chains(world) == set()

    world.play(script)


@FAMILIES
def test_datagrams_leave_a_removed_backend_at_once(world: World, vip: Ip, way: Support | None) -> None:
    """A flow that goes on sending is with the other backend by its next datagram, however conntrack is asked."""

    async def script(keeper: Keeper) -> None:
        one = frontend(vip, UDP)
        await keeper.serve({one: to(11, vip=vip)})
        with datagrams(world, one) as ask:
            assert ask() == name(11, vip)
            await keeper.change({one: to(12, vip=vip)})
            # One datagram may be sent before the list of flows is read, and `ask` waits a second for its answer.
            assert await until(lambda: ask() == name(12, vip)) < 2

    world.play(script, support=way)


@FAMILIES
def test_datagrams_from_before_a_frontend_find_it(world: World, vip: Ip, way: Support | None) -> None:
    """They were not translated, and would never be, as long as the client goes on sending."""

    async def script(keeper: Keeper) -> None:
        one, other = frontend(vip, UDP), frontend(vip, UDP, 81)
        rule = to(11, vip=vip, held=False)
        await keeper.serve({other: rule})
        with world.box.socket(socket.AF_INET6, socket.SOCK_DGRAM) as deaf, datagrams(world, one) as ask:
            deaf.bind(("::", one.port))
            assert ask() == DEAF
            assert tracked(world, one) == 1
            await keeper.change({one: rule, other: rule})
            # One datagram may be sent before the list of flows is read, and `ask` waits a second for its answer.
            assert await until(lambda: ask() == name(11, vip)) < 2

    world.play(script, support=way)


def test_hundreds_of_flows_are_cut_in_one_go(world: World) -> None:
    """All of one pass in one deletion, and those of other backends stay."""
    ones = [frontend(VIP4, UDP, port) for port in range(1000, 1100)]

    async def script(keeper: Keeper) -> None:
        kept = frontend(VIP4, UDP)
        await keeper.serve({kept: to(11, vip=VIP4), **dict.fromkeys(ones, to(11, vip=VIP4))})
        for one in (kept, *ones):
            with datagrams(world, one) as ask:
                assert ask() == name(11, VIP4)
        await keeper.change({kept: to(11, vip=VIP4), **dict.fromkeys(ones, to(12, vip=VIP4))})
        await until(lambda: not any(tracked(world, one) for one in ones))
        assert tracked(world, kept) == 1

    world.play(script)


def test_what_was_being_ended_is_finished_by_the_next_daemon(world: World) -> None:
    """It finds the elements, and goes on: reset at the next packet."""
    one = frontend()
    socks: list[socket.socket] = []
    with ExitStack() as stack:

        async def first(keeper: Keeper) -> None:
            keeper.leave = True
            await keeper.serve({one: to(11, vip=VIP4)})
            socks.append(stack.enter_context(world.connection(one)))
            await keeper.change({one: to(12, vip=VIP4, drain_seconds=0)})
            await until(lambda: chains(world))
            world.box.run(["nft", "flush", "chain", "inet", "littlelb", "ending-forward"])
            world.box.run(["nft", "delete", "chain", "inet", "littlelb", "ending-forward"])

        async def second(keeper: Keeper) -> None:
            await keeper.serve({one: to(12, vip=VIP4, drain_seconds=0), frontend(port=81): to(12, vip=VIP4)})
            await until(lambda: "ending-forward" in chains(world))
            assert talk(socks[0]) == RESET

        world.play(first)
        world.play(second)


@FAMILIES
def test_a_withdrawal_resets_who_speaks(world: World, vip: Ip) -> None:
    """The plane ends with all it forwards: a client that is busy hears an RST, and conntrack has forgotten all."""

    async def script(keeper: Keeper) -> None:
        one = frontend(vip)
        await keeper.serve({one: to(11, vip=vip)})
        sock = stack.enter_context(world.connection(one))
        await keeper.change({})
        ended = asyncio.get_running_loop().run_in_executor(None, talk_until_reset, sock)
        await keeper.plane.stop(keep=False)
        assert await ended == RESET
        await until(lambda: not tracked(world, one))

    with ExitStack() as stack:
        world.play(script)


@FAMILIES
def test_a_drain_waits_for_connections_to_end(world: World, vip: Ip) -> None:
    """And tells how many are left when its time is up."""

    async def script(keeper: Keeper) -> None:
        one = frontend(vip)
        await keeper.serve({one: to(11, vip=vip)})
        with world.connection(one):
            assert await keeper.plane.drain(0.2) == 1
        assert await keeper.plane.drain(SECONDS) == 0

    world.play(script)


@FAMILIES
def test_both_ends_of_connections_to_this_machine_are_reset(world: World, vip: Ip) -> None:
    """A backend on the balancer itself (a pod on the host's network): client and server each at their next packet."""
    own = backends(2, version=vip.version, port=8081)[0]

    async def script(keeper: Keeper) -> None:
        one = frontend(vip)
        await keeper.serve({one: forward(own)})
        pairs = [stack.enter_context(local_connection(world, server, one)) for _ in range(2)]
        await keeper.change({})
        await until(lambda: chains(world))
        assert talk(pairs[0][0]) == RESET
        assert talk(pairs[1][1]) == RESET

    with ExitStack() as stack:
        family = socket.AF_INET if vip.version == 4 else socket.AF_INET6
        server = stack.enter_context(world.box.socket(family, socket.SOCK_STREAM))
        server.bind((str(own.address), own.port))
        server.listen()
        world.play(script)


@contextmanager
def local_connection(
    world: World, server: socket.socket, one: Frontend
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A connection from the client to a server on the balancer: both its ends."""
    address = str(one.address), one.port
    with world.lan.client.call(lambda: socket.create_connection(address, timeout=SECONDS)) as client:
        accepted, _ = server.accept()
        with accepted:
            yield client, accepted


@FAMILIES
def test_a_client_on_this_machine_is_reset(world: World, vip: Ip) -> None:
    """Its packets pass neither the hook of forwarded ones nor, on their way out, that of incoming ones."""

    async def script(keeper: Keeper) -> None:
        one = frontend(vip)
        await keeper.serve({one: to(11, vip=vip)})
        address = str(one.address), one.port
        with world.box.call(lambda: socket.create_connection(address, timeout=SECONDS)) as sock:
            assert sock.recv(200)
            await keeper.change({})
            await until(lambda: chains(world))
            assert talk(sock) == RESET

    world.play(script)


@FAMILIES
def test_what_flows_is_counted(world: World, vip: Ip) -> None:
    """Connections to the last one, through changes of slots; flows that drain are shown with their backend."""

    async def script(keeper: Keeper) -> None:
        one, other = frontend(vip), frontend(vip, UDP)
        await keeper.serve({one: to(11, 12, vip=vip), other: to(11, vip=vip)})
        flows = keeper.flows
        with world.connection(one) as sock:
            heard = world.hear(one, times=20)
            await keeper.change({one: to(12, vip=vip), other: to(11, vip=vip)})
            world.hear(one, times=5)
            world.hear(other, times=3)
            sock.sendall(bytes(1000))
            await flows.count()
            total = flows.counters[one].total
            assert (total.connections, total.active) == (sum(heard.values()) + 6, 1)
            assert flows.counters[other].total.connections == 3
            assert total.bytes_in is not None
            assert total.bytes_in > 1000 + 26 * 4 * 40
            draining = {key: b.active for key, b in flows.counters[one].backends.items() if b.active}
            assert sum(draining.values()) == 1
        await flows.count()
        again = flows.counters[one].total
        assert again.connections == total.connections
        assert (again.bytes_in or 0) >= total.bytes_in

    world.box.sysctl("net.netfilter.nf_conntrack_acct", "1")
    world.play(script)


class Stream(threading.Thread):
    """Asks over one socket every two milliseconds, and waits for each answer; counts those that do not come."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__()
        self._sock = sock
        self._over = threading.Event()
        self.answers = self.lost = 0

    def run(self) -> None:
        self._sock.settimeout(1)
        while not self._over.wait(0.002):
            try:
                self._sock.sendall(b"?")
                self.answers += bool(self._sock.recv(200))
            except OSError:
                self.lost += 1

    def end(self) -> None:
        """Stop asking."""
        self._over.set()
        self.join()


@FAMILIES
def test_flows_go_on_while_daemons_and_skeletons_come_and_go(world: World, vip: Ip) -> None:
    """Adoption by the next daemon, and an upgrade of the skeleton: not one packet of TCP or UDP goes astray."""
    rules = {frontend(vip, protocol): to(11, 12, vip=vip) for protocol in (TCP, UDP)}
    streams: list[Stream] = []

    async def first(keeper: Keeper) -> None:
        keeper.leave = True
        await keeper.serve(rules)

    async def last(keeper: Keeper) -> None:
        await keeper.serve(rules)
        await until(lambda: all(stream.answers > 100 for stream in streams))
        for stream in streams:
            stream.end()

    world.play(first)
    with world.connection(frontend(vip)) as sock, world.lan.client.socket(sock.family, socket.SOCK_DGRAM) as datagram:
        datagram.connect((str(vip), 80))
        streams += [Stream(sock), Stream(datagram)]
        for stream in streams:
            stream.start()
        world.play(first)
        world.box.run(["nft", "flush set inet littlelb layout; add element inet littlelb layout { 99 }"])
        world.play(last)
        assert [stream.lost for stream in streams] == [0, 0]


def talk_until_reset(sock: socket.socket) -> str:
    """Speak until something else than an echo comes."""
    deadline = time.monotonic() + SECONDS
    while (said := talk(sock, 0.05)) != RESET and time.monotonic() < deadline:
        time.sleep(0.02)
    return said
