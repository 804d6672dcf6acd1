"""What the ancestor's README promises, on the real API server with real packets: one test or more for each line."""

import pytest

from tests.e2e.rig import DEFAULT, FINALIZER, Rig

pytestmark = pytest.mark.e2e

VIP = "203.0.113.10"


def test_a_service_of_type_loadbalancer_answers_on_its_address_and_port(rig: Rig) -> None:
    """`loadBalancerIP` goes onto the link device; requests reach the nodes' NodePorts; the status says where."""
    rig.start()
    rig.apply("web", loadBalancerIP=VIP)
    rig.serve_service("web", 1, 2)
    rig.wait("published", lambda: rig.ingress("web") == [VIP])
    assert rig.held() == {VIP}
    assert rig.answers(VIP) == {"n1", "n2"}
    assert rig.get("web")["metadata"]["finalizers"] == [FINALIZER]
    rig.delete("web")
    rig.wait("gone", lambda: rig.held() == set())
    assert rig.ask(VIP) == ""
    assert rig.ask(DEFAULT) == ""
