"""Every row of the table of hostile input, by each door: one refusal or error, and a hundred neighbours as before."""

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, Generic, TypeVar, assert_never

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from littlelb.core.desired import compute
from littlelb.core.model import EndpointSlice, HostFacts, Listener, Node, Protocol, Service
from littlelb.core.reasons import Reason
from littlelb.core.state import DesiredState, Dirty, Settings, Snapshot
from littlelb.kube.decode import decode_node_page, decode_service_page, decode_slice_page
from littlelb.kube.folder import FolderSource
from littlelb.kube.transport import Request
from tests.contract.conftest import ServerUnderTest
from tests.contract.hostile import (
    ESC,
    KEY,
    NAME,
    NEIGHBOURS,
    Case,
    Outcome,
    Refused,
    Rejected,
    Unknown,
    Unserved,
    cases,
    good_documents,
    neighbour,
)

T = TypeVar("T", Service, EndpointSlice, Node)
CASES = cases()
HOST = HostFacts(
    device="eth0",
    own=(ip_address("198.51.100.10"), ip_address("2001:db8:1::10")),
    on_link=(ip_network("198.51.100.0/24"), ip_network("203.0.113.0/24"), ip_network("2001:db8:1::/64")),
    gateways=frozenset({ip_address("198.51.100.1")}),
    elsewhere={ip_address("172.17.0.1"): "docker0"},
    listeners=(Listener(Protocol.TCP, None, 22, "sshd (pid 812)"),),
    api_servers=frozenset({ip_address("198.51.100.5")}),
)
SETTINGS = Settings(stand_alone=True, refused_networks=(ip_network("203.0.113.224/28"),))
CONFLICTS = {ip_address("203.0.113.150"): "address 203.0.113.150 belongs to 02:00:00:00:00:07"}


class Known(Generic[T]):
    """A sink that remembers, as the store does."""

    def __init__(self) -> None:
        """Nothing is known."""
        self.items: dict[str, T] = {}

    def upsert(self, item: T) -> None:
        """Remember."""
        self.items[item.key] = item

    def remove(self, key: str) -> None:
        """Forget."""
        self.items.pop(key, None)

    def retain(self, keys: frozenset[str]) -> None:
        """Forget all others."""
        self.items = {key: item for key, item in self.items.items() if key in keys}


def snapshot(services: Iterable[Service], slices: Iterable[EndpointSlice], nodes: Iterable[Node]) -> Snapshot:
    """Make a snapshot, as the store does."""
    by_service: dict[str, tuple[EndpointSlice, ...]] = {}
    for piece in slices:
        by_service[piece.service_key] = (*by_service.get(piece.service_key, ()), piece)
    return Snapshot(
        SETTINGS,
        HOST,
        {service.key: service for service in services},
        by_service,
        {node.name: node for node in nodes},
        conflicts=CONFLICTS,
    )


def from_folder(folder: Path) -> tuple[Snapshot, tuple[str, ...]]:
    """Read a folder: what is known then, and the errors."""
    services, slices, nodes = Known[Service](), Known[EndpointSlice](), Known[Node]()
    source = FolderSource(folder, services, slices, nodes)
    source.load_once()
    found = snapshot(services.items.values(), slices.items.values(), nodes.items.values())
    return found, tuple(str(error) for error in source.errors)


def from_api(documents: Iterable[Any], mutated: Iterable[tuple[str, Any]] = ()) -> Snapshot:
    """Decode what an API server would send; objects without a readable kind come where their request was for one."""
    kinds: dict[str, list[Any]] = {"Service": [], "EndpointSlice": [], "Node": []}
    for document in documents:
        kinds[document["kind"] if isinstance(document, dict) else "Service"].append(document)
    for kind, document in mutated:
        kinds[kind].append(document)
    pages = {kind: json.dumps({"items": items}).encode() for kind, items in kinds.items()}
    return snapshot(
        decode_service_page(pages["Service"]).items,
        decode_slice_page(pages["EndpointSlice"]).items,
        decode_node_page(pages["Node"]).items,
    )


@cache
def baseline() -> DesiredState:
    """Decide for the neighbours alone."""
    state = compute(from_api(good_documents()))
    assert len(state.forwards) == len(state.placements) == NEIGHBOURS
    assert all(forward.backends for forward in state.forwards.values())
    return state


def judge(state: DesiredState, outcome: Outcome, key: str = KEY) -> None:
    """Check the neighbours, then what became of the bad one."""
    good = baseline()
    extra = {frontend: forward for frontend, forward in state.forwards.items() if frontend not in good.forwards}
    assert {frontend: state.forwards.get(frontend) for frontend in good.forwards} == good.forwards
    assert {address: state.placements.get(address) for address in good.placements} == good.placements
    decision = state.decisions.get(key)
    match outcome:
        case Refused(reason):
            assert decision is not None
            assert reason in {refusal.reason for refusal in decision.refusals}
            assert not extra
            assert state.placements == good.placements
        case Unserved(reason):
            assert decision is not None
            assert reason in {notice.reason for notice in decision.notices}
            assert len(extra) == 1
            assert not any(forward.backends and forward.source_ranges != () for forward in extra.values())
        case Rejected() | Unknown():
            assert not any(forward.backends for forward in extra.values())
        case _:
            assert_never(outcome)
    said = [*(r.message for r in decision.refusals), *(n.message for n in decision.notices)] if decision else []
    assert all(message.isprintable() and len(message) <= 1024 for message in said)


