"""Lists, counts and deletes flows in the network namespace of the thread that opens it.

Two ways to delete lead to the same table:

    filtered   one message for each filter, the kernel selects; Linux 6.9 and later, for families that stood the probe
    listed     one list by family and mark, selected here by the same predicate, then one message for each flow, some
               hundred in a datagram; a flow that ended meanwhile is left alone, even if another has its tuple

The kernel works within send(2) and recv(2): lists come in slices of some hundred flows, with a breath of the loop after
each, and filtered deletions, which look at the whole table, are made in a thread. A flow that begins while the table is
walked may be missed: first take away what makes such flows, then delete them.
"""

import asyncio
import errno
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import Final, Self

from littlelb.dataplane.netfilter.conntrack.exchange import Exchange, Render
from littlelb.dataplane.netfilter.conntrack.filters import (
    FlowFilter,
    Selection,
    render_dump,
    render_filtered_delete,
    widen,
)
from littlelb.dataplane.netfilter.conntrack.flows import Flow, parse_flow, render_delete_one
from littlelb.dataplane.netfilter.conntrack.probe import Support, supports_filtered_delete
from littlelb.dataplane.netfilter.conntrack.usage import Pair, Tally, Usage
from littlelb.dataplane.netfilter.errors import refusal

MANY_FILTERS: Final = 16
"""More filtered deletions than this take longer than one list (bench/conntrack.py)."""

_EVERYTHING: Final = FlowFilter()


class ConntrackSocket:
    """The flows of one network namespace; a context manager. Calls at the same time do not disturb each other."""

    def __init__(self, support: Support | None = None, connect: Callable[[], Exchange] = Exchange) -> None:
        """Open it and probe the kernel; with `support` given, believe that.

        Raises Permanent where the kernel has no conntrack, or lets us not change it.
        """
        self._connect = connect
        self._idle = [connect()]
        self.support = supports_filtered_delete(self._idle[0]) if support is None else support

    async def delete(self, filters: Sequence[FlowFilter]) -> None:
        """Delete every flow that any of the filters means; their next packets find none, and are as of new flows.

        Raises ValueError, before anything is done, for a filter that means everything; KernelRefusal; AnswerLost.
        """
        if any(asked.is_empty for asked in filters):
            raise ValueError("a deletion without a filter would empty the whole table")
        direct = [asked for asked in filters if self.support.covers(asked)]
        if len(direct) > MANY_FILTERS:
            direct = []
        for asked in direct:
            await self._delete_filtered(asked)
        if listed := [asked for asked in filters if asked not in direct]:
            await self._delete_listed(listed)

    async def flows(self, filters: Sequence[FlowFilter] = (_EVERYTHING,)) -> AsyncGenerator[list[Flow], None]:
        """List the flows that any of the filters means, in slices; empty ones are only chances to breathe."""
        selection = Selection(filters)
        with self._borrowed() as exchange:
            listing = exchange.listing(partial(render_dump, widen(filters)))
            # In a thread, for the kernel walks over all buckets, also of an empty table: 17 ms for 262,144 of them.
            while (messages := await asyncio.to_thread(next, listing, None)) is not None:
                near = (parse_flow(one.payload) for one in messages if selection.may_match(one.payload))
                yield [flow for flow in near if selection.matches(flow)]

    async def usage(self, filters: Sequence[FlowFilter] = (_EVERYTHING,)) -> Mapping[Pair, Usage]:
        """Add up the flows that any of the filters means, by frontend and backend, in one list.

        Packets and bytes are those of flows that began while accounting was on (`limits.Accounting`).
        """
        tally = Tally()
        async for flows in self.flows(filters):
            tally.add(flows)
        return tally.usage()

    async def count(self, filters: Sequence[FlowFilter] = (_EVERYTHING,)) -> Mapping[Pair, int]:
        """Count the live ones of them in the same way: pairs without any are not in it."""
        return {pair: usage.live for pair, usage in (await self.usage(filters)).items() if usage.live}

    def close(self) -> None:
        """Close it."""
        while self._idle:
            self._idle.pop().close()

    async def _delete_filtered(self, asked: FlowFilter) -> None:
        with self._borrowed() as exchange:
            if code := await asyncio.to_thread(exchange.ask, partial(render_filtered_delete, asked)):
                raise refusal(code)

    async def _delete_listed(self, filters: Sequence[FlowFilter]) -> None:
        requests: list[Render] = []
        async for flows in self.flows(filters):
            requests += [partial(render_delete_one, flow) for flow in flows]
        with self._borrowed() as exchange:
            for codes in exchange.batches(requests):
                for code in codes:
                    if code not in {0, errno.ENOENT}:  # ENOENT: it ended by itself, which is as good
                        raise refusal(code)
                await asyncio.sleep(0)

    @contextmanager
    def _borrowed(self) -> Iterator[Exchange]:
        """Give a socket that nobody else uses; one whose answer was not read to its end is thrown away."""
        exchange = self._idle.pop() if self._idle else self._connect()
        try:
            yield exchange
        except BaseException:
            exchange.close()
            raise
        self._idle.append(exchange)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
