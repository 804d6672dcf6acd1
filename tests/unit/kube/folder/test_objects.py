"""Objects of a folder, judged as the API server would judge them."""

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from littlelb.core.model import EndpointSlice, Node, Service, ServiceType
from littlelb.kube.folder.documents import Document, Json, Parsed, parse_file
from littlelb.kube.folder.objects import Manifest, read_manifest

WEB = """\
apiVersion: v1
kind: Service
metadata:
  name: web
spec:
  type: LoadBalancer
  loadBalancerIP: 203.0.113.10
  ports:
  - name: http
    port: 80
"""
PODS = """\
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  labels:
    kubernetes.io/service-name: web
addressType: IPv4
ports:
- name: http
  port: 8080
endpoints:
- addresses: [10.1.0.11]
"""
NODE = """\
apiVersion: v1
kind: Node
metadata:
  name: node-1.example.com
status:
  addresses:
  - type: InternalIP
    address: 198.51.100.1
"""


def read(*documents: str) -> Manifest:
    """Read a file of these documents."""
    return read_manifest("x.yaml", parse_file("x.yaml", "---\n".join(documents).encode()))


def service_of(text: str) -> Service:
    """Read the one Service of a sound text."""
    manifest = read(text)
    assert not manifest.errors
    ((thing, _),) = manifest.things.values()
    assert isinstance(thing, Service)
    return thing


def test_the_three_kinds_are_read() -> None:
    """Services, slices and nodes by kind and key, in the namespace `default` unless they say another."""
    manifest = read(WEB, PODS, NODE)
    assert not manifest.errors
    assert list(manifest.things) == [
        ("Service", "default/web"),
        ("EndpointSlice", "default/web-1"),
        ("Node", "node-1.example.com"),
    ]
    assert [type(thing) for thing, _ in manifest.things.values()] == [Service, EndpointSlice, Node]


def test_the_uid_follows_the_name_and_the_version_follows_the_content() -> None:
    """An edit changes the version and not the uid; another name changes the uid."""
    first, edited = service_of(WEB), service_of(WEB.replace("port: 80", "port: 81"))
    other = service_of(WEB.replace("name: web", "name: web2"))
    assert first.uid == edited.uid != other.uid
    assert first.resource_version != edited.resource_version
    assert first == service_of(WEB)
    assert first.type is ServiceType.LOAD_BALANCER


def test_what_a_server_wrote_is_dropped() -> None:
    """A dump of a live Service brings no status, no finalizer and no deletion of another cluster along."""
    dump = WEB.replace(
        "  name: web\n",
        "  name: web\n  uid: u7\n  creationTimestamp: 2026-11-23T18:00:00Z\n  deletionTimestamp: 2026-11-23T19:00:00Z\n"
        "  finalizers: [service.kubernetes.io/load-balancer-cleanup]\n",
    )
    found = service_of(dump + "status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}\n")
    assert (found.deleting, found.has_finalizer, found.ingress) == (False, False, ())
    assert found.uid == service_of(WEB).uid
    assert found.created == 1795456800.0


def test_a_list_gives_its_items() -> None:
    """Both `List` and the typed lists that `kubectl get -o json` never writes but the API does."""
    items = "\n".join(f"  {line}" for line in WEB.splitlines()).replace("  apiVersion", "- apiVersion", 1)
    assert list(read(f"apiVersion: v1\nkind: List\nitems:\n{items}\n").things) == [("Service", "default/web")]
    bare = "- metadata: {name: web}\n  spec: {ports: [{port: 80}]}\n"
    assert list(read(f"apiVersion: v1\nkind: ServiceList\nitems:\n{bare}").things) == [("Service", "default/web")]


def test_an_error_in_a_list_names_the_line_of_the_item() -> None:
    """Items are judged one by one."""
    text = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: A}}\n- 7\n"
    manifest = read(text)
    assert [(error.line, error.reason) for error in manifest.errors] == [
        (4, "metadata.name 'A' is not a valid name (RFC 1123)"),
        (5, "not an object: a mapping with apiVersion, kind and metadata is expected"),
    ]


def test_endpoints_become_slices() -> None:
    """A v1 Endpoints object of both families is two slices of the Service of its name."""
    manifest = read(
        "apiVersion: v1\nkind: Endpoints\nmetadata: {name: web}\n"
        "subsets:\n- addresses: [{ip: 10.1.0.11}, {ip: '2001:db8::11'}]\n  ports: [{port: 8080}]\n"
    )
    assert list(manifest.things) == [("EndpointSlice", "default/web-0-ipv4"), ("EndpointSlice", "default/web-0-ipv6")]


