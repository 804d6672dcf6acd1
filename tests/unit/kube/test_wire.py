"""The API's own shapes."""

import msgspec
import pytest

from littlelb.kube.wire import WireNode, WireService, WireSlice


@pytest.mark.parametrize("kind", [WireService, WireSlice, WireNode])
@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b'{"metadata": null, "spec": null, "status": null, "endpoints": null, "ports": null}',
        b'{"metadata": {"name": null, "labels": null, "finalizers": null, "managedFields": [{"a": [1, {"b": 2}]}]}}',
        b'{"spec": {"ports": null, "taints": null}, "status": {"loadBalancer": {"ingress": null}, "addresses": null}}',
    ],
)
def test_anything_may_be_missing_or_null(kind: type[WireService | WireSlice | WireNode], text: bytes) -> None:
    """Go writes empty lists as null, and a field that we do not know is skipped."""
    assert isinstance(msgspec.json.decode(text, type=kind), kind)
