"""Lets the kernel forward packets that come in by given devices: IPv4 by netlink, IPv6 where that harms nobody.

A packet is forwarded when the device that it came in by forwards; the answer comes in by the other one: both have to.
IPv4: conf.DEVICE.forwarding. IPv6: conf.DEVICE.forwarding does nothing by itself; conf.all.forwarding=1 turns the host
into a router, which then ignores router advertisements unless accept_ra is 2 (ip-sysctl), so that is for its owner to
do; newer kernels (6.17) have conf.DEVICE.force_forwarding, which does only what it says.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import structlog

from littlelb.core.model import Family
from littlelb.host.forwarding.devconf import Setting
from littlelb.host.forwarding.record import Change, Record
from littlelb.host.sysctl import read_sysctl, write_sysctl

log = structlog.get_logger(__name__)

_NAMES = {Setting.FORWARDING: "forwarding", Setting.ARP_IGNORE: "arp_ignore"}
_ALL_IPV6 = "net/ipv6/conf/all/forwarding"


class State(StrEnum):
    """Does the kernel forward what comes in by a device?"""

    ON = "on"
    """It did so before, or somebody else wants it."""
    ENABLED = "enabled"
    """It does because of us; `restore` puts it back."""
    OFF = "off"


@dataclass(frozen=True, slots=True)
class ForwardingFinding:
    """What is the case for one device and family, and what its owner can do."""

    device: str
    family: Family
    state: State
    message: str
    remedy: str = ""

    @property
    def forwards(self) -> bool:
        """Do packets that come in by the device go on?"""
        return self.state is not State.OFF


@dataclass(frozen=True, slots=True)
class Restored:
    """One setting that we had changed; `reason` says why it was left as it is, empty where it was put back."""

    key: str
    value: int
    """The one that was put back, or would have been."""
    reason: str = ""

    def __str__(self) -> str:
        """`net/ipv4/conf/eth0/forwarding = 0`, with the reason where it was left alone."""
        return f"{self.key} = {self.value}" + (f" (left: {self.reason})" if self.reason else "")


class DeviceTable(Protocol):
    """What of `host.netlink.Netlink` is used here."""

    def read_index(self, device: str) -> int | None:
        """Return the index of a device; None: there is none of this name."""
        ...

    async def read_settings(self, index: int) -> Mapping[Setting, int]:
        """Read a device's IPv4 settings. Raises OSError."""
        ...

    async def write_settings(self, index: int, values: Mapping[Setting, int]) -> None:
        """Set some of them. Raises OSError: EPERM, ENODEV."""
        ...


