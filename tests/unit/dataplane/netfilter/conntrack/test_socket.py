"""Which way a deletion goes, and what is done about answers: flows of a double that keeps a table."""

import asyncio
import errno
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from ipaddress import ip_address

import pytest

from littlelb.core.model import Family, Protocol
from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.conntrack import flows as ct
from littlelb.dataplane.netfilter.conntrack.exchange import Exchange, Render
from littlelb.dataplane.netfilter.conntrack.filters import FlowFilter
from littlelb.dataplane.netfilter.conntrack.flows import Flow, Tuple
from littlelb.dataplane.netfilter.conntrack.probe import Support
from littlelb.dataplane.netfilter.conntrack.socket import MANY_FILTERS, ConntrackSocket
from littlelb.dataplane.netfilter.conntrack.usage import Pair
from littlelb.dataplane.netfilter.errors import KernelRefusal
from tests.unit.dataplane.netfilter.conntrack.conftest import Kernel, acknowledgement, done

CLIENT, VIP = ip_address("192.0.2.10"), ip_address("203.0.113.10")
PODS = [ip_address("10.1.0.5"), ip_address("10.1.0.6")]
POD6 = ip_address("2001:db8:1::5")
V4 = Support(frozenset({Family.IPV4}))


def flow(number: int, pod: int = 0) -> Flow:
    """Make a UDP flow of client port `number` to a pod."""
    return Flow(protocol=17, original=Tuple(CLIENT, VIP, number, 53), reply=Tuple(PODS[pod], CLIENT, 5353, number))


class Table(Exchange):
    """A double of the kernel's table: lists what it has, remembers what it was told."""

    def __init__(self, flows: Sequence[Flow] = (), code: int = 0) -> None:
        self.table = list(flows)
        self.told: list[wire.Message] = []
        self.code = code
        self.closed = False

    def ask_all(self, requests: Sequence[Render]) -> list[int]:
        """Remember the requests; all have the same end."""
        self.told += [one for render in requests for one in wire.iterate_messages(render(wire.NLM_F_REQUEST, 1))]
        return [self.code] * len(requests)

    def listing(self, render: Callable[[int], bytes]) -> Iterator[list[wire.Message]]:
        """Give two flows a slice, and an empty one at the end."""
        self.told += wire.iterate_messages(render(1))
        for start in range(0, len(self.table) + 1, 2):
            raw = b"".join(ct.render_create(one, 0, 1) for one in self.table[start : start + 2])
            yield list(wire.iterate_messages(raw))

    def close(self) -> None:
        """Remember it."""
        self.closed = True

    def kinds(self) -> list[tuple[int, bool]]:
        """What it was told: type, and whether it was a filter."""
        return [(one.type, ct.FILTER in one.attributes()) for one in self.told]


def opened(table: Table, support: Support) -> ConntrackSocket:
    """Open a socket to the double."""
    return ConntrackSocket(support, lambda: table)


async def test_trusted_kernel_selects_by_itself() -> None:
    """Where the family is trusted a deletion is one message, and nothing is listed."""
    table = Table([flow(1)])
    await opened(table, V4).delete([FlowFilter(backend=PODS[0]), FlowFilter(mark=1, mark_mask=1)])
    assert table.kinds() == [(ct.CT_DELETE, True), (ct.CT_DELETE, False)]


async def test_others_are_listed_and_deleted_one_by_one() -> None:
    """Where it is not, the flows that the predicate means are named, with one list for all filters."""
    table = Table([flow(1), flow(2, 1), flow(3)])
    await opened(table, Support()).delete([FlowFilter(backend=PODS[0]), FlowFilter(backend=POD6)])
    assert table.kinds() == [(ct.CT_GET, False), (ct.CT_DELETE, False), (ct.CT_DELETE, False)]
    named = [ct._parse_tuple(one.attributes()[ct.TUPLE_ORIG])[1].source_port for one in table.told[1:]]
    assert named == [1, 3]


