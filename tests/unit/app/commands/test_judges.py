"""What `check` makes of what was read: levels, and a remedy for everything that is not well."""

from ipaddress import ip_address
from typing import Any

import pytest

from littlelb.app.commands import judges
from littlelb.core.model import Family, HostFacts
from littlelb.core.shown.findings import Finding, Level
from littlelb.host.forwarding.switch import ForwardingFinding, State

ALL = (1 << 12) | (1 << 10) | (1 << 13)
WELL = HostFacts("eth0", own=(ip_address("192.0.2.2"),))


def levels(found: list[Finding]) -> list[Level]:
    """Levels of some findings; each that is not well has its remedy."""
    assert all(finding.remedy for finding in found if finding.level is not Level.OK)
    return [finding.level for finding in found]


@pytest.mark.parametrize(
    ("effective", "expected"),
    [
        (ALL, [Level.OK]),
        (0x1FFFFFFFFFF, [Level.OK]),
        (ALL & ~(1 << 12), [Level.ERROR]),
        (ALL & ~(1 << 10), [Level.ERROR]),
        (ALL & ~(1 << 13), [Level.WARN]),
        (0, [Level.ERROR, Level.ERROR, Level.WARN]),
    ],
)
def test_capabilities(effective: int, expected: list[Level]) -> None:
    """Without the right to set addresses or to bind low ports nothing works; without raw sockets most does."""
    assert levels(judges.judge_capabilities(effective)) == expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        (WELL, [Level.OK]),
        (HostFacts("eth0", present=False, up=False), [Level.ERROR]),
        (HostFacts("eth0", up=False, own=WELL.own), [Level.ERROR]),
        (HostFacts("eth0"), [Level.WARN]),
        (HostFacts("eth0", up=False), [Level.ERROR, Level.WARN]),
    ],
)
def test_device(host: HostFacts, expected: list[Level]) -> None:
    """A device that is missing or down is an error; one without an address serves those that ask for one."""
    assert levels(judges.judge_device(host)) == expected


@pytest.mark.parametrize(
    ("release", "expected", "says"),
    [
        ("6.18.5-arch1-1", Level.OK, "protocol"),
        ("5.18.0", Level.OK, "protocol"),
        ("5.17.9-amd64", Level.OK, "metric"),
        ("4.18.0-553.el8.x86_64", Level.OK, "metric"),
        ("4.17.19", Level.ERROR, "cannot mark"),
        ("unreadable", Level.ERROR, "cannot mark"),
    ],
)
def test_kernel(release: str, expected: Level, says: str) -> None:
    """Addresses are marked by protocol from 5.18, by metric from 4.18, and before that not at all."""
    found = judges.judge_kernel(release)
    assert levels(found) == [expected]
    assert says in found[0].message


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(-1, Level.OK), (1_048_576, Level.OK), (65_536, Level.OK), (65_535, Level.WARN), (1023, Level.ERROR)],
)
def test_descriptors(limit: int, expected: Level) -> None:
    """A low limit of open files bounds the connections; -1 is no limit."""
    assert levels(judges.judge_descriptors(limit)) == [expected]


def test_folders() -> None:
    """Without a run directory there is no worker; without a state directory a restart knows less."""
    assert levels(judges.judge_folder("--run-dir", "/run/littlelb", writable=True)) == [Level.OK]
    assert levels(judges.judge_folder("--run-dir", "/run/littlelb", writable=False)) == [Level.ERROR]
    assert levels(judges.judge_folder("--state-dir", "/var/lib/littlelb", writable=False)) == [Level.WARN]


def test_a_running_daemon_is_named() -> None:
    """It is no fault that one runs."""
    (found,) = judges.judge_holder(" (pid 812, since 10:02:11)")
    assert (found.level, "pid 812" in found.message) == (Level.OK, True)
    assert levels(judges.judge_holder("")) == [Level.OK]


