"""The patches, as values."""

import pytest

from littlelb.core.model import Condition, Ingress, Publication, Service
from littlelb.kube.ownership import FINALIZER
from littlelb.kube.writes.patches import (
    EXTERNAL_IPS_ANNOTATION,
    diff_conditions,
    observed_publication,
    render_claim,
    render_external_ips,
    render_release,
    render_status,
)

META = {"uid": "u", "resourceVersion": "7"}
SERVED = Condition("littlelb.io/Served", "True", "Served", "served")
PORTS = Condition("LoadBalancerPortsError", "True", "PortInUse", "taken")


def service(**fields: object) -> Service:
    """A Service as the cache has it."""
    return Service(namespace="default", name="web", uid="u", resource_version="7", **fields)  # type: ignore[arg-type]


def noted(*texts: str) -> dict[str, str]:
    """Our note of what we wrote into externalIPs."""
    return {EXTERNAL_IPS_ANNOTATION: ",".join(texts)}


def test_the_finalizer_is_named_alone() -> None:
    """Both patches go through services/status and bear uid and resourceVersion."""
    claim, release = render_claim(service()), render_release(service())
    assert claim.body == {"metadata": META | {"finalizers": [FINALIZER]}}
    assert release.body == {"metadata": META | {"$deleteFromPrimitiveList/finalizers": [FINALIZER]}}
    assert claim.subresource == release.subresource == "status"


def test_only_what_differs_is_written() -> None:
    """No difference, no patch; an empty ingress is written as null, which removes it."""
    have = service(ingress=(Ingress("203.0.113.1"),), conditions=(SERVED,))
    assert render_status(have, have.ingress, diff_conditions(have.conditions, (SERVED,), 0)) is None
    cleared = render_status(have, (), [])
    assert cleared is not None
    assert cleared.body["status"] == {"loadBalancer": {"ingress": None}}


def test_conditions_that_are_not_wanted_are_deleted_by_type() -> None:
    """A merge by type leaves all others alone."""
    assert diff_conditions((SERVED, PORTS), (SERVED,), 0) == [{"$patch": "delete", "type": PORTS.type}]


def test_the_order_in_which_conditions_are_stored_does_not_matter() -> None:
    """Ours come first when they are read, as they are wanted."""
    one, other = observed_publication(service(conditions=(PORTS, SERVED))), (SERVED, PORTS)
    assert one == Publication(uid="u", conditions=other)
    assert observed_publication(service()) is None


@pytest.mark.parametrize(
    ("have", "note", "want", "becomes", "new_note"),
    [
        ((), (), ("203.0.113.1",), ["203.0.113.1"], "203.0.113.1"),
        (("192.0.2.9",), (), ("203.0.113.1",), ["192.0.2.9", "203.0.113.1"], "203.0.113.1"),
        (("192.0.2.9", "203.0.113.1"), ("203.0.113.1",), ("203.0.113.2",), ["192.0.2.9", "203.0.113.2"], "203.0.113.2"),
        (("192.0.2.9", "203.0.113.1"), ("203.0.113.1",), (), ["192.0.2.9"], None),
        (("203.0.113.1",), ("203.0.113.1",), (), None, None),
        ((), ("203.0.113.1",), (), None, None),
    ],
)
def test_entries_of_users_are_kept(
    have: tuple[str, ...], note: tuple[str, ...], want: tuple[str, ...], becomes: list[str] | None, new_note: str | None
) -> None:
    """Ours are replaced, theirs stay, and the note says which are ours."""
    patch = render_external_ips(service(external_ips=have, annotations=noted(*note) if note else {}), want)
    assert patch is not None
    assert patch.subresource == ""
    assert patch.body["spec"]["externalIPs"] == becomes
    assert patch.body["metadata"]["annotations"] == {EXTERNAL_IPS_ANNOTATION: new_note}


def test_a_note_about_entries_that_are_gone_claims_nothing() -> None:
    """A user who removed our entry by hand has removed it."""
    publication = observed_publication(service(external_ips=("192.0.2.9",), annotations=noted("203.0.113.1")))
    assert publication is None
