"""Whom the crew takes in; starting and replacing are tested with real workers in tests/lab/test_pipe_life.py."""

import asyncio
import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

from littlelb.dataplane.pipe.crew import Crew, PipeSettings
from littlelb.dataplane.pipe.link import RunDirectory, read_netns
from littlelb.dataplane.pipe.wire import PROTOCOL, Json


class Worker:
    """A worker that says `hello` as told and agrees to everything else."""

    def __init__(self, directory: RunDirectory, **hello: object) -> None:
        """Listen in the run directory."""
        self.name, self._listener = directory.listen()
        self._hello = {"protocol": PROTOCOL, "version": "1", "pid": 1, "netns": read_netns(), "retiring": False} | hello
        self.asked: list[object] = []

    async def run(self) -> None:
        """Answer the first daemon that comes."""
        loop = asyncio.get_running_loop()
        self._listener.settimeout(0)
        sock, _ = await loop.sock_accept(self._listener)
        sock.settimeout(0)
        reader, writer = await asyncio.open_connection(sock=sock)
        try:
            while True:
                question: Json = json.loads(
                    await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))
                )
                self.asked.append(question["do"])
                body = json.dumps({"ok": True, **(self._hello if question["do"] == "hello" else {})}).encode()
                writer.write(len(body).to_bytes(4, "big") + body)
        except asyncio.IncompleteReadError:
            return
        finally:
            writer.close()

    def close(self) -> None:
        """End: nobody listens any more."""
        self._listener.close()


def read_started(pid: int) -> int:
    """When a process began, as /proc says it."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


async def meet(path: Path, wanted: int, *hellos: Json) -> tuple[Crew, list[Worker], Callable[[], None]]:
    """Let a crew find workers that say this."""
    settings = PipeSettings(path / "run", workers=wanted, version="1")
    directory = RunDirectory(settings.run_directory)
    workers = [Worker(directory, **hello) for hello in hellos]
    tasks = [asyncio.create_task(worker.run()) for worker in workers]
    directory.close()
    crew = Crew(settings, lambda: None)
    await crew.find()

    def end() -> None:
        for task in tasks:
            task.cancel()
        for worker in workers:
            worker.close()

    return crew, workers, end


async def test_each_kind_of_worker_gets_its_place(tmp_path: Path) -> None:
    """Fitting ones are members up to the wanted number, others elders; another network namespace is left alone."""
    crew, _, end = await meet(
        tmp_path,
        1,
        {"pid": 11},
        {"pid": 12},
        {"pid": 13, "version": "0.9"},
        {"pid": 14, "protocol": PROTOCOL + 1},
        {"pid": 15, "netns": 1},
        {"pid": 16, "retiring": True},
    )
    assert len(crew.members) == 1
    assert {member.hello.pid for member in [*crew.members, *crew.elders]} == {11, 12, 13, 14}
    assert crew.has_others
    await crew.end(keep=True)
    end()


async def test_elders_are_asked_to_retire_and_members_are_not(tmp_path: Path) -> None:
    """Only those whose work is done by others are sent away."""
    crew, (member, elder), end = await meet(tmp_path, 2, {"pid": 11}, {"pid": 12, "version": "0.9"})
    await crew.retire_elders()
    assert (member.asked, elder.asked) == (["hello"], ["hello", "retire"])
    assert crew.elders == []
    assert crew.has_others  # until its last flow has ended
    await crew.end(keep=False)
    assert (member.asked, elder.asked) == (["hello", "retire"], ["hello", "retire", "retire"])
    end()


async def test_a_lost_member_that_still_lives_retires(tmp_path: Path) -> None:
    """Whose conversation broke goes on accepting by old rules, so it is met again and sent away."""
    crew, (worker,), end = await meet(tmp_path, 1, {"pid": 11})
    name = worker.name
    crew.members[0].link.close()
    assert crew.members == []
    again = asyncio.create_task(worker.run())
    await crew.settle_lost()
    assert worker.asked == ["hello", "hello", "retire"]
    assert (tmp_path / "run" / name).exists()
    again.cancel()
    await crew.end(keep=True)
    end()


async def test_a_lost_member_that_hangs_is_killed(tmp_path: Path) -> None:
    """It could wake up later and accept by old rules; a process that merely got its number is left alone."""
    hung = await asyncio.create_subprocess_exec("sleep", "60")
    other = await asyncio.create_subprocess_exec("sleep", "60")
    crew, _, end = await meet(
        tmp_path, 2, {"pid": hung.pid, "started": read_started(hung.pid)}, {"pid": other.pid, "started": 1}
    )
    for member in list(crew.members):
        member.link.close()
    crew.hello_seconds = 0.05
    await crew.settle_lost()
    assert await hung.wait() == -signal.SIGKILL
    assert other.returncode is None
    assert list((tmp_path / "run").iterdir()) == []
    other.kill()
    await other.wait()
    await crew.end(keep=True)
    end()


async def test_a_socket_without_a_listener_is_removed(tmp_path: Path) -> None:
    """What a crash left behind is tidied up, and nobody is found."""
    run = tmp_path / "run"
    run.mkdir(mode=0o700)
    directory = os.open(run, os.O_PATH)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(f"/proc/self/fd/{directory}/worker-0123456789abcdef.sock")
    os.close(directory)
    crew, _, end = await meet(tmp_path, 1)
    assert crew.members == []
    assert list(run.iterdir()) == []
    await crew.end(keep=True)
    end()


def test_the_default_number_of_workers_is_bounded(tmp_path: Path) -> None:
    """One per CPU, at least one, at most four."""
    assert 1 <= PipeSettings(tmp_path).workers <= 4
