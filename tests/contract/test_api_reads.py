"""What lists and watches of an API server do, fake and real: everything that the reflector relies on."""

import asyncio
import ssl

import pytest

from littlelb.core.errors import Permanent
from littlelb.kube.client import SERVICES, Api, Gone, Page, Selection
from littlelb.kube.transport import Request, Transport
from littlelb.testing.fake_api import FixedCredentials
from tests.contract.conftest import ServerUnderTest


async def test_list_items_have_no_kind(server: ServerUnderTest) -> None:
    """Items of a list carry neither kind nor apiVersion; the list itself and a single object do."""
    await server.service("web")
    listed = (await server.ask("GET", server.path("services"))).body
    assert (listed["kind"], listed["apiVersion"]) == ("ServiceList", "v1")
    assert not {"kind", "apiVersion"} & listed["items"][0].keys()
    single = (await server.ask("GET", server.path("services", "web"))).body
    assert (single["kind"], single["apiVersion"]) == ("Service", "v1")


async def test_pages_are_one_snapshot(server: ServerUnderTest) -> None:
    """Pages show what was there at the first one, in order of names, whatever is written meanwhile."""
    for name in ("c", "a", "b", "e", "d"):
        await server.service(name)
    first = (await server.ask("GET", server.path("services"), limit="2")).body
    await server.ask("DELETE", server.path("services", "d"))
    await server.service("f")
    assert first["metadata"]["remainingItemCount"] == 3
    query = {"limit": "3", "continue": first["metadata"]["continue"]}
    second = (await server.ask("GET", server.path("services"), **query)).body
    names = [item["metadata"]["name"] for item in (*first["items"], *second["items"])]
    assert names == ["a", "b", "c", "d", "e"]
    assert second["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
    assert not second["metadata"].get("continue")


async def test_what_was_compacted_is_gone(server: ServerUnderTest) -> None:
    """A page of a version that was compacted away is 410 Expired; a watch from it is 200, one ERROR 410, the end."""
    for name in ("a", "b", "c"):
        await server.service(name)
    first = (await server.ask("GET", server.path("services"), limit="1")).body["metadata"]
    await server.service("d")
    await server.forget()
    query = {"limit": "1", "continue": first["continue"]}
    said = await server.ask("GET", server.path("services"), **query)
    assert (said.code, said.body["reason"]) == (410, "Expired")
    with pytest.raises(Gone):
        await server.api.list_page(Selection(SERVICES, server.namespace), _nothing, first["continue"])
    async with server.watch(server.path("services"), resourceVersion=first["resourceVersion"]) as events:
        event = await events.next()
        assert (event["type"], event["object"]["code"], event["object"]["kind"]) == ("ERROR", 410, "Status")
        with pytest.raises(StopAsyncIteration):
            await events.next()


def _nothing(_: bytes) -> Page[str]:
    pytest.fail("a refusal was decoded as a page")


async def test_a_watch_goes_on_from_a_list(server: ServerUnderTest) -> None:
    """After a list every change comes once, in order, with kind and a rising resourceVersion, deletions too."""
    await server.service("old")
    listed = await server.ask("GET", server.path("services"))
    async with server.watch(server.path("services"), resourceVersion=listed.version) as events:
        created = await server.service("new")
        patch = {"metadata": {"annotations": {"example.com/a": "1"}}}
        patched = await server.ask("PATCH", server.path("services", "new"), patch)
        await server.ask("DELETE", server.path("services", "new"))
        heard = [await events.next() for _ in range(3)]
    assert [event["type"] for event in heard] == ["ADDED", "MODIFIED", "DELETED"]
    assert {event["object"]["kind"] for event in heard} == {"Service"}
    versions = [int(event["object"]["metadata"]["resourceVersion"]) for event in heard]
    assert versions[:2] == [int(created.version), int(patched.version)]
    assert versions == sorted(set(versions))
    assert versions[0] > int(listed.version)


async def test_a_watch_from_the_future_is_silent(server: ServerUnderTest) -> None:
    """A resourceVersion that is yet to come gets 200 and no word, not even about what changes now."""
    async with server.watch(server.path("services"), resourceVersion="900000000", timeoutSeconds="3") as events:
        await server.service("web")
        with pytest.raises((StopAsyncIteration, TimeoutError)):
            await events.next(2)


async def test_a_watch_ends_when_asked_to(server: ServerUnderTest) -> None:
    """`timeoutSeconds` ends it in order."""
    version = (await server.ask("GET", server.path("services"))).version
    async with server.watch(server.path("services"), resourceVersion=version, timeoutSeconds="1") as events:
        with pytest.raises(StopAsyncIteration):
            await events.next(10)


@pytest.mark.parametrize("version", ["", "0"])
async def test_a_watch_without_a_version_tells_what_is_there(server: ServerUnderTest, version: str) -> None:
    """Without a resourceVersion, or with 0, each object comes as ADDED first."""
    await server.service("a")
    await server.service("b")
    async with server.watch(server.path("services"), resourceVersion=version) as events:
        assert sorted(await events.take(2)) == [("ADDED", "a"), ("ADDED", "b")]
        await server.ask("DELETE", server.path("services", "a"))
        assert await events.take(1) == [("DELETED", "a")]


async def test_initial_events_end_with_a_bookmark(server: ServerUnderTest) -> None:
    """`sendInitialEvents` sends what is there and then a bookmark that says so."""
    await server.service("web")
    query = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "allowWatchBookmarks": "true"}
    async with server.watch(server.path("services"), **query) as events:
        assert await events.take(1) == [("ADDED", "web")]
        event = await events.next()
    assert event["type"] == "BOOKMARK"
    assert event["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert int(event["object"]["metadata"]["resourceVersion"]) > 0


async def test_initial_events_need_a_match(server: ServerUnderTest) -> None:
    """`sendInitialEvents` without resourceVersionMatch is refused before the watch begins."""
    said = await server.ask("GET", server.path("services"), watch="true", sendInitialEvents="true")
    assert said.code == 422


async def test_labels_select_what_a_watch_tells(server: ServerUnderTest) -> None:
    """An object that stops matching is DELETED for this watch, and ADDED when it matches again."""
    version = (await server.ask("GET", server.path("services"))).version
    query = {"resourceVersion": version, "labelSelector": "tier in (front, edge),!old"}
    async with server.watch(server.path("services"), **query) as events:
        await server.service("other", labels={"tier": "back"})
        await server.service("web", labels={"tier": "front"})
        await server.ask("PATCH", server.path("services", "web"), {"metadata": {"labels": {"old": "yes"}}})
        await server.ask("PATCH", server.path("services", "web"), {"metadata": {"labels": {"old": None}}})
        assert await events.take(3) == [("ADDED", "web"), ("DELETED", "web"), ("ADDED", "web")]


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({"fieldSelector": "spec.type=LoadBalancer"}, ["balanced"]),
        ({"fieldSelector": "metadata.name!=balanced"}, ["plain"]),
        ({"labelSelector": "a=1"}, ["plain"]),
        ({"labelSelector": "a!=1"}, ["balanced"]),
        ({"labelSelector": "a"}, ["plain"]),
        ({"labelSelector": "a notin (1,2)"}, ["balanced"]),
    ],
)
async def test_selectors_of_lists(server: ServerUnderTest, selector: dict[str, str], expected: list[str]) -> None:
    """Field and label selectors choose on the server."""
    await server.service("balanced")
    await server.service("plain", {"ports": [{"port": 80}]}, labels={"a": "1"})
    listed = await server.ask("GET", server.path("services"), **selector)
    assert [item["metadata"]["name"] for item in listed.body["items"]] == expected


