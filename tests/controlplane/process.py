"""One program of the control plane, in a network namespace: started, frozen, killed and stopped by its pid."""

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from littlelb.testing.netns import Namespace


class StartError(Exception):
    """A program ended, or was not ready in time; the text ends with the tail of its log."""


class Process:
    """A program that can be started again with the same arguments, and so with the same data."""

    def __init__(self, namespace: Namespace, command: list[str], log: Path, ready: Callable[[], bool]) -> None:
        """Remember how to start it; nothing runs yet. Standard output and error are appended to `log`."""
        self.name = Path(command[0]).name
        self.log = log
        self.ready = ready
        self._command = command
        self._namespace = namespace
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id; it must have been started."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._process.pid

    def launch(self) -> None:
        """Start it and do not wait. The wrappers exec: the pid is its own. It dies with the thread that started it."""
        if self.running:
            raise RuntimeError(f"{self.name} runs already")
        command = ["setpriv", "--pdeathsig", "KILL", *self._namespace.command(self._command)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def start(self, timeout: float = 30) -> None:
        """Start it and wait until it is ready. Raises StartError."""
        self.launch()
        self.wait_ready(timeout)

    def stop(self, timeout: float = 3) -> None:
        """End it with SIGTERM and wait; after `timeout` seconds with SIGKILL. Nothing happens if it is not running.

        An API server with open watches takes no more connections at once, but takes its time to end.
        """
        if self._process is None or not self.running:
            return
        self.thaw()
        self._process.terminate()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it with SIGKILL, as a crash does, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def freeze(self) -> None:
        """Stop its clock: it answers nothing, but its connections stay (SIGSTOP)."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on after `freeze`."""
        self._signal(signal.SIGCONT)

    def wait_ready(self, timeout: float = 30) -> None:
        """Poll until it is ready. Raises StartError when it ends first or `timeout` seconds passed."""
        deadline = time.monotonic() + timeout
        while not self.ready():
            if not self.running:
                raise StartError(f"{self.name} ended by itself:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise StartError(f"{self.name} was not ready after {timeout:.0f} s:\n{self.log_tail()}")
            time.sleep(0.05)

    def log_tail(self, characters: int = 3000) -> str:
        """Return the end of its log."""
        return self.log.read_text(errors="replace")[-characters:] if self.log.exists() else ""

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None or not self.running:
            raise RuntimeError(f"{self.name} does not run")
        self._process.send_signal(number)
