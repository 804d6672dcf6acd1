"""What our writes do on an API server, fake and real: finalizer, status, conditions, externalIPs, Events."""

import asyncio
from random import Random
from typing import Any

import pytest

from littlelb.core.model import Claim, Condition, Ingress, Key, PortError, Protocol, Publication, Service
from littlelb.core.plan import Changes, diff
from littlelb.kube.claim import ClaimTarget
from littlelb.kube.client import SERVICES, Reference
from littlelb.kube.decode import decode_service
from littlelb.kube.events import Desk, Recorder
from littlelb.kube.ownership import FINALIZER
from littlelb.kube.status import PublishTarget
from littlelb.kube.writes.budget import make_write_budget
from littlelb.kube.writes.service_writer import Cache, ServiceWriter
from littlelb.testing.clock import LoopClock
from tests.contract.conftest import ServerUnderTest

SERVED = Condition("littlelb.io/Served", "False", "PortInUse", "served on 203.0.113.1, but port 81 is taken")
PORTS = Condition("LoadBalancerPortsError", "True", "PortInUse", "port 81 is taken")
INGRESS = (
    Ingress(
        "203.0.113.1",
        ip_mode="Proxy",
        ports=(PortError(80, Protocol.TCP), PortError(81, Protocol.TCP, "littlelb.io/PortInUse")),
    ),
    Ingress("2001:db8::1", ip_mode="VIP", ports=(PortError(80, Protocol.TCP), PortError(81, Protocol.TCP))),
)


class Scene:
    """One Service on the server under test, a cache of it, and our targets."""

    def __init__(self, server: ServerUnderTest) -> None:
        """Everything on real time."""
        self.server = server
        self.services: dict[Key, Service] = {}
        clock = LoopClock()
        self.budget = make_write_budget(clock)
        cache = Cache(lambda: self.services, lambda service: self.services.update({service.key: service}))
        writer = ServiceWriter(server.api, self.budget, decode_service, cache)
        self.claims, self.publications = ClaimTarget(writer), PublishTarget(writer, clock)

    @property
    def key(self) -> Key:
        """Of the one Service."""
        return f"{self.server.namespace}/web"

    async def start(self) -> Service:
        """Create it and learn how it is."""
        spec = {
            "type": "LoadBalancer",
            "allocateLoadBalancerNodePorts": False,
            "ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "b"}],
            "externalIPs": ["192.0.2.9"],
        }
        await self.server.service("web", spec)
        return await self.learn()

    async def learn(self) -> Service:
        """What a watch would tell."""
        answer = await self.raw()
        service = decode_service(answer)
        self.services[service.key] = service
        return service

    async def raw(self) -> bytes:
        """Return the stored object as the server sends it."""
        return await self.server.api.get(Reference(SERVICES, self.server.namespace, "web"))

    async def body(self) -> dict[str, Any]:
        """Return the stored object."""
        return (await self.server.ask("GET", self.server.path("services", "web"))).body

    async def others_write(self, body: object, manager: str, subresource: str = "") -> None:
        """Another client patches the Service."""
        said = await self.server.ask(
            "PATCH", self.server.path("services", "web", subresource), body, fieldManager=manager
        )
        assert said.code == 200, said.body


@pytest.fixture
async def scene(server: ServerUnderTest) -> Scene:
    """Nothing written yet."""
    return Scene(server)


async def test_a_finalizer_comes_and_goes_beside_others(scene: Scene) -> None:
    """Through services/status, without touching finalizers of others."""
    service = await scene.start()
    await scene.others_write({"metadata": {"finalizers": ["example.com/theirs"]}}, "theirs")
    claim = {scene.key: Claim(service.uid)}
    assert await scene.claims.apply(Changes(add=claim)) == {}
    assert sorted((await scene.body())["metadata"]["finalizers"]) == ["example.com/theirs", FINALIZER]
    assert await scene.claims.observe(None) == claim
    assert await scene.claims.apply(Changes(remove=claim)) == {}
    assert (await scene.body())["metadata"]["finalizers"] == ["example.com/theirs"]
    await scene.others_write({"metadata": {"$deleteFromPrimitiveList/finalizers": ["example.com/theirs"]}}, "theirs")


async def test_the_finalizer_of_another_is_not_taken_off(scene: Scene) -> None:
    """ManagedFields name its owner."""
    await scene.start()
    await scene.others_write({"metadata": {"finalizers": [FINALIZER]}}, "cloud-controller-manager")
    service = await scene.learn()
    assert await scene.claims.apply(Changes(remove={scene.key: Claim(service.uid)})) == {}
    assert (await scene.body())["metadata"]["finalizers"] == [FINALIZER]
    assert await scene.claims.observe(None) == {}


async def test_a_deleted_service_vanishes_with_our_finalizer(scene: Scene) -> None:
    """Until then it is there, leaving; then it is gone, and releasing again is success."""
    service = await scene.start()
    claim = {scene.key: Claim(service.uid)}
    await scene.claims.apply(Changes(add=claim))
    await scene.server.ask("DELETE", scene.server.path("services", "web"))
    assert (await scene.learn()).deleting
    assert await scene.claims.apply(Changes(remove=claim)) == {}
    assert (await scene.server.ask("GET", scene.server.path("services", "web"))).code == 404
    assert await scene.claims.apply(Changes(remove=claim)) == {}


