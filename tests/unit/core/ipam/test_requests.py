"""Requests are read strictly; what is quoted is harmless."""

from ipaddress import ip_network
from typing import Any

import pytest

from littlelb.core.ipam.requests import (
    family_of,
    judge_annotations,
    parse_address,
    parse_affinity,
    parse_drain_seconds,
    parse_request,
    parse_source_ranges,
    parse_word,
    quote,
    selects,
)
from littlelb.core.model import Family, ServiceType
from littlelb.core.reasons import Reason, Refusal
from littlelb.core.state import Settings
from tests.worlds import ip, service

RANGES = "service.beta.kubernetes.io/load-balancer-source-ranges"


@pytest.mark.parametrize("text", ["203.0.113.7", "2001:db8::7", "2001:DB8:0::7"])
def test_plain_addresses_are_read(text: str) -> None:
    """Any spelling of an address is the address."""
    assert parse_address(text) == ip(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "abc",
        "1.2.3.4/24",
        "010.0.0.1",
        "::ffff:10.0.0.1",
        "fe80::1%eth0",
        "1.2.3",
        " 1.2.3.4",
        "1.2.3.4\n",
        "\x1b[2J",
        "9" * 1_000_000,
    ],
)
def test_anything_else_is_refused_in_a_short_printable_message(text: str) -> None:
    """Leading zeros, zones, v4-mapped forms, spaces, control characters and a megabyte of digits."""
    refusal = parse_address(text)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is Reason.INVALID_ADDRESS
    assert len(refusal.message) < 250
    assert refusal.message.isprintable()


def test_quote_escapes_and_shortens() -> None:
    """Nothing that reaches a message can move a cursor or fill a screen."""
    assert quote("a\nb\x1b\u202e") == r"'a\nb\x1b\u202e'"
    assert quote("x" * 100) == "'" + "x" * 64 + "…'"


def test_families_are_named_as_kubernetes_does() -> None:
    """IPv4 and IPv6."""
    assert (family_of(ip("192.0.2.1")), family_of(ip("::2"))) == (Family.IPV4, Family.IPV6)


@pytest.mark.parametrize(
    ("fields", "class_less", "ours"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"load_balancer_class": "littlelb.io/littlelb"}, False, True),
        ({"load_balancer_class": "example.com/other"}, True, False),
        ({"load_balancer_class": ""}, True, False),
        ({"type": ServiceType.NODE_PORT}, True, False),
        ({"deleting": True}, True, False),
    ],
)
def test_a_service_is_ours_by_type_and_class(fields: dict[str, Any], class_less: bool, ours: bool) -> None:
    """Class-less ones by setting; one that is being deleted no longer."""
    assert selects(service(**fields), Settings(class_less=class_less)) is ours


def test_several_sources_that_agree_are_one_request() -> None:
    """The field and a peer's annotation may say the same."""
    asked = service(address="203.0.113.7", annotations={"metallb.io/loadBalancerIPs": "203.0.113.7"})
    assert parse_request(asked).addresses == (ip("203.0.113.7"),)


def test_two_sources_that_disagree_are_refused_by_name() -> None:
    """The message names both and what they say."""
    asked = service(address="203.0.113.7", annotations={"littlelb.io/addresses": "203.0.113.8"})
    (refusal,) = parse_request(asked).refusals
    assert refusal.reason is Reason.CONTRADICTION
    assert "spec.loadBalancerIP says 203.0.113.7" in refusal.message
    assert "littlelb.io/addresses says 203.0.113.8" in refusal.message


def test_a_list_gives_an_address_of_each_family() -> None:
    """Spaces after the comma are allowed, repeats count once."""
    asked = service(annotations={"littlelb.io/addresses": "203.0.113.7, 2001:db8::7,203.0.113.7"})
    assert parse_request(asked).addresses == (ip("203.0.113.7"), ip("2001:db8::7"))


@pytest.mark.parametrize(
    ("annotations", "reason"),
    [
        ({"littlelb.io/addresses": "203.0.113.7,x"}, Reason.INVALID_ADDRESS),
        ({"littlelb.io/addresses": ",".join(["203.0.113.7"] * 9)}, Reason.INVALID_ADDRESS),
        ({"kube-vip.io/loadbalancerIPs": "0.0.0.0,"}, Reason.INVALID_ADDRESS),
        ({"littlelb.io/pool": "blue"}, Reason.UNKNOWN_POOL),
        ({"littlelb.io/addresses": "2001:db8::7"}, Reason.WRONG_FAMILY),
    ],
)
def test_requests_that_cannot_be_granted_are_refused(annotations: dict[str, str], reason: Reason) -> None:
    """Each with its reason; nothing is asked for then."""
    request = parse_request(service(annotations=annotations, ip_families=(Family.IPV4,)))
    assert [refusal.reason for refusal in request.refusals] == [reason]
    assert request.addresses == ()


