"""Whose the listening sockets are."""

import errno
import os
from ipaddress import ip_address
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from littlelb.core.model import Frontend, Listener, Protocol
from littlelb.host.listeners import UNKNOWN, ListenerScan, name_listener, read_socket_inodes
from littlelb.host.sockets import Waiting

SSH = Waiting(Protocol.TCP, None, 22, 100)
WEB = Waiting(Protocol.TCP, ip_address("192.0.2.2"), 80, 200)
OURS = Waiting(Protocol.TCP, ip_address("203.0.113.7"), 80, 300)


def add_process(proc: Path, pid: int, name: str, *inodes: int) -> None:
    """Make a process with sockets, as /proc shows it."""
    folder = proc / str(pid) / "fd"
    folder.mkdir(parents=True)
    (proc / str(pid) / "comm").write_text(f"{name}\n")
    for number, inode in enumerate(inodes):
        (folder / str(number)).symlink_to(f"socket:[{inode}]")
    (folder / "99").symlink_to("/dev/null")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc with sshd, a web server and a worker of ours."""
    add_process(tmp_path, 812, "sshd", 100)
    add_process(tmp_path, 900, "nginx", 200, 201)
    add_process(tmp_path, 1000, "python3", 300)
    (tmp_path / "self").mkdir()
    return tmp_path


async def test_processes_are_named_and_ours_left_out(proc: Path) -> None:
    """Each listener comes with name and pid; sockets of our own processes are no listeners of the host."""
    scan = ListenerScan(lambda: frozenset({1000}), read=lambda: [WEB, OURS, SSH], proc=proc)
    assert await scan() == (
        Listener(Protocol.TCP, None, 22, "sshd (pid 812)"),
        Listener(Protocol.TCP, ip_address("192.0.2.2"), 80, "nginx (pid 900)"),
    )


async def test_a_process_may_call_itself_anything(tmp_path: Path) -> None:
    """Its name is any bytes (prctl PR_SET_NAME): no text in UTF-8, perhaps, and not one line."""
    add_process(tmp_path, 812, "", 100)
    (tmp_path / "812" / "comm").write_bytes(b"a\nb\xff\xfe\n")
    (found,) = await ListenerScan(frozenset, read=lambda: [SSH], proc=tmp_path)()
    assert found.process == "a\\nb\ufffd\ufffd (pid 812)"


async def test_only_what_can_be_forwarded_is_looked_at(proc: Path) -> None:
    """A name server's client opens a UDP socket for each question: that is no news for anybody."""
    client = Waiting(Protocol.UDP, None, 40_000, 400)
    scan = ListenerScan(frozenset, protocols=frozenset({Protocol.TCP}), read=lambda: [SSH, client], proc=proc)
    assert [found.port for found in await scan()] == [22]


async def test_known_sockets_are_not_looked_up_again(proc: Path) -> None:
    """A process is searched for when its socket is new, and again when the socket's number was used anew."""
    waiting = [SSH]
    scan = ListenerScan(frozenset, read=lambda: waiting, proc=proc)
    first = await scan()
    (proc / "812" / "comm").write_text("renamed\n")
    assert await scan() == first
    waiting.clear()
    assert await scan() == ()
    waiting.append(SSH)
    assert [listener.process for listener in await scan()] == ["renamed (pid 812)"]


async def test_whose_it_is_may_stay_unknown(tmp_path: Path) -> None:
    """Without the right to look, or in another process namespace, the port counts all the same."""
    scan = ListenerScan(lambda: frozenset({4}), read=lambda: [SSH], proc=tmp_path)
    assert await scan() == (Listener(Protocol.TCP, None, 22, UNKNOWN),)


async def test_unreadable_sockets_leave_the_last_answer(proc: Path) -> None:
    """A kernel that does not tell is logged once, until it tells again."""
    answers = iter([[SSH], None, None, [], None])

    def read() -> list[Waiting]:
        answer = next(answers)
        if answer is None:
            raise OSError(errno.ENOBUFS, "No buffer space available")
        return answer

    scan = ListenerScan(frozenset, read=read, proc=proc)
    with capture_logs() as logs:
        assert [len(await scan()) for _ in range(5)] == [1, 1, 1, 0, 0]
    assert [line["event"] for line in logs] == ["listeners.unreadable"] * 2


def test_real_process_has_its_sockets() -> None:
    """The links of /proc/PID/fd are read as the kernel writes them; a process that is gone has none."""
    ends = os.pipe()
    for end in ends:
        os.close(end)
    assert list(read_socket_inodes(Path("/proc/0"))) == []
    assert all(isinstance(inode, int) for inode in read_socket_inodes(Path("/proc/self")))


@pytest.mark.parametrize(
    ("address", "port", "process"),
    [
        ("192.0.2.2", 80, "nginx"),
        ("192.0.2.3", 80, None),
        ("192.0.2.3", 22, "sshd"),
        ("2001:db8::1", 22, "sshd"),
        ("192.0.2.2", 81, None),
    ],
)
def test_who_waits_where_a_frontend_would(address: str, port: int, process: str | None) -> None:
    """The same address and port, or the wildcard, of the same protocol."""
    listeners = [
        Listener(Protocol.TCP, None, 22, "sshd"),
        Listener(Protocol.TCP, ip_address("192.0.2.2"), 80, "nginx"),
        Listener(Protocol.UDP, None, 81, "other"),
    ]
    assert name_listener(listeners, Frontend(ip_address(address), Protocol.TCP, port)) == process