def chain(hook: str, policy: str = "drop", **more: Any) -> dict[str, Any]:
    """A base chain as nft lists it."""
    known = {"family": "inet", "table": "wall", "name": f"{hook}-chain", "hook": hook, "policy": policy}
    return {"chain": known | {"type": "filter", "prio": 0} | more}


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], [Level.OK]),
        ([{"metainfo": {"version": "1.0.6"}}, {"chain": {"family": "ip", "table": "t", "name": "plain"}}], [Level.OK]),
        ([chain("input", "accept"), chain("forward")], [Level.OK]),
        ([chain("input")], [Level.WARN]),
        ([chain("output")], [Level.WARN]),
        ([chain("input"), chain("output"), chain("input", family="ip6")], [Level.WARN] * 3),
    ],
)
def test_chains(entries: list[dict[str, Any]], expected: list[Level]) -> None:
    """Only base chains on the way of local traffic that drop what nobody accepts stand in the way."""
    assert levels(judges.judge_chains({"nftables": entries}, pipe_only=True)) == expected


@pytest.mark.parametrize(
    ("table", "name", "said"),
    [
        ("firewalld", "filter_FORWARD", "firewalld's"),
        ("filter", "FORWARD", "DOCKER-USER"),
        ("mine", "eat", "hook forward, priority 0, policy drop: only"),
    ],
)
def test_a_forward_chain_that_drops(table: str, name: str, said: str) -> None:
    """It is named with hook and priority, whose it is, and what to accept; a chain of ours is none of others'."""
    chain = {"family": "inet", "table": table, "name": name, "hook": "forward", "prio": 0, "policy": "drop"}
    (found,) = judges.judge_chains({"nftables": [{"chain": chain}, {"chain": chain | {"table": "littlelb"}}]})
    assert (found.level, found.subject) == (Level.WARN, f"firewall, chain inet {table} {name}")
    assert said in found.message
    assert "ct status dnat accept" in found.remedy


def test_connection_tracking() -> None:
    """Near its limit it is a warning with the remedy; before its first use there is nothing to read."""
    (full,) = judges.judge_tracking(850, 1000, counted=True)
    assert (full.level, "nf_conntrack_max=2000" in full.remedy) == (Level.WARN, True)
    (fine,) = judges.judge_tracking(1, 1000, counted=False)
    assert (fine.level, "packets and bytes are not counted" in fine.message) == (Level.OK, True)
    assert judges.judge_tracking(1, 1000, counted=None)[0].message == "1 of 1000 entries"
    assert levels(judges.judge_tracking(None, None, counted=None)) == [Level.OK]


def test_forwarding() -> None:
    """IPv4 that is off is switched on by a run; IPv6 is its owner's to do, where there is IPv6 at all."""
    off = State.OFF
    four = ForwardingFinding("eth0", Family.IPV4, off, "off")
    six = ForwardingFinding("eth0", Family.IPV6, off, "all.forwarding is 0", "sysctl -w …")
    on = ForwardingFinding("eth0", Family.IPV6, State.ON, "on")
    dual = HostFacts("eth0", own=(ip_address("2001:db8::2"),))
    assert levels(judges.judge_forwarding(dual, [four, six, on])) == [Level.OK, Level.WARN, Level.OK]
    assert judges.judge_forwarding(dual, [six])[0].remedy == "sysctl -w …"
    newer = ForwardingFinding("eth0", Family.IPV6, off, "both are 0", "sysctl -w net/ipv6/conf/eth0/force_forwarding=1")
    assert levels(judges.judge_forwarding(dual, [newer])) == [Level.OK]
    assert judges.judge_forwarding(HostFacts("eth0"), [six]) == []


@pytest.mark.parametrize(
    ("device", "every", "expected"),
    [("1", "0", [Level.WARN]), ("0", "1", [Level.WARN]), ("2", "1", []), ("0", None, []), (None, None, [])],
)
def test_strict_reverse_path(device: str | None, every: str | None, expected: list[Level]) -> None:
    """The larger one counts; only 1 is strict."""
    assert levels(judges.judge_reverse_path("eth0", {"eth0": device, "all": every})) == expected


