"""Whose address a backend sees, and what is said about it."""

from ipaddress import ip_network

import pytest

from littlelb.core.model import Backend, Plane
from littlelb.core.reasons import Reason
from littlelb.core.serving.sources import Source, choose_source, explain_loss, explain_source
from littlelb.core.state import Settings, SourceAddress
from tests.worlds import ip, service

KEEPS, LOSES = Backend(ip("10.1.0.1"), 80, keeps_source=True), Backend(ip("10.1.0.2"), 80)
AUTO, KEEP, MASQUERADE = SourceAddress


@pytest.mark.parametrize(
    ("mode", "by_kernel", "keeps"),
    [
        (AUTO, True, (True, False, True, False)),
        (KEEP, True, (True, True, True, True)),
        (MASQUERADE, True, (False, False, False, False)),
        (AUTO, False, (False, False, False, False)),
        (KEEP, False, (False, False, False, False)),
    ],
)
def test_who_keeps_the_clients_address(mode: SourceAddress, by_kernel: bool, keeps: tuple[bool, ...]) -> None:
    """A pod of this node, one of another, one of a routed network, and one of nobody knows where."""
    source = Source(mode, by_kernel, (ip_network("10.2.0.0/16"), ip_network("2001:db8::/32")), "n1")
    backends = (("10.1.0.1", "n1"), ("10.1.0.2", "n2"), ("10.2.0.1", "n2"), ("10.1.0.3", ""))
    assert tuple(source.keeps(ip(address), node) for address, node in backends) == keeps


def test_a_machine_that_is_no_node_has_no_pods() -> None:
    """An endpoint without a node is not one of this machine, whose name is empty too."""
    assert not Source(AUTO, by_kernel=True).keeps(ip("10.1.0.1"), "")


@pytest.mark.parametrize(
    ("annotation", "setting", "mode", "reason"),
    [
        ("", KEEP, KEEP, None),
        ("masquerade", KEEP, MASQUERADE, None),
        ("keep", AUTO, KEEP, None),
        ("Keep", MASQUERADE, MASQUERADE, Reason.INVALID_ANNOTATION),
    ],
)
def test_the_services_word_goes_before_the_setting(
    annotation: str, setting: SourceAddress, mode: SourceAddress, reason: Reason | None
) -> None:
    """One that nobody understands leaves the setting in force."""
    asked = service(annotations={"littlelb.io/source-address": annotation})
    source, notice = choose_source(asked, Plane.NFT, Settings(source_address=setting, node_name="n1"))
    assert (source.mode, source.by_kernel, source.node) == (mode, True, "n1")
    assert (notice.reason if notice else None) is reason


@pytest.mark.parametrize(
    ("mode", "backends", "says"),
    [
        (AUTO, (KEEPS,), "backends see the client's address: they are pods of this node, or in a routed network"),
        (AUTO, (LOSES,), "backends see this machine's address: their answers are not known to come back"),
        (AUTO, (KEEPS, LOSES), "the others this machine's"),
        (KEEP, (KEEPS,), "backends see the client's address, as source-address is keep"),
        (MASQUERADE, (LOSES,), "backends see this machine's address, as source-address is masquerade"),
    ],
)
def test_it_is_said_whose_address_it_is_and_why(mode: SourceAddress, backends: tuple[Backend, ...], says: str) -> None:
    """As a fact, not as a warning: the Service is served as it asked."""
    notice = explain_source(Source(mode, by_kernel=True), backends)
    assert notice is not None
    assert (notice.reason, notice.warning) == (Reason.SOURCE_ADDRESS, False)
    assert says in notice.message


def test_where_there_is_nothing_to_say_nothing_is_said() -> None:
    """No backends; or the pipe, unless the Service itself asks for what it cannot do."""
    assert explain_source(Source(AUTO, by_kernel=True), ()) is None
    assert explain_source(Source(KEEP, by_kernel=False), (LOSES,)) is None
    asked = explain_source(Source(KEEP, by_kernel=False, asked=True), (LOSES,))
    assert asked is not None
    assert asked.warning
    assert "but the pipe plane hides it" in asked.message


@pytest.mark.parametrize(
    ("local", "by_kernel", "backends", "says"),
    [
        (False, True, (LOSES,), ""),
        (True, True, (), ""),
        (True, True, (KEEPS,), ""),
        (True, True, (KEEPS, LOSES), "by --source-address keep or --routed-networks, or set externalTrafficPolicy"),
        (True, False, (), "the pipe plane hides the client's address: backends see this machine's"),
    ],
)
def test_policy_local_does_not_lose_the_clients_address_silently(
    local: bool, by_kernel: bool, backends: tuple[Backend, ...], says: str
) -> None:
    """One backend that does not see it is enough; the remedy is in the text."""
    asked = service(external_traffic_policy_local=local)
    notice = explain_loss(asked, Source(AUTO, by_kernel), backends)
    assert (notice is not None) is bool(says)
    if notice is not None:
        assert (notice.reason, notice.warning) == (Reason.CLIENT_ADDRESS_LOST, True)
        assert says in notice.message
