"""Runs nft(8): text on its standard input, no shell, bounded time; what it says becomes an error with a remedy.

Needed for the skeleton alone: at start, after somebody deleted the table, and when a Service brings a timeout of
session affinity that no other has.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from littlelb.core.errors import Permanent, Transient, WorldError
from littlelb.dataplane.nft.ruleset import render_skeleton

_DIRECTORIES: Final = ("/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/bin", "/bin", "/usr/local/bin")
"""Where distributions put it; the caller's PATH has no say in what root runs."""
_SECONDS: Final = 30.0
_SHOWN: Final = 300
"""Characters of a complaint."""
_REMEDIES: Final = {
    "Operation not permitted": "run as root, or give the process CAP_NET_ADMIN in its network namespace",
    "Operation not supported": "this kernel lacks something: load its nf_tables and nf_nat modules, or use a newer one",
    "Protocol not supported": "this kernel has no nf_tables: load the module nf_tables",
    "Message too long": "root of a user namespace may not enlarge nft's send buffer: run as root of the whole machine",
    "syntax error": "nft is older than our text: install nftables 1.0.6 or later",
}
"""What nft says → what to do; what is not in it may pass."""


def find_nft(directories: Sequence[str] = _DIRECTORIES) -> Path:
    """Return the absolute path of nft. Raises Permanent where there is none."""
    for directory in directories:
        path = Path(directory) / "nft"
        if path.is_file():
            return path
    raise Permanent("the command nft is missing: install nftables 1.0.6 or later")


def run_nft(text: str, *, check: bool = False, nft: Path | None = None, seconds: float = _SECONDS) -> int:
    """Let nft carry out `text` in one transaction, or with `check` only ask whether the kernel would take it.

    Blocks. Returns the process id that it had. Raises Permanent, Transient.
    """
    command = [str(nft or find_nft()), *(["-c"] if check else []), "-f", "-"]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env={"LC_ALL": "C"},
        )
    except OSError as error:
        raise Permanent(f"{command[0]} cannot be run: {error.strerror}") from error
    with process:
        try:
            said, _ = process.communicate(text, timeout=seconds)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise Transient(f"{command[0]} took longer than {seconds:g} s") from error
        if process.returncode:
            raise _judge(said)
        return process.pid


def _judge(said: str) -> WorldError:
    complaint = " ".join(said.split())[:_SHOWN]
    for words, remedy in _REMEDIES.items():
        if words in said:
            return Permanent(f"nft: {complaint}; {remedy}")
    return Transient(f"nft: {complaint or 'failed without a word'}")


def probe(nft: Path | None = None) -> str:
    """Say why the kernel plane does not work here; empty: it does. Blocks for some 0.1 s, and changes nothing."""
    try:
        run_nft(render_skeleton(), check=True, nft=nft)
    except WorldError as error:
        return str(error)
    return ""
