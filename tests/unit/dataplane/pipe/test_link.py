"""The daemon's end of a conversation, and the run directory."""

import asyncio
import os
import socket
from pathlib import Path

import pytest

from littlelb.core.errors import Permanent, Transient
from littlelb.dataplane.pipe.link import Hello, Link, RunDirectory, connect
from littlelb.dataplane.pipe.wire import MAX_BODY, PROTOCOL, Framer, Json, WireError, render


class Far:
    """The worker's end of a socket pair."""

    def __init__(self) -> None:
        """Make both ends."""
        ours, self.sock = socket.socketpair()
        ours.settimeout(0)
        self.sock.settimeout(5)
        self.closed: list[Link] = []
        self.link = Link(ours, self.closed.append)

    def answer(self, message: Json, *fds: int) -> Json:
        """Read one question and answer it."""
        framer = Framer()
        found: list[tuple[Json, list[int]]] = []
        while not found:
            found = framer.feed(self.sock.recv(1 << 16), [])
        socket.send_fds(self.sock, [b"".join(render({**message, "fds": len(fds)}))], list(fds))
        return found[0][0]

    def close(self) -> None:
        """End both."""
        self.link.close()
        self.sock.close()


async def test_a_question_gets_its_answer_and_descriptors() -> None:
    """The answer comes back with what was lent."""
    far = Far()
    read, write = os.pipe()
    asked = asyncio.create_task(far.link.ask({"do": "lend"}))
    assert await asyncio.to_thread(far.answer, {"ok": True}, read) == {"do": "lend"}
    answer, fds = await asked
    assert answer["ok"] is True
    os.write(write, b"x")
    assert os.read(fds[0], 1) == b"x"
    for fd in (read, write, *fds):
        os.close(fd)
    far.close()


async def test_a_refusal_leaves_the_link_open() -> None:
    """A worker that says no is asked again next time."""
    far = Far()
    asked = asyncio.create_task(far.link.ask({"do": "set"}))
    await asyncio.to_thread(far.answer, {"ok": False, "error": "no such thing"})
    with pytest.raises(Transient, match="no such thing"):
        await asked
    assert not far.link.closed
    far.close()


async def test_a_worker_that_dies_meanwhile_is_an_error_and_told_once() -> None:
    """The question under way fails, the link is closed for good, the owner hears of it once."""
    far = Far()
    asked = asyncio.create_task(far.link.ask({"do": "hello"}))
    await asyncio.sleep(0)
    far.sock.close()
    with pytest.raises(Transient):
        await asked
    with pytest.raises(Transient):
        await far.link.ask({"do": "hello"})
    far.link.close()
    assert far.closed == [far.link]


async def test_a_worker_that_hangs_is_given_up() -> None:
    """No answer in time closes the link."""
    far = Far()
    with pytest.raises(Transient, match="time-out"):
        await far.link.ask({"do": "hello"}, seconds=0.01)
    assert far.link.closed
    far.close()


async def test_a_question_that_is_too_long_costs_the_question_only() -> None:
    """What would not fit into a message is refused here, and the worker is none the worse."""
    far = Far()
    with pytest.raises(Transient, match="cannot be asked"):
        await far.link.ask({"do": "set", "rules": ["x" * MAX_BODY]})
    assert not far.link.closed
    assert far.closed == []
    far.close()


async def test_who_was_cancelled_leaves_no_answer_to_the_next_one() -> None:
    """Answers come in order: the one that nobody waits for any more is thrown away, with what was lent with it."""
    far = Far()
    read, write = os.pipe()
    given_up = asyncio.create_task(far.link.ask({"do": "lend"}))
    await asyncio.sleep(0)
    given_up.cancel()
    await asyncio.gather(given_up, return_exceptions=True)
    asked = asyncio.create_task(far.link.ask({"do": "hello"}))
    await asyncio.sleep(0)
    await asyncio.to_thread(far.answer, {"ok": True, "frontends": []}, read)
    os.close(read)
    socket.send_fds(far.sock, [b"".join(render({"ok": True, "pid": 7}))], [])
    assert (await asked)[0]["pid"] == 7
    with pytest.raises(BrokenPipeError):
        os.write(write, b"nobody has the other end")
    os.close(write)
    far.close()


@pytest.mark.parametrize("broken", [{}, {"pid": 0, "netns": 1, "version": ""}, {"pid": 1, "netns": "x", "version": ""}])
def test_a_broken_hello_is_refused(broken: Json) -> None:
    """Who does not say who it is, is not ours."""
    with pytest.raises(WireError):
        Hello(broken, "0.1.0")


@pytest.mark.parametrize(("later", "version", "fits"), [(0, "0.1.0", True), (1, "0.1.0", False), (0, "9", False)])
def test_only_the_same_protocol_and_version_fit(later: int, version: str, fits: bool) -> None:
    """Any other worker is replaced."""
    hello = Hello({"pid": 7, "netns": 1, "version": version, "protocol": PROTOCOL + later}, "0.1.0")
    assert hello.fits is fits


async def test_the_run_directory_names_workers_only(tmp_path: Path) -> None:
    """Sockets are ours alone and can be connected to at once, also below a very long path; other files stay."""
    path = tmp_path / ("x" * 120) / "run"
    directory = RunDirectory(path)
    name, sock = directory.listen()
    (path / "notes.txt").write_text("not ours")
    os.close(directory.open_log(name))
    (path / name.replace(".sock", ".log")).write_text("Traceback\n")
    assert directory.names() == [name]
    assert (path / name).stat().st_mode & 0o777 == 0o600
    assert directory.read_log(name) == "Traceback"
    link = connect(directory.fd, name, lambda _: None)
    link.close()
    sock.close()
    directory.remove(name)
    directory.remove(name)
    assert [file.name for file in path.iterdir()] == ["notes.txt"]
    assert directory.read_log(name) == ""
    directory.close()


def test_a_directory_that_others_can_enter_is_refused(tmp_path: Path) -> None:
    """The refusal says what is wanted."""
    path = tmp_path / "run"
    path.mkdir(mode=0o755)
    with pytest.raises(Permanent, match="mode 0700"):
        RunDirectory(path)
    with pytest.raises(Permanent, match="cannot be used"):
        RunDirectory(tmp_path / "run" / "x" / ("y" * 300))