def test_an_empty_answer_of_nft_is_no_chain() -> None:
    """A kernel without nf_tables has no rules."""
    assert levels(judges.judge_chains({})) == [Level.OK]


def test_firewalls_that_were_not_seen() -> None:
    """It says why it could not look, and names the older iptables where it has a filter table."""
    (found,) = judges.judge_unseen_firewall("nft is not installed")
    assert (found.level, "nft is not installed" in found.message) == (Level.WARN, True)
    assert levels(judges.judge_legacy_tables("nat\nfilter\n")) == [Level.WARN]
    assert judges.judge_legacy_tables("nat\n") == []


def test_errors_of_a_folder() -> None:
    """Each is a finding of its own."""
    assert levels(judges.judge_source_errors("services", [])) == [Level.OK]
    assert levels(judges.judge_source_errors("services", ["a.yaml: one", "b.yaml: two"])) == [Level.ERROR] * 2


def test_rights() -> None:
    """Each right that is missing is an error; the one for externalIPs has a remedy of its own."""
    granted = dict.fromkeys(judges.RIGHTS, True)
    assert levels(judges.judge_rights(granted)) == [Level.OK]
    lacking = granted | {judges.RIGHTS[3]: False, judges.EXTERNAL_IPS_RIGHT: False}
    first, second = judges.judge_rights(lacking)
    assert first.message == "not permitted: patch services/status"
    assert "rbac.yaml" in first.remedy
    assert second.message == "not permitted: patch services"
    assert "--external-ips" in second.remedy
    assert str(judges.RIGHTS[4]) == "list endpointslices.discovery.k8s.io"


def test_other_balancers() -> None:
    """They are named with some of their Services; where we take no class-less ones they do no harm."""
    writers = {"cloud": [f"default/s{number}" for number in range(5)], "k3s": ["default/web"]}
    found = judges.judge_others(writers, class_less=True)
    assert levels(found) == [Level.WARN, Level.WARN]
    assert found[0].message.endswith("default/s0, default/s1, default/s2 and 2 more")
    assert levels(judges.judge_others(writers, class_less=False)) == [Level.OK, Level.OK]
    assert levels(judges.judge_others({}, class_less=True)) == [Level.OK]


@pytest.mark.parametrize(
    ("selector", "total", "usable", "expected"),
    [
        ("", 2, 2, Level.OK),
        ("", 0, 0, Level.OK),
        ("", 2, 0, Level.WARN),
        ("tier=edge", 2, 1, Level.OK),
        ("tier=edge", 2, 0, Level.WARN),
        ("tier=edge", 0, 0, Level.WARN),
    ],
)
def test_nodes(selector: str, total: int, usable: int, expected: Level) -> None:
    """A selector without nodes is worth a word; a folder without any Node is not."""
    found = judges.judge_nodes(selector, total, usable)
    assert levels(found) == [expected]
    assert selector in found[0].subject


@pytest.mark.parametrize(
    ("asked", "reason", "level", "words"),
    [
        ("auto", "", Level.OK, "nft carries"),
        ("pipe", "", Level.OK, "pipe carries"),
        ("auto", "the command nft is missing", Level.WARN, "does not work here: the command nft is missing"),
        ("nft", "not permitted", Level.ERROR, "does not work here: not permitted"),
    ],
)
def test_the_plane_is_judged_by_what_was_asked_for(asked: str, reason: str, level: Level, words: str) -> None:
    """Who asked for the kernel by name has an error, who left it open a warning; the pipe is nobody's fault."""
    (finding,) = judges.judge_planes(asked, reason)
    assert finding.level is level
    assert words in finding.message
    assert bool(finding.remedy) is (level is not Level.OK)
