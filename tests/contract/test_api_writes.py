"""What writes to an API server do, fake and real: everything that publishing, Leases and Events rely on."""

from typing import Any

import pytest

from tests.contract.conftest import MERGE, STRATEGIC, Said, ServerUnderTest

FINALIZER = "service.kubernetes.io/load-balancer-cleanup"
CONDITION = {
    "type": "littlelb.io/Served",
    "status": "True",
    "reason": "Served",
    "message": "all is well",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
}
NOW = "2026-01-01T00:00:00.000001Z"


async def patch_status(server: ServerUnderTest, name: str, patch: object, manager: str = "littlelb") -> Said:
    """Patch services/status as the program does."""
    return await server.ask("PATCH", server.path("services", name, "status"), patch, fieldManager=manager)


def ingress(*entries: dict[str, Any]) -> dict[str, Any]:
    """Make a patch of the load balancer's status."""
    return {"status": {"loadBalancer": {"ingress": list(entries)}}}


# --- creating ---


async def test_create_fills_in(server: ServerUnderTest) -> None:
    """A new Service has uid, creationTimestamp, resourceVersion, defaults, and an empty status."""
    said = await server.service("web", status={"ignored": "yes"})
    meta, spec = said.body["metadata"], said.body["spec"]
    assert (meta["name"], meta["namespace"]) == ("web", server.namespace)
    assert len(meta["uid"]) == 36
    assert meta["creationTimestamp"].endswith("Z")
    assert spec["ports"] == [{"port": 80, "targetPort": 80, "protocol": "TCP"}]
    assert spec["externalTrafficPolicy"] == "Cluster"
    assert (spec["sessionAffinity"], spec["ipFamilies"]) == ("None", ["IPv4"])
    assert said.body["status"] == {"loadBalancer": {}}


async def test_node_ports_are_given(server: ServerUnderTest) -> None:
    """Without allocateLoadBalancerNodePorts: false every port gets a node port; they go with the type."""
    said = await server.service("web", {"type": "LoadBalancer", "ports": [{"port": 80}]})
    assert 30_000 <= said.body["spec"]["ports"][0]["nodePort"] <= 32_767
    said = await server.ask("PATCH", server.path("services", "web"), {"spec": {"type": "ClusterIP"}})
    assert "nodePort" not in said.body["spec"]["ports"][0]


@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [("taken", 409, "AlreadyExists"), ("UPPER", 422, "Invalid"), ("", 422, "Invalid"), ("a.b", 422, "Invalid")],
)
async def test_names_that_cannot_be(server: ServerUnderTest, name: str, code: int, reason: str) -> None:
    """A name that exists, that is no DNS label, or none at all."""
    await server.service("taken")
    body = {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}]}}
    said = await server.ask("POST", server.path("services"), body)
    assert (said.code, said.body["reason"]) == (code, reason)


async def test_generated_names(server: ServerUnderTest) -> None:
    """`generateName` gets five characters; one that ends with a dot is refused where a label is wanted."""
    body = {"metadata": {"generateName": "web-"}, "spec": {"ports": [{"port": 80}]}}
    said = await server.ask("POST", server.path("services"), body)
    assert said.code == 201
    assert len(said.body["metadata"]["name"]) == len("web-") + 5


