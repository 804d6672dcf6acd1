"""Reads kernel settings, and judges those that keep a held address from being reached.

Only `host.forwarding` writes one, and remembers it.

Keys are written with slashes, which sysctl(8) takes too, so that the dot of a device like `eth0.5` stays a dot. Of
IPv4's settings the larger value of `all` and the device counts (ip-sysctl).
"""

from collections.abc import Callable
from pathlib import Path

from littlelb.core.shown.findings import Finding, Level

_ROOT = Path("/proc/sys")


def read_sysctl(key: str) -> str | None:
    """Return the value of `net/ipv4/conf/eth0/arp_ignore`; None: this kernel has no such setting."""
    try:
        return (_ROOT / key).read_text().strip()
    except OSError:  # a kernel without it (IPv6 not built in), or a device that is not there: nothing to judge
        return None


def write_sysctl(key: str, value: str) -> None:
    """Set `net/ipv6/conf/eth0/force_forwarding`; raises OSError: EROFS in most containers, EACCES, ENOENT."""
    (_ROOT / key).write_text(value)


def find_obstacles(device: str, *, link_prefix: bool, read: Callable[[str], str | None] = read_sysctl) -> list[Finding]:
    """Return the settings that keep addresses on the device from working; `link_prefix`: `--prefix link` is chosen."""
    found: list[Finding] = []
    answering = _larger("arp_ignore", device, read)
    if answering is not None and int(answering[1]) > 1:
        text = "ARP questions for a host prefix are not answered: no client on the LAN finds our addresses"
        found.append(_finding(Level.ERROR, answering, text, f"sysctl -w {answering[0]}=1"))
    promoting = _larger("promote_secondaries", device, read)
    if link_prefix and promoting is not None and promoting[1] == "0":
        text = "when the first address of a network goes, all others of that network go with it"
        found.append(_finding(Level.WARN, promoting, text, f"sysctl -w {promoting[0]}=1, or --prefix host"))
    off = f"net/ipv6/conf/{device}/disable_ipv6"
    if read(off) == "1":
        found.append(_finding(Level.WARN, (off, "1"), "no IPv6 address can be held", f"sysctl -w {off}=0"))
    return found


def _finding(level: Level, setting: tuple[str, str], consequence: str, remedy: str) -> Finding:
    return Finding(level=level, subject=f"{setting[0]} = {setting[1]}", message=consequence, remedy=remedy)


def _larger(name: str, device: str, read: Callable[[str], str | None]) -> tuple[str, str] | None:
    """Return the key and value that count; the device's own where both are the same."""
    keys = (f"net/ipv4/conf/{device}/{name}", f"net/ipv4/conf/all/{name}")
    values = [(key, value) for key in keys if (value := read(key)) is not None]
    return max(values, key=lambda pair: int(pair[1]), default=None)
