"""Pages, watch lines and single objects, whole and poisoned."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from littlelb.core.model import EndpointSlice, Node, Service, ServiceType
from littlelb.kube.client import ApiStatus, EventType, Page, WatchEvent
from littlelb.kube.decode import (
    decode_node_event,
    decode_node_page,
    decode_service,
    decode_service_event,
    decode_service_page,
    decode_slice_event,
    decode_slice_page,
)

SERVICE: dict[str, Any] = {
    "metadata": {
        "name": "web",
        "namespace": "shop",
        "uid": "u1",
        "resourceVersion": "7",
        "labels": {"app": "web"},
        "finalizers": ["service.kubernetes.io/load-balancer-cleanup"],
    },
    "spec": {"type": "LoadBalancer", "ports": [{"port": 80, "protocol": "TCP"}], "externalIPs": ["203.0.113.8"]},
    "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}},
}
SLICE: dict[str, Any] = {
    "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
    "addressType": "IPv4",
    "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    "endpoints": [{"addresses": ["10.1.0.1"]}, {"addresses": ["10.1.0.2"], "conditions": {"ready": False}}],
}
NODE: dict[str, Any] = {
    "metadata": {"name": "n1", "labels": {"zone": "a"}},
    "status": {"addresses": [{"type": "InternalIP", "address": "198.51.100.5"}]},
}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def page(*items: Any, **meta: Any) -> bytes:
    """Write a LIST answer."""
    return json.dumps({"kind": "List", "metadata": {"resourceVersion": "9", **meta}, "items": items}).encode()


def line(kind: str, found: Any) -> bytes:
    """Write one line of a watch."""
    return json.dumps({"type": kind, "object": found}).encode()


def with_value(whole: Any, path: tuple[str | int, ...], value: Any) -> Any:
    """Copy an object with one value replaced."""
    copy = json.loads(json.dumps(whole))
    place = copy
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return copy


def paths(whole: Any, prefix: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Name every place of an object."""
    inside: list[tuple[str | int, Any]] = []
    if isinstance(whole, dict):
        inside = list(whole.items())
    elif isinstance(whole, list):
        inside = list(enumerate(whole))
    return [place for step, value in inside for place in ((*prefix, step), *paths(value, (*prefix, step)))]


def test_a_page_gives_its_items_and_where_to_go_on() -> None:
    """Items, the list's version, the token of the next page and the count of what remains."""
    found = decode_service_page(page(SERVICE, SERVICE, **{"continue": "next", "remainingItemCount": 3}))
    assert [item.key for item in found.items] == ["shop/web", "shop/web"]
    assert (found.resource_version, found.continue_, found.remaining) == ("9", "next", 3)


@pytest.mark.parametrize("text", [b'{"items": null, "metadata": {}}', b"{}"])
def test_a_page_without_items_is_empty(text: bytes) -> None:
    """Go writes an empty list as null."""
    assert decode_slice_page(text) == Page((), "")


@pytest.mark.parametrize("kind", ["ADDED", "MODIFIED", "DELETED"])
def test_a_line_gives_its_object_and_version(kind: str) -> None:
    """Type, object and the object's resourceVersion."""
    found = decode_service_event(line(kind, SERVICE))
    assert found == WatchEvent(EventType(kind), decode_service(json.dumps(SERVICE).encode()), "7")


def test_a_bookmark_gives_a_version_and_no_object() -> None:
    """A bookmark says where to go on, and marks the end of the initial events."""
    meta: dict[str, Any] = {"resourceVersion": "12", "creationTimestamp": None}
    plain = decode_slice_event(line("BOOKMARK", {"kind": "EndpointSlice", "metadata": meta}))
    assert plain == WatchEvent(EventType.BOOKMARK, None, "12")
    meta["annotations"] = {"k8s.io/initial-events-end": "true"}
    assert decode_node_event(line("BOOKMARK", {"metadata": meta})).initial_events_end


def test_an_odd_bookmark_still_gives_its_version() -> None:
    """A field that does not fit its type does not matter in a bookmark."""
    found = decode_node_event(line("BOOKMARK", {"metadata": {"resourceVersion": "12", "labels": 7}, "spec": 1}))
    assert found == WatchEvent(EventType.BOOKMARK, None, "12")


@pytest.mark.parametrize("decode", [decode_service_event, decode_slice_event, decode_node_event])
def test_an_error_line_gives_the_status(decode: Any) -> None:
    """410 comes as a line of type ERROR whose object is a Status."""
    status = {"kind": "Status", "metadata": {}, "status": "Failure", "message": "too old", "reason": "Expired"}
    found = decode(line("ERROR", {**status, "code": 410}))
    assert found == WatchEvent(EventType.ERROR, ApiStatus(410, "Expired", "too old"))


