"""The workers of this network namespace: found again, started, replaced, sent away.

socket file ─ nobody listens ──────────────► removed
    │ hello
    ├─ another network namespace ──────────► not ours, left alone
    ├─ retiring ───────────────────────────► left to drain
    ├─ same protocol, same version ────────► member, at most as many as wanted
    └─ any other version, or too many ─────► elder: lends its listeners, retires when members serve them
"""

import asyncio
import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

import littlelb
from littlelb.core.errors import Transient
from littlelb.core.model import Forward, Frontend
from littlelb.dataplane.pipe.codec import Counters, add_counters, merge_rules, parse_rule
from littlelb.dataplane.pipe.link import HELLO_SECONDS, Hello, Link, RunDirectory, connect, read_netns
from littlelb.dataplane.pipe.wire import Json, WireError, integer, sequence

_log = structlog.get_logger(__name__)
_ITEMS: Final = 2000
"""Frontends in one message."""
_START: Final = "import sys; sys.path.insert(0, sys.argv[1]); from littlelb.dataplane.pipe.worker import main; main()"
"""Isolated from environment, working directory and `site`: only the standard library and this package are seen."""


@dataclass(frozen=True, slots=True)
class PipeSettings:
    """What the plane is built with."""

    run_directory: Path
    """Mode 0700, made when missing; sockets of the workers live in it. On tmpfs (/run) in production."""
    workers: int = field(default_factory=lambda: max(1, min(4, len(os.sched_getaffinity(0)))))
    descriptors: int = 0
    """RLIMIT_NOFILE of each worker; 0: its hard limit."""
    connections: int = 1_000_000
    """Most connections of each worker."""
    connect_seconds: float = 5.0
    idle_seconds: float = 86_400.0
    """As long as kube-proxy keeps an idle connection (`--conntrack-tcp-timeout-established`, 24 h)."""
    leave_seconds: float = 10.0
    """How long a listener waits for handshakes that began before the other plane took its frontend over: SYN-ACKs are
    sent again after 1, 3 and 7 s (net.ipv4.tcp_synack_retries)."""
    version: str = littlelb.__version__
    """Workers of another version are replaced."""


@dataclass(eq=False, slots=True)
class Member:
    """A worker that we talk to."""

    name: str
    link: Link
    hello: Hello
    holding: set[Frontend] = field(default_factory=set)
    """Frontends whose listener it has."""

    async def pages(self, question: str) -> list[Json]:
        """Ask until there is no more. Raises Transient."""
        pages: list[Json] = []
        seen = 0
        while True:
            answer, _ = await self.link.ask({"do": question, "from": seen})
            pages.append(answer)
            seen += len(sequence(answer.get("rules", answer.get("frontends"))))
            if answer.get("more") is not True:
                return pages


