"""Kernel settings that stand in the way of a held address."""

import pytest

from littlelb.host.sysctl import find_obstacles, read_sysctl

V4 = "net/ipv4/conf"


@pytest.mark.parametrize(
    ("settings", "link_prefix", "found"),
    [
        pytest.param({}, True, [], id="nothing known"),
        pytest.param({f"{V4}/eth0/arp_ignore": "1", f"{V4}/all/arp_ignore": "0"}, False, [], id="answers"),
        pytest.param(
            {f"{V4}/eth0/arp_ignore": "0", f"{V4}/all/arp_ignore": "2"},
            False,
            [f"sysctl -w {V4}/all/arp_ignore=1"],
            id="silent everywhere",
        ),
        pytest.param(
            {f"{V4}/eth0/arp_ignore": "8", f"{V4}/all/arp_ignore": "0"},
            False,
            [f"sysctl -w {V4}/eth0/arp_ignore=1"],
            id="silent on the device",
        ),
        pytest.param(
            {f"{V4}/eth0/promote_secondaries": "0", f"{V4}/all/promote_secondaries": "0"},
            True,
            [f"sysctl -w {V4}/eth0/promote_secondaries=1, or --prefix host"],
            id="no promotion",
        ),
        pytest.param({f"{V4}/eth0/promote_secondaries": "0"}, False, [], id="no promotion, host prefix"),
        pytest.param(
            {f"{V4}/eth0/promote_secondaries": "0", f"{V4}/all/promote_secondaries": "1"}, True, [], id="promotion"
        ),
        pytest.param(
            {"net/ipv6/conf/eth0/disable_ipv6": "1"},
            False,
            ["sysctl -w net/ipv6/conf/eth0/disable_ipv6=0"],
            id="IPv6 is off",
        ),
    ],
)
def test_obstacles_hold_the_remedy(settings: dict[str, str], link_prefix: bool, found: list[str]) -> None:
    """Each obstacle names the setting that counts and the command against it; others are left alone."""
    obstacles = find_obstacles("eth0", link_prefix=link_prefix, read=settings.get)
    assert [obstacle.remedy for obstacle in obstacles] == found
    for obstacle in obstacles:
        key, _, value = obstacle.subject.partition(" = ")
        assert settings[key] == value
        assert obstacle.message


def test_missing_settings_are_no_error() -> None:
    """A setting that this kernel has is read; one that it has not is None."""
    assert read_sysctl("net/ipv4/conf/lo/arp_ignore") is not None
    assert read_sysctl("net/ipv4/conf/littlelb-none0/arp_ignore") is None
