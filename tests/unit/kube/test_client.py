"""The client's paths, lines and errors: what needs no server, and what a real one would seldom do."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from littlelb.core.errors import Permanent, Transient
from littlelb.kube.client import (
    ENDPOINT_SLICES,
    EVENTS,
    LEASES,
    NODES,
    SERVICES,
    Api,
    Conflict,
    Gone,
    Invalid,
    LineSplitter,
    NotFound,
    Reference,
    Selection,
    parse_refusal,
)
from littlelb.kube.transport import Answer, Transport
from littlelb.testing.clock import LoopClock, run_virtual
from littlelb.testing.fake_api import FakeApi, FixedCredentials
from littlelb.testing.fake_api_faults import Fault

WEB = Reference(SERVICES, "default", "web")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (SERVICES.path(), "/api/v1/services"),
        (SERVICES.path("default", "web", "status"), "/api/v1/namespaces/default/services/web/status"),
        (NODES.path(name="n1"), "/api/v1/nodes/n1"),
        (ENDPOINT_SLICES.path("a"), "/apis/discovery.k8s.io/v1/namespaces/a/endpointslices"),
        (LEASES.path("a/b", "../x"), "/apis/coordination.k8s.io/v1/namespaces/a%2Fb/leases/..%2Fx"),
    ],
)
def test_paths(path: str, expected: str) -> None:
    """Core and named groups, with and without a namespace; no name can leave its place in the path."""
    assert path == expected


def test_selectors_are_sent_when_there_are_any() -> None:
    """An empty selector is left out."""
    assert Selection(NODES).query == {}
    assert Selection(NODES, labels="a=b", fields="metadata.name=n").query == {
        "labelSelector": "a=b",
        "fieldSelector": "metadata.name=n",
    }


# --- lines ---


@given(lines=st.lists(st.binary().filter(lambda line: b"\n" not in line)), cuts=st.lists(st.integers(0, 200)))
def test_lines_do_not_depend_on_chunks(lines: list[bytes], cuts: list[int]) -> None:
    """Wherever the stream is cut, the same lines come out, without blank ones."""
    stream = b"".join(line + b"\n" for line in lines)
    borders = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    splitter = LineSplitter()
    found = [line for start, end in pairwise(borders) if start < end for line in splitter.feed(stream[start:end])]
    assert found == [line for line in lines if line.strip()]


def test_a_line_without_end_is_refused() -> None:
    """More than the limit without a line's end is an error, not a growing buffer."""
    splitter = LineSplitter(limit=100)
    assert splitter.feed(b"x" * 100) == []
    with pytest.raises(Transient, match="more than 100 bytes"):
        splitter.feed(b"x")


def test_a_half_line_is_kept_for_later() -> None:
    """The rest of a chunk begins the next line."""
    splitter = LineSplitter()
    assert splitter.feed(b"one\ntw") == [b"one"]
    assert splitter.feed(b"o\n") == [b"two"]


# --- refusals ---


@pytest.mark.parametrize(
    ("code", "kind"),
    [(400, Invalid), (404, NotFound), (409, Conflict), (410, Gone), (422, Invalid), (429, Transient), (503, Transient)],
)
def test_codes_that_may_pass(code: int, kind: type[Transient]) -> None:
    """Each has its own error; the wish of Retry-After goes with it, and the server's words."""
    body = msgspec.json.encode({"kind": "Status", "code": code, "message": "what the server says"})
    error = parse_refusal(Answer(code, body, 4.0), "patch", WEB)
    assert type(error) is kind
    assert error.retry_after_seconds == 4.0
    assert str(error) == "cannot patch services default/web: what the server says"


def test_forbidden_names_what_the_role_lacks() -> None:
    """A 403 is permanent and says which verb on which resource is missing, with the subresource."""
    what = Reference(SERVICES, "default", "web", "status")
    error = parse_refusal(Answer(403, b"{}"), "patch", what)
    assert isinstance(error, Permanent)
    assert "lacks the verb patch on services/status of API group 'core'" in str(error)


def test_what_admission_refuses_is_not_blamed_on_the_role() -> None:
    """A quota or a webhook answers 403 too; its own words say what to do."""
    said = b'{"message":"events \\"x\\" is forbidden: exceeded quota: small"}'
    error = parse_refusal(Answer(403, said), "create", Reference(EVENTS, "default"))
    assert isinstance(error, Permanent)
    assert "exceeded quota: small" in str(error)
    assert "role" not in str(error)
    said = b'{"message":"User \\"x\\" cannot create resource \\"events\\""}'
    assert "lacks the verb create" in str(parse_refusal(Answer(403, said), "create", Reference(EVENTS, "default")))


def test_a_namespace_that_is_being_deleted_takes_nothing_new() -> None:
    """Its 403 counts as a 404: the object is as good as gone."""
    said = (
        b'{"message":"forbidden","details":{"causes":[{"reason":"NamespaceTerminating","field":"metadata.namespace"}]}}'
    )
    error = parse_refusal(Answer(403, said), "create", Reference(EVENTS, "default"))
    assert isinstance(error, NotFound)
    assert "its namespace is being deleted" in str(error)


def test_unauthorized_says_what_to_do() -> None:
    """A 401 that is left after the retry is permanent and asks for new credentials."""
    error = parse_refusal(Answer(401, b""), "list", Reference(NODES))
    assert isinstance(error, Permanent)
    assert "cannot list nodes" in str(error)
    assert "renew them" in str(error)


@pytest.mark.parametrize("body", [b"", b"<html>bad gateway</html>", b"[1]", b'{"code":"x"}'])
def test_a_body_that_is_no_status(body: bytes) -> None:
    """A proxy's page is not shown; the code is."""
    assert str(parse_refusal(Answer(502, body), "get", WEB)) == "cannot get services default/web: HTTP status 502"


# --- ping ---


def test_ping_wants_an_answer_within_ten_seconds() -> None:
    """Any answer but 5xx is a sign of life; silence is an error after 10 s."""

    async def scenario() -> None:
        async with FakeApi() as server:
            transport = Transport(FixedCredentials(server.url))
            api = Api(transport)
            await api.ping()
            refused = server.faults.add(Fault(status=403, times=1))
            await api.ping()
            assert refused.hits == 1
            server.faults.add(Fault(status=500, times=1))
            with pytest.raises(Transient, match="answers 500"):
                await api.ping()
            server.faults.add(Fault(swallow=True))
            started = LoopClock().monotonic()
            with pytest.raises(Transient, match="no answer"):
                await api.ping()
            assert LoopClock().monotonic() - started == pytest.approx(10, abs=0.1)
            await transport.close()

    run_virtual(scenario())