async def test_many_filters_are_one_list() -> None:
    """More filters than a list is worth are carried out by one list, on every kernel."""
    table = Table([flow(1), flow(2, 1)])
    nobody = [FlowFilter(backend=VIP + number) for number in range(MANY_FILTERS)]
    await opened(table, V4).delete([*nobody, FlowFilter(backend=PODS[1])])
    assert table.kinds() == [(ct.CT_GET, False), (ct.CT_DELETE, False)]


async def test_deletion_of_everything_raises_before_anything_is_sent() -> None:
    """One filter without anything in it spoils the call, whatever the others say."""
    table = Table([flow(1)])
    with pytest.raises(ValueError, match="empty the whole table"):
        await opened(table, V4).delete([FlowFilter(backend=PODS[0]), FlowFilter()])
    assert table.told == []


@pytest.mark.parametrize("support", [V4, Support()])
async def test_refusal_is_raised(support: Support) -> None:
    """What the kernel refuses, in either way, comes out as its errno."""
    conntrack = opened(Table([flow(1)], errno.EPERM), support)
    with pytest.raises(KernelRefusal) as caught:
        await conntrack.delete([FlowFilter(backend=PODS[0])])
    assert caught.value.code == errno.EPERM


async def test_flow_that_ended_by_itself_is_no_error() -> None:
    """ENOENT about a flow that was listed a moment ago is as good as its deletion."""
    table = Table([flow(1)], errno.ENOENT)
    await opened(table, Support()).delete([FlowFilter(backend=PODS[0])])
    assert table.kinds() == [(ct.CT_GET, False), (ct.CT_DELETE, False)]


async def test_no_filters_do_nothing() -> None:
    """An empty call sends nothing."""
    table = Table([flow(1)])
    await opened(table, Support()).delete([])
    assert table.told == []


async def test_usage_and_count_are_of_what_is_meant() -> None:
    """Both add up by frontend and backend, in one list each."""
    table = Table([flow(1), flow(2), flow(3, 1)])
    conntrack = opened(table, Support())
    pairs = [Pair(Protocol.UDP, VIP, 53, pod, 5353) for pod in PODS]
    assert await conntrack.count() == {pairs[0]: 2, pairs[1]: 1}
    assert await conntrack.count([FlowFilter(backend=PODS[1])]) == {pairs[1]: 1}
    assert (await conntrack.usage())[pairs[0]].flows == 2
    assert table.kinds() == [(ct.CT_GET, False)] * 3


async def test_others_go_on_while_the_kernel_walks_over_its_table() -> None:
    """A list takes as long as the table has places, however few flows are in it."""
    others = threading.Event()

    class Slow(Table):
        def listing(self, render: Callable[[int], bytes]) -> Iterator[list[wire.Message]]:
            assert others.wait(10), "the loop stood still"
            yield from super().listing(render)

    async with asyncio.TaskGroup() as group:
        counting = group.create_task(opened(Slow([flow(1)]), Support()).usage())
        await asyncio.sleep(0)
        others.set()
    assert len(counting.result()) == 1


async def test_list_given_up_leaves_no_socket_behind(kernel: Kernel) -> None:
    """A socket whose list was not read to its end is closed; the next call has one of its own."""
    opened_sockets: list[Exchange] = []

    def connect() -> Exchange:
        opened_sockets.append(Exchange(kernel.ours))
        return opened_sockets[-1]

    conntrack = ConntrackSocket(Support(), connect)
    kernel.say(ct.render_create(flow(1), 0, 1))
    kernel.say(done(1))
    slices = conntrack.flows()
    assert [one.original.source_port for one in await anext(slices)] == [1]
    await slices.aclose()
    assert kernel.ours.fileno() == -1
    with pytest.raises(KernelRefusal):
        await conntrack.delete([FlowFilter(mark=1, mark_mask=1)])
    assert len(opened_sockets) == 2


async def test_socket_is_used_again(kernel: Kernel) -> None:
    """A list that was read to its end leaves its socket to the next call; close closes it."""
    conntrack = ConntrackSocket(Support(), partial(Exchange, kernel.ours))
    kernel.say(done(1))
    kernel.say(acknowledgement(2))
    assert await conntrack.usage() == {}
    await conntrack.delete([FlowFilter(mark=1, mark_mask=1)])
    conntrack.close()
    assert kernel.ours.fileno() == -1