class Crew:
    """All workers."""

    def __init__(self, settings: PipeSettings, on_loss: Callable[[], None]) -> None:
        """`on_loss` is called when a member has gone without being told to."""
        self.members: list[Member] = []
        self.elders: list[Member] = []
        self._leaving: list[Member] = []
        self._missing: list[Member] = []
        """Members whose conversation broke; `settle_lost` finds out what became of them."""
        self._settings = settings
        self._on_loss = on_loss
        self._directory = RunDirectory(settings.run_directory)
        self._netns = read_netns()
        self._closing = False
        self.hello_seconds = HELLO_SECONDS

    async def find(self, *, tidy: bool = True) -> None:
        """Meet the workers that an earlier daemon left; `tidy`: remove what dead ones left."""
        met = await asyncio.gather(*(self._meet(name, tidy=tidy) for name in self._directory.names()))
        for member in met:
            if member is None:
                continue
            if member.hello.retiring:
                self._leaving.append(member)
            elif member.hello.fits and len(self.members) < self._settings.workers:
                self.members.append(member)
            else:
                self.elders.append(member)
            say = _log.info if tidy else _log.debug  # a command that only looks has its own answer to print
            say("pipe.worker_found", pid=member.hello.pid, version=member.hello.version, fits=member.hello.fits)

    async def _meet(self, name: str, *, tidy: bool = True) -> Member | None:
        try:
            return await self._greet(name, tidy=tidy)
        except (Transient, WireError) as error:
            _log.warning("pipe.worker_unreachable", socket=name, error=str(error))
            return None

    async def _greet(self, name: str, *, tidy: bool = True) -> Member | None:
        """Return who answers; None: nobody, or a stranger. Raises Transient, WireError: somebody who makes no sense."""
        try:
            link = connect(self._directory.fd, name, self._lost)
        except OSError as error:
            if error.errno in {errno.ECONNREFUSED, errno.ENOENT}:
                if tidy:
                    self._directory.remove(name)
            else:
                _log.warning("pipe.worker_foreign", socket=name, error=str(error))
            return None
        try:
            hello = Hello((await link.ask({"do": "hello"}, seconds=self.hello_seconds))[0], self._settings.version)
        except (Transient, WireError):
            link.close()
            raise
        if hello.netns != self._netns:
            link.close()
            return None
        return Member(name, link, hello)

    @property
    def pids(self) -> frozenset[int]:
        """Process ids of all that were met and have not gone."""
        return frozenset(member.hello.pid for member in (*self.members, *self.elders, *self._leaving))

    @property
    def has_others(self) -> bool:
        """Are there workers besides the members, whose flows nobody counts?"""
        return bool(self.elders or self._leaving)

    async def hire(self) -> list[Member]:
        """Start as many as are missing; return those that answer. They are members once `join` is called."""
        missing = self._settings.workers - len(self.members)
        started = await asyncio.gather(*(self._start() for _ in range(missing)))
        return [member for member in started if member is not None]

    def join(self, member: Member) -> None:
        """Count a new one in, now that it has all it needs."""
        if not member.link.closed:
            self.members.append(member)

    async def _start(self) -> Member | None:
        try:
            name, sock = self._directory.listen()
            with sock:
                log = self._directory.open_log(name)
                try:
                    process = await asyncio.create_subprocess_exec(
                        *self._command(name, sock.fileno()),
                        stdin=asyncio.subprocess.DEVNULL,
                        stdout=asyncio.subprocess.DEVNULL,
                        stderr=log,
                        pass_fds=[sock.fileno()],
                        start_new_session=True,
                    )
                finally:
                    os.close(log)
                await process.wait()  # it detaches at once: see `worker`
        except OSError as error:
            _log.error("pipe.worker_failed", error=str(error))
            return None
        member = await self._meet(name)
        if member is None:
            _log.error("pipe.worker_failed", error=self._directory.read_log(name))
            self._directory.remove(name)
        else:
            _log.info("pipe.worker_started", pid=member.hello.pid)
        return member

    def _command(self, name: str, control: int) -> list[str]:
        settings = self._settings
        told = {
            "socket": control,
            "path": str(self._directory.path / name),
            "descriptors": settings.descriptors,
            "connections": settings.connections,
            "connect_ms": int(settings.connect_seconds * 1000),
            "idle_ms": int(settings.idle_seconds * 1000),
            "detach": True,
        }
        root = str(Path(littlelb.__file__).resolve().parents[1])
        return [sys.executable, "-I", "-S", "-c", _START, root, json.dumps(told)]

    def _lost(self, link: Link) -> None:
        """A conversation has ended, whoever ended it."""
        if self._closing:
            return
        self.elders = [member for member in self.elders if member.link is not link]
        for member in [member for member in self._leaving if member.link is link]:
            self._leaving.remove(member)
            self._directory.remove(member.name)
        for member in [member for member in self.members if member.link is link]:
            self.members.remove(member)
            self._missing.append(member)
            _log.error("pipe.worker_lost", pid=member.hello.pid, stderr=self._directory.read_log(member.name))
            self._on_loss()

    async def settle_lost(self) -> None:
        """See to it that no lost member goes on accepting by old rules: it retires, or, where it hangs, is killed."""
        missing, self._missing = self._missing, []
        for member in missing:
            try:
                again = await self._greet(member.name)
            except (Transient, WireError):
                if is_running(member.hello):
                    _log.error("pipe.worker_killed", pid=member.hello.pid, reason="it does not answer")
                    os.kill(member.hello.pid, signal.SIGKILL)
                self._directory.remove(member.name)
            else:
                if again is not None:
                    await self._retire(again)

    async def tell(self, question: str, items: list[object], gone: Iterable[Frontend]) -> None:
        """Have every member do the same with these frontends; their listeners are `gone`, as far as we are concerned.

        A worker that does not listen is replaced; listeners are shut for it as well.
        """
        for member in list(self.members):
            member.holding.difference_update(gone)
            for start in range(0, len(items), _ITEMS):
                try:
                    await member.link.ask({"do": question, "frontends": items[start : start + _ITEMS]})
                except Transient as error:
                    _log.warning("pipe.worker_unreachable", pid=member.hello.pid, error=str(error))

    async def ask_rules(self) -> dict[Frontend, Forward]:
        """Return what the members serve; UNSETTLED where they do not agree."""
        answers: list[dict[Frontend, Forward]] = []
        for member in list(self.members):
            try:
                pages = await member.pages("serving")
                answers.append(dict(parse_rule(rule) for page in pages for rule in sequence(page.get("rules"))))
            except (Transient, WireError) as error:
                _log.warning("pipe.worker_unreachable", pid=member.hello.pid, error=str(error))
        return merge_rules(answers)

    async def count(self) -> tuple[dict[Frontend, Counters], int]:
        """Return the sums over all members since each began, and how many flows there are. Raises Transient."""
        total: dict[Frontend, Counters] = {}
        flows = 0
        for member in list(self.members):
            pages = await member.pages("counters")
            try:
                flows += max(integer(page.get("flows", 0), 0, 1 << 31) for page in pages)
                for page in pages:
                    add_counters(total, page.get("frontends"))
            except WireError as error:
                raise Transient(f"the counters of worker {member.hello.pid} make no sense: {error}") from error
        return total, flows

    async def retire_elders(self) -> None:
        """Let those go whose work the members do now; their flows live on until they end."""
        elders, self.elders = self.elders, []
        for elder in elders:
            await self._retire(elder)

    async def _retire(self, member: Member) -> None:
        self._leaving.append(member)
        try:
            await member.link.ask({"do": "retire", "seconds": None})
            _log.info("pipe.worker_retires", pid=member.hello.pid)
        except Transient as error:
            _log.warning("pipe.worker_unreachable", pid=member.hello.pid, error=str(error))

    async def end(self, *, keep: bool) -> None:
        """Leave them all running, or cut all flows and end them."""
        if not keep:
            await self.settle_lost()
        self._closing = True
        everyone = [*self.members, *self.elders, *self._leaving]
        for member in everyone:
            if not keep:
                try:
                    await member.link.ask({"do": "retire", "seconds": 0})
                    self._directory.remove(member.name)
                except Transient:  # it has ended already
                    _log.info("pipe.worker_gone", pid=member.hello.pid)
            member.link.close()
        self.members, self.elders, self._leaving = [], [], []
        self._directory.close()


def is_running(hello: Hello) -> bool:
    """Does the process still live that said so, and not another one that got its number?"""
    try:
        stat = Path(f"/proc/{hello.pid}/stat").read_text(errors="replace")
    except OSError:
        return False
    return int(stat.rpartition(")")[2].split()[19]) == hello.started
