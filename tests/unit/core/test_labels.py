"""Label selectors as kubectl reads them."""

import pytest

from littlelb.core.labels import parse_selector

WORKER = {"node-role.kubernetes.io/worker": "", "zone": "a", "disk": "ssd"}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("node-role.kubernetes.io/worker", True),
        ("!node-role.kubernetes.io/worker", False),
        ("! gpu", True),
        ("zone=a", True),
        ("zone==a,disk=ssd", True),
        ("zone!=a", False),
        ("gpu!=yes", True),
        ("zone in (a, b)", True),
        ("zone in (b,c)", False),
        ("zone notin (b,c), disk=ssd", True),
        ("zone notin (a)", False),
        ("gpu notin (a)", True),
        ("node-role.kubernetes.io/worker=", True),
        ("zone=b,disk=ssd", False),
    ],
)
def test_selector_matches_as_kubectl_does(text: str, matches: bool) -> None:
    """Each form of a requirement, alone and together."""
    assert parse_selector(text)(WORKER) is matches


@pytest.mark.parametrize("text", ["=a", "zone=a disk=ssd", "zone in a", "zone=(a)", "a b", ",", "zone in (a"])
def test_what_cannot_be_read_is_named(text: str) -> None:
    """The error quotes the selector and the place."""
    with pytest.raises(ValueError, match="cannot be read from"):
        parse_selector(text)