def test_what_a_server_takes_is_taken() -> None:
    """A headless Service without ports, and a slice whose port is null (all ports)."""
    bare = "apiVersion: v1\nkind: Service\nmetadata: {name: bare}\n"
    manifest = read(bare, PODS.replace("port: 8080", "port: null"))
    assert not manifest.errors
    assert [type(thing) for thing, _ in manifest.things.values()] == [Service, EndpointSlice]


def test_other_kinds_are_ignored_and_named() -> None:
    """A Deployment beside its Service is no error; neither is a Service of another API group."""
    manifest = read(
        WEB, "apiVersion: apps/v1\nkind: Deployment\n", "apiVersion: serving.knative.dev/v1\nkind: Service\n"
    )
    assert manifest.ignored == {"apps/v1 Deployment", "serving.knative.dev/v1 Service"}
    assert not manifest.errors
    assert len(manifest.things) == 1


def test_the_second_of_two_objects_of_one_name_is_an_error() -> None:
    """The first keeps the name, the error says where it stands."""
    manifest = read(WEB, WEB.replace("80", "81"))
    (error,) = manifest.errors
    assert (error.document, error.line) == (2, 12)
    assert error.reason == "Service default/web is already in document 1, line 1"
    assert service_of(WEB) == manifest.things["Service", "default/web"][0]


@pytest.mark.parametrize(
    ("old", "new", "line", "reason"),
    [
        ("apiVersion: v1\n", "", 1, "apiVersion and kind are needed"),
        ("kind: Service", "kind: 7", 1, "apiVersion and kind are needed"),
        ("  name: web\n", "  labels: {}\n", 4, "metadata.name is needed"),
        ("name: web\n", "name: Web!\n", 4, "metadata.name 'Web!' is not a valid name"),
        ("name: web\n", f"name: {'a' * 64}\n", 4, "is not a valid name"),
        ("name: web\n", 'name: "web\\x1b[2J"\n', 4, "metadata.name 'web\\x1b[2J' is not a valid name"),
        ("name: web\n", "name: web\n  namespace: a/b\n", 5, "metadata.namespace 'a/b' is not a valid name"),
        ("name: web\n", "name: [web]\n", 4, "metadata.name: Expected `str | null`, got `array`"),
        ("name: web\n", "name: web\n  labels: {a: 7}\n", 5, "Expected `str`, got `int`"),
        ("metadata:\n  name: web\n", "metadata: web\n", 3, "metadata: Expected `object | null`, got `str`"),
        ("type: LoadBalancer", "type: LoadBalancr", 6, "Invalid enum value 'LoadBalancr'"),
        ("loadBalancerIP:", "loadbalancerIP:", 7, "unknown field 'loadbalancerIP' in spec"),
        (
            "loadBalancerIP: 203.0.113.10",
            "loadBalancerIP: 7",
            7,
            "spec.loadBalancerIP: Expected `str | null`, got `int`",
        ),
        ("port: 80", "port: 80\n    nodeport: 1", 11, "unknown field 'nodeport' in spec.ports[0]"),
        ("port: 80", "port: 0", 10, "spec.ports[0].port 0 is not in 1 to 65535"),
        ("port: 80", "port: 65536", 10, "spec.ports[0].port 65536 is not in 1 to 65535"),
        ("port: 80", f"port: {2**70}", 10, "spec.ports[0].port: Expected `int` <= 2147483647"),
        ("port: 80", f"port: {2**30}", 10, "is not in 1 to 65535"),
        ("port: 80", "port: true", 10, "spec.ports[0].port: Expected `int`, got `bool`"),
        ("port: 80", "port: 80.0", 10, "spec.ports[0].port: Expected `int`, got `float`"),
        ("port: 80", "port: http", 10, "spec.ports[0].port: Expected `int`, got `str`"),
        ("port: 80", "port: 80\n    nodePort: 70000", 11, "spec.ports[0].nodePort 70000 is not in 1 to 65535"),
        ("port: 80", "port: 80\n    protocol: ICMP", 11, "Invalid enum value 'ICMP'"),
        ("name: http", "targetPort: 80", 9, "missing required field `port`"),
        ("    port: 80\n", "    port: 80\n  - {name: b, port: 80}\n", 11, "port 80/TCP is given twice"),
        ("    port: 80\n", "    port: 80\n  - {port: 81}\n", 11, "each needs a name of its own"),
        ("    port: 80\n", "    port: 80\n  - {name: http, port: 81}\n", 11, "each needs a name of its own"),
        ("name: http", "name: HTTP!", 9, "'HTTP!' is not a valid name"),
        ("  ports:\n  - name: http\n    port: 80\n", "  ports: []\n", 6, "spec.ports is needed"),
        ("  ports:\n", "  sessionAffinity: Cookie\n  ports:\n", 8, "spec.sessionAffinity 'Cookie' is none of"),
        (
            "  ports:\n",
            "  sessionAffinity: ClientIP\n  sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}\n  ports:\n",
            9,
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds is not in 1 to 86400",
        ),
        (
            "  ports:\n",
            "  healthCheckNodePort: 70000\n  ports:\n",
            8,
            "spec.healthCheckNodePort 70000 is not in 1 to 65535",
        ),
        (
            "  ports:\n",
            "  externalTrafficPolicy: local\n  ports:\n",
            8,
            "spec.externalTrafficPolicy 'local' is none of",
        ),
    ],
)
def test_a_service_that_a_server_would_refuse_is_an_error_with_its_line(
    old: str, new: str, line: int, reason: str
) -> None:
    """Field and line are named, and nothing is taken of it."""
    assert old in WEB
    text = WEB.replace(old, new, 1)
    if "missing required" in reason:
        text = text.replace("    port: 80\n", "")
    manifest = read(text)
    assert not manifest.things
    (error,) = manifest.errors
    assert reason in error.reason
    assert error.line == line
    assert error.reason.isprintable()


