"""Adoption, upgrade and end of the kernel plane; what nft(8) itself makes of our text."""

import asyncio
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Final

import pytest

from littlelb.core.errors import Permanent
from littlelb.core.model import Forward, Frontend
from littlelb.dataplane.netfilter.socket import NfSocket
from littlelb.dataplane.nft.elements.layout import Place, Value, render_rules
from littlelb.dataplane.nft.elements.text import render_transaction
from littlelb.dataplane.nft.elements.transaction import compute_transaction, encode_requests, set_name
from littlelb.dataplane.nft.plane import NftPlane, NftSettings
from littlelb.dataplane.nft.ruleset import frontend_sets, render_affinity, render_ending, render_skeleton
from littlelb.dataplane.nft.runner import probe, run_nft
from littlelb.dataplane.unsettled import UNSETTLED
from littlelb.testing.netns import Network
from tests.lab.nft_world import TCP, UDP, VIP4, VIP6, Keeper, Told, World, backends, forward, frontend

pytestmark = pytest.mark.lab

DAEMON: Final = Path(__file__).with_name("nft_daemon.py")
TABLE: Final = ["nft", "list", "table", "inet", "littlelb"]


@pytest.fixture
def world() -> Iterator[World]:
    """One client, the balancer, two backends that tell what they see."""
    with World() as made:
        yield made


@contextmanager
def clients_that_never_rest(world: World, asked: Frontend) -> Iterator[list[Told | str]]:
    """Connect over and over while the block runs; all answers are in the list afterwards."""
    answers: list[Told | str] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            answers.append(world.ask(asked))

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        over.set()
        thread.join()