def test_a_poisoned_service_does_not_spoil_its_page() -> None:
    """Who it is, whose it is and what is written on it stay readable; neighbours are whole."""
    bad = with_value(SERVICE, ("spec", "ports", 0, "port"), "eighty")
    first, second, third = decode_service_page(page(SERVICE, bad, SERVICE)).items
    assert first == third == decode_service(json.dumps(SERVICE).encode())
    assert second.fault == "Expected `int`, got `str` - at `$.spec.ports[0].port`"
    assert (second.key, second.uid, second.resource_version) == ("shop/web", "u1", "7")
    assert (second.type, second.has_finalizer) == (ServiceType.LOAD_BALANCER, True)
    assert (second.ingress, second.external_ips) == (first.ingress, first.external_ips)


def test_a_poisoned_service_does_not_spoil_its_watch() -> None:
    """A line with a bad object is an event with a fault, and its version counts."""
    found = decode_service_event(line("MODIFIED", with_value(SERVICE, ("metadata", "labels", "app"), 7)))
    assert isinstance(found.object, Service)
    assert (found.object.key, found.resource_version) == ("shop/web", "7")
    assert found.object.fault


def test_a_poisoned_slice_keeps_what_can_be_read() -> None:
    """One bad endpoint costs itself only."""
    bad = with_value(SLICE, ("endpoints", 0, "addresses"), 7)
    (found,) = decode_slice_page(page(bad)).items
    assert [str(endpoint.address) for endpoint in found.endpoints] == ["10.1.0.2"]
    assert (found.service_key, len(found.ports)) == ("shop/web", 1)
    assert "$.endpoints[0].addresses" in found.fault


def test_a_poisoned_node_has_no_addresses() -> None:
    """A node that cannot be understood serves nobody."""
    (found,) = decode_node_page(page(with_value(NODE, ("status", "addresses"), "198.51.100.5"))).items
    assert found == Node(name="n1", labels={"zone": "a"})


def test_a_fault_is_one_short_printable_line() -> None:
    """A stranger's text in the message can neither fill a log nor steer a terminal."""
    bad = with_value(SERVICE, ("spec", "type"), "\x1b[2J\n" + "x" * 100_000)
    fault = decode_service(json.dumps(bad).encode()).fault
    assert 0 < len(fault) <= 300
    assert fault.isprintable()


def test_a_number_of_thousands_of_digits_is_a_fault() -> None:
    """It fits no type of ours and none of the decoder's; the object keeps its name."""
    bad = json.dumps(SERVICE).encode().replace(b'"port": 80', b'"port": ' + b"9" * 6000)
    found = decode_service(bad)
    assert found.key == "shop/web"
    assert "out of range" in found.fault
    nameless = decode_service(bad.replace(b'"labels": {"app": "web"}', b'"labels": 7'))
    assert nameless.fault
    assert nameless.name == ""


@pytest.mark.parametrize("decode", [decode_service, decode_service_page, decode_service_event])
def test_what_nests_too_deeply_is_an_error(decode: Any) -> None:
    """No API server answers so."""
    deep = b"[" * 5000 + b"]" * 5000
    with pytest.raises(msgspec.DecodeError, match="nested too deeply"):
        decode(b'{"type": "ADDED", "unknown": ' + deep + b', "items": [], "object": {}}')


def test_invalid_utf8_does_not_spoil_a_page() -> None:
    """Bytes that are no text are replaced, as Go's decoder does."""
    text = page(SERVICE, SERVICE).replace(b'"203.0.113.7"', b'"\xff\xfe"')
    found = decode_service_page(text)
    assert [item.ingress[0].ip for item in found.items] == ["��", "��"]
    assert decode_service_event(line("ADDED", SERVICE).replace(b"shop", b"sh\xffp")).object is not None


@pytest.mark.parametrize("decode", [decode_service, decode_service_page, decode_service_event, decode_node_page])
@pytest.mark.parametrize("text", [b"", b"<html>", b"{", b"[1]x"])
def test_what_is_no_json_is_an_error(decode: Any, text: bytes) -> None:
    """A broken answer is the transport's failure."""
    with pytest.raises(msgspec.DecodeError):
        decode(text)


@given(st.lists(JSON, max_size=3))
def test_any_items_are_decoded_without_an_exception(items: list[Any]) -> None:
    """Whatever stands in a list, there is one object for each item."""
    assert len(decode_service_page(page(*items)).items) == len(items)
    assert len(decode_slice_page(page(*items)).items) == len(items)
    assert len(decode_node_page(page(*items)).items) == len(items)


@settings(max_examples=200)
@given(st.data())
def test_any_mutation_of_a_good_object_keeps_its_neighbour(data: st.DataObject) -> None:
    """One value replaced by anything: no exception, values of the right type, and the neighbour as before."""
    kinds: list[tuple[Any, Any, Any, type]] = [
        (SERVICE, decode_service_page, decode_service_event, Service),
        (SLICE, decode_slice_page, decode_slice_event, EndpointSlice),
        (NODE, decode_node_page, decode_node_event, Node),
    ]
    whole, decode_page, decode_event, kind = data.draw(st.sampled_from(kinds))
    bad = with_value(whole, data.draw(st.sampled_from(paths(whole))), data.draw(JSON))
    first, second = decode_page(page(bad, whole)).items
    assert isinstance(first, kind)
    assert second == decode_page(page(whole)).items[0]
    assert isinstance(decode_event(line("MODIFIED", bad)).object, kind)
