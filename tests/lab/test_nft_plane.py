"""The kernel plane with real packets: what a client hears, and what its backends see."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from ipaddress import ip_network
from typing import Any

import pytest

from littlelb.core.model import Forward, Frontend, Plane
from littlelb.core.plan import Changes
from littlelb.dataplane.netfilter.errors import KernelRefusal
from littlelb.testing.lan import backend_address, lan_address, vip
from tests.lab.nft_world import (
    REFUSED,
    SILENCE,
    TCP,
    UDP,
    VIP4,
    VIP6,
    Keeper,
    Told,
    World,
    backends,
    forward,
    frontend,
    until,
)

pytestmark = pytest.mark.lab

BOTH = {"198.51.100.11", "198.51.100.12"}
BOTH6 = {"2001:db8:0:51::b", "2001:db8:0:51::c"}
OWN, OWN6 = (str(address) for address in backend_address(2))
CLIENT, CLIENT6 = (str(address) for address in lan_address(10))


@pytest.fixture
def world() -> Iterator[World]:
    """One client, the balancer, two backends that tell what they see."""
    with World() as made:
        yield made


def every_way(**more: Any) -> dict[Frontend, Forward]:
    """TCP and UDP, IPv4 and IPv6, two backends each."""
    return {
        frontend(address, protocol): forward(*backends(11, 12, version=address.version, **more))
        for address in (VIP4, VIP6)
        for protocol in (TCP, UDP)
    }


def test_every_protocol_reaches_every_backend(world: World) -> None:
    """At random, masqueraded; and the next full look finds nothing to do."""

    async def script(keeper: Keeper) -> None:
        await keeper.serve(every_way())
        for one in keeper.wanted:
            four = one.address.version == 4
            assert world.hear(one).keys() == (BOTH if four else BOTH6)
            told = world.ask(one)
            assert isinstance(told, Told)
            assert (told.port, told.client) == (8080, OWN if four else OWN6)

    world.play(script)


def test_a_kept_source_is_seen_and_hashed(world: World) -> None:
    """Every backend keeps it: by the client's port, so that all are chosen in time."""

    async def script(keeper: Keeper) -> None:
        await keeper.serve(every_way(keeps_source=True))
        for one in keeper.wanted:
            four = one.address.version == 4
            assert world.hear(one).keys() == (BOTH if four else BOTH6)
            told = world.ask(one)
            assert isinstance(told, Told)
            assert told.client == (CLIENT if four else CLIENT6)

    world.play(script)


@pytest.mark.parametrize("keeps", [False, True])
def test_the_host_and_the_backends_are_clients_too(world: World, *, keeps: bool) -> None:
    """This machine, and a backend that is sent to itself or to its neighbour: masqueraded whatever is asked for."""

    async def script(keeper: Keeper) -> None:
        await keeper.serve(every_way(keeps_source=keeps))
        for one in keeper.wanted:
            four = one.address.version == 4
            heard = [world.ask_from(machine, one) for machine in (world.box, *world.lan.backends) for _ in range(12)]
            told = [answer for answer in heard if isinstance(answer, Told)]
            assert len(told) == len(heard)
            assert {t.backend for t in told} == (BOTH if four else BOTH6)
            assert {t.client for t in told} == {OWN if four else OWN6}

    world.play(script)


@pytest.mark.parametrize("inside", [True, False])
def test_only_what_enters_by_the_link_device(*, inside: bool) -> None:
    """Beside kube-proxy: pods and processes of this machine are its own; clients on the link are ours."""
    with World() as world:

        async def script(keeper: Keeper) -> None:
            ways = {one: forward(*rule.backends, from_link_only=True) for one, rule in every_way().items()}
            last = {
                Frontend(one.address, one.protocol, 5000, 5009): forward(
                    *backends(11, version=one.address.version, port=0), from_link_only=True
                )
                for one in ways
            }
            await keeper.serve(ways | last)
            for one in keeper.wanted:
                if inside:
                    assert world.ask_from(world.box, one) == REFUSED
                    assert world.ask_from(world.lan.backends[0], one) == REFUSED
                else:
                    assert isinstance(world.ask(one), Told)

        world.play(script)


