"""Asks the LAN beside the passes whether addresses are free, so that no pass waits for its silence.

judge(addresses) ─► known? ─► free, or taken by a MAC address
                      └─ no ─► queued ─► run: one question for all that wait ─► kept for some seconds ─► wake(these)
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeAlias

from littlelb.core.interfaces import Prober
from littlelb.core.model import Ip, Placement

VALID_SECONDS = 10.0
"""An answer is used by the next pass; a pass over ten thousand Services may take a few seconds."""
AT_ONCE = 4
"""So many questions, each for any number of addresses, may be under way: a new address waits at most 150 ms for one."""
_AT_A_TIME = 512
"""So many answers are entered between two turns of the event loop."""

_Question: TypeAlias = tuple[str, Ip]
"""Device and address."""


@dataclass(slots=True)
class Verdicts:
    """What is known of some addresses; those that are in neither are free."""

    taken: dict[Ip, str] = field(default_factory=dict)
    """Address → MAC address of the machine that has it."""
    waiting: list[Ip] = field(default_factory=list)


class Inquiry:
    """What was asked, what is being asked, and the answers."""

    def __init__(
        self, prober: Prober, wake: Callable[[frozenset[Ip]], None], monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        """`wake` is called with the addresses whose answers have come."""
        self._prober, self._wake, self._monotonic = prober, wake, monotonic
        self._answers: dict[_Question, str] = {}
        self._expiries: deque[tuple[float, list[_Question]]] = deque()
        self._queued: dict[str, set[Ip]] = {}
        self._under_way: set[_Question] = set()
        self._woken = asyncio.Event()
        self._slots = asyncio.Semaphore(AT_ONCE)

    def judge(self, wanted: Mapping[Ip, Placement]) -> Verdicts:
        """Say what is known, and have the rest asked for together, at the next `begin`."""
        self._forget_old()
        verdicts = Verdicts()
        for address, placement in wanted.items():
            question = (placement.device, address)
            if (mac := self._answers.get(question)) is None:
                verdicts.waiting.append(address)
                self._queue(question)
            elif mac:
                verdicts.taken[address] = mac
        return verdicts

    def knows(self, device: str, address: Ip) -> bool:
        """Has the LAN been asked about it lately, or is it just being asked?"""
        question = (device, address)
        return question in self._answers or question in self._under_way

    def begin(self) -> None:
        """Ask the LAN for all that was found unknown."""
        if self._queued:
            self._woken.set()

    def forget(self, questions: Iterable[_Question]) -> None:
        """These are to be asked again when they are wanted again: somebody may have taken them meanwhile."""
        for question in questions:
            self._answers.pop(question, None)

    async def run(self) -> None:
        """Ask what is queued, for ever."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._woken.wait()
                await self._slots.acquire()
                self._woken.clear()
                batch, self._queued = self._queued, {}
                tasks.create_task(self._ask(batch), name="question to the LAN")

    def _queue(self, question: _Question) -> None:
        if question not in self._under_way:
            self._under_way.add(question)
            self._queued.setdefault(question[0], set()).add(question[1])

    async def _ask(self, batch: Mapping[str, set[Ip]]) -> None:
        try:
            for device, addresses in batch.items():
                taken = await self._prober.probe(device, frozenset(addresses))
                rest = iter(addresses)
                while some := list(islice(rest, _AT_A_TIME)):
                    questions = [(device, address) for address in some]
                    self._answers.update((question, taken.get(question[1], "")) for question in questions)
                    self._under_way.difference_update(questions)
                    self._expiries.append((self._monotonic() + VALID_SECONDS, questions))
                    await asyncio.sleep(0)
                self._wake(frozenset(addresses))
        finally:
            self._slots.release()

    def _forget_old(self) -> None:
        now = self._monotonic()
        while self._expiries and self._expiries[0][0] <= now:
            for question in self._expiries.popleft()[1]:
                self._answers.pop(question, None)
