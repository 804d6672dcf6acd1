"""What every Target promises the loop, run on the double and on the real targets.

Applying a diff reaches the wanted state, as `observe(None)` reads it; the next diff is empty; applying twice is
harmless; a key that cannot be done fails alone, and `observe(keys)` shows no more than those keys.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from littlelb.announce.probe import LanProber
from littlelb.core.interfaces import Phase, Target
from littlelb.core.model import Backend, Forward, Frontend, Ip, Placement, Plane, Protocol
from littlelb.core.plan import Changes, Failure, Severity, diff
from littlelb.dataplane.nft.plane import NftPlane, NftSettings
from littlelb.dataplane.pipe.crew import PipeSettings
from littlelb.dataplane.pipe.plane import PipePlane
from littlelb.host.address import AddressTarget
from littlelb.host.netlink import Netlink
from littlelb.testing.fake_target import FakeTarget
from littlelb.testing.lan import Lan
from littlelb.testing.netns import unavailable


@dataclass(frozen=True, slots=True)
class Subject:
    """A target under test, and three things that it can be asked for."""

    target: Target[Any, Any]
    first: tuple[Any, Any]
    second: tuple[Any, Any]
    changed: Any
    """Another value for the first key."""
    impossible: tuple[Any, Any]
    """A key that the world refuses."""


Script = Callable[[Subject], Awaitable[None]]
Play = Callable[[Script, Path], None]


def play_double(script: Script, _folder: Path) -> None:
    """The double."""
    target = FakeTarget[str, int](Phase.FORWARD, lambda _state: {})
    target.fails["no"] = Failure("Failed", "never")
    asyncio.run(_on(script, Subject(target, ("a", 1), ("b", 2), 3, ("no", 4))))


def play_address(script: Script, _folder: Path) -> None:
    """ADDRESS on the kernel of a namespace."""
    _need_namespaces()

    async def main() -> None:
        async with Netlink() as netlink:
            target = PatientTarget(netlink, LanProber())
            asking = asyncio.create_task(target.run())
            first, second, third = (ip_address(f"203.0.113.{number}") for number in (7, 8, 9))
            placed = Placement("eth0", 32)
            subject = Subject(
                target, (first, placed), (second, placed), Placement("eth0", 24), (third, Placement("no0", 32))
            )
            await script(subject)
            asking.cancel()

    with Lan(clients=0, backends=0) as lan:
        lan.balancer.call(lambda: asyncio.run(main()))


class PatientTarget(AddressTarget):
    """Tries again what waits for the answers of the LAN, as the loop does when it is woken."""

    async def apply(self, changes: Changes[Ip, Placement]) -> Mapping[Ip, Failure]:
        """Apply until nothing waits."""
        failures: dict[Ip, Failure] = {}
        async with asyncio.timeout(10):
            while True:
                failed = await super().apply(changes)
                waiting = [ip for ip, failure in failed.items() if failure.severity is Severity.WAITING]
                failures |= {ip: failure for ip, failure in failed.items() if ip not in waiting}
                if not waiting:
                    return failures
                changes = Changes(
                    add={ip: changes.add[ip] for ip in waiting if ip in changes.add},
                    change={ip: changes.change[ip] for ip in waiting if ip in changes.change},
                )
                await asyncio.sleep(0.01)


def play_pipe(script: Script, folder: Path) -> None:
    """FORWARD by real workers, in a namespace."""
    _need_namespaces()

    async def main() -> None:
        async with _pipe(folder) as plane:
            first, second = (Frontend(ip_address("203.0.113.7"), Protocol.TCP, port) for port in (80, 81))
            backend, other = (Backend(ip_address("198.51.100.11"), port) for port in (8080, 8081))
            wanted = Forward(service="default/web", backends=(backend,))
            changed = Forward(service="default/web", backends=(backend, other))
            taken = Frontend(ip_address("127.0.0.1"), Protocol.TCP, 8000)
            occupied = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 8000)
            async with occupied:
                await script(Subject(plane, (first, wanted), (second, wanted), changed, (taken, wanted)))

    with Lan(clients=0, backends=0) as lan:
        lan.balancer.call(lambda: asyncio.run(main()))


def play_nft(script: Script, _folder: Path) -> None:
    """FORWARD by the kernel of a namespace."""
    _need_namespaces()

    async def main() -> None:
        plane = NftPlane(NftSettings("eth0"), lambda: None)
        await plane.start()
        try:
            first, second = (Frontend(ip_address("203.0.113.7"), Protocol.UDP, port) for port in (80, 81))
            here, there = (Backend(ip_address("198.51.100.11"), port) for port in (8080, 8081))
            wanted = Forward(service="default/web", backends=(here,), plane=Plane.NFT)
            changed = Forward(service="default/web", backends=(here, there), plane=Plane.NFT, affinity_seconds=60)
            foreign = Backend(ip_address("2001:db8::1"), 8080)
            mixed = Forward(service="default/web", backends=(foreign,), plane=Plane.NFT)
            impossible = Frontend(ip_address("203.0.113.7"), Protocol.TCP, 82)
            await script(Subject(plane, (first, wanted), (second, wanted), changed, (impossible, mixed)))
        finally:
            await plane.stop(keep=False)

    with Lan(clients=0, backends=0) as lan:
        lan.balancer.call(lambda: asyncio.run(main()))


@asynccontextmanager
async def _pipe(folder: Path) -> AsyncIterator[PipePlane]:
    plane = PipePlane(PipeSettings(folder / "pipe", workers=2), lambda _frontend: "", lambda: None)
    await plane.start()
    try:
        yield plane
    finally:
        await plane.stop(keep=False)


async def _on(script: Script, subject: Subject) -> None:
    await script(subject)


def _need_namespaces() -> None:
    reason = unavailable()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(params=[play_double, play_address, play_pipe, play_nft], ids=["double", "address", "pipe", "nft"])
def play(request: pytest.FixtureRequest) -> Play:
    """One of the targets."""
    chosen: Play = request.param
    return chosen


def test_applying_a_diff_reaches_what_is_wanted(play: Play, tmp_path: Path) -> None:
    """Add, change, remove: each time the world reads as wanted, and there is nothing left to do."""

    async def script(subject: Subject) -> None:
        target = subject.target
        for wanted in (
            dict([subject.first, subject.second]),
            {subject.first[0]: subject.changed, subject.second[0]: subject.second[1]},
            dict([subject.second]),
            {},
        ):
            changes = diff(wanted, await target.observe(None))
            assert changes
            assert await target.apply(changes) == {}
            assert await target.observe(None) == wanted
            assert not diff(wanted, await target.observe(None))

    play(script, tmp_path)


def test_applying_the_same_twice_is_harmless(play: Play, tmp_path: Path) -> None:
    """An addition of what is there, a removal of what is gone: the loop may have missed the first answer."""

    async def script(subject: Subject) -> None:
        target = subject.target
        both = dict([subject.first, subject.second])
        for _ in range(2):
            assert await target.apply(Changes(add=both)) == {}
            assert await target.observe(None) == both
        for _ in range(2):
            assert await target.apply(Changes(remove=both)) == {}
            assert await target.observe(None) == {}

    play(script, tmp_path)


def test_a_key_that_cannot_be_done_fails_alone(play: Play, tmp_path: Path) -> None:
    """With a reason and a sentence; the others are done, and the world does not show the failed one."""

    async def script(subject: Subject) -> None:
        target = subject.target
        failures = await target.apply(Changes(add=dict([subject.first, subject.impossible, subject.second])))
        assert failures.keys() == {subject.impossible[0]}
        failure = failures[subject.impossible[0]]
        assert failure.reason
        assert failure.message
        assert (await target.observe(None)).keys() == {subject.first[0], subject.second[0]}
        assert await target.observe(frozenset({subject.impossible[0]})) == {}

    play(script, tmp_path)


def test_observing_some_keys_shows_those(play: Play, tmp_path: Path) -> None:
    """As they were last applied; what was never there is not in the answer."""

    async def script(subject: Subject) -> None:
        target = subject.target
        await target.apply(Changes(add=dict([subject.first, subject.second])))
        assert await target.observe(frozenset({subject.first[0]})) == dict([subject.first])
        await target.apply(Changes(remove=dict([subject.first])))
        assert await target.observe(frozenset({subject.first[0], subject.second[0]})) == dict([subject.second])

    play(script, tmp_path)