def test_some_backends_keep_the_source(world: World) -> None:
    """Each connection is told by its backend: masqueraded, or not; also with source ranges and affinity before it."""

    async def script(keeper: Keeper) -> None:
        for version, address, seen, own in ((4, VIP4, CLIENT, OWN), (6, VIP6, CLIENT6, OWN6)):
            keeping, plain = backends(11, version=version, keeps_source=True), backends(12, version=version)
            ranges = (ip_network("192.0.2.0/24" if version == 4 else "2001:db8:0:2::/64"),)
            rule = forward(*keeping, *plain, source_ranges=ranges)
            await keeper.serve({frontend(address, protocol): rule for protocol in (TCP, UDP)})
            for one in keeper.wanted:
                told = {world.ask(one) for _ in range(40)}
                assert {(t.backend, t.client) for t in told if isinstance(t, Told)} == {
                    (str(keeping[0].address), seen),
                    (str(plain[0].address), own),
                }

    world.play(script)


def test_many_backends_and_weights(world: World) -> None:
    """Above 64, and with weights, by a Maglev table: all are reached, and a heavy one more often."""
    numbers = range(101, 171)
    lines = [f"addr add {backend_address(number)[0]}/24 dev eth0" for number in numbers]
    world.lan.backends[0].batch(*lines)

    async def script(keeper: Keeper) -> None:
        await keeper.serve({frontend(): forward(*backends(*numbers))})
        heard = world.hear(frontend(), times=300)
        assert heard.keys() <= {str(backend_address(number)[0]) for number in numbers}
        assert len(heard) > 55
        await keeper.change({frontend(): forward(*backends(11, weight=9), *backends(12))})
        heard = world.hear(frontend(), times=100)
        assert heard.keys() == BOTH
        assert heard["198.51.100.11"] > 70

    world.play(script)


def test_nothing_behind_it_is_refused_at_once(world: World) -> None:
    """TCP by a reset, UDP by ICMP: port unreachable; and ping is silent until a backend comes."""

    async def script(keeper: Keeper) -> None:
        ways = every_way()
        await keeper.serve({one: forward() for one in ways})
        assert {world.ask(one) for one in ways} == {REFUSED}
        assert not world.pings(VIP4)
        assert not world.pings(VIP6)
        await keeper.change(ways)
        assert all(isinstance(world.ask(one), Told) for one in ways)
        assert world.pings(VIP4)
        assert world.pings(VIP6)

    world.play(script)


def test_other_ports_of_a_held_address_are_refused(world: World) -> None:
    """Also where the host itself listens; on an address that the host has by itself nothing is touched."""

    async def script(keeper: Keeper) -> None:
        with socket.create_server(("", 2222)) as listener:
            await keeper.serve(every_way() | {frontend(lan_address(2)[0]): forward(*backends(11), held=False)})
            others = [frontend(address, protocol, 2222) for address in (VIP4, VIP6) for protocol in (TCP, UDP)]
            assert {world.ask(other) for other in others} == {REFUSED}
            own = lan_address(2)[0]
            assert isinstance(world.ask(frontend(own)), Told)
            with world.lan.client.call(lambda: socket.create_connection((str(own), 2222), timeout=5)):
                listener.settimeout(5)
                accepted, _ = listener.accept()
                accepted.close()
            assert world.pings(own)
            await keeper.change({})
            assert world.pings(VIP4)

    world.play(script)


def test_source_ranges_let_some_in(world: World) -> None:
    """Others hear nothing; a family without a range is open; no range at all is nobody; overlaps are merged."""
    rule = forward(*backends(11, 12))
    near, wide, far = (ip_network(text) for text in ("192.0.2.8/29", "192.0.2.0/24", "10.9.0.0/16"))
    six, far6 = ip_network("2001:db8:0:2::/64"), ip_network("2001:db8:9::/48")

    async def script(keeper: Keeper) -> None:
        for address, ranges, open_to_us in (
            (VIP4, (near, wide, near), True),
            (VIP4, (far,), False),
            (VIP4, (far6,), True),
            (VIP4, (), False),
            (VIP4, (far, ip_network("0.0.0.0/0")), True),
            (VIP6, (six, wide), True),
            (VIP6, (far6, wide), False),
            (VIP6, (wide,), True),
        ):
            served = backends(11, 12, version=address.version)
            wanted = {
                frontend(address, p): Forward(**{**_fields(rule), "backends": served, "source_ranges": ranges})
                for p in (TCP, UDP)
            }
            await keeper.serve(wanted)
            for one in wanted:
                told = world.ask(one)
                assert isinstance(told, Told) if open_to_us else told == SILENCE, (one, ranges, told)

    world.play(script)


def _fields(rule: Forward) -> dict[str, Any]:
    return {name: getattr(rule, name) for name in rule.__struct_fields__}


