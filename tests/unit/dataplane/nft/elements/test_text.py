"""A transaction as text (that nft takes it for the same is shown in tests/lab/test_nft_kernel.py)."""

from ipaddress import ip_network

from littlelb.dataplane.netfilter.sets import Element
from littlelb.dataplane.nft.elements.layout import render_rules
from littlelb.dataplane.nft.elements.text import TEXT_CHUNK, render_element, render_transaction
from littlelb.dataplane.nft.elements.transaction import Transaction, compute_transaction
from tests.unit.dataplane.nft.rules import RANGE, VIP4, VIP6, WEB, WEB6, backends, forward


def test_a_service_reads_as_one_would_write_it() -> None:
    """Addresses, protocols, ports, chains."""
    rules = render_rules(WEB, forward(*backends(1, 2), source_ranges=(ip_network("192.0.2.0/24"),)))
    assert render_transaction(compute_transaction([({}, rules)])).splitlines() == [
        "add element inet littlelb staged4 { 203.0.113.7 . tcp . 80 }",
        "add element inet littlelb guarded4 { 203.0.113.7 . tcp . 80 }",
        "add element inet littlelb classes4 { 203.0.113.7 . tcp . 80 : goto random4-2 }",
        (
            "add element inet littlelb slots4 { 203.0.113.7 . tcp . 80 . 0 : 10.1.0.1 . 8080, "
            "203.0.113.7 . tcp . 80 . 1 : 10.1.0.2 . 8080 }"
        ),
        "add element inet littlelb allowed4 { 203.0.113.7 . tcp . 80 . 192.0.2.0-192.0.2.255 }",
    ]


def test_ranges_of_ports() -> None:
    """First and last port; the slot by its number; addresses without a port."""
    rules = render_rules(RANGE, forward(*backends(1, 2, port=0)))
    assert render_transaction(compute_transaction([(rules, {})])).splitlines() == [
        "delete element inet littlelb ranges4 { 203.0.113.7 . udp . 5000-5999 }",
        (
            "delete element inet littlelb range_slots4 { 203.0.113.7 . udp . 5000-5999 . 0, "
            "203.0.113.7 . udp . 5000-5999 . 1 }"
        ),
    ]
    assert " . 1 : 10.1.0.2 }" in render_transaction(compute_transaction([({}, rules)]))


def test_ipv6() -> None:
    """Short, without brackets, as nft has it."""
    rules = render_rules(WEB6, forward(*backends(1, version=6)))
    text = render_transaction(compute_transaction([({}, rules)]))
    assert "slots6 { 2001:db8:0:113::7 . tcp . 80 . 0 : 2001:db8:1::1 . 8080 }" in text


def test_addresses_and_remembered_clients() -> None:
    """Sets of addresses; clients with the time that they have left."""
    assert render_element("held4", Element(VIP4.packed)) == "203.0.113.7"
    assert render_element("alive6", Element(VIP6.packed)) == "2001:db8:0:113::7"
    client = bytes((192, 0, 2, 10)) + bytes.fromhex("cb007107 06000000 00500000")
    value = bytes.fromhex("0a010001 1f900000")
    assert (
        render_element("affinity4", Element(client, value, timeout=10_800_000, expires=1500))
        == "192.0.2.10 . 203.0.113.7 . tcp . 80 timeout 10800s0ms expires 1s500ms : 10.1.0.1 . 8080"
    )


def test_nothing_is_no_text_and_much_is_several_lines() -> None:
    """A line is read as a whole."""
    assert not render_transaction(Transaction({}, {}))
    many = [Element((0x0A000000 + number).to_bytes(4)) for number in range(TEXT_CHUNK + 1)]
    assert len(render_transaction(Transaction({}, {"held4": many})).splitlines()) == 2
