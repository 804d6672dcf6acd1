"""Services of all namespaces are served, and two of the same name never meet."""

from collections.abc import Iterator

import pytest

from tests.controlplane.admin import Object
from tests.controlplane.objects import service
from tests.e2e.rig import FINALIZER, Rig

pytestmark = pytest.mark.e2e

VIP, OTHER, THIRD = "203.0.113.10", "203.0.113.11", "203.0.113.12"


class Place:
    """Another namespace, with a Service `web` like the one that the rig makes in its own."""

    def __init__(self, rig: Rig, name: str) -> None:
        self.rig, self.name = rig, name
        self.item: Object = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}

    def apply(self, address: str, backend: int = 1) -> None:
        """Create or change Service `web`, with a web server for its NodePort on that backend."""
        ports = ({"name": "http", "port": 80, "protocol": "TCP"},)
        known = self.node_port
        self.rig.plane.admin.apply(service("web", self.name, ports, loadBalancerIP=address))
        if self.node_port != known:
            self.rig.serve(backend, self.node_port)

    @property
    def node_port(self) -> int:
        """The NodePort of Service `web`; 0 when there is none."""
        ports = self.read().get("spec", {}).get("ports") or [{}]
        number: int = ports[0].get("nodePort", 0)
        return number

    def read(self) -> Object:
        """Read Service `web`; empty when there is none."""
        found = self.rig.plane.admin.items("v1", "Service", self.name)
        return next((one for one in found if one["metadata"]["name"] == "web"), {})

    def shows(self, address: str) -> bool:
        """Is it published with just this address?"""
        ingress = self.read().get("status", {}).get("loadBalancer", {}).get("ingress") or []
        return [entry["ip"] for entry in ingress] == [address]

    def remove(self) -> None:
        """Delete the Service; the daemon runs, so it is gone soon."""
        self.rig.plane.admin.delete(service("web", self.name))
        self.rig.wait(f"{self.name}/web is gone", lambda: not self.read())


@pytest.fixture
def place(rig: Rig) -> Iterator[Place]:
    """A second namespace."""
    made = Place(rig, f"{rig.namespace}-too")
    rig.plane.admin.create(made.item)
    yield made
    made.remove()
    rig.plane.admin.delete(made.item)


def test_services_of_all_namespaces_are_served(rig: Rig, place: Place) -> None:
    """`default`, `kube-system`, one that was there at the start and one that came later."""
    late = Place(rig, f"{rig.namespace}-late")
    places = [Place(rig, "default"), Place(rig, "kube-system"), place]
    for number, one in enumerate(places):
        one.apply(f"203.0.113.{20 + number}")
    rig.start()
    rig.plane.admin.create(late.item)
    late.apply("203.0.113.23")
    try:
        for number, one in enumerate([*places, late]):
            address = f"203.0.113.{20 + number}"
            rig.wait(f"{one.name} is served", lambda o=one, a=address: o.shows(a) and rig.ask(a) == "n1")  # type: ignore[misc]
    finally:
        for one in [*places, late]:
            one.remove()
        rig.plane.admin.delete(late.item)
    assert rig.held() == set()


def test_the_same_name_in_two_namespaces_is_two_services(rig: Rig, place: Place) -> None:
    """Each has its address, its backends, its status and its Events; when one goes, the other does not notice.

    Only one of the two nodes answers for each of them, which no kube-proxy would do: the pipe asks the other one then.
    """
    rig.start("--plane", "pipe")
    mine = Place(rig, rig.namespace)
    mine.apply(VIP)
    place.apply(OTHER, 2)
    rig.wait("both are published", lambda: mine.shows(VIP) and place.shows(OTHER))
    assert (rig.answers(VIP), rig.answers(OTHER)) == ({"n1"}, {"n2"})
    assert {one.key for one in rig.report().services} == {f"{mine.name}/web", f"{place.name}/web"}
    mine.apply(THIRD)
    rig.wait("one has moved", lambda: mine.shows(THIRD) and rig.held() == {THIRD, OTHER})
    notes = [note for _, _, note in rig.events("web")]
    assert f"serving on {THIRD} instead of {VIP}" in notes
    assert not [note for note in notes if OTHER in note]
    mine.remove()
    assert rig.held() == {OTHER}
    assert rig.answers(OTHER) == {"n2"}
    assert place.read()["metadata"]["finalizers"] == [FINALIZER]


def test_the_same_name_and_address_in_two_namespaces_is_a_conflict_that_names_the_other(rig: Rig, place: Place) -> None:
    """The refusal names the winner with its namespace, so that its owner can be found."""
    rig.start("--plane", "pipe")  # as above: one node answers
    mine = Place(rig, rig.namespace)
    mine.apply(VIP)
    rig.wait("published", lambda: mine.shows(VIP))
    place.apply(VIP, 2)
    rig.wait("refused", lambda: place.read()["status"].get("conditions"))
    (condition,) = place.read()["status"]["conditions"]
    assert condition["reason"] == "AddressInUse"
    assert f"held by {mine.name}/web since" in condition["message"]
    assert rig.answers(VIP) == {"n1"}
    mine.remove()
    rig.wait("its turn", lambda: place.shows(VIP) and rig.ask(VIP) == "n2")


def test_a_namespace_that_is_deleted_ends_with_its_services(rig: Rig, place: Place) -> None:
    """Our finalizer holds it up for a moment only, and that nothing can be created in it any more is no complaint."""
    rig.start()
    place.apply(VIP)
    rig.wait("published", lambda: place.shows(VIP))
    rig.plane.admin.delete(place.item)
    rig.plane.admin.wait(place.item, lambda found: found is None, 30)
    assert rig.held() == set()
    assert not [line for line in rig.log.read_text().splitlines() if '"level": "error"' in line]
    (dropped,) = rig.log_events("events.dropped")
    assert (dropped["level"], dropped["reason"]) == ("info", "DeletedLoadBalancer")
    assert "its namespace is being deleted" in dropped["error"]