def test_a_client_keeps_its_backend(world: World) -> None:
    """IPv4 for the timeout, IPv6 by hash; when its backend goes it gets another one, and keeps that."""

    async def script(keeper: Keeper) -> None:
        ways = {
            one: forward(*rule.backends, affinity_seconds=3600, source_ranges=None) for one, rule in every_way().items()
        }
        await keeper.serve(ways)
        for one, rule in ways.items():
            (name,) = world.hear(one, times=12)
            rest = tuple(backend for backend in rule.backends if str(backend.address) != name)
            await keeper.change(ways | {one: forward(*rest, affinity_seconds=3600)})
            (other,) = world.hear(one, times=6)
            assert other == str(rest[0].address)
            await keeper.change(ways)
            if one.address.version == 4:
                assert world.hear(one, times=12).keys() == {other}

    world.play(script)


def test_affinity_ends_with_its_timeout(world: World) -> None:
    """Two seconds after its last connection a client is chosen for anew."""

    async def script(keeper: Keeper) -> None:
        await keeper.serve({frontend(): forward(*backends(11, 12), affinity_seconds=2)})
        heard: set[str] = set()

        def both() -> bool:
            heard.update(world.hear(frontend(), times=1))
            return heard == BOTH

        heard.update(world.hear(frontend(), times=20))
        assert len(heard) == 1
        for _ in range(30):
            await asyncio.sleep(2.2)
            if both():
                return
        raise AssertionError("never chosen for anew")

    world.play(script)


