"""Switching forwarding on and back, on a kernel in memory and sysctls in a dictionary."""

import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from littlelb.core.model import Family
from littlelb.host.forwarding.devconf import Setting
from littlelb.host.forwarding.switch import Forwarding, ForwardingFinding, State
from littlelb.testing.fake_kernel import ETH0, FakeKernel

FOUR0, FOUR1 = "net/ipv4/conf/eth0/forwarding", "net/ipv4/conf/eth1/forwarding"
ALL6 = "net/ipv6/conf/all/forwarding"


def force(device: str) -> str:
    """Name the setting of newer kernels."""
    return f"net/ipv6/conf/{device}/force_forwarding"


def with_ipv6(*, forced: bool = True) -> dict[str, str]:
    """Make the settings of a kernel with IPv6; `forced`: it knows force_forwarding."""
    made = {ALL6: "0"} | {f"net/ipv6/conf/{device}/forwarding": "0" for device in ("eth0", "eth1")}
    return made | ({force(device): "0" for device in ("eth0", "eth1")} if forced else {})


@dataclass
class Machine:
    """A kernel, its sysctls, and the file of changes."""

    folder: Path
    kernel: FakeKernel = field(default_factory=FakeKernel)
    sysctls: dict[str, str] = field(default_factory=dict)
    read_only: bool = False

    def switch(self) -> Forwarding:
        """Make one, as each start of the daemon does."""
        return Forwarding(self.kernel, self.folder / "forwarding.json", read=self.sysctls.get, write=self._write)

    def _write(self, key: str, value: str) -> None:
        if self.read_only:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        self.sysctls[key] = value

    def forwards(self, index: int) -> int:
        """Read conf.DEVICE.forwarding."""
        return self.kernel.settings.get(index, {}).get(Setting.FORWARDING, 0)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Both devices there, nothing forwards, IPv6 off."""
    return Machine(tmp_path)


def states(found: Iterable[ForwardingFinding]) -> list[tuple[str, str, str]]:
    """Reduce findings to who, what, how."""
    return [(one.device, str(one.family), str(one.state)) for one in found]


async def test_both_devices_are_switched_on_and_back(machine: Machine) -> None:
    """Reading changes nothing; what was on before is left alone, at the end too; restoring twice is harmless."""
    machine.kernel.settings[3] = {Setting.FORWARDING: 1}
    off = await machine.switch().read(["eth0", "eth1"])
    assert states(off) == [("eth0", "IPv4", "off"), ("eth1", "IPv4", "on")]
    assert (off[0].message, off[0].remedy) == (f"{FOUR0} is 0", f"sysctl -w {FOUR0}=1")
    assert [one.forwards for one in off] == [False, True]
    assert states(await machine.switch().enable(["eth0", "eth1", "eth0"])) == [
        ("eth0", "IPv4", "enabled"),
        ("eth1", "IPv4", "on"),
    ]
    assert states(await machine.switch().read(["eth0"])) == [("eth0", "IPv4", "enabled")]
    assert (machine.forwards(2), machine.forwards(3)) == (1, 1)
    assert [str(one) for one in await machine.switch().restore()] == [f"{FOUR0} = 0"]
    assert (machine.forwards(2), machine.forwards(3)) == (0, 1)
    assert await machine.switch().restore() == ()


async def test_ipv6_is_forced_where_the_kernel_can(machine: Machine) -> None:
    """The device's own setting, which leaves router advertisements alone; and back."""
    machine.sysctls = with_ipv6()
    assert states(await machine.switch().enable(["eth0"])) == [("eth0", "IPv4", "enabled"), ("eth0", "IPv6", "enabled")]
    assert machine.sysctls[force("eth0")] == "1"
    assert machine.sysctls[ALL6] == "0"
    assert {one.key: one.reason for one in await machine.switch().restore()} == {FOUR0: "", force("eth0"): ""}
    assert machine.sysctls[force("eth0")] == "0"


async def test_ipv6_of_older_kernels_is_for_the_owner(machine: Machine) -> None:
    """We never make the host a router; the remedy names both settings. Where it is one, nothing is missing."""
    machine.sysctls = with_ipv6(forced=False)
    (_, finding) = await machine.switch().enable(["eth0"])
    assert finding.state is State.OFF
    assert finding.remedy == "sysctl -w net/ipv6/conf/all/forwarding=1 net/ipv6/conf/eth0/accept_ra=2"
    assert machine.sysctls == with_ipv6(forced=False)
    machine.sysctls[ALL6] = "1"
    (_, finding) = await machine.switch().enable(["eth0"])
    assert (finding.state, finding.message) == (State.ON, f"{ALL6} is 1")


