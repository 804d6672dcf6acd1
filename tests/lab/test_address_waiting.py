"""The daemon while it asks the LAN: nobody else waits, nothing is called an error, and conflicts are still found."""

import json

import pytest

from tests.lab.box import Box, both

pytestmark = [pytest.mark.lab, pytest.mark.timeout(90)]
WEB, NEW = "203.0.113.10", "203.0.113.12"


def log_order(box: Box, *wanted: tuple[str, str]) -> list[int]:
    """Where in the daemon's log the first entry with this event and this text stands, for each."""
    lines = [json.loads(line) for line in box.log_text().splitlines() if line[:1] == "{"]
    return [
        next(at for at, line in enumerate(lines) if line["event"] == event and text in json.dumps(line))
        for event, text in wanted
    ]


def test_a_change_does_not_wait_for_the_questions_of_another(box: Box) -> None:
    """Of two new Services, that on the host's own address is served before the other's address is known free."""
    box.write("web.yaml", *both("web", WEB))
    box.start("--debug", "--plane", "pipe")
    box.wait_serving("demo/web")
    box.write("two.yaml", *both("new", NEW), *both("shared", "", 8081))
    for key in ("demo/new", "demo/shared"):
        box.wait_serving(key)
    served, waited, added, told = log_order(
        box,
        ("service.event", '"demo/shared", "reason": "EnsuredLoadBalancer"'),
        ("target.applied", f'"failed": ["{NEW}"]'),
        ("address.added", NEW),
        ("service.event", '"demo/new", "reason": "EnsuredLoadBalancer"'),
    )
    assert waited < served < added < told
    box.wait("the new address answers", lambda: box.ask(NEW))


def test_asking_is_nothing_that_went_wrong(box: Box) -> None:
    """A new Service has two Events, both Normal, and no write or retry comes of its waiting."""
    box.start("--debug", "--plane", "pipe")
    box.write("web.yaml", *both("web", WEB))
    box.wait_serving("demo/web")
    events = [event["reason"] for event in box.log_events("service.event") if event["service"] == "demo/web"]
    assert events == ["IPAllocated", "EnsuredLoadBalancer"]
    assert box.log_events("pass.failed") == []
    full = [entry for entry in box.log_events("loop.pass") if entry["full"]]
    waiting = [entry for entry in box.log_events("target.applied") if entry.get("failed") == [WEB]]
    assert waiting
    assert all(entry["number"] <= 2 for entry in full)


def test_a_conflict_is_found_beside_the_passes(box: Box) -> None:
    """The Service is refused with the MAC address of the other machine, and others are served meanwhile."""
    box.lan.client.ip("addr", "add", f"{NEW}/32", "dev", "eth0")
    box.start("--plane", "pipe")
    box.write("web.yaml", *both("web", WEB), *both("new", NEW))
    box.wait_serving("demo/web")
    mac = box.lan.client.mac("eth0")
    box.wait("the conflict is told", lambda: f"already in use on the LAN by {mac}" in box.reasons("demo/new"))
    assert box.held() == {WEB}
