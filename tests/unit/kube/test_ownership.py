"""Who owns which field of a Service."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from littlelb.kube.ownership import FINALIZER, Ownership, owners

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


def entry(manager: str, fields: dict[str, Any], subresource: str = "") -> dict[str, Any]:
    """One managedFields entry as the API server writes it."""
    return {
        "manager": manager,
        "operation": "Update",
        "apiVersion": "v1",
        "time": "2026-11-23T18:00:00Z",
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
        "subresource": subresource,
    }


def service(*entries: dict[str, Any]) -> bytes:
    """A Service with nothing but its owners."""
    return json.dumps({"kind": "Service", "metadata": {"name": "web", "managedFields": entries}}).encode()


def test_each_field_has_its_own_owners() -> None:
    """Finalizer, ingress, externalIPs and every condition are looked up apart from one another."""
    found = owners(
        service(
            entry("kubectl", {"f:metadata": {"f:finalizers": {".": {}, 'v:"example.com/other"': {}}}, "f:spec": {}}),
            entry(
                "littlelb",
                {
                    "f:metadata": {"f:finalizers": {f'v:"{FINALIZER}"': {}}},
                    "f:status": {
                        "f:conditions": {
                            ".": {},
                            'k:{"type":"littlelb.io/Served"}': {".": {}, "f:type": {}, "f:status": {}},
                        },
                        "f:loadBalancer": {"f:ingress": {}},
                    },
                },
                "status",
            ),
            entry("helm", {"f:spec": {"f:externalIPs": {}}}),
        )
    )
    assert found == Ownership(
        finalizer=frozenset({"littlelb"}),
        ingress=frozenset({"littlelb"}),
        external_ips=frozenset({"helm"}),
        conditions={"littlelb.io/Served": frozenset({"littlelb"})},
    )


def test_another_finalizer_is_not_the_shared_one() -> None:
    """Who owns some other finalizer, or the list as such, does not own the load balancer's."""
    found = owners(service(entry("kubectl", {"f:metadata": {"f:finalizers": {".": {}, 'v:"foregroundDeletion"': {}}}})))
    assert not found.finalizer


def test_two_managers_that_applied_the_same_value_both_own_it() -> None:
    """Shared ownership shows both names, so that nobody clears what another still wants."""
    fields = {"f:spec": {"f:externalIPs": {}}, "f:status": {"f:conditions": {'k:{"type":"A"}': {}}}}
    found = owners(service(entry("one", fields), entry("two", fields)))
    assert found.external_ips == {"one", "two"}
    assert found.conditions == {"A": {"one", "two"}}


@pytest.mark.parametrize(
    "text", [b"{}", b"[]", b"null", b'{"metadata": null}', b'{"metadata": {"managedFields": null}}']
)
def test_without_managed_fields_nobody_owns_anything(text: bytes) -> None:
    """No managedFields, no claim of ours."""
    assert owners(text) == Ownership()


def test_unreadable_set_and_map_keys_own_nothing() -> None:
    """A key of a form we do not know is passed over, its neighbours count."""
    found = owners(
        service(
            entry("odd", {"f:metadata": {"f:finalizers": {"v:not json": {}, "v:7": {}, f'v:"{FINALIZER}"': {}}}}),
            entry("odder", {"f:status": {"f:conditions": {"k:{": {}, "k:[]": {}, 'k:{"type":7}': {}}}}),
            entry("", {"f:spec": {"f:externalIPs": {}}}),
        )
    )
    assert found == Ownership(finalizer=frozenset({"odd"}))


def test_what_is_no_json_is_an_error() -> None:
    """A broken answer is the transport's failure, not an object without owners."""
    with pytest.raises(msgspec.DecodeError):
        owners(b"<html>")


@given(JSON)
def test_any_managed_fields_are_read_without_an_exception(fields: Any) -> None:
    """Whatever stands in managedFields, the answer is an Ownership."""
    text = json.dumps({"metadata": {"managedFields": [{"manager": "m", "fieldsV1": fields}, fields]}}).encode()
    assert isinstance(owners(text), Ownership)