async def test_what_cannot_be_set_is_told_with_the_remedy(machine: Machine) -> None:
    """A read-only /proc/sys, no right, no device, no IPv6 on the device."""
    machine.sysctls = with_ipv6()
    machine.read_only = True
    machine.kernel.unwritable = errno.EPERM
    del machine.sysctls["net/ipv6/conf/eth1/forwarding"], machine.sysctls[force("eth1")]
    found = await machine.switch().enable(["eth0", "eth1", "eth9"])
    assert [(one.device, one.family, one.message, one.remedy) for one in found] == [
        ("eth0", Family.IPV4, f"{FOUR0} cannot be set: Operation not permitted", f"sysctl -w {FOUR0}=1"),
        ("eth0", Family.IPV6, f"{force('eth0')} cannot be set: Read-only file system", f"sysctl -w {force('eth0')}=1"),
        ("eth1", Family.IPV4, f"{FOUR1} cannot be set: Operation not permitted", f"sysctl -w {FOUR1}=1"),
        ("eth1", Family.IPV6, "the device has no IPv6", ""),
        ("eth9", Family.IPV4, "the device does not exist", ""),
    ]
    (finding,) = [one for one in await machine.switch().read(["eth0"]) if one.family is Family.IPV6]
    assert (finding.message, finding.remedy) == (f"{ALL6} and {force('eth0')} are 0", f"sysctl -w {force('eth0')}=1")


async def test_only_what_is_still_as_we_set_it_is_put_back(machine: Machine) -> None:
    """Not what somebody has set since, and nothing of a device that was made again."""
    machine.sysctls = with_ipv6()
    machine.kernel.settings[2] = {Setting.ARP_IGNORE: 2}
    switch = machine.switch()
    await switch.enable(["eth0", "eth1"])
    assert await switch.answer_arp("eth0")
    machine.kernel.settings[2][Setting.ARP_IGNORE] = 0
    machine.kernel.links = [ETH0, replace(ETH0, name="eth1", index=9)]
    assert {one.key: one.reason for one in await machine.switch().restore()} == {
        FOUR0: "",
        force("eth0"): "",
        FOUR1: "the device is gone",
        force("eth1"): "the device is gone",
        "net/ipv4/conf/eth0/arp_ignore": "somebody else has set it to 0",
    }
    assert await machine.switch().restore() == ()


async def test_what_is_refused_is_tried_again_by_the_next_one(machine: Machine) -> None:
    """A cleanup without the right does not lose the memory of what is to be put back."""
    await machine.switch().enable(["eth0"])
    machine.kernel.unwritable = errno.EPERM
    assert [str(one) for one in await machine.switch().restore()] == [
        f"{FOUR0} = 0 (left: refused: Operation not permitted)"
    ]
    machine.kernel.unwritable = 0
    assert [str(one) for one in await machine.switch().restore()] == [f"{FOUR0} = 0"]
    assert machine.forwards(2) == 0


@pytest.mark.parametrize(("value", "after", "changed"), [(0, 0, False), (1, 1, False), (2, 1, True), (8, 1, True)])
async def test_arp_is_answered_for_host_prefixes(machine: Machine, value: int, after: int, changed: bool) -> None:
    """Values above 1 would hide them; others are somebody's choice and stay; restored with the rest."""
    machine.kernel.settings[2] = {Setting.ARP_IGNORE: value}
    assert await machine.switch().answer_arp("eth0") is changed
    assert machine.kernel.settings[2][Setting.ARP_IGNORE] == after
    await machine.switch().restore()
    assert machine.kernel.settings[2][Setting.ARP_IGNORE] == value


async def test_arp_of_a_device_that_is_not_ours_to_change(machine: Machine) -> None:
    """Neither a missing device nor a missing right is an error of the program."""
    assert not await machine.switch().answer_arp("eth9")
    machine.kernel.settings[2] = {Setting.ARP_IGNORE: 2}
    machine.kernel.unwritable = errno.EPERM
    assert not await machine.switch().answer_arp("eth0")
