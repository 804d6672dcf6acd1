"""Pid 1 of the image: runs the daemon, starts it again when it ends, and keeps its workers alive meanwhile.

In a container the end of pid 1 ends everything. So this small program stays while daemons come and go: a new daemon
adopts the workers, the addresses and the rules of the one before, and connections through them survive.

    start ──► running ──ended by itself──► wait (backoff) ──► running …
                 │                              │
                 └──SIGTERM, SIGINT─────────────┴──► stopping ──daemon ended──► exit with its status

SIGTERM and SIGINT are passed on, a second one too, and then the daemon's end is ours. SIGHUP (reload) is passed on.
SIGUSR2 (leave everything in place, once) is passed on and the daemon comes back at once: `kill -USR2 1` is an upgrade
in place. Exit status 2, a wrong configuration, is not tried again: it would be wrong again. Orphans are reaped:
processes whose parent ended become ours, either because we are pid 1 or as a subreaper (prctl(2), Linux 3.4).
A stop that comes between two lives finds no daemon to withdraw: then `farewell`, the clean-up command, is run instead,
or addresses would stay on the node's device with nobody to serve them.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

EXIT_CONFIG = 2
FAREWELL_SECONDS = 20.0
PASSED_ON = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2})
STOPPING = frozenset({signal.SIGTERM, signal.SIGINT})

_WAITED_FOR = PASSED_ON | {signal.SIGCHLD}
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(slots=True)
class Backoff:
    """Seconds to wait before the next start: doubled after each short life, from `first` up to `most`."""

    first: float = 0.2
    most: float = 30.0
    healthy: float = 60.0
    """A daemon that lived this long (seconds) was well: the next wait is the first one again."""
    _next: float = field(default=0.0, init=False)

    def after(self, lived: float) -> float:
        """Seconds to wait after a daemon that lived so long."""
        if lived >= self.healthy or not self._next:
            self._next = self.first
        wait = self._next
        self._next = min(self._next * 2, self.most)
        return wait


@dataclass(slots=True)
class Supervisor:
    """Runs one command for ever, until it is told to stop. `say` gets one line for each thing that happens."""

    command: Sequence[str]
    say: Callable[[str], None]
    backoff: Backoff = field(default_factory=Backoff)
    farewell: Sequence[str] = ()
    """Run when a stop comes while no daemon runs."""
    _daemon: int | None = field(default=None, init=False)
    _status: int = field(default=0, init=False)
    _started: float = field(default=0.0, init=False)
    _stopping: bool = field(default=False, init=False)
    _at_once: bool = field(default=False, init=False)

    def run(self) -> int:
        """Run until stopped; return the exit status of the last daemon (128 + N when signal N ended it)."""
        become_subreaper()
        # Blocked and fetched by sigtimedwait: no handler runs in the middle of anything, and no signal is missed.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
        try:
            while self._live_once(before):
                if self._pause_told_to_stop():
                    self._say_farewell()
                    break
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self._status

    def _live_once(self, mask: set[int | signal.Signals]) -> bool:
        """Run one daemon to its end; False when there shall be no other."""
        self._start(mask)
        self._take_signals(None)
        return not self._stopping and self._status != EXIT_CONFIG

    def _pause_told_to_stop(self) -> bool:
        """Wait until the next start; True when a stop came meanwhile."""
        self._take_signals(self._wait_seconds())
        return self._stopping

    def _say_farewell(self) -> None:
        """Take away what the last daemon left, as it would have done itself."""
        if not self.farewell:
            return
        self.say(f"supervisor: stopped while no daemon runs: {' '.join(self.farewell)}")
        try:
            subprocess.run(self.farewell, timeout=FAREWELL_SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            self.say(f"supervisor: that failed: {error}")

    def _wait_seconds(self) -> float:
        lived = time.monotonic() - self._started
        return 0.0 if self._at_once else self.backoff.after(lived)

    def _start(self, mask: set[int | signal.Signals]) -> None:
        def unblock() -> None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

        # After fork, before exec: the mask is inherited, and a daemon that inherits ours would not hear SIGTERM.
        process = subprocess.Popen(self.command, preexec_fn=unblock)  # noqa: PLW1509 - one thread only
        # Waited for by `_reap`, together with the orphans: Popen must not think that it is its business.
        process.returncode = 0
        self._daemon, self._started, self._at_once = process.pid, time.monotonic(), False
        self.say(f"supervisor: started pid {process.pid}: {' '.join(self.command)}")

    def _take_signals(self, seconds: float | None) -> None:
        """Take signals until the daemon ended, or where none runs until the time is over or we shall stop."""
        if seconds is None:
            while self._daemon is not None:
                self._take(signal.Signals(signal.sigwait(_WAITED_FOR)))
            return
        deadline = time.monotonic() + seconds
        while not self._stopping:
            found = signal.sigtimedwait(_WAITED_FOR, max(0.0, deadline - time.monotonic()))
            if found is None:
                return
            self._take(signal.Signals(found.si_signo))

    def _take(self, number: signal.Signals) -> None:
        if number == signal.SIGCHLD:
            self._reap()
            return
        self._stopping = self._stopping or number in STOPPING
        self._at_once = self._at_once or number == signal.SIGUSR2
        if self._daemon is not None:
            # Not reaped yet, so the pid is still its own even if it has just ended.
            os.kill(self._daemon, number)

    def _reap(self) -> None:
        """Collect every child that ended; SIGCHLD comes once for several."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid == self._daemon:
                self._daemon = None
                code = os.waitstatus_to_exitcode(status)
                self._status = code if code >= 0 else 128 - code
                self.say(f"supervisor: pid {pid} ended with status {self._status}")


def become_subreaper() -> None:
    """Become the parent of orphans below us; pid 1 is that already. Raises OSError where the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "prctl(PR_SET_CHILD_SUBREAPER)")


def is_daemon(arguments: Sequence[str]) -> bool:
    """Whether this command line asks for the daemon, and not for an answer such as `status` or `--help`."""
    if {"-h", "-help", "--help", "-version", "--version"} & set(arguments):
        return False
    return not arguments or arguments[0] == "run" or arguments[0].startswith("-")


def main() -> int:
    """Supervise the daemon of this installation, with our own arguments; any other command just takes our place."""

    def say(line: str) -> None:
        sys.stderr.write(line + "\n")
        sys.stderr.flush()

    # The console script of the same installation.
    command = [os.path.join(os.path.dirname(sys.executable), "loadbalancer"), *sys.argv[1:]]  # noqa: PTH118, PTH120
    if not is_daemon(sys.argv[1:]):
        os.execv(command[0], command)  # noqa: S606 - no shell is wanted
    flags = [word for word in sys.argv[1:] if word != "run"]
    return Supervisor(command, say, farewell=[command[0], "cleanup", *flags]).run()


if __name__ == "__main__":
    sys.exit(main())