async def test_an_unknown_field_selector_is_refused(server: ServerUnderTest) -> None:
    """A field that the kind cannot select by is a 400."""
    said = await server.ask("GET", server.path("services"), fieldSelector="spec.nonsense=1")
    assert said.code == 400


async def test_what_is_not_there(server: ServerUnderTest) -> None:
    """A missing object is 404 NotFound, a missing resource 404."""
    said = await server.ask("GET", server.path("services", "none"))
    assert (said.code, said.body["reason"]) == (404, "NotFound")
    assert (await server.transport.fetch(Request("GET", server.path("nonsense")))).code == 404


async def test_ping(server: ServerUnderTest) -> None:
    """The version is there for everybody who may speak to it."""
    await server.api.ping()
    assert (await server.ask("GET", "/version")).body["major"] == "1"


@pytest.mark.parametrize("server", ["real"], indirect=True)
async def test_a_wrong_token_is_not_accepted(server: ServerUnderTest) -> None:
    """A token that the real server does not know is a 401, and the client says so after one renewal."""
    tls = ssl.create_default_context()
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    credentials = FixedCredentials(server.transport.server, "not-a-token", tls=tls)
    transport = Transport(credentials)
    try:
        with pytest.raises(Permanent, match="not accepted"):
            await Api(transport).list_page(Selection(SERVICES), _nothing)
        assert credentials.renewals == 1
    finally:
        await transport.close()


@pytest.mark.parametrize("server", ["real"], indirect=True)
async def test_a_certificate_that_is_not_trusted(server: ServerUnderTest) -> None:
    """A CA that is not ours is permanent, with the remedy; nothing is sent."""
    transport = Transport(FixedCredentials(server.transport.server, "secret", tls=ssl.create_default_context()))
    try:
        with pytest.raises(Permanent, match=r"not trusted .*check certificate-authority") as caught:
            await asyncio.wait_for(transport.fetch(Request("GET", "/version")), 10)
        assert "secret" not in str(caught.value)
    finally:
        await transport.close()
