"""The life of a connection as transcripts: event → step."""

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from littlelb.dataplane.pipe.flow import BACKEND, CLIENT, Backend, Flow, State, Step

A: Backend = ("10.1.0.1", 8080)
B: Backend = ("10.1.0.2", 8080)
C: Backend = ("10.1.0.3", 8080)


def play(flow: Flow, event: str, backends: Sequence[Backend] = (A, B, C)) -> Step:
    """Give a flow one event by its name."""
    steps: dict[str, Callable[[], Step]] = {
        "begin": lambda: flow.begin(backends[0] if backends else None),
        "connected": flow.connect_ok,
        "failed": lambda: flow.connect_failed(backends),
        "client eof": lambda: flow.eof(CLIENT),
        "backend eof": lambda: flow.eof(BACKEND),
        "expired": flow.expire,
        "error": flow.error,
    }
    return steps[event]()


TRANSCRIPTS = {
    "client ends first": [
        ("begin", Step.CONNECT),
        ("connected", Step.PUMP),
        ("client eof", Step.SHUT_BACKEND),
        ("backend eof", Step.CLOSE),
    ],
    "backend ends first": [
        ("begin", Step.CONNECT),
        ("connected", Step.PUMP),
        ("backend eof", Step.SHUT_CLIENT),
        ("client eof", Step.CLOSE),
    ],
    "the second backend answers": [
        ("begin", Step.CONNECT),
        ("failed", Step.CONNECT),
        ("connected", Step.PUMP),
        ("error", Step.RESET),
    ],
    "no backend answers": [
        ("begin", Step.CONNECT),
        ("failed", Step.CONNECT),
        ("failed", Step.CONNECT),
        ("failed", Step.RESET),
    ],
    "the client goes before the backend answers": [("begin", Step.CONNECT), ("error", Step.RESET)],
    "reset after a half-close": [
        ("begin", Step.CONNECT),
        ("connected", Step.PUMP),
        ("client eof", Step.SHUT_BACKEND),
        ("error", Step.RESET),
    ],
    "its time is over": [("begin", Step.CONNECT), ("connected", Step.PUMP), ("expired", Step.RESET)],
    "nothing happens twice": [
        ("begin", Step.CONNECT),
        ("connected", Step.PUMP),
        ("connected", Step.WAIT),
        ("client eof", Step.SHUT_BACKEND),
        ("client eof", Step.WAIT),
        ("error", Step.RESET),
        ("error", Step.WAIT),
        ("backend eof", Step.WAIT),
    ],
}


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_transcript(name: str) -> None:
    """Each event of the story gives the step that is written beside it."""
    flow = Flow()
    assert [(event, play(flow, event)) for event, _ in TRANSCRIPTS[name]] == TRANSCRIPTS[name]


def test_no_backend_is_refused_at_once() -> None:
    """A connection for which there is no backend is reset, and stays so."""
    flow = Flow()
    assert play(flow, "begin", ()) is Step.RESET
    assert flow.state is State.CLOSED


def test_each_backend_is_tried_at_most_once() -> None:
    """A failed backend is not asked again, even when it is the first of the list."""
    flow = Flow()
    flow.begin(B)
    tried = [flow.backend]
    while flow.connect_failed((B, A, C)) is Step.CONNECT:
        tried.append(flow.backend)
    assert tried == [B, A, C]


def test_a_removed_backend_is_not_an_alternative() -> None:
    """The next backend is taken from the list of now, not from that of the beginning."""
    flow = Flow()
    flow.begin(A)
    assert flow.connect_failed((C,)) is Step.CONNECT
    assert flow.backend == C


@given(
    st.lists(st.sampled_from(["begin", "connected", "failed", "client eof", "backend eof", "expired", "error"])),
)
def test_nothing_but_waiting_follows_the_end(events: list[str]) -> None:
    """Whatever comes in whatever order, a closed connection asks for nothing any more, and is closed only once."""
    flow = Flow()
    flow.begin(A)
    ends = 0
    for event in events:
        if event == "begin":
            continue
        closed = flow.state is State.CLOSED
        step = play(flow, event)
        ends += step in {Step.CLOSE, Step.RESET}
        assert not closed or step is Step.WAIT
    assert ends <= 1
    assert (flow.state is State.CLOSED) == (ends == 1)
