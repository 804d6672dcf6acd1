"""Which planes work on this machine, found out at the start and again when that may have changed; their life together.

    --plane auto, nft ─ probe ─► it works: the kernel plane, the pipe beside it for Services that ask for it
                           └───► it does not: the pipe alone, the reason in log, status and `check`; asked again later
    --plane pipe ──────────────► the pipe alone; a table of an earlier life stays, and lets through, until the end

Who asked for nft and cannot have it is served by the pipe, too, and told as an error: traffic comes first.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import structlog

from littlelb.config import Plane
from littlelb.core.counters import ServiceCounters
from littlelb.core.counters import merge as merge_counters
from littlelb.core.errors import WorldError
from littlelb.core.model import Forward, Frontend
from littlelb.core.plan import Changes
from littlelb.dataplane.pipe.codec import count_services
from littlelb.dataplane.pipe.plane import PipePlane
from littlelb.dataplane.switch import Carrier, PlaneSwitch, merge

log = structlog.get_logger(__name__)
RECHECK_SECONDS: Final = 60.0
NOT_STARTED: Final = "it is not started yet"


class Kernel(Protocol):
    """What is asked of the kernel plane besides carrying."""

    async def start(self) -> None:
        """Make its table, or adopt the one that is there. Raises Transient, Permanent."""
        ...

    async def run(self) -> None:
        """Do what there is to do between passes, for ever."""
        ...

    async def look(self, wanted: Mapping[Frontend, Forward]) -> Mapping[Frontend, Forward]:
        """Say what it carries, changing nothing, started or not; what is as wanted as that. Raises WorldError."""
        ...

    async def render(self, changes: Changes[Frontend, Forward]) -> str:
        """Write as text what `apply` would, changing nothing, started or not. Raises WorldError."""
        ...

    async def remove(self, *, dry_run: bool = False) -> bool:
        """Take its table away, started or not; was there one? Raises WorldError."""
        ...

    def counters(self) -> Mapping[Frontend, ServiceCounters]:
        """Say what it counted since it began to serve."""
        ...

    async def drain(self, seconds: float) -> int:
        """Wait until no flow is left, at most so long; return how many are."""
        ...

    async def stop(self, *, keep: bool) -> None:
        """Leave everything for the next start, or remove everything."""
        ...


class Road(Carrier, Protocol):
    """The kernel plane as a carrier, with forwarding on where it has to be."""

    async def prepare(self) -> None:
        """Let clients find the addresses."""
        ...

    def forget(self) -> None:
        """Routes have changed."""
        ...

    async def restore(self) -> None:
        """Put back what was switched on."""
        ...


class Planes:
    """Both planes, and the switch over them."""

    def __init__(self, asked: Plane, pipe: PipePlane, kernel: Kernel, road: Road, probe: Callable[[], str]) -> None:
        """`road` leads to `kernel`. `probe` says why it does not work here, or nothing; it may block for a moment."""
        self.asked = asked
        self.pipe = pipe
        self.kernel = kernel
        self.road = road
        self.switch = PlaneSwitch(pipe, None, self.doubt)
        self.no_nft = NOT_STARTED
        """Why the kernel plane does not work here; empty: it does."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when `no_nft` changed after the start."""
        self._probe = probe
        self._doubt = asyncio.Event()
        self._in_use = False

    def doubt(self) -> None:
        """Find out again what works, soon."""
        self._doubt.set()

    def ask(self, asked: Plane) -> None:
        """Take another `--plane`; what follows from it takes a moment, and is told by `on_change`."""
        if asked is not self.asked:
            self.asked = asked
            self.doubt()

    async def find_out(self) -> None:
        """Ask whether the kernel plane would work, unless nobody wants it; nothing is changed."""
        if self.asked is not Plane.PIPE:
            self._judge(await asyncio.to_thread(self._probe))

    def _judge(self, reason: str) -> None:
        """Take the answer; say it when it is another one."""
        before, self.no_nft = self.no_nft, reason
        if before == reason:
            return
        if reason:
            say = log.error if self.asked is Plane.NFT else log.warning
            say("plane.no_nft", reason=reason, effect="the pipe carries what it can: TCP, through worker processes")
        elif before != NOT_STARTED:
            log.info("plane.nft_works", effect="Services move to the kernel plane")

    async def start(self) -> None:
        """Adopt what an earlier daemon left, start what is missing. Raises Permanent, Transient: nothing works."""
        await self.pipe.start()
        await self.road.prepare()
        await self._try_kernel()

    async def _try_kernel(self) -> None:
        """Use the kernel plane if it works, and is to be used."""
        try:
            if await self.kernel.look({}) if self.asked is Plane.PIPE else not self.no_nft:
                await self.kernel.start()
                self._use(in_use=True)
        except WorldError as error:
            self._judge(str(error))

    def _use(self, *, in_use: bool) -> None:
        self._in_use = in_use
        self.switch.use(self.road if in_use else None)

    async def run(self) -> None:
        """Let both work between passes, and look again what works; for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.pipe.run(), name="pipe")
            running: asyncio.Task[None] | None = None
            while True:
                if self._in_use and running is None:
                    running = tasks.create_task(self.kernel.run(), name="kernel plane")
                await self._wait()
                before = (self._in_use, self.no_nft)
                await self._recheck()
                if running is not None and not self._in_use:
                    running.cancel()
                    running = None
                if before != (self._in_use, self.no_nft):
                    self.on_change()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(None if self._in_use or self.asked is Plane.PIPE else RECHECK_SECONDS):
                await self._doubt.wait()
        except TimeoutError:  # nobody asked: it is time anyhow
            pass
        self._doubt.clear()

    async def _recheck(self) -> None:
        if not self._in_use:
            await self.find_out()
            await self._try_kernel()
            return
        await self.find_out()
        if self.no_nft:
            self._use(in_use=False)
            await self.kernel.stop(keep=True)

    async def look(self, wanted: Mapping[Frontend, Forward]) -> Mapping[Frontend, Forward]:
        """Say what is carried, changing nothing: for commands beside a daemon, or without one. Raises WorldError."""
        piped = await self.pipe.look()
        return piped if self.no_nft else merge(piped, await self.kernel.look(wanted))

    async def render(self, changes: Changes[Frontend, Forward]) -> str:
        """Write as text for nft what these changes are in the kernel; empty where it carries nothing."""
        return "" if self.no_nft else await self.kernel.render(changes)

    async def counters(self) -> Mapping[Frontend, ServiceCounters]:
        """Say what both counted since they began to serve. Raises Transient."""
        piped = count_services(await self.pipe.counters())
        return merge_counters(piped, self.kernel.counters()) if self._in_use else piped

    async def drain(self, seconds: float) -> int:
        """Wait until no flow is left in either, at most so long; return how many are."""
        if not self._in_use:
            return await self.pipe.drain(seconds)
        return sum(await asyncio.gather(self.pipe.drain(seconds), self.kernel.drain(seconds)))

    async def stop(self, *, keep: bool) -> None:
        """Leave everything for the next daemon, or end and remove everything."""
        if self._in_use:
            await self.kernel.stop(keep=keep)
        await self.pipe.stop(keep=keep)
        if not keep:
            await self.road.restore()