async def test_a_publication_is_read_back_as_it_was_wanted(scene: Scene) -> None:
    """Several addresses, both modes, port errors, two conditions, externalIPs; then a change; then nothing to do."""
    service = await scene.start()
    first = Publication(uid=service.uid, ingress=INGRESS, conditions=(SERVED, PORTS), external_ips=("203.0.113.1",))
    second = Publication(
        uid=service.uid,
        ingress=INGRESS[:1],
        conditions=(Condition(SERVED.type, "True", "Served", "served"),),
        external_ips=("203.0.113.2",),
    )
    for publication in (first, second):
        wanted = {scene.key: publication}
        assert await scene.publications.apply(diff(wanted, await scene.publications.observe(None))) == {}
        assert not diff(wanted, await scene.publications.observe(None))
        await scene.learn()
        assert not diff(wanted, await scene.publications.observe(None))
    assert (await scene.body())["spec"]["externalIPs"] == ["192.0.2.9", "203.0.113.2"]


async def test_clearing_leaves_what_is_not_ours(scene: Scene) -> None:
    """Conditions of others and the user's externalIPs stay; a successor without memory knows what is ours."""
    await scene.start()
    theirs = {
        "type": "example.com/Theirs",
        "status": "True",
        "reason": "R",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    await scene.others_write({"status": {"conditions": [theirs]}}, "theirs", "status")
    service = await scene.learn()
    wanted = Publication(uid=service.uid, ingress=INGRESS, conditions=(SERVED, PORTS), external_ips=("203.0.113.1",))
    assert await scene.publications.apply(Changes(add={scene.key: wanted})) == {}
    successor = Scene(scene.server)
    await successor.learn()
    observed = await successor.publications.observe(None)
    assert observed == {scene.key: wanted}
    assert await successor.publications.apply(Changes(remove=observed)) == {}
    body = await scene.body()
    assert body["status"]["loadBalancer"] == {}
    assert [condition["type"] for condition in body["status"]["conditions"]] == ["example.com/Theirs"]
    assert body["spec"]["externalIPs"] == ["192.0.2.9"]
    assert await successor.publications.observe(None) == {}


async def test_the_status_of_another_is_left_alone(scene: Scene) -> None:
    """It is fetched once and not offered again."""
    await scene.start()
    await scene.others_write({"status": {"loadBalancer": {"ingress": [{"ip": "198.51.100.7"}]}}}, "cloud", "status")
    await scene.learn()
    observed = await scene.publications.observe(None)
    assert await scene.publications.apply(Changes(remove=observed)) == {}
    assert (await scene.body())["status"]["loadBalancer"]["ingress"][0]["ip"] == "198.51.100.7"
    assert await scene.publications.observe(None) == {}


async def test_after_the_type_was_changed_the_rest_is_cleared(scene: Scene) -> None:
    """The server clears ingress, we clear conditions and externalIPs."""
    service = await scene.start()
    wanted = Publication(uid=service.uid, ingress=INGRESS, conditions=(SERVED,), external_ips=("203.0.113.1",))
    assert await scene.publications.apply(Changes(add={scene.key: wanted})) == {}
    await scene.others_write({"spec": {"type": "ClusterIP"}}, "kubectl")
    assert await scene.publications.apply(Changes(remove={scene.key: wanted})) == {}
    body = await scene.body()
    assert (body["status"]["loadBalancer"], body["status"].get("conditions") or []) == ({}, [])
    assert body["spec"]["externalIPs"] == ["192.0.2.9"]


async def test_a_stale_cache_is_no_hindrance(scene: Scene) -> None:
    """409: read again."""
    service = await scene.start()
    await scene.others_write({"metadata": {"labels": {"a": "b"}}}, "kubectl")
    wanted = Publication(uid=service.uid, ingress=INGRESS, conditions=(SERVED,))
    assert await scene.publications.apply(Changes(add={scene.key: wanted})) == {}
    assert await scene.publications.observe(None) == {scene.key: wanted}


async def test_text_that_is_no_canonical_address_is_refused_with_the_servers_words(scene: Scene) -> None:
    """422."""
    service = await scene.start()
    wanted = Publication(uid=service.uid, ingress=(Ingress("203.0.113.01"),))
    failures = await scene.publications.apply(Changes(add={scene.key: wanted}))
    assert "203.0.113.01" in failures[scene.key].message


async def test_events_are_taken_and_repeats_counted(scene: Scene) -> None:
    """A plain Event, a series by its first write, a series by patch, and texts at all limits."""
    service = await scene.start()
    desk = Desk(scene.server.api, scene.budget, LoopClock(), Random(7), "h" * 200)  # noqa: S311  # names only
    recorder = Recorder(desk)
    recorder.record(service, "Warning", "R" * 200, "A" * 200, "ä\x1b" * 2_000)
    for _ in range(3):
        recorder.record(service, "Normal", "IPAllocated", "Allocate", "assigned 203.0.113.1")
    task = asyncio.create_task(recorder.run(), name="events")
    await recorder.flush(20.0)
    recorder.record(service, "Normal", "IPAllocated", "Allocate", "assigned 203.0.113.1")
    await recorder.flush(20.0)
    task.cancel()
    assert (recorder.tally.written, recorder.tally.dropped) == (3, 0)
    said = await scene.server.ask("GET", scene.server.path("events", group="events.k8s.io"))
    found = {event["reason"]: event for event in said.body["items"] if event["regarding"].get("uid") == service.uid}
    assert found["IPAllocated"]["series"]["count"] == 4
    assert found["IPAllocated"]["regarding"]["kind"] == "Service"
    assert len(found["R" * 128]["note"].encode()) <= 1_024
