"""One daemon per network namespace."""

import os
import socket
import subprocess
import sys
import time

import pytest

from littlelb.core.errors import Permanent
from littlelb.host.instance import InstanceLock, name_holder, read_holder

LINE = "0000000000000000: 00000002 00000000 00000000 0002 01 12345 @littlelb pid=812 since=1763892131"
HEADER = "Num       RefCount Protocol Flags    Type St Inode Path"


@pytest.fixture
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read local times as UTC."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


@pytest.mark.usefixtures("utc")
@pytest.mark.parametrize(
    ("sockets", "now", "text"),
    [
        pytest.param(f"{HEADER}\n{LINE}\n", 1763899999, " (pid 812, since 10:02:11)", id="today"),
        pytest.param(f"{HEADER}\n{LINE}\n", 1764000000, " (pid 812, since 2025-11-23 10:02:11)", id="earlier"),
        pytest.param(f"{HEADER}\n{LINE}x\n", 1763899999, "", id="another name"),
        pytest.param("", 0, "", id="nothing"),
    ],
)
def test_holder_is_named(sockets: str, now: float, text: str) -> None:
    """Pid and start are read from the name of its socket; the date is named unless it is today."""
    assert name_holder("littlelb", sockets, now) == text


HOLD = """
import subprocess, sys, time
from littlelb.host.instance import InstanceLock
with InstanceLock(time.time, name=sys.argv[1]):
    subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"])
    print("held", flush=True)
    sys.stdin.read()
"""
NAME = f"littlelb-test-{os.getpid()}"


def test_second_is_refused_until_the_first_is_killed() -> None:
    """The refusal names the holder; kill -9 frees the lock, though a child process of the holder lives on."""
    first = subprocess.Popen(
        [sys.executable, "-c", HOLD, NAME],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(Permanent, match=rf"^another loadbalancer \(pid {first.pid}, since .*\) already runs in"):
            InstanceLock(time.time, name=NAME).__enter__()
        first.kill()
        first.wait()
        with InstanceLock(time.time, name=NAME):
            pass


def test_lock_is_free_after_its_block() -> None:
    """Leaving the block frees it; while it is held this very process is refused too."""
    for _ in range(2):
        with InstanceLock(time.time, name=NAME):
            refused = InstanceLock(time.time, name=NAME)
            with pytest.raises(Permanent, match=rf"pid {os.getpid()}, since"):
                refused.__enter__()


def test_any_name_of_any_socket_is_read_over() -> None:
    """Abstract names are bytes, and /proc/net/unix shows them as they are."""
    with socket.socket(socket.AF_UNIX) as strange, InstanceLock(time.time, name=NAME):
        strange.bind(b"\0littlelb-test-\xff\xfe" + str(os.getpid()).encode())
        assert f"pid {os.getpid()}" in read_holder(time.time(), name=NAME)