def test_a_killed_daemon_is_followed_without_a_lost_connect(world: World) -> None:
    """The table goes on by itself; the next process writes nothing that is right, and puts right what is not."""
    process = world.box.popen(
        [sys.executable, str(DAEMON), str(VIP4), "80", "198.51.100.11", "198.51.100.12"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    while process.stdout.readline() != "ready\n":
        assert process.poll() is None
    with world.connection(frontend()) as sock, clients_that_never_rest(world, frontend()) as answers:
        process.kill()
        process.wait()
        assert len(world.hear(frontend(), times=30)) == 2
        before = world.box.run(TABLE).stdout

        async def script(keeper: Keeper) -> None:
            assert await keeper.plane.observe(None) == {frontend(): UNSETTLED}
            await keeper.serve({frontend(): forward(*backends(11, 12))})
            assert _rules(world.box.run(TABLE).stdout) == _rules(before)
            await keeper.serve({frontend(): forward(*backends(12)), frontend(VIP6): forward(*backends(11, version=6))})
            assert world.hear(frontend(), times=10).keys() == {"198.51.100.12"}
            keeper.leave = True

        world.play(script)
        sock.sendall(b"still here")
        assert sock.recv(100) == b"still here"
    assert answers
    assert not [told for told in answers if not isinstance(told, Told)]


def _rules(text: str) -> str:
    """A table as text, without its counters and in one order."""
    return "\n".join(sorted(re.sub(r"packets \d+ bytes \d+", "", text).replace(",", "\n").split("\n")))


def test_another_layout_is_replaced_with_all_elements(world: World) -> None:
    """In one transaction: flows, elements and remembered clients stay, and no connect fails."""
    wanted = {
        frontend(): forward(*backends(11, 12), affinity_seconds=77),
        frontend(port=81): forward(*backends(11, 12)),
        frontend(VIP6): forward(*backends(11, 12, version=6), source_ranges=(ip_network("2001:db8::/32"),)),
        frontend(protocol=UDP, port=5000, last_port=5009): forward(*backends(11, 12, port=0)),
    }

    async def first(keeper: Keeper) -> None:
        await keeper.serve(wanted)
        keeper.leave = True

    async def second(keeper: Keeper) -> None:
        layout = world.box.run(["nft", "list", "set", "inet", "littlelb", "layout"]).stdout
        assert "0x00000063" not in layout
        assert set(await keeper.plane.observe(None)) == set(wanted)
        assert world.hear(frontend(), times=10).keys() == {kept}
        for one in wanted:
            assert isinstance(world.ask(one), Told)
        await keeper.serve(wanted)

    world.play(first)
    (kept,) = world.hear(frontend(), times=10)
    world.box.run(["nft", "flush set inet littlelb layout; add element inet littlelb layout { 99 }"])
    with world.connection(frontend(port=81)) as sock, clients_that_never_rest(world, frontend(port=81)) as answers:
        world.play(first)
        sock.sendall(b"still here")
        assert sock.recv(100) == b"still here"
    assert not [told for told in answers if not isinstance(told, Told)]
    world.play(second)


def test_keep_leaves_everything_and_the_end_leaves_nothing(world: World) -> None:
    """`stop(keep=True)` for the next daemon; else there is no trace of us in the ruleset."""

    async def keep(keeper: Keeper) -> None:
        await keeper.serve({frontend(): forward(*backends(11, 12))})
        keeper.leave = True

    world.play(keep)
    assert isinstance(world.ask(frontend()), Told)
    seen = world.box.call(lambda: asyncio.run(_look({frontend(): forward(*backends(11, 12))})))
    assert seen == {frontend(): forward(*backends(11, 12))}
    assert world.box.call(lambda: asyncio.run(_look({}))).keys() == {frontend()}
    assert world.box.call(lambda: asyncio.run(_plane().remove()))
    assert not world.box.call(lambda: asyncio.run(_plane().remove()))
    assert not world.box.run(["nft", "list", "ruleset"]).stdout
    assert world.box.call(lambda: asyncio.run(_look({}))) == {}


def _plane() -> NftPlane:
    return NftPlane(NftSettings("eth0"), lambda: None)


async def _look(wanted: dict[Frontend, Forward]) -> dict[Frontend, Forward]:
    return dict(await _plane().look(wanted))


def test_a_kernel_without_rights_is_told_with_a_remedy() -> None:
    """The probe says why; where it works it says nothing."""
    with Network("llbnft") as net:
        box = net.namespace("box")
        code = "from littlelb.dataplane.nft.runner import probe; print(probe())"
        done = box.run(["setpriv", "--bounding-set=-all", "--inh-caps=-all", sys.executable, "-c", code])
        assert "CAP_NET_ADMIN" in done.stdout
        assert not box.call(probe)


def test_text_and_netlink_are_the_same_to_the_kernel() -> None:
    """Each transaction by netlink and as text: the kernel holds the same bytes, those that were rendered."""
    history: list[tuple[Frontend, Forward | None]] = [
        (one, rule)
        for address in (VIP4, VIP6)
        for one in (frontend(address), frontend(address, UDP, 5000, 5009))
        for rule in _rules_of(one)
    ]
    with Network("llbnft") as net:
        for write in (_by_netlink, _by_text):
            box = net.namespace(write.__name__.strip("_"))
            box.call(lambda write=write: _replay(history, write))  # type: ignore[misc]


def _rules_of(one: Frontend) -> list[Forward | None]:
    port = 0 if one.last_port else 8080
    version = one.address.version
    some = backends(1, 2, 3, version=version, port=port)
    keeping = backends(4, version=version, port=port, keeps_source=True)
    ranges = tuple(ip_network(text) for text in ("192.0.2.0/25", "10.0.0.0/8", "2001:db8::/32", "2001:db9::1/128"))
    return [
        forward(*some),
        forward(*some[:2], *keeping, source_ranges=ranges, affinity_seconds=60, from_link_only=True),
        forward(*some[1:], *keeping, source_ranges=ranges[1:3]),
        forward(*backends(5, version=version, port=port, weight=3), *some),
        forward(),
        forward(*some, source_ranges=()),
        None if one.protocol is TCP else forward(*some),
    ]


def _by_netlink(nf: NfSocket, steps: list[tuple[dict[Place, Value], dict[Place, Value]]]) -> None:
    nf.commit(encode_requests(compute_transaction(steps)))


def _by_text(_nf: NfSocket, steps: list[tuple[dict[Place, Value], dict[Place, Value]]]) -> None:
    run_nft(render_transaction(compute_transaction(steps)))


def _replay(history: list[tuple[Frontend, Forward | None]], write: object) -> None:
    assert callable(write)
    run_nft(render_skeleton() + render_affinity([60]))
    current: dict[Frontend, dict[Place, Value]] = {}
    with NfSocket() as nf:
        for one, rule in history:
            new = {} if rule is None else dict(render_rules(one, rule))
            write(nf, [(current.get(one, {}), new)])
            current[one] = new
            listed: dict[Place, Value] = {}
            for name in frontend_sets():
                for part in nf.dump_elements(set_name(name)):
                    listed.update(((name, e.key, e.key_end), e.data) for e in part)
            assert listed == {place: value for rules in current.values() for place, value in rules.items()}


def test_the_chains_that_end_flows_come_and_go() -> None:
    """And those of timeouts can be made again; the kernel takes the skeleton over itself."""
    with Network("llbnft") as net:
        box = net.namespace("box")
        for text in (render_skeleton(), render_ending(on=True), render_ending(on=False), render_skeleton()):
            box.call(lambda text=text: run_nft(text))  # type: ignore[misc]
        for _ in range(2):
            box.call(lambda: run_nft(render_affinity([60])))
        listed = box.run(["nft", "list", "chain", "inet", "littlelb", "remember-60"]).stdout
        assert listed.count("update") == 2


def test_an_impossible_text_is_our_error() -> None:
    """With what nft says of it."""
    with Network("llbnft") as net:
        box = net.namespace("box")
        with pytest.raises(Permanent, match="syntax error"):
            box.call(lambda: run_nft("no such word"))
