"""What the fake API server fills in and refuses; tests/contract holds all of it to the real one."""

import pytest

from littlelb.testing.fake_api_rules import RULES, Refused, check_name, invalid, separate
from littlelb.testing.fake_api_store import Json

SERVICES = RULES["/services"]


def service(**spec: object) -> Json:
    """Make a Service."""
    return {"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}], **spec}}


def test_a_service_is_completed_once() -> None:
    """What was filled in stays as it is when it is completed again."""
    once = SERVICES.complete(service(type="LoadBalancer"), None)
    assert once["spec"]["ports"][0].keys() == {"port", "targetPort", "protocol", "nodePort"}
    assert SERVICES.complete(once, once) == once
    assert SERVICES.check(once, once) is None


def test_leaving_the_type_takes_its_fields_along() -> None:
    """Class, node ports, traffic policy and ingress go with the type."""
    old = SERVICES.complete(service(type="LoadBalancer", loadBalancerClass="example.com/a"), None)
    old["status"] = {"loadBalancer": {"ingress": [{"ip": "203.0.113.7"}]}, "conditions": [{"type": "A"}]}
    new = SERVICES.complete({**old, "spec": old["spec"] | {"type": "ClusterIP"}}, old)
    assert new["status"] == {"loadBalancer": {}, "conditions": [{"type": "A"}]}
    assert not {"loadBalancerClass", "externalTrafficPolicy", "allocateLoadBalancerNodePorts"} & new["spec"].keys()
    assert "nodePort" not in new["spec"]["ports"][0]


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ({"ports": []}, "spec.ports"),
        ({"loadBalancerClass": "a/b"}, "spec.loadBalancerClass"),
        ({"externalIPs": ["203.0.113.07"]}, "spec.externalIPs"),
    ],
)
def test_services_that_are_refused(spec: Json, problem: str) -> None:
    """The problem names its field."""
    found = SERVICES.check(SERVICES.complete(service(**spec), None), None)
    assert found is not None
    assert found.startswith(problem)


def test_status_and_spec_are_kept_apart() -> None:
    """Each path writes its part only; kinds without a status have nothing to keep apart."""
    old: Json = {"spec": {"a": 1}, "status": {"b": 1}}
    new: Json = {"spec": {"a": 2}, "status": {"b": 2}}
    assert separate(SERVICES, new, old, "status") == {"spec": {"a": 1}, "status": {"b": 2}}
    assert separate(SERVICES, new, old, "") == {"spec": {"a": 2}, "status": {"b": 1}}
    assert separate(RULES["coordination.k8s.io/leases"], new, old, "") == new
    assert separate(SERVICES, new, {"status": {}}, "status") == {"status": {"b": 2}}


@pytest.mark.parametrize(("name", "good"), [("web", True), ("1web", False), ("", False), ("a" * 300, False)])
def test_names(name: str, *, good: bool) -> None:
    """A Service's name is a DNS label that begins with a letter."""
    if good:
        check_name(SERVICES, name)
    else:
        with pytest.raises(Refused):
            check_name(SERVICES, name)


def test_a_refusal_has_code_and_reason() -> None:
    """As in a Status."""
    refusal = invalid("Service", "web", "spec: bad")
    assert (refusal.code, refusal.reason, refusal.message) == (422, "Invalid", 'Service "web" is invalid: spec: bad')