@pytest.mark.parametrize(
    ("document", "old", "new", "line", "reason"),
    [
        (PODS, "    kubernetes.io/service-name: web\n", "    a: b\n", 6, "label kubernetes.io/service-name is needed"),
        (PODS, "addressType: IPv4", "addressType: IPv5", 11, "its addressType is none of IPv4, IPv6 and FQDN"),
        (PODS, "10.1.0.11", "10.1.0.011", 11, "endpoint address '10.1.0.011' is not an IPv4 address"),
        (PODS, "10.1.0.11", "2001:db8::1", 11, "endpoint address '2001:db8::1' is not an IPv4 address"),
        (PODS, "[10.1.0.11]", "[]", 11, "endpoint address none is not an IPv4 address"),
        (PODS, "port: 8080", "port: 80800", 10, "ports[0].port 80800 is not in 1 to 65535"),
        (PODS, "port: 8080", "port: '8080'", 10, "ports[0].port: Expected `int | null`, got `str`"),
        (NODE, "name: node-1.example.com", "name: -node", 4, "metadata.name '-node' is not a valid name"),
        (NODE, "198.51.100.1", "198.51.100.1/24", 7, "address '198.51.100.1/24' is not an IP address"),
        (NODE, "address: 198.51.100.1", "address: 7", 8, "Expected `str | null`, got `int`"),
    ],
)
def test_slices_and_nodes_are_judged_too(document: str, old: str, new: str, line: int, reason: str) -> None:
    """What could not be used is said, not left out in silence."""
    assert old in document
    manifest = read(document.replace(old, new, 1))
    assert not manifest.things
    (error,) = manifest.errors
    assert reason in error.reason
    assert abs(error.line - line) <= 1


def test_a_long_reason_is_cut() -> None:
    """A megabyte of text in the wrong place does not become a megabyte of log."""
    (error,) = read(WEB.replace("type: LoadBalancer", f"type: {'x' * 1_000_000}")).errors
    assert len(error.reason) <= 300


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
SOUND = [document.value for document in parse_file("x.yaml", f"{WEB}---\n{PODS}---\n{NODE}".encode()).documents]


def paths(whole: Json, prefix: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Name every place of an object."""
    inside: list[tuple[str | int, Json]] = []
    if isinstance(whole, dict):
        inside = list(whole.items())
    elif isinstance(whole, list):
        inside = list(enumerate(whole))
    return [place for step, value in inside for place in ((*prefix, step), *paths(value, (*prefix, step)))]


@given(st.data())
def test_any_mutation_is_an_object_or_an_error(data: st.DataObject) -> None:
    """One value replaced by anything: taken, ignored, or an error, and never an exception."""
    whole: Any = copy.deepcopy(data.draw(st.sampled_from(SOUND)))
    *way, last = data.draw(st.sampled_from(paths(whole)))
    place = whole
    for step in way:
        place = place[step]
    place[last] = data.draw(VALUES)
    manifest = read_manifest("x.yaml", Parsed([Document(1, whole)]))
    assert manifest.things or manifest.errors or manifest.ignored
    assert all(error.reason.isprintable() and error.reason for error in manifest.errors)
