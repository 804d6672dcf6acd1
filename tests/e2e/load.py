"""A steady load from a client: a new connection every 10 ms, one request on each, every failure counted with its time.

    python load.py ADDRESS PORT SECONDS

ends after SECONDS or at SIGTERM, waits for what is under way and prints one JSON object: how many were answered, the
failures as [seconds since the start, reason], and the longest time to an answer. `Load` runs it in a namespace.
"""

import asyncio
import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the child process runs without our packages
    from littlelb.testing.netns import Namespace

INTERVAL_SECONDS = 0.01
PATIENCE_SECONDS = 10.0
"""For one connection with its answer: a lost SYN is repeated after 1, 3 and 7 s."""
REQUEST = b"GET / HTTP/1.1\r\nHost: load\r\nConnection: close\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of all connections."""

    answered: int
    failed: tuple[tuple[float, str], ...]
    """Seconds since the start, and why."""
    slowest_seconds: float


class Load:
    """The load as a process in a namespace: from the making of this object until `finish`."""

    def __init__(self, client: "Namespace", address: str, port: int = 80, seconds: float = 120.0) -> None:
        """`seconds`: its end, if nobody calls `finish` before."""
        argv = [sys.executable, "-S", str(Path(__file__)), address, str(port), str(seconds)]
        self._bound = seconds + 2 * PATIENCE_SECONDS
        self._process = client.popen(argv, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "started\n"

    def finish(self) -> Outcome:
        """Make no more connections, wait for those under way, and tell."""
        self._process.terminate()
        text, _ = self._process.communicate(timeout=self._bound)
        told = json.loads(text)
        return Outcome(told["answered"], tuple((at, why) for at, why in told["failed"]), told["slowest"])


class Tally:
    """What was seen so far."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.answered = 0
        self.failed: list[tuple[float, str]] = []
        self.slowest = 0.0
        self._started = time.monotonic()

    async def ask(self, address: str, port: int) -> None:
        """Make one connection and enter what became of it."""
        began = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                reader, writer = await asyncio.open_connection(address, port)
                writer.write(REQUEST)
                answer = await reader.read(-1)
                writer.close()
        except (OSError, TimeoutError) as error:
            self.failed.append((round(began - self._started, 3), str(error) or type(error).__name__))
            return
        if not answer.startswith(b"HTTP/1.1 200 "):
            self.failed.append((round(began - self._started, 3), f"answered {answer[:40]!r}"))
            return
        self.answered += 1
        self.slowest = max(self.slowest, time.monotonic() - began)


async def generate(address: str, port: int, seconds: float) -> Tally:
    """Connect at fixed times, whether or not the earlier ones have been answered."""
    tally, enough = Tally(), asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, enough.set)
    sys.stdout.write("started\n")
    sys.stdout.flush()
    started = time.monotonic()
    async with asyncio.TaskGroup() as group:
        number = 0
        while not enough.is_set() and time.monotonic() - started < seconds:
            group.create_task(tally.ask(address, port))
            number += 1
            await asyncio.sleep(started + number * INTERVAL_SECONDS - time.monotonic())
    return tally


def main(arguments: list[str]) -> None:
    """Run until the end and print what was seen."""
    tally = asyncio.run(generate(arguments[0], int(arguments[1]), float(arguments[2])))
    told = {"answered": tally.answered, "failed": tally.failed, "slowest": round(tally.slowest, 3)}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