class Forwarding:
    """Switches forwarding on where it is off, and back."""

    def __init__(
        self,
        table: DeviceTable,
        record: Path,
        *,
        read: Callable[[str], str | None] = read_sysctl,
        write: Callable[[str, str], None] = write_sysctl,
    ) -> None:
        """`record`: the file that remembers what was changed, below the run directory."""
        self._table, self._record = table, Record(record)
        self._read, self._write = read, write

    async def read(self, devices: Iterable[str]) -> tuple[ForwardingFinding, ...]:
        """Say how it is, and change nothing."""
        return await self._look(devices, switch_on=False)

    async def enable(self, devices: Iterable[str]) -> tuple[ForwardingFinding, ...]:
        """Let the kernel forward what comes in by these devices; what is on already stays as it is."""
        return await self._look(devices, switch_on=True)

    async def answer_arp(self, device: str) -> bool:
        """Let the device answer questions for host prefixes: an arp_ignore above 1 becomes 1; was there one?

        It does not help where that of `all` is above 1 too, which counts then (`host.sysctl.find_obstacles` tells).
        """
        index = self._table.read_index(device)
        if index is None:
            return False
        try:
            value = (await self._table.read_settings(index)).get(Setting.ARP_IGNORE, 0)
            if value > 1:
                await self._set(device, index, Setting.ARP_IGNORE, value)
        except OSError as error:
            log.warning("forwarding.not_set", device=device, setting="arp_ignore", error=error.strerror)
            return False
        return value > 1

    async def restore(self) -> tuple[Restored, ...]:
        """Put back what is still as we set it; what could not be is remembered for the next time."""
        outcome = [(change, await self._restore(change)) for change in self._record.read()]
        self._record.write(tuple(change for change, reason in outcome if reason.startswith("refused")))
        return tuple(Restored(change.key, change.before, reason) for change, reason in outcome)

    async def _look(self, devices: Iterable[str], *, switch_on: bool) -> tuple[ForwardingFinding, ...]:
        found: list[ForwardingFinding] = []
        for device in dict.fromkeys(devices):
            index = self._table.read_index(device)
            if index is None:
                found.append(_off(device, Family.IPV4, "the device does not exist", ""))
                continue
            found.append(await self._look_ipv4(device, index, switch_on=switch_on))
            if self._read(_ALL_IPV6) is not None:
                found.append(self._look_ipv6(device, index, switch_on=switch_on))
        return tuple(found)

    async def _look_ipv4(self, device: str, index: int, *, switch_on: bool) -> ForwardingFinding:
        key = _key(device, Setting.FORWARDING)
        try:
            if (await self._table.read_settings(index)).get(Setting.FORWARDING):
                return self._on(device, index, Family.IPV4, key)
            if switch_on:
                await self._set(device, index, Setting.FORWARDING, 0)
                return self._on(device, index, Family.IPV4, key)
        except OSError as error:
            return _off(device, Family.IPV4, f"{key} cannot be set: {error.strerror}", f"sysctl -w {key}=1")
        return _off(device, Family.IPV4, f"{key} is 0", f"sysctl -w {key}=1")

    async def _set(self, device: str, index: int, setting: Setting, before: int) -> None:
        self._record.add(Change(device, index, _key(device, setting), before, 1))
        await self._table.write_settings(index, {setting: 1})
        log.info("forwarding.set", key=_key(device, setting), before=before, value=1)

    def _look_ipv6(self, device: str, index: int, *, switch_on: bool) -> ForwardingFinding:
        key = f"net/ipv6/conf/{device}/force_forwarding"
        if self._read(_ALL_IPV6) == "1":
            return self._on(device, index, Family.IPV6, _ALL_IPV6)
        match self._read(key):
            case None if self._read(f"net/ipv6/conf/{device}/forwarding") is None:
                return _off(device, Family.IPV6, "the device has no IPv6", "")
            case None:
                remedy = f"sysctl -w {_ALL_IPV6}=1 net/ipv6/conf/{device}/accept_ra=2"
                return _off(device, Family.IPV6, f"{_ALL_IPV6} is 0, and this kernel has no force_forwarding", remedy)
            case "0" if switch_on:
                return self._force_ipv6(device, index, key)
            case "0":
                return _off(device, Family.IPV6, f"{_ALL_IPV6} and {key} are 0", f"sysctl -w {key}=1")
            case _:
                return self._on(device, index, Family.IPV6, key)

    def _force_ipv6(self, device: str, index: int, key: str) -> ForwardingFinding:
        try:
            self._record.add(Change(device, index, key, 0, 1))
            self._write(key, "1")
        except OSError as error:  # /proc/sys is read-only in most containers, and there is no other way
            return _off(device, Family.IPV6, f"{key} cannot be set: {error.strerror}", f"sysctl -w {key}=1")
        log.info("forwarding.set", key=key, before=0, value=1)
        return self._on(device, index, Family.IPV6, key)

    def _on(self, device: str, index: int, family: Family, key: str) -> ForwardingFinding:
        ours = any((change.index, change.key) == (index, key) for change in self._record.read())
        return ForwardingFinding(device, family, State.ENABLED if ours else State.ON, f"{key} is 1")

    async def _restore(self, change: Change) -> str:
        """Return why it was left as it is; empty: it was put back."""
        if self._table.read_index(change.device) != change.index:
            return "the device is gone"
        setting = next((one for one in Setting if change.key == _key(change.device, one)), None)
        try:
            if setting is not None:
                value = (await self._table.read_settings(change.index)).get(setting)
            else:
                value = int(self._read(change.key) or -1)
            if value != change.after:
                return f"somebody else has set it to {value}"
            if setting is not None:
                await self._table.write_settings(change.index, {setting: change.before})
            else:
                self._write(change.key, str(change.before))
        except OSError as error:
            return f"refused: {error.strerror}"
        log.info("forwarding.restored", key=change.key, value=change.before)
        return ""


def _key(device: str, setting: Setting) -> str:
    return f"net/ipv4/conf/{device}/{_NAMES[setting]}"


def _off(device: str, family: Family, message: str, remedy: str) -> ForwardingFinding:
    return ForwardingFinding(device, family, State.OFF, message, remedy)
