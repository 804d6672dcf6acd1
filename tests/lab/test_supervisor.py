"""The supervisor with real processes: what it restarts, what it passes on, what it reaps, and how it ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from littlelb.supervisor import EXIT_CONFIG

RUNNER = """
import signal
import sys
from littlelb.supervisor import Backoff, Supervisor
say = lambda line: print(line, flush=True)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored, and a shell cannot trap what it got ignored
farewell = ["sh", "-c", "echo cleaned >> log"]
sys.exit(Supervisor(sys.argv[1:], say, Backoff(first=0.05, most=5), farewell).run())
"""

TRAPS = 'trap "echo hup >> log" HUP; trap "echo usr2 >> log; exit 0" USR2; trap "echo term >> log; exit 7" TERM; '
FOR_EVER = "while :; do sleep 0.02; done"


@dataclass
class Supervised:
    """A supervisor in a process of its own; its daemon is a shell script that writes to `log`."""

    folder: Path
    script: str
    process: subprocess.Popen[str] = field(init=False)

    def __post_init__(self) -> None:
        """Start it."""
        command = [sys.executable, "-c", RUNNER, "sh", "-c", self.script]
        output = (self.folder / "output").open("w")
        self.process = subprocess.Popen(command, cwd=self.folder, stdout=output, stderr=output, text=True)
        output.close()

    @property
    def log(self) -> list[str]:
        """What the daemons have written, one word a line."""
        path = self.folder / "log"
        return path.read_text().split() if path.exists() else []

    def end(self) -> int:
        """Wait for its end and return its exit status."""
        return self.process.wait(10)


def wait_until(state: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for a state, with a deadline."""
    deadline = time.monotonic() + seconds
    while not state():
        assert time.monotonic() < deadline, "the state did not come"
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """Ids of a process's children, zombies included."""
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Callable[[str], Supervised]]:
    """Start supervisors, and end whatever is left of them."""
    made: list[Supervised] = []

    def start(script: str) -> Supervised:
        made.append(Supervised(tmp_path, script))
        return made[-1]

    yield start
    for supervised in made:
        if supervised.process.poll() is None:
            for pid in children(supervised.process.pid):
                os.kill(pid, signal.SIGKILL)
            supervised.process.kill()
            supervised.process.wait()


def test_a_daemon_that_crashes_is_started_again(supervise: Callable[[str], Supervised]) -> None:
    """Kill -9 of the daemon, and another one runs; each start is said."""
    supervised = supervise(f"echo started >> log; {FOR_EVER}")
    wait_until(lambda: supervised.log == ["started"])
    os.kill(children(supervised.process.pid)[0], signal.SIGKILL)
    wait_until(lambda: supervised.log == ["started"] * 2)
    assert "ended with status 137" in (supervised.folder / "output").read_text()


def test_sigterm_is_passed_on_and_the_daemons_status_is_ours(supervise: Callable[[str], Supervised]) -> None:
    """The daemon withdraws and ends; the supervisor ends with it, and starts nothing more."""
    supervised = supervise(f"{TRAPS} echo started >> log; {FOR_EVER}")
    wait_until(lambda: supervised.log == ["started"])
    supervised.process.terminate()
    assert supervised.end() == 7
    assert supervised.log == ["started", "term"]


def test_sigusr2_is_an_upgrade_in_place(supervise: Callable[[str], Supervised]) -> None:
    """The daemon leaves everything and ends with status 0; the next one is started."""
    supervised = supervise(f"{TRAPS} echo started >> log; {FOR_EVER}")
    wait_until(lambda: supervised.log == ["started"])
    supervised.process.send_signal(signal.SIGUSR2)
    wait_until(lambda: supervised.log == ["started", "usr2", "started"])


def test_sighup_reaches_the_daemon_and_ends_nothing(supervise: Callable[[str], Supervised]) -> None:
    """A reload is the daemon's business; it stays the same process."""
    supervised = supervise(f"{TRAPS} echo started >> log; {FOR_EVER}")
    wait_until(lambda: supervised.log == ["started"])
    before = children(supervised.process.pid)
    supervised.process.send_signal(signal.SIGHUP)
    wait_until(lambda: supervised.log == ["started", "hup"])
    assert children(supervised.process.pid) == before


def test_a_wrong_configuration_is_not_tried_again(supervise: Callable[[str], Supervised]) -> None:
    """Exit status 2 is passed on at once: it would be wrong again."""
    supervised = supervise(f"echo started >> log; exit {EXIT_CONFIG}")
    assert supervised.end() == EXIT_CONFIG
    assert supervised.log == ["started"]


def test_sigterm_during_the_backoff_ends_it(supervise: Callable[[str], Supervised]) -> None:
    """Between two lives there is no daemon that could withdraw: the clean-up is run; the status is the last one's."""
    supervised = supervise("echo started >> log; exit 9")
    # After the fifth life the wait is 0.8 s: it is not over when the signal comes.
    output = supervised.folder / "output"
    wait_until(lambda: output.read_text().count("ended with status 9") == 5)
    supervised.process.terminate()
    assert supervised.end() == 9
    assert supervised.log == ["started"] * 5 + ["cleaned"]


def test_workers_outlive_the_daemon_and_are_reaped_when_they_end(supervise: Callable[[str], Supervised]) -> None:
    """A worker whose daemon was killed becomes ours, lives on, and leaves no zombie."""
    # The first daemon only: its worker waits for a file, so the test decides when it ends.
    worker = "while ! test -e release; do sleep 0.02; done; echo worker >> log"
    supervised = supervise(f"if ! test -e log; then ({worker}) & fi; echo started >> log; {FOR_EVER}")
    wait_until(lambda: supervised.log == ["started"])
    (daemon,) = children(supervised.process.pid)
    workers = set(children(daemon))
    os.kill(daemon, signal.SIGKILL)
    wait_until(lambda: supervised.log == ["started"] * 2)
    orphans = workers & set(children(supervised.process.pid))
    assert orphans
    (supervised.folder / "release").touch()
    wait_until(lambda: "worker" in supervised.log)
    wait_until(lambda: len(children(supervised.process.pid)) == 1)
