"""The reflector against the fake API server, in virtual time: what it holds, what it asks, and when it notices."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from random import Random

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import Struct
from structlog.testing import capture_logs

from littlelb.kube.client import SERVICES, Api, ApiStatus, EventType, Page, Selection, WatchEvent
from littlelb.kube.pace import SharedProbe
from littlelb.kube.reflector import Kind, Progress, Reflector
from littlelb.kube.transport import Transport
from littlelb.testing.clock import LoopClock, run_virtual
from littlelb.testing.fake_api import FakeApi, FixedCredentials
from littlelb.testing.fake_api_cluster import Cluster
from littlelb.testing.fake_api_faults import Fault
from littlelb.testing.fake_api_store import Name

# --- a kind of its own, so that this test does not depend on how Services are decoded ---


class Meta(Struct):
    """What a reflector needs of metadata."""

    name: str = ""
    namespace: str = ""
    resourceVersion: str = ""  # noqa: N815  # the wire's name
    annotations: dict[str, str] | None = None


class Thing(Struct):
    """Any object."""

    metadata: Meta

    @property
    def key(self) -> str:
        """`namespace/name`."""
        return f"{self.metadata.namespace}/{self.metadata.name}"


class _ListMeta(Struct, rename={"continue_": "continue", "version": "resourceVersion", "left": "remainingItemCount"}):
    version: str
    continue_: str = ""
    left: int | None = None


class _List(Struct):
    metadata: _ListMeta
    items: list[Thing]


class _Line(Struct):
    type: EventType
    object: msgspec.Raw


def decode_page(body: bytes) -> Page[Thing]:
    """Read a page."""
    found = msgspec.json.decode(body, type=_List)
    return Page(tuple(found.items), found.metadata.version, found.metadata.continue_, found.metadata.left)


def decode_event(line: bytes) -> WatchEvent[Thing]:
    """Read a line of a watch."""
    found = msgspec.json.decode(line, type=_Line)
    if found.type is EventType.ERROR:
        return WatchEvent(found.type, msgspec.json.decode(found.object, type=ApiStatus))
    thing = msgspec.json.decode(found.object, type=Thing)
    return WatchEvent(found.type, None if found.type is EventType.BOOKMARK else thing, thing.metadata.resourceVersion)


@dataclass
class Table:
    """A sink that remembers objects and what was done to it."""

    things: dict[str, Thing] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    lists: int = 0
    upserts: int = 0

    def upsert(self, item: Thing) -> None:
        """Take an object."""
        self.upserts += 1
        self.things[item.key] = item

    def remove(self, key: str) -> None:
        """Forget one."""
        self.removed.append(key)
        self.things.pop(key, None)

    def retain(self, keys: frozenset[str]) -> None:
        """Forget the others."""
        self.lists += 1
        self.things = {key: thing for key, thing in self.things.items() if key in keys}


@dataclass
class World:
    """A fake server, and a reflector that runs against it."""

    server: FakeApi
    reflector: Reflector[Thing]
    table: Table
    transport: Transport

    async def until(self, holds: Callable[[], bool], seconds: float = 60.0) -> float:
        """Let time pass until something holds; return how long it took."""
        started = LoopClock().monotonic()
        async with asyncio.timeout(seconds):
            while not holds():  # virtual time: polling costs nothing and needs no hook
                await asyncio.sleep(0.2 if seconds <= 60 else 1.0)
        return LoopClock().monotonic() - started

    def requests(self, since: float, seconds: float = 5.0) -> int:
        """Count requests that arrived in this window."""
        return sum(since <= seen.at < since + seconds for seen in self.server.faults.seen)

    def equal(self) -> bool:
        """Does the sink hold what the server has?"""
        return versions(self.server.cluster) == {k: t.metadata.resourceVersion for k, t in self.table.things.items()}


def versions(cluster: Cluster) -> dict[str, str]:
    """Key → resourceVersion of every Service on the server."""
    return {
        f"{name.namespace}/{name.name}": thing["metadata"]["resourceVersion"]
        for name, thing in cluster.store.list_at("/services", "")
    }


@asynccontextmanager
async def world(services: int = 3, seed: int = 1) -> AsyncIterator[World]:
    """Start both; the reflector is not awaited."""
    async with FakeApi() as server:
        for number in range(services):
            create(server.cluster, f"svc-{number}")
        transport = Transport(FixedCredentials(server.url))
        api, clock, table = Api(transport), LoopClock(), Table()
        kind = Kind(Selection(SERVICES), decode_page, decode_event)
        random = Random(seed)  # noqa: S311  # the same story in every run
        reflector = Reflector(api, kind, table, clock, random, SharedProbe(api.ping, clock))
        task = asyncio.create_task(reflector.run())
        try:
            yield World(server, reflector, table, transport)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await transport.close()
            assert task.cancelled(), "only being cancelled ends a reflector"


def named(name: str) -> Name:
    """Name a Service in the namespace default."""
    return Name("/services", "default", name)


def create(cluster: Cluster, name: str) -> None:
    """Make a Service."""
    cluster.create(named(name), {"spec": {"ports": [{"port": 80}]}})


def touch(cluster: Cluster, name: str, value: str) -> None:
    """Change a Service."""
    cluster.patch(named(name), {"metadata": {"annotations": {"example.com/value": value}}})


# --- listing and watching ---


def test_lists_then_follows() -> None:
    """The sink holds what was there, and then every creation, change and deletion."""

    async def scenario() -> None:
        async with world() as it:
            await it.until(lambda: it.reflector.connected)
            assert it.reflector.synced
            assert it.equal()
            create(it.server.cluster, "new")
            touch(it.server.cluster, "svc-0", "changed")
            it.server.cluster.delete(named("svc-1"))
            await it.until(it.equal)
            assert it.table.removed == ["default/svc-1"]
            assert it.table.lists == 1

    run_virtual(scenario())


def test_lists_by_pages() -> None:
    """1,200 objects come in three pages, with progress, and a deletion between pages is heard by the watch."""

    async def scenario() -> None:
        async with world(services=1_200) as it:
            it.server.faults.add(Fault(path="/api/v1/services", watch=False, skip=1, times=1, delay_seconds=5))
            await it.until(lambda: it.reflector.progress.items == 500)
            assert it.reflector.progress == Progress(500, 700)
            assert not it.reflector.synced
            it.server.cluster.delete(named("svc-1199"))
            await it.until(lambda: it.reflector.synced)
            assert it.reflector.progress == Progress(1_200, 0)
            await it.until(it.equal)
            lists = [seen for seen in it.server.faults.seen if not seen.watch]
            assert [seen.query["limit"] for seen in lists] == ["500"] * 3

    run_virtual(scenario())


def test_a_long_list_says_how_far_it_is() -> None:
    """A list that takes more than 5 s is not silent: items so far and those that remain are logged."""

    async def scenario() -> None:
        async with world(services=1_200) as it:
            it.server.faults.add(Fault(path="/api/v1/services", watch=False, delay_seconds=6))
            await it.until(lambda: it.reflector.synced)

    with capture_logs() as logs:
        run_virtual(scenario())
    listing = [(entry["items"], entry["remaining"]) for entry in logs if entry["event"] == "reflector.listing"]
    assert listing == [(500, 700), (1_000, 200)]
    assert [entry["items"] for entry in logs if entry["event"] == "reflector.synced"] == [1_200]


def test_failure_and_recovery_are_logged_once() -> None:
    """An outage of a minute is two lines, not one for each attempt."""

    async def scenario() -> None:
        async with world() as it:
            await it.until(lambda: it.reflector.connected)
            await it.server.stop()
            await asyncio.sleep(60)
            await it.server.start()
            await it.until(lambda: it.reflector.connected)
            await asyncio.sleep(60)

    with capture_logs() as logs:
        run_virtual(scenario())
    said = [entry for entry in logs if entry["log_level"] != "debug"]
    assert [entry["event"] for entry in said] == ["reflector.synced", "reflector.failed", "reflector.recovered"]
    assert [entry["resource"] for entry in said] == ["services"] * 3


def test_what_the_server_refuses_is_an_error_until_it_is_granted() -> None:
    """A missing right will not pass by itself: one line at ERROR, also after an outage, and a reason to be unready."""

    async def scenario() -> None:
        async with world() as it:
            down = it.server.faults.add(Fault(status=503))
            await it.until(lambda: down.hits > 0)
            assert it.reflector.refused == ""
            it.server.faults.clear()
            it.server.faults.add(Fault(status=403))
            await it.until(lambda: it.reflector.refused != "")
            assert "lacks the verb list on services" in it.reflector.refused
            await asyncio.sleep(60)
            it.server.faults.clear()
            await it.until(lambda: it.reflector.connected)
            assert it.reflector.refused == ""

    with capture_logs() as logs:
        run_virtual(scenario())
    levels = [(entry["event"], entry["log_level"]) for entry in logs if entry["log_level"] != "debug"]
    assert levels == [
        ("reflector.failed", "warning"),
        ("reflector.failed", "error"),
        ("reflector.synced", "info"),
        ("reflector.recovered", "info"),
    ]


def test_expired_continue_token_restarts_the_list() -> None:
    """A list whose history is compacted between two pages starts again and ends equal."""

    async def scenario() -> None:
        async with world(services=600) as it:
            it.server.faults.add(Fault(path="/api/v1/services", watch=False, skip=1, times=1, delay_seconds=2))
            await it.until(lambda: it.reflector.progress.items == 500)
            it.server.cluster.delete(named("svc-0"))
            it.server.cluster.store.compact()
            await it.until(it.equal)
            assert it.table.lists == 1

    run_virtual(scenario())


def test_a_deletion_missed_is_made_good() -> None:
    """What vanished while nobody watched and was compacted away is removed by the next list."""

    async def scenario() -> None:
        async with world() as it:
            await it.until(lambda: it.reflector.connected)
            await it.server.stop()
            it.server.cluster.delete(named("svc-2"))
            it.server.cluster.store.compact()
            await asyncio.sleep(30)
            assert "default/svc-2" in it.table.things, "a failing server takes nothing away"
            assert not it.reflector.connected
            await it.server.start()
            assert await it.until(it.equal) <= 8
            assert it.table.lists == 2

    run_virtual(scenario())


def test_resumes_without_a_list() -> None:
    """A watch that the server ends in order goes on from its bookmark; changes meanwhile are heard, nothing twice."""

    async def scenario() -> None:
        async with world() as it:
            await it.until(lambda: it.reflector.connected)
            touch(it.server.cluster, "svc-0", "soon")
            await asyncio.sleep(3_600)
            touch(it.server.cluster, "svc-0", "later")
            await it.until(it.equal)
            assert (it.table.lists, it.table.upserts) == (1, 3 + 2)

    run_virtual(scenario())


def test_bookmarks_keep_a_quiet_watch_young() -> None:
    """Where only other kinds change, bookmarks move the version on, so that compaction costs no new list."""

    async def scenario() -> None:
        async with world() as it:
            await it.until(lambda: it.reflector.connected)
            it.server.cluster.create(Name("/nodes", "", "n1"), {})
            await asyncio.sleep(120)
            it.server.cluster.store.compact()
            await asyncio.sleep(3_600)
            assert it.table.lists == 1

    run_virtual(scenario())


@pytest.mark.parametrize("fault", [Fault(watch=True, bytewise=True), Fault(watch=False, bytewise=True)])
def test_bytes_may_come_one_by_one(fault: Fault) -> None:
    """Chunk borders mean nothing, in lists and in watches."""

    async def scenario() -> None:
        async with world() as it:
            it.server.faults.add(fault)
            await it.until(lambda: it.reflector.connected)
            touch(it.server.cluster, "svc-0", "é" * 100)
            await it.until(it.equal)

    run_virtual(scenario())


def test_a_line_may_be_long() -> None:
    """An object of 3 MiB passes; there is no limit of 64 KiB or 2 MiB as in line readers."""

    async def scenario() -> None:
        async with world() as it:
            await it.until(lambda: it.reflector.connected)
            touch(it.server.cluster, "svc-0", "x" * 3 * 1024 * 1024)
            await it.until(it.equal)
            assert it.table.lists == 1

    run_virtual(scenario())


@pytest.mark.parametrize("line", [b"this is no JSON", b'{"type":"ADDED"', b"y" * (17 * 1024 * 1024)])
def test_a_broken_stream_is_listed_again(line: bytes) -> None:
    """A line that is no event, or that never ends, costs a new watch or list, never the reflector."""

    async def scenario() -> None:
        async with world() as it:
            it.server.faults.add(Fault(watch=True, times=1, first_line=line))
            await it.until(lambda: it.server.faults.faults[0].hits == 1)
            touch(it.server.cluster, "svc-0", "after")
            await it.until(it.equal)

    run_virtual(scenario())


# --- outages: how often it asks ---

OUTAGES = {
    "410 as an event": Fault(watch=True, error_event=410),
    "410 as an HTTP status, watch": Fault(watch=True, status=410),
    "410 as an HTTP status, all": Fault(status=410),
    "ERROR 500 event": Fault(watch=True, error_event=500),
    "end at once": Fault(watch=True, end_at_once=True),
    "401": Fault(status=401),
    "403": Fault(status=403),
    "429": Fault(status=429, retry_after=1),
    "500": Fault(status=500),
    "503 with Retry-After": Fault(status=503, retry_after=3),
    "cut in the headers": Fault(cut_after_bytes=0),
    "cut after 100 bytes": Fault(cut_after_bytes=100),
    "no JSON": Fault(watch=True, first_line=b"nonsense"),
    "422": Fault(watch=True, status=422),
}


@pytest.mark.parametrize("name", OUTAGES)
def test_an_outage_costs_few_requests(name: str) -> None:
    """At most 10 requests in the first 5 s of any outage that starts with an open watch; then all is equal again."""
    fault = OUTAGES[name]

    async def scenario() -> None:
        async with world() as it:
            await it.until(lambda: it.reflector.connected)
            await asyncio.sleep(20)
            it.server.faults.add(copied(fault))
            await it.server.stop()  # ends the open watch
            await it.server.start()
            began = LoopClock().monotonic()
            await asyncio.sleep(10)
            assert 1 <= it.requests(began) <= 10
            it.server.faults.clear()
            create(it.server.cluster, "after")
            assert await it.until(lambda: it.equal() and it.reflector.connected) <= 10

    run_virtual(scenario())


def copied(fault: Fault) -> Fault:
    """Take the same fault with fresh counters."""
    names = ("method", "path", "watch", "status", "retry_after", "cut_after_bytes", "end_at_once", "first_line")
    return Fault(**{name: getattr(fault, name) for name in (*names, "error_event")})


def test_a_refused_connection_costs_few_attempts() -> None:
    """With nobody listening it tries at most five times in the first 5 s, and is back within 8 s after a restart."""

    async def scenario() -> None:
        async with world() as it:
            await it.until(lambda: it.reflector.connected)
            await it.server.stop()
            await asyncio.sleep(60)
            touch(it.server.cluster, "svc-0", "restarted")
            await it.server.start()
            assert await it.until(lambda: it.equal() and it.reflector.connected) <= 8

    run_virtual(scenario())


def test_410_lists_again_at_once() -> None:
    """When the last list is old, a watch that is answered with 410 is followed by a list without any pause."""

    async def scenario() -> None:
        async with world() as it:
            await it.until(lambda: it.reflector.connected)
            await asyncio.sleep(20)
            await it.server.stop()
            create(it.server.cluster, "meanwhile")
            it.server.cluster.store.compact()
            await it.server.start()
            it.server.faults.seen.clear()
            await it.until(lambda: it.equal() and it.reflector.connected)
            watch, listed, again = it.server.faults.seen
            assert (watch.watch, listed.watch, again.watch) == (True, False, True)
            assert listed.at - watch.at < 0.1

    run_virtual(scenario())


def test_retry_after_is_obeyed() -> None:
    """A server that asks for 20 s is left alone for 20 s."""

    async def scenario() -> None:
        async with world() as it:
            await it.until(lambda: it.reflector.connected)
            it.server.faults.add(Fault(status=429, retry_after=20, times=1))
            await it.server.stop()
            await it.server.start()
            it.server.faults.seen.clear()
            await it.until(lambda: len(it.server.faults.seen) == 2)
            refused, next_one = it.server.faults.seen
            assert 20 <= next_one.at - refused.at <= 21

    run_virtual(scenario())


# --- silence ---


def test_a_frozen_server_is_noticed() -> None:
    """A server that stops saying anything is no longer `connected` within 30 s, and found again when it thaws."""

    async def scenario() -> None:
        async with world() as it:
            it.server.faults.add(Fault(watch=True, times=1, silent=True))
            await it.until(lambda: it.reflector.connected)
            frozen = it.server.faults.add(Fault(swallow=True))
            assert await it.until(lambda: not it.reflector.connected) <= 30
            await asyncio.sleep(60)
            assert not it.reflector.connected
            it.server.faults.faults.remove(frozen)
            touch(it.server.cluster, "svc-0", "thawed")
            await it.until(it.equal)

    run_virtual(scenario())


def test_a_quiet_watch_is_left_alone() -> None:
    """Silence for an hour on a live server costs a cheap request every 15 s or less, and no list."""

    async def scenario() -> None:
        async with world() as it:
            await it.until(lambda: it.reflector.connected)
            it.server.faults.seen.clear()
            await asyncio.sleep(3_600)
            assert it.reflector.connected
            probes = [seen for seen in it.server.faults.seen if seen.path == "/version"]
            assert len(probes) <= 3_600 / 15
            assert len(it.server.faults.seen) - len(probes) <= 13
            assert it.table.lists == 1

    run_virtual(scenario())


def test_a_dead_watch_on_a_live_server_is_replaced() -> None:
    """After two watches in a row that said nothing at all, it lists again and hears what they did not tell."""

    async def scenario() -> None:
        async with world() as it:
            it.server.faults.add(Fault(watch=True, times=2, silent=True))
            await it.until(lambda: it.reflector.connected)
            touch(it.server.cluster, "svc-0", "untold")
            assert await it.until(it.equal, 1_000) <= 400
            assert it.table.lists == 2

    run_virtual(scenario())


def test_a_restored_backup_is_noticed() -> None:
    """With resourceVersions that have gone backwards, watches stay silent; listing again makes it good."""

    async def scenario() -> None:
        async with world() as it:
            await it.until(lambda: it.reflector.connected)
            await it.server.stop()
            it.server.cluster.store.reset(500)
            it.server.cluster.delete(named("svc-1"))
            await it.server.start()
            await it.until(it.equal, 1_000)

    run_virtual(scenario())


# --- the property ---

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("create"), st.integers(0, 5)),
        st.tuples(st.just("touch"), st.integers(0, 5)),
        st.tuples(st.just("delete"), st.integers(0, 5)),
        st.tuples(st.just("wait"), st.sampled_from([0, 1, 7, 40])),
        st.tuples(st.just("fault"), st.integers(0, len(OUTAGES) - 1)),
        st.tuples(st.sampled_from(["heal", "compact", "restart"]), st.just(0)),
    ),
    max_size=25,
)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=STEPS, seed=st.integers(0, 1_000))
def test_at_quiescence_the_sink_equals_the_server(steps: list[tuple[str, int]], seed: int) -> None:
    """Whatever is written and whatever goes wrong, in whatever order: when the faults end, both are equal."""

    async def scenario() -> None:
        async with world(seed=seed) as it:
            for step, argument in steps:
                await play(it, step, argument)
            it.server.faults.clear()
            await it.until(lambda: it.equal() and it.reflector.connected, 120)

    run_virtual(scenario())


async def play(it: World, step: str, number: int) -> None:
    """Do one step of a story."""
    cluster, name = it.server.cluster, f"svc-{number}"
    there = cluster.store.get(named(name)) is not None
    if step == "create" and not there:
        create(cluster, name)
    elif step == "touch" and there:
        touch(cluster, name, str(LoopClock().monotonic()))
    elif step == "delete" and there:
        cluster.delete(named(name))
    elif step == "wait":
        await asyncio.sleep(number)
    elif step == "fault":
        it.server.faults.add(copied(list(OUTAGES.values())[number]))
    else:
        await play_operator(it, step)


async def play_operator(it: World, step: str) -> None:
    """Do what an operator does."""
    if step == "heal":
        it.server.faults.clear()
    elif step == "compact":
        it.server.cluster.store.compact()
    elif step == "restart":
        await it.server.stop()
        await asyncio.sleep(2)
        await it.server.start()