def test_no_source_means_the_default_address() -> None:
    """An empty request without refusal."""
    request = parse_request(service())
    assert (request.addresses, request.refusals) == ((), ())


def test_source_ranges_are_trimmed_and_counted_once() -> None:
    """The API server lets space-padded ranges through."""
    ranges = parse_source_ranges(service(source_ranges=(" 192.0.2.0/24 ", "192.0.2.0/24", "0.0.0.0/0")))
    assert ranges.nets == (ip_network("192.0.2.0/24"), ip_network("0.0.0.0/0"))
    assert ranges.kube_proxy_agrees


def test_no_source_ranges_let_everybody_in() -> None:
    """Also when the annotation is blank."""
    assert parse_source_ranges(service()).nets is None
    assert parse_source_ranges(service(annotations={RANGES: " "})).nets is None


def test_ranges_of_the_annotation_count_when_the_field_is_empty() -> None:
    """Which kube-proxy does not do."""
    ranges = parse_source_ranges(service(annotations={RANGES: "192.0.2.0/24,198.51.100.0/24"}))
    assert ranges.nets == (ip_network("192.0.2.0/24"), ip_network("198.51.100.0/24"))
    assert not ranges.kube_proxy_agrees
    assert parse_source_ranges(service(source_ranges=("10.0.0.0/8",), annotations={RANGES: "x"})).kube_proxy_agrees


@pytest.mark.parametrize("texts", [("garbage",), ("192.0.2.1/24",), ("192.0.2.0/24", ""), ("10.0.0.0/8",) * 300])
def test_unreadable_ranges_let_nobody_in_and_say_so(texts: tuple[str, ...]) -> None:
    """The other reading would open the Service to everybody."""
    ranges = parse_source_ranges(service(source_ranges=texts))
    assert ranges.nets == ()
    assert ranges.notice is not None
    assert ranges.notice.reason is Reason.INVALID_SOURCE_RANGES


def test_drain_seconds_is_a_number_or_a_notice() -> None:
    """What is none leaves the default in force."""
    assert parse_drain_seconds(service()) == (None, None)
    assert parse_drain_seconds(service(annotations={"littlelb.io/drain-seconds": "30"})) == (30, None)
    for text in ("-1", "1.5", "86401", "999999", "²", ""):
        seconds, notice = parse_drain_seconds(service(annotations={"littlelb.io/drain-seconds": text}))
        assert seconds is None
        assert notice is not None
        assert notice.reason is Reason.INVALID_ANNOTATION


@pytest.mark.parametrize(
    ("given", "seconds", "said"),
    [(0, 0, False), (1, 1, False), (86_400, 86_400, False), (86_401, 10_800, True), (-1, 10_800, True)],
)
def test_affinity_lasts_as_long_as_the_service_says(given: int, seconds: int, said: bool) -> None:
    """What no API server takes is three hours, with a word about it."""
    read, notice = parse_affinity(service(affinity_seconds=given))
    assert (read, notice is not None) == (seconds, said)


def test_a_word_is_one_of_those_that_are_known() -> None:
    """What is none counts as unsaid, and is said to be."""
    assert parse_word(service(), "littlelb.io/plane", ("nft", "pipe")) == ("", None)
    assert parse_word(service(annotations={"littlelb.io/plane": "nft"}), "littlelb.io/plane", ("nft",)) == ("nft", None)
    word, notice = parse_word(
        service(annotations={"littlelb.io/plane": "NFT\x1b"}), "littlelb.io/plane", ("nft", "pipe")
    )
    assert word == ""
    assert notice is not None
    assert notice.message == "littlelb.io/plane: 'NFT\\x1b' is none of nft, pipe; the default holds"


def test_annotations_that_cannot_be_honoured() -> None:
    """Those that clients or backends rely on refuse the Service, the others are noted."""
    asked = service(annotations={"littlelb.io/proxy-protocol": "v2", "littlelb.io/wieght": "3", "other": "x"})
    refusals, notices = judge_annotations(asked)
    assert [refusal.reason for refusal in refusals] == [Reason.INVALID_ANNOTATION]
    assert [notice.message for notice in notices] == ["annotation 'littlelb.io/wieght' has no effect in this version"]