def test_the_table_is_large_and_its_rows_have_names_of_their_own() -> None:
    """At least sixty bad objects, each by a door that exists."""
    assert len({case.id for case in CASES}) == len(CASES) >= 60
    assert all(case.text or case.documents or case.id == "file-empty" for case in CASES)
    assert sum(case.real for case in CASES) >= 50
    assert all(case.api is not None for case in CASES if case.real)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_from_a_folder(case: Case, tmp_path: Path) -> None:
    """A refusal on the object, or an error that names its file; nothing is made for it; neighbours are served."""
    (tmp_path / "good.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": good_documents()}))
    text = case.text if case.id.startswith("file-") else yaml.safe_dump_all(case.documents).encode()
    (tmp_path / "bad.yaml").write_bytes(text)
    world, errors = from_folder(tmp_path)
    if isinstance(case.folder, Rejected):
        assert errors
        assert all(error.startswith("bad.yaml") and error.isprintable() and len(error) < 400 for error in errors)
        assert any(case.folder.text in error for error in errors)
    else:
        assert errors == ()
    judge(compute(world), case.folder)


@pytest.mark.parametrize("case", [case for case in CASES if case.api is not None], ids=lambda case: case.id)
def test_from_an_api_server(case: Case) -> None:
    """The same through decode; deciding again for the bad one only gives the same as deciding for all."""
    assert case.api is not None
    world = from_api([*good_documents(), *case.documents])
    state = compute(world)
    judge(state, case.api)
    again = compute(replace(world, dirty=Dirty(services=frozenset({KEY}), endpoints=frozenset({KEY}))), baseline())
    assert again.decisions == state.decisions
    assert again.forwards == state.forwards
    assert again.placements == state.placements


async def post(server: ServerUnderTest, document: Any) -> int:
    """Create one object of a row in the test's namespace; the answer's code."""
    body = json.loads(json.dumps(document))
    kind, group = "services", ""
    if isinstance(body, dict):
        if isinstance(body.get("metadata"), dict):
            body["metadata"]["namespace"] = server.namespace
        if body.get("kind") == "EndpointSlice":
            kind, group = "endpointslices", "discovery.k8s.io"
        elif isinstance(body.get("spec"), dict):
            body["spec"].setdefault("allocateLoadBalancerNodePorts", False)
    return (await server.ask("POST", server.path(kind, group=group), body)).code


async def read_back(server: ServerUnderTest) -> Snapshot:
    """What a daemon would know: the neighbours, and the bad Service as the server lists it."""
    good = from_api(good_documents())
    services = await server.transport.fetch(Request("GET", server.path("services")))
    slices = await server.transport.fetch(Request("GET", server.path("endpointslices", group="discovery.k8s.io")))
    return snapshot(
        [*good.services.values(), *decode_service_page(services.body).items],
        [*(piece for pieces in good.slices.values() for piece in pieces), *decode_slice_page(slices.body).items],
        good.nodes.values(),
    )


async def forget(server: ServerUnderTest) -> None:
    """Delete the row's objects."""
    for path in (server.path("services", NAME), server.path("endpointslices", f"{NAME}-1", group="discovery.k8s.io")):
        await server.ask("DELETE", path)


@pytest.mark.timeout(180)
async def test_by_an_api_server(server: ServerUnderTest, request: pytest.FixtureRequest) -> None:
    """What the table says of the real server's door holds, and what comes through is judged as the table says."""
    real = "real" in request.node.name
    wrong = []
    # The double does not claim the real server's validation: it is asked only for what comes through.
    for case in (case for case in CASES if case.api is not None and (real or case.real)):
        codes = [await post(server, document) for document in case.documents]
        accepted = all(code == 201 for code in codes)
        if accepted != case.real:
            wrong.append((case.id, codes))
        if accepted and case.api is not None:
            # A server of one family says so in ipFamilies, and that is judged first.
            outcome = Refused(Reason.WRONG_FAMILY) if case.id.endswith("-v6") else case.api
            judge(compute(await read_back(server)), outcome, f"{server.namespace}/{NAME}")
        await forget(server)
    assert not wrong


def paths(whole: Any, prefix: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Name every place of an object."""
    inside: list[tuple[str | int, Any]] = []
    if isinstance(whole, dict):
        inside = list(whole.items())
    elif isinstance(whole, list):
        inside = list(enumerate(whole))
    return [place for step, value in inside for place in ((*prefix, step), *paths(value, (*prefix, step)))]


MUTABLE = [neighbour(101)[0], neighbour(101)[1], good_documents()[0]]
SPARKS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=12)
    | st.sampled_from(["203.0.113.1", "198.51.100.10", "127.0.0.1", "IPv6", "UDP", "NodePort", "shop", "good-1", ESC]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=200)
@given(st.data())
def test_any_mutation_is_decided_without_an_exception(data: st.DataObject) -> None:
    """One value of a sound object replaced by anything: a decision, the same one step by step, and no bad backend."""
    documents = [(document["kind"], json.loads(json.dumps(document))) for document in MUTABLE]
    _, whole = data.draw(st.sampled_from(documents))
    *way, last = data.draw(st.sampled_from(paths(whole)))
    place = whole
    for step in way:
        place = place[step]
    place[last] = data.draw(SPARKS)
    before = from_api(good_documents()[1:21])
    world = from_api(good_documents()[1:21], documents)
    state = compute(world)
    for forward in state.forwards.values():
        assert forward.service in world.services
        for backend in forward.backends:
            assert 1 <= backend.port <= 65535
            assert not backend.address.is_loopback
            assert backend.address not in HOST.own
            assert backend.address not in state.placements
    dirty = Dirty(frozenset(world.services), frozenset(world.slices))
    again = compute(replace(world, nodes=before.nodes, dirty=dirty), compute(before))
    assert again.decisions == compute(replace(world, nodes=before.nodes)).decisions
