"""Network namespaces without root: inside a user namespace (user_namespaces(7)) one is root over what one made there.

Three kernel settings can forbid it; which one does, is said by name, so that its owner can judge whether to change it.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

PREFIX = ("unshare", "--user", "--map-root-user", "--net", "--mount")
"""Put before a command: it runs as root of namespaces of its own."""

SETTINGS = {
    "kernel.unprivileged_userns_clone": ("0", "1"),
    "user.max_user_namespaces": ("0", "15000"),
    "kernel.apparmor_restrict_unprivileged_userns": ("1", "0"),
}
"""Setting → (the value that forbids, one that allows)."""


def select_forbidding(settings: Mapping[str, str]) -> list[str]:
    """Say, one line each, which of the settings forbid user namespaces, and the command that would allow them."""
    return [
        f"{name} is {settings[name]}, which forbids it; to allow it: sudo sysctl -w {name}={allows}"
        for name, (forbids, allows) in SETTINGS.items()
        if settings.get(name) == forbids
    ]


def read_settings(top: Path = Path("/proc/sys")) -> dict[str, str]:
    """Read those of the settings that this kernel has."""
    paths = {name: top / name.replace(".", "/") for name in SETTINGS}
    return {name: path.read_text(encoding="ascii").strip() for name, path in paths.items() if path.exists()}


def read_prefix() -> tuple[Sequence[str], str]:
    """What to put before a command that needs namespaces (nothing for root), or why there is no way, as one line."""
    if os.geteuid() == 0:
        return (), ""
    tried = subprocess.run([*PREFIX, "true"], capture_output=True, text=True, check=False)
    if tried.returncode == 0:
        return PREFIX, ""
    reasons = select_forbidding(read_settings())
    unknown = f"{tried.stderr.strip()}; a container's seccomp profile may forbid it"
    return (), f"needs root, or a user namespace: {'; '.join(reasons) or unknown}"