def test_a_range_of_ports_keeps_the_port(world: World) -> None:
    """With and without a kept source, source ranges and affinity; the ports beside it are refused."""

    async def script(keeper: Keeper) -> None:
        for address in (VIP4, VIP6):
            version = address.version
            for keep in ({}, {"keeps_source": True}):
                one, two = backends(11, version=version, port=0, **keep), backends(12, version=version, port=0)
                for more in (
                    {},
                    {"source_ranges": (ip_network("192.0.2.0/24"), ip_network("2001:db8:0:2::/64"))},
                    {"affinity_seconds": 60},
                ):
                    await keeper.serve(
                        {frontend(address, p, 5000, 5009): forward(*one, *two, **more) for p in (TCP, UDP)}
                    )
                    for each in keeper.wanted:
                        told = [world.ask(each, port=port) for port in range(5000, 5010) for _ in range(2)]
                        assert [t.port for t in told if isinstance(t, Told)] == [5000 + i // 2 for i in range(20)]
                        sources = {(t.backend, t.client) for t in told if isinstance(t, Told)}
                        own, client = (OWN, CLIENT) if version == 4 else (OWN6, CLIENT6)
                        kept = {(str(b.address), client if b.keeps_source else own) for b in (*one, *two)}
                        assert sources <= kept
                        assert world.ask(each, port=4999) == world.ask(each, port=5010) == REFUSED

    world.play(script)


def test_the_pipe_and_the_host_keep_their_own(world: World) -> None:
    """A frontend of the pipe is let pass to its listener although all else on the address is refused."""

    async def script(keeper: Keeper) -> None:
        piped = Forward(service="default/web", backends=backends(11), plane=Plane.PIPE)
        await keeper.serve({frontend(): piped, frontend(port=81): forward(*backends(11))})
        with socket.create_server((str(VIP4), 80)) as listener:
            listener.settimeout(5)
            with world.lan.client.call(lambda: socket.create_connection((str(VIP4), 80), timeout=5)):
                accepted, _ = listener.accept()
                accepted.close()

    world.play(script)


def test_what_others_take_away_is_put_back(world: World) -> None:
    """An element, a map's content, all rules, the table, the whole ruleset: by notification, for nothing else asks."""

    async def script(keeper: Keeper) -> None:
        await keeper.serve(every_way())
        await asyncio.sleep(0)
        assert keeper.hints == 0
        for words in (
            f"delete element inet littlelb services4 {{ {VIP4} . tcp . 80 }}",
            f"delete element inet littlelb slots4 {{ {VIP4} . tcp . 80 . 0 }}",
            "flush map inet littlelb slots6",
            f"add element inet littlelb held4 {{ {vip(99)[0]} }}",
            f"delete element inet littlelb held4 {{ {VIP4} }}",
            f"add element inet littlelb services4 {{ {vip(99)[0]} . tcp . 80 : drop }}",
            "flush chain inet littlelb prerouting",
            "add table inet littlelb { flags dormant; }",
            "add chain inet littlelb prerouting { policy drop; }",
            "flush table inet littlelb",
            "delete table inet littlelb",
            "flush ruleset",
        ):
            hints = keeper.hints
            before = world.box.run(["nft", "list", "ruleset"]).stdout
            world.box.run(["nft", words])
            await until(lambda seen=hints: keeper.hints > seen)  # type: ignore[misc]
            await until(lambda: isinstance(world.ask(frontend()), Told) and isinstance(world.ask(frontend(VIP6)), Told))
            await until(lambda seen=before: _same(world, seen))  # type: ignore[misc]

    world.play(script)


def _same(world: World, before: str) -> bool:
    """Is the table as it was, but for counters and the order of elements?"""

    def shape(text: str) -> list[str]:
        words = text.replace(",", " ").split()
        return sorted(word for word in words if not word.isdigit())

    return shape(world.box.run(["nft", "list", "ruleset"]).stdout) == shape(before)


def test_a_batch_that_the_kernel_refuses_changes_nothing(world: World) -> None:
    """Two ranges that overlap: whoever called halves the batch, and the one at fault stands alone."""

    async def script(keeper: Keeper) -> None:
        await keeper.serve({frontend(): forward(*backends(11))})
        wide, inside = (frontend(protocol=UDP, port=5000, last_port=last) for last in (5009, 5005))
        rule = forward(*backends(11, 12, port=0))
        with pytest.raises(KernelRefusal):
            await keeper.plane.apply(Changes(add={wide: rule, inside: rule}))
        assert await keeper.plane.observe(None) == keeper.wanted
        assert await keeper.plane.apply(Changes(add={wide: rule})) == {}
        with pytest.raises(KernelRefusal):
            await keeper.plane.apply(Changes(add={inside: rule}))
        keeper.wanted |= {wide: rule}
        assert await keeper.plane.observe(None) == keeper.wanted
        assert isinstance(world.ask(wide, port=5003), Told)

    world.play(script)


def test_our_own_changes_wake_nobody(world: World) -> None:
    """Neither elements nor what nft does for us; and another's table is none of our business."""

    async def script(keeper: Keeper) -> None:
        await keeper.serve(every_way())
        await keeper.change({frontend(): forward(*backends(11), affinity_seconds=77)})
        world.box.run(["nft", "add table inet other"])
        world.box.run(["nft", f"delete element inet littlelb classes4 {{ {VIP4} . tcp . 80 }}"])
        await until(lambda: keeper.hints)
        assert keeper.hints == 1

    world.play(script)


def test_established_flows_live_through_a_flush(world: World) -> None:
    """The anchor keeps them translated while the table is away."""

    async def script(keeper: Keeper) -> None:
        await keeper.serve(every_way())
        with world.connection(frontend()) as sock:
            for _ in range(3):
                hints = keeper.hints
                world.box.run(["nft", "flush", "ruleset"])
                sock.sendall(b"still here")
                assert sock.recv(100) == b"still here"
                await until(lambda seen=hints: keeper.hints > seen)  # type: ignore[misc]
                await until(lambda: isinstance(world.ask(frontend()), Told))

    world.play(script)


def test_a_connection_from_before_the_table_is_not_picked_up(world: World) -> None:
    """What a process of the host carries goes on when the table is loaded; new connections are translated."""
    with world.box.call(lambda: socket.create_server((str(VIP4), 80))) as listener:
        sock = world.lan.client.call(lambda: socket.create_connection((str(VIP4), 80), timeout=5))
        listener.settimeout(5)
        accepted, _ = listener.accept()
        accepted.settimeout(5)

        async def script(keeper: Keeper) -> None:
            await keeper.serve(every_way())
            for end, other in ((sock, accepted), (accepted, sock)):
                end.sendall(b"on")
                assert other.recv(10) == b"on"
            assert isinstance(world.ask(frontend()), Told)

        with sock, accepted:
            world.play(script)


@pytest.mark.parametrize("version", [4, 6])
def test_a_machine_without_the_state_continues_kept_connections(world: World, version: int) -> None:
    """Where clients' addresses are kept, connections outlive the loss of all state, as when an address moves."""
    asked = frontend(VIP4 if version == 4 else VIP6)

    async def script(keeper: Keeper) -> None:
        await keeper.serve({asked: forward(*backends(11, 12, version=version, keeps_source=True))})
        with ExitStack() as stack:
            socks = [stack.enter_context(world.connection(asked)) for _ in range(30)]
            world.box.run(["conntrack", "-F"])
            for sock in socks:
                sock.sendall(b"go on")
            assert [sock.recv(100) for sock in socks] == [b"go on"] * 30

    world.play(script)
