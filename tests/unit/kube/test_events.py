"""The recorder of Events, on the fake API server."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

from littlelb.core.model import Service
from littlelb.kube.events import QUEUE_LENGTH, Desk, Recorder, render_note
from littlelb.testing.fake_api_faults import Fault
from littlelb.testing.fake_api_store import Name

from .conftest import World

WEB = Service(namespace="default", name="web", uid="1b4e28ba-2fa1-41d2-883f-0016d3cca427")


def make(world: World) -> Recorder:
    """A recorder whose time stands still."""
    return Recorder(Desk(world.api, world.budget, world.clock, Random(1), "test-host"))  # noqa: S311  # names only


@asynccontextmanager
async def running(recorder: Recorder) -> AsyncIterator[None]:
    """Write while the block runs, and to its end."""
    task = asyncio.create_task(recorder.run(), name="events")
    yield
    await recorder.flush(10.0)
    task.cancel()


def stored(world: World) -> list[dict[str, Any]]:
    """All Events."""
    items: list[dict[str, Any]] = world.server.cluster.list("events.k8s.io/events", "default", {})["items"]
    return items


async def test_an_event_is_found_by_kubectl_describe(world: World) -> None:
    """`regarding` names kind, namespace, name and uid; all fields that the API asks for are there."""
    recorder = make(world)
    async with running(recorder):
        recorder.record(WEB, "Normal", "IPAllocated", "Allocate", "assigned 203.0.113.1")
    (event,) = stored(world)
    assert event["regarding"] == {
        "apiVersion": "v1",
        "kind": "Service",
        "namespace": "default",
        "name": "web",
        "uid": WEB.uid,
    }
    assert event["metadata"]["name"].startswith("web.")
    assert (event["type"], event["reason"], event["action"]) == ("Normal", "IPAllocated", "Allocate")
    assert (event["note"], event["eventTime"]) == ("assigned 203.0.113.1", "2026-01-01T00:00:00.000000Z")
    assert (event["reportingController"], event["reportingInstance"]) == ("littlelb.io/littlelb", "test-host")
    assert "series" not in event


async def test_repeats_become_a_series_of_one_event(world: World) -> None:
    """The same text within ten minutes of the last time is counted; after that it is a new Event."""
    recorder = make(world)
    async with running(recorder):
        recorder.record(WEB, "Warning", "AllocationFailed", "Serve", "taken")
        await recorder.flush(10.0)
        for _ in range(3):
            world.clock.elapsed += 400
            recorder.record(WEB, "Warning", "AllocationFailed", "Serve", "taken")
            await recorder.flush(10.0)
        recorder.record(WEB, "Warning", "AllocationFailed", "Serve", "other text")
        await recorder.flush(10.0)
        assert sorted(event.get("series", {}).get("count", 1) for event in stored(world)) == [1, 4]
        world.clock.elapsed += 601
        recorder.record(WEB, "Warning", "AllocationFailed", "Serve", "taken")
    assert len(stored(world)) == 3


async def test_repeats_before_the_first_write_are_counted_in_it(world: World) -> None:
    """One request for all of them."""
    recorder = make(world)
    for _ in range(5):
        recorder.record(WEB, "Normal", "A", "Serve", "same")
    async with running(recorder):
        pass
    assert [event["series"]["count"] for event in stored(world)] == [5]
    assert recorder.tally.written == 1


async def test_one_object_says_25_things_and_then_one_in_five_minutes(world: World) -> None:
    """A noisy Service cannot drown the others."""
    recorder = make(world)
    for number in range(40):
        recorder.record(WEB, "Normal", "A", "Serve", f"text {number}")
    assert recorder.tally.dropped == 15
    recorder.record(Service(namespace="default", name="calm", uid="c"), "Normal", "A", "Serve", "text")
    assert recorder.tally.dropped == 15
    world.clock.elapsed += 300
    recorder.record(WEB, "Normal", "A", "Serve", "again")
    recorder.record(WEB, "Normal", "A", "Serve", "and again")
    assert recorder.tally.dropped == 16
    async with running(recorder):
        pass
    assert len(stored(world)) == 27


async def test_repeats_without_a_token_are_counted_and_written_later(world: World) -> None:
    """Nothing of a count is lost by the rate limit."""
    recorder = make(world)
    async with running(recorder):
        for _ in range(100):
            recorder.record(WEB, "Normal", "A", "Serve", "same")
            await recorder.flush(10.0)
        assert stored(world)[0]["series"]["count"] == 25
        world.clock.elapsed += 300
        recorder.record(WEB, "Normal", "A", "Serve", "same")
    assert stored(world)[0]["series"]["count"] == 101


async def test_a_full_queue_drops_and_counts(world: World) -> None:
    """Recording never blocks, whatever the API server does."""
    recorder = make(world)
    for number in range(QUEUE_LENGTH + 5):
        recorder.record(Service(namespace="default", name="s", uid=str(number)), "Normal", "A", "Serve", "text")
    assert recorder.tally.dropped == 5
    await recorder.flush(0.01)
    assert stored(world) == []


async def test_a_failed_write_is_tried_again_and_then_given_up(world: World) -> None:
    """Five attempts; the Event after it is written."""
    recorder = make(world)
    fault = world.server.faults.add(Fault(method="POST", status=503, times=5))
    async with running(recorder):
        recorder.record(WEB, "Normal", "A", "Serve", "lost")
        recorder.record(WEB, "Normal", "A", "Serve", "kept")
    assert fault.hits == 5
    assert [event["note"] for event in stored(world)] == ["kept"]
    assert (recorder.tally.written, recorder.tally.dropped) == (1, 1)


async def test_what_is_forbidden_is_not_tried_again(world: World) -> None:
    """A role without Events costs one request for each."""
    recorder = make(world)
    world.server.faults.add(Fault(method="POST", status=403))
    async with running(recorder):
        recorder.record(WEB, "Normal", "A", "Serve", "text")
    assert len(world.requests("POST")) == 1
    assert recorder.tally.dropped == 1


async def test_a_series_whose_event_has_expired_begins_again(world: World) -> None:
    """The API server keeps Events for an hour."""
    recorder = make(world)
    async with running(recorder):
        recorder.record(WEB, "Normal", "A", "Serve", "text")
        await recorder.flush(10.0)
        world.server.cluster.delete(Name("events.k8s.io/events", "default", stored(world)[0]["metadata"]["name"]))
        recorder.record(WEB, "Normal", "A", "Serve", "text")
    assert stored(world)[0]["series"]["count"] == 2


async def test_hostile_texts_fit_and_do_not_move_a_terminals_cursor(world: World) -> None:
    """1,024 bytes, control characters escaped, half a surrogate replaced."""
    assert render_note("a\x1b[2Jb\n") == r"a\x1b[2Jb\n"
    assert len(render_note("ä" * 2_000).encode()) <= 1_024
    assert render_note("\ud800") == r"\ud800"
    recorder = make(world)
    async with running(recorder):
        recorder.record(WEB, "Warning", "R" * 300, "A" * 300, "\u2028" * 3_000)
    assert len(stored(world)) == 1


async def test_an_event_of_a_namespace_that_is_gone_is_dropped_at_once(world: World) -> None:
    """The Service went with it."""
    recorder = make(world)
    async with running(recorder):
        recorder.record(Service(namespace="gone", name="web", uid="u"), "Normal", "A", "Serve", "text")
    assert (len(world.requests("POST")), recorder.tally.dropped) == (1, 1)


async def test_an_answer_that_was_lost_makes_no_second_event(world: World) -> None:
    """The connection broke after the server had taken it: 409 at the next attempt is success."""
    recorder = make(world)
    world.server.faults.add(Fault(method="POST", cut_after_bytes=0, times=1))
    async with running(recorder):
        recorder.record(WEB, "Normal", "A", "Serve", "text")
    assert len(stored(world)) == 1
    assert (recorder.tally.written, recorder.tally.dropped) == (1, 0)


async def test_a_wish_of_the_server_is_obeyed(world: World) -> None:
    """429 with Retry-After: the next attempt is not made before."""
    recorder = make(world)
    world.server.faults.add(Fault(method="POST", status=429, retry_after=20, times=1))
    async with running(recorder):
        recorder.record(WEB, "Normal", "A", "Serve", "text")
    assert world.clock.elapsed == 20.0
    assert len(stored(world)) == 1


async def test_a_repeat_that_finds_the_queue_full_is_kept_in_the_count(world: World) -> None:
    """It goes with the next one."""
    recorder = make(world)
    async with running(recorder):
        recorder.record(WEB, "Normal", "A", "Serve", "text")
        await recorder.flush(10.0)
        for number in range(QUEUE_LENGTH):
            recorder.record(Service(namespace="gone", name="s", uid=str(number)), "Normal", "A", "Serve", "text")
        recorder.record(WEB, "Normal", "A", "Serve", "text")
        await recorder.flush(10.0)
        recorder.record(WEB, "Normal", "A", "Serve", "text")
    assert stored(world)[0]["series"]["count"] == 3


async def test_what_is_over_is_forgotten(world: World) -> None:
    """Memory does not grow with every Service that ever was."""
    recorder = make(world)
    async with running(recorder):
        for number in range(50):
            recorder.record(Service(namespace="default", name="s", uid=str(number)), "Normal", "A", "Serve", "text")
    world.clock.elapsed += 700
    recorder.record(WEB, "Normal", "A", "Serve", "text")
    assert (len(recorder._memory.events), len(recorder._memory.buckets)) == (1, 1)