async def test_a_namespace_that_is_not_there(server: ServerUnderTest) -> None:
    """Creating in it is a 404."""
    body = {"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}}
    said = await server.ask("POST", "/api/v1/namespaces/there-is-none/services", body)
    assert (said.code, said.body["reason"]) == (404, "NotFound")


# --- patching and conflicts ---


@pytest.mark.parametrize("content", [STRATEGIC, MERGE])
async def test_a_patch_that_changes_nothing(server: ServerUnderTest, content: str) -> None:
    """It does not make a new resourceVersion, not even by another field manager."""
    patch = {"metadata": {"annotations": {"example.com/a": "1"}}}
    await server.service("web")
    first = await server.ask("PATCH", server.path("services", "web"), patch, content, fieldManager="one")
    again = await server.ask("PATCH", server.path("services", "web"), patch, content, fieldManager="one")
    assert again.version == first.version


@pytest.mark.parametrize("content", [STRATEGIC, MERGE])
async def test_a_stale_version_is_a_conflict(server: ServerUnderTest, content: str) -> None:
    """A patch that names an old resourceVersion is 409; the newest one is taken."""
    old = await server.service("web")
    new = await server.ask("PATCH", server.path("services", "web"), {"metadata": {"labels": {"a": "1"}}})
    for version, code in ((old.version, 409), (new.version, 200)):
        patch = {"metadata": {"resourceVersion": version, "labels": {"b": "2"}}}
        assert (await server.ask("PATCH", server.path("services", "web"), patch, content)).code == code


async def test_another_uid_is_refused(server: ServerUnderTest) -> None:
    """A write for an object that was deleted and made anew fails: a patch with 422, a PUT with 409."""
    made = await server.service("web")
    other = {"uid": "00000000-0000-4000-8000-000000000000"}
    assert (await patch_status(server, "web", {"metadata": other | {"labels": {"a": "1"}}})).code == 422
    body = made.body | {"metadata": made.body["metadata"] | other}
    assert (await server.ask("PUT", server.path("services", "web"), body)).code == 409


async def test_a_patch_of_nothing(server: ServerUnderTest) -> None:
    """A missing object is 404, an unknown kind of patch 415."""
    assert (await patch_status(server, "none", {"metadata": {}})).code == 404
    await server.service("web")
    said = await server.ask("PATCH", server.path("services", "web"), {}, "text/plain")
    assert said.code == 415


# --- finalizers ---


async def test_finalizers_are_a_set(server: ServerUnderTest) -> None:
    """A strategic patch through /status adds ours to others', and takes only ours away."""
    await server.service("web", finalizers=["example.com/theirs"])
    added = await patch_status(server, "web", {"metadata": {"finalizers": [FINALIZER]}})
    assert sorted(added.body["metadata"]["finalizers"]) == ["example.com/theirs", FINALIZER]
    gone = {"metadata": {"$deleteFromPrimitiveList/finalizers": [FINALIZER]}}
    removed = await patch_status(server, "web", gone)
    assert removed.body["metadata"]["finalizers"] == ["example.com/theirs"]


async def test_a_finalizer_delays_the_end(server: ServerUnderTest) -> None:
    """A deleted Service with a finalizer gets a deletionTimestamp; it goes with the last finalizer."""
    created = await server.service("web", finalizers=[FINALIZER])
    async with server.watch(server.path("services"), resourceVersion=created.version) as events:
        await server.ask("DELETE", server.path("services", "web"))
        event = await events.next()
        assert event["type"] == "MODIFIED"
        assert event["object"]["metadata"]["deletionTimestamp"]
        gone = {"metadata": {"$deleteFromPrimitiveList/finalizers": [FINALIZER]}}
        assert (await patch_status(server, "web", gone)).code == 200
        assert await events.take(1) == [("DELETED", "web")]
    assert (await server.ask("GET", server.path("services", "web"))).code == 404


# --- status ---


async def test_status_and_spec_are_apart(server: ServerUnderTest) -> None:
    """/status leaves the spec alone but takes metadata; the object's own path leaves the status alone."""
    await server.service("web")
    patch = {"spec": {"sessionAffinity": "ClientIP"}, "metadata": {"annotations": {"a": "1"}}}
    said = await patch_status(server, "web", patch | ingress({"ip": "203.0.113.7"}))
    assert said.body["spec"]["sessionAffinity"] == "None"
    assert said.body["metadata"]["annotations"] == {"a": "1"}
    assert said.body["status"]["loadBalancer"]["ingress"] == [{"ip": "203.0.113.7", "ipMode": "VIP"}]
    said = await server.ask("PATCH", server.path("services", "web"), {"status": {"loadBalancer": {"ingress": None}}})
    assert said.body["status"]["loadBalancer"]["ingress"] == [{"ip": "203.0.113.7", "ipMode": "VIP"}]


async def test_ingress_is_one_list(server: ServerUnderTest) -> None:
    """A strategic patch replaces it as a whole, and null clears it."""
    await server.service("web")
    await patch_status(server, "web", ingress({"ip": "203.0.113.7"}, {"hostname": "web.example.com"}))
    said = await patch_status(server, "web", ingress({"ip": "203.0.113.8", "ipMode": "Proxy"}))
    assert said.body["status"]["loadBalancer"]["ingress"] == [{"ip": "203.0.113.8", "ipMode": "Proxy"}]
    said = await patch_status(server, "web", {"status": {"loadBalancer": {"ingress": None}}})
    assert said.body["status"] == {"loadBalancer": {}}


async def test_conditions_are_merged_by_type(server: ServerUnderTest) -> None:
    """A strategic patch leaves other conditions, changes ours, and can take it away."""
    await server.service("web")
    theirs = CONDITION | {"type": "example.com/Theirs"}
    await patch_status(server, "web", {"status": {"conditions": [theirs]}}, "other")
    await patch_status(server, "web", {"status": {"conditions": [CONDITION]}})
    said = await patch_status(server, "web", {"status": {"conditions": [CONDITION | {"message": "changed"}]}})
    found = {condition["type"]: condition["message"] for condition in said.body["status"]["conditions"]}
    assert found == {"example.com/Theirs": "all is well", "littlelb.io/Served": "changed"}
    gone = {"status": {"conditions": [{"type": "littlelb.io/Served", "$patch": "delete"}]}}
    said = await patch_status(server, "web", gone)
    assert [condition["type"] for condition in said.body["status"]["conditions"]] == ["example.com/Theirs"]


PORT = {"port": 80, "protocol": "TCP"}


@pytest.mark.parametrize(
    ("entry", "code"),
    [
        ({"ip": "203.0.113.7", "ports": [PORT | {"error": "littlelb.io/ProtocolNotSupported"}]}, 200),
        ({"ip": "203.0.113.7", "ports": [PORT]}, 200),
        ({"ip": "203.0.113.7", "ports": [PORT | {"error": "not a name!"}]}, 200),
        ({"ip": "2001:db8::7", "ipMode": "VIP"}, 200),
        ({"ip": "203.0.113.7", "ipMode": "Other"}, 422),
        ({"hostname": "web.example.com", "ipMode": "VIP"}, 422),
        ({"ip": "203.0.113.007"}, 422),
        ({"ip": "::ffff:203.0.113.7"}, 422),
        ({"ip": "nonsense"}, 422),
    ],
)
async def test_what_an_ingress_may_be(server: ServerUnderTest, entry: dict[str, Any], code: int) -> None:
    """Addresses and modes are checked; port errors pass as they are."""
    await server.service("web")
    assert (await patch_status(server, "web", ingress(entry))).code == code


async def test_ingress_only_on_load_balancers(server: ServerUnderTest) -> None:
    """On a Service of another type it is a 422."""
    await server.service("web", {"ports": [{"port": 80}]})
    assert (await patch_status(server, "web", ingress({"ip": "203.0.113.7"}))).code == 422


async def test_leaving_the_type_clears_the_ingress(server: ServerUnderTest) -> None:
    """The server itself clears status.loadBalancer and the class; conditions and finalizers stay."""
    spec = {"type": "LoadBalancer", "loadBalancerClass": "example.com/a", "ports": [{"port": 80}]}
    await server.service("web", spec, finalizers=[FINALIZER])
    await patch_status(server, "web", ingress({"ip": "203.0.113.7"}))
    await patch_status(server, "web", {"status": {"conditions": [CONDITION]}})
    said = await server.ask("PATCH", server.path("services", "web"), {"spec": {"type": "ClusterIP"}})
    assert said.body["status"]["loadBalancer"] == {}
    assert [condition["type"] for condition in said.body["status"]["conditions"]] == ["littlelb.io/Served"]
    assert said.body["metadata"]["finalizers"] == [FINALIZER]
    assert (
        not {"loadBalancerClass", "allocateLoadBalancerNodePorts", "externalTrafficPolicy"} & said.body["spec"].keys()
    )


async def test_the_class_cannot_change(server: ServerUnderTest) -> None:
    """Neither to another nor from none, while the type stays."""
    await server.service("web")
    patch = {"spec": {"loadBalancerClass": "example.com/a"}}
    assert (await server.ask("PATCH", server.path("services", "web"), patch)).code == 422


async def test_external_addresses(server: ServerUnderTest) -> None:
    """They can be set on the object's own path only, and are checked."""
    await server.service("web")
    said = await server.ask("PATCH", server.path("services", "web"), {"spec": {"externalIPs": ["203.0.113.7"]}})
    assert said.body["spec"]["externalIPs"] == ["203.0.113.7"]
    said = await server.ask("PATCH", server.path("services", "web"), {"spec": {"externalIPs": ["nonsense"]}})
    assert said.code == 422


# --- who wrote what ---


async def owned(server: ServerUnderTest, name: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return (manager, subresource) → fieldsV1 of a Service."""
    meta = (await server.ask("GET", server.path("services", name))).body["metadata"]
    assert all(entry["fieldsType"] == "FieldsV1" for entry in meta["managedFields"])
    assert all(entry["operation"] == "Update" for entry in meta["managedFields"])
    return {(entry["manager"], entry.get("subresource", "")): entry["fieldsV1"] for entry in meta["managedFields"]}


async def test_what_we_write_is_ours(server: ServerUnderTest) -> None:
    """Finalizer, ingress and our condition, written through /status, stand under our name, to the letter."""
    await server.service("web")
    await patch_status(server, "web", {"metadata": {"finalizers": [FINALIZER]}})
    await patch_status(server, "web", ingress({"ip": "203.0.113.7"}))
    await patch_status(server, "web", {"status": {"conditions": [CONDITION]}})
    condition: dict[str, dict[str, Any]] = {".": {}, **{f"f:{name}": {} for name in CONDITION}}
    assert (await owned(server, "web"))["littlelb", "status"] == {
        "f:metadata": {"f:finalizers": {".": {}, f'v:"{FINALIZER}"': {}}},
        "f:status": {
            "f:conditions": {".": {}, 'k:{"type":"littlelb.io/Served"}': condition},
            "f:loadBalancer": {"f:ingress": {}},
        },
    }


async def test_who_writes_last_owns(server: ServerUnderTest) -> None:
    """A new value by somebody else takes the field from us, the rest stays ours; what goes is nobody's."""
    await server.service("web")
    await patch_status(server, "web", {"metadata": {"finalizers": [FINALIZER]}} | ingress({"ip": "203.0.113.7"}))
    await patch_status(server, "web", ingress({"ip": "203.0.113.8"}), "other")
    fields = await owned(server, "web")
    assert fields["littlelb", "status"].keys() == {"f:metadata"}
    assert fields["other", "status"] == {"f:status": {"f:loadBalancer": {"f:ingress": {}}}}
    await patch_status(server, "web", {"metadata": {"$deleteFromPrimitiveList/finalizers": [FINALIZER]}}, "other")
    assert ("littlelb", "status") not in await owned(server, "web")


async def test_external_addresses_have_an_owner(server: ServerUnderTest) -> None:
    """spec.externalIPs is one field with one owner."""
    await server.service("web")
    patch = {"spec": {"externalIPs": ["203.0.113.7"]}}
    await server.ask("PATCH", server.path("services", "web"), patch, fieldManager="littlelb")
    assert (await owned(server, "web"))["littlelb", ""] == {"f:spec": {"f:externalIPs": {}}}


# --- Leases and Events ---

LEASES, EVENTS, SLICES = "coordination.k8s.io", "events.k8s.io", "discovery.k8s.io"


async def test_leases(server: ServerUnderTest) -> None:
    """A Lease is created once, replaced with its version, refused with an old one, and without one."""
    path = server.path("leases", group=LEASES)
    lease: dict[str, Any] = {"metadata": {"name": "holder"}, "spec": {"holderIdentity": "a", "renewTime": NOW}}
    lease["spec"] |= {"leaseDurationSeconds": 15, "acquireTime": NOW, "leaseTransitions": 0}
    created = await server.ask("POST", path, lease)
    assert (created.code, created.body["spec"]) == (201, lease["spec"])
    assert (await server.ask("POST", path, lease)).code == 409
    lease["spec"]["holderIdentity"] = "b"
    assert (await server.ask("PUT", f"{path}/holder", lease)).code == 422
    lease["metadata"]["resourceVersion"] = created.version
    taken = await server.ask("PUT", f"{path}/holder", lease)
    assert (taken.code, taken.body["spec"]["holderIdentity"]) == (200, "b")
    assert (await server.ask("PUT", f"{path}/holder", lease)).code == 409
    bad = {"metadata": {"name": "bad"}, "spec": {"leaseDurationSeconds": 0}}
    assert (await server.ask("POST", path, bad)).code == 422


def event(server: ServerUnderTest, **changes: object) -> dict[str, Any]:
    """Make an Event as the recorder does."""
    regarding = {"kind": "Service", "apiVersion": "v1", "namespace": server.namespace, "name": "web"}
    fields = {
        "metadata": {"name": "web.1a2b"},
        "eventTime": NOW,
        "reportingController": "littlelb.io/littlelb",
        "reportingInstance": "node-1",
        "action": "Allocate",
        "reason": "IPAllocated",
        "type": "Normal",
        "note": "203.0.113.7",
        "regarding": regarding,
    }
    return {key: value for key, value in (fields | changes).items() if value is not None}


@pytest.mark.parametrize(
    "changes",
    [
        {"eventTime": None},
        {"reportingController": None},
        {"reportingController": "not qualified!"},
        {"reportingInstance": None},
        {"reportingInstance": "x" * 129},
        {"action": None},
        {"action": "x" * 129},
        {"reason": None},
        {"reason": "x" * 129},
        {"type": "Bad"},
        {"note": "x" * 1_025},
    ],
    ids=str,
)
async def test_events_that_are_refused(server: ServerUnderTest, changes: dict[str, Any]) -> None:
    """Each field has its limits."""
    said = await server.ask("POST", server.path("events", group=EVENTS), event(server, **changes))
    assert said.code == 422


async def test_events(server: ServerUnderTest) -> None:
    """An Event is taken, its series can be patched, and nothing else of it."""
    path = server.path("events", group=EVENTS)
    assert (await server.ask("POST", path, event(server))).code == 201
    series = {"series": {"count": 2, "lastObservedTime": NOW}}
    said = await server.ask("PATCH", f"{path}/web.1a2b", series, MERGE)
    assert (said.code, said.body["series"]) == (200, series["series"])
    assert (await server.ask("PATCH", f"{path}/web.1a2b", {"note": "another"}, MERGE)).code == 422


async def test_slices_count_their_generations(server: ServerUnderTest) -> None:
    """A new slice has generation 1, one more for content or a label, not for an annotation; no endpoints are null."""
    path = server.path("endpointslices", group=SLICES)
    body = {"metadata": {"name": "web-1"}, "addressType": "IPv4", "endpoints": None, "ports": [{"port": 80}]}
    created = await server.ask("POST", path, body)
    assert (created.body["metadata"]["generation"], created.body["endpoints"]) == (1, None)
    assert created.body["ports"] == [{"name": "", "protocol": "TCP", "port": 80}]
    said = await server.ask("PATCH", f"{path}/web-1", {"endpoints": [{"addresses": ["10.1.0.1"]}]}, MERGE)
    assert said.body["metadata"]["generation"] == 2
    said = await server.ask("PATCH", f"{path}/web-1", {"metadata": {"labels": {"a": "1"}}}, MERGE)
    assert said.body["metadata"]["generation"] == 3
    said = await server.ask("PATCH", f"{path}/web-1", {"metadata": {"annotations": {"a": "1"}}}, MERGE)
    assert said.body["metadata"]["generation"] == 3
    assert (await server.ask("PATCH", f"{path}/web-1", {"addressType": "IPv6"}, MERGE)).code == 422


async def test_nodes_bring_their_status_along(server: ServerUnderTest) -> None:
    """A Node has no namespace, keeps the status it is created with, and changes it through /status only."""
    name = f"node-{server.namespace}"
    addresses = [{"type": "InternalIP", "address": "198.51.100.7"}]
    created = await server.ask(
        "POST", "/api/v1/nodes", {"metadata": {"name": name}, "status": {"addresses": addresses}}
    )
    path = f"/api/v1/nodes/{name}"
    try:
        assert (created.code, created.body["status"]["addresses"]) == (201, addresses)
        assert "namespace" not in created.body["metadata"]
        other = {"status": {"addresses": [{"type": "InternalIP", "address": "198.51.100.8"}]}}
        assert (await server.ask("PATCH", path, other)).body["status"]["addresses"] == addresses
        said = await server.ask("PATCH", f"{path}/status", other)
        assert said.body["status"]["addresses"] == other["status"]["addresses"]
    finally:
        await server.ask("DELETE", path)
