"""A netlink socket that speaks nf_tables in the network namespace of the thread that opens it.

The kernel does what it is told within send(2), so that all answers wait when it returns: nothing here waits for the
kernel, but send takes as long as the kernel works. That is 0.1 ms for 16 elements and 0.1 s for 80,000, and as long as
somebody else's transaction takes where one runs, for there is one at a time in a namespace (a ruleset of thousands of
rules: seconds). Who must not wait calls `commit` in a thread.
"""

import errno
import socket
import threading
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

from littlelb.dataplane.netfilter import wire
from littlelb.dataplane.netfilter.batch import Batch, Kind, Request, encode_batch
from littlelb.dataplane.netfilter.chains import (
    BaseChain,
    Table,
    list_chains,
    list_rules,
    list_tables,
    parse_chain,
    parse_rule,
    parse_table,
)
from littlelb.dataplane.netfilter.element_reader import parse_elements
from littlelb.dataplane.netfilter.errors import AnswerLost, DumpInterrupted, KernelRefusal, TooLarge, refusal
from littlelb.dataplane.netfilter.sets import Element, SetName, get_elements, list_elements
from littlelb.dataplane.netfilter.wire import Malformed, Message

LIMIT_BYTES: Final = 256 << 20
"""A transaction larger than this (5 million elements) is refused before the kernel copies it."""

_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_RECEIVE_BYTES: Final = 1 << 17
"""A part of a dump is at most 32 KiB, an acknowledgement (capped) some hundred bytes."""
BUFFER_BYTES: Final = 4 << 20
"""Receive buffer: room for an error about each of thousands of requests."""
_OVERHEAD: Final = 1 << 10
"""What the kernel keeps of the send buffer for itself (32 bytes), and room."""
_ATTEMPTS: Final = 8
"""At listing something that changes meanwhile."""
_GENERATION: Final = 1
_QUESTION: Final = 0
"""Sequence number of what is no transaction: there is one at a time on a socket."""


def open_socket(receive_bytes: int = BUFFER_BYTES) -> socket.socket:
    """Open a non-blocking netlink socket with short, extended acknowledgements. Raises KernelRefusal."""
    try:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, wire.NETLINK_NETFILTER)
    except OSError as error:
        raise refusal(error.errno or errno.EPROTONOSUPPORT) from error
    opened.settimeout(0)
    opened.bind((0, 0))
    opened.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
    opened.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
    resize(opened, receive_bytes, forced=_SO_RCVBUFFORCE, plain=socket.SO_RCVBUF)
    return opened


def resize(sock: socket.socket, size: int, *, forced: int, plain: int) -> int:
    """Ask for a buffer of `size` bytes, beyond the system's limit where we may; return what is there."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, forced, size)
    except PermissionError:  # root of a user namespace may not pass net.core.wmem_max or rmem_max
        sock.setsockopt(socket.SOL_SOCKET, plain, size)
    return sock.getsockopt(socket.SOL_SOCKET, plain)


class NfSocket:
    """Transactions and lists of nf_tables; a context manager.

    `commit` and `generation` share one socket, and threads take turns. Lists have their own, so that one may go on in
    the loop while a thread commits; the second of two lists at the same time opens another, in its thread's namespace.
    """

    def __init__(self, opener: Callable[[], socket.socket] = open_socket) -> None:
        """Open it. Raises KernelRefusal where the kernel has no netfilter."""
        self._opener = opener
        self._socket = opener()
        self._idle = [opener()]
        self._turn = threading.Lock()
        self._sequence = 1
        self._room = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)

    @property
    def port(self) -> int:
        """Port of the socket that commits: what notifications about our own changes bear."""
        return int(self._socket.getsockname()[0])

    def commit(self, requests: Sequence[Request], generation: int | None = None) -> None:
        """Make all requests take effect at once; after an error none did.

        With `generation`, only if nobody committed since. Raises KernelRefusal (of the first request at fault; TooLarge
        before the kernel sees it) and AnswerLost.
        """
        if not requests:
            return
        with self._turn:
            batch = encode_batch(requests, self._sequence, generation)
            self._sequence = batch.next_sequence
            self._make_room(len(batch.datagram))
            _send(self._socket, batch.datagram)
            _judge(batch, list(_waiting(self._socket)))

    def generation(self) -> int:
        """Number of the ruleset's generation: it grows with each transaction of anybody."""
        with self._turn:
            return _ask_generation(self._socket)

    def tables(self, family: int = wire.AF_UNSPEC) -> list[Table]:
        """All tables (of one family), ours and others'."""
        return [parse_table(message) for message in self._list(list_tables(family))]

    def chains(self, family: int = wire.AF_UNSPEC) -> list[BaseChain]:
        """All base chains (of one family), ours and others'."""
        read = [parse_chain(message) for message in self._list(list_chains(family))]
        return [chain for chain in read if chain is not None]

    def rules(self, family: int, table: str) -> list[str]:
        """The chain of each rule of a table; of one that is not there, none."""
        read = [parse_rule(message) for message in self._list(list_rules(family, table))]
        return [chain for named, chain in read if named == table]

    def dump_elements(self, where: SetName) -> Generator[list[Element], None, None]:
        """All elements, in slices of some hundred; an empty slice is only a chance for the loop to breathe.

        Consistent: nothing is given out before all is read, nobody committed meanwhile and no element came twice; else
        it is read again, at the last without breathing. Elements that packets add, or that end by themselves, may come
        and go meanwhile. Raises KernelRefusal (ENOENT: no such table or set), DumpInterrupted.
        """
        for attempt in range(_ATTEMPTS):
            parts: list[Message] = []
            with self._lent() as sock:
                before = _ask_generation(sock)
                for part in _dump(sock, list_elements(where)):
                    parts += part
                    if attempt < _ATTEMPTS // 2:
                        yield []
                # Lists of elements do not tell by NLM_F_DUMP_INTR that they were changed, as those of tables do.
                steady = _ask_generation(sock) == before and not _interrupted(parts)
            if steady and not (yield from _any_twice(parts)):
                for message in parts:
                    yield parse_elements(message.payload, 4)
                return
        raise DumpInterrupted(f"{where.table}/{where.name} changed each of {_ATTEMPTS} times that it was listed")

    def skim_elements(self, where: SetName) -> Generator[list[Element], None, None]:
        """All elements, as they are found: where somebody commits meanwhile, some may be missing, or come twice.

        For who only counts, again and again: nothing is read twice, and nothing is kept. Raises KernelRefusal.
        """
        with self._lent() as sock:
            for part in _dump(sock, list_elements(where)):
                yield [
                    element
                    for message in part
                    if message.type != wire.NLMSG_DONE
                    for element in parse_elements(message.payload, 4)
                ]

    def get_elements(self, where: SetName, elements: Collection[Element]) -> list[Element]:
        """Some elements as they are, with their counters: for few, for each is a message. Raises KernelRefusal."""
        found: list[Element] = []
        with self._lent() as sock:
            for request in get_elements(where, elements):
                _send(sock, request.header(_QUESTION) + request.attributes)
                for message in list(_waiting(sock)):
                    _raise_error(message)
                    found += parse_elements(message.payload, 4)
        return found

    def close(self) -> None:
        """Close it; tables that it owns go with it."""
        self._socket.close()
        while self._idle:
            self._idle.pop().close()

    def _list(self, request: Request) -> list[Message]:
        for _ in range(_ATTEMPTS):
            with self._lent() as sock:
                messages = [message for part in _dump(sock, request) for message in part]
            if not _interrupted(messages):
                return [message for message in messages if message.type != wire.NLMSG_DONE]
        raise DumpInterrupted(f"the ruleset changed each of {_ATTEMPTS} times that it was listed")

    @contextmanager
    def _lent(self) -> Iterator[socket.socket]:
        """A socket for one list; one on which a list was not read to its end is not used again."""
        sock = self._idle.pop() if self._idle else self._opener()
        try:
            yield sock
        except KernelRefusal:
            self._idle.append(sock)
            raise
        except BaseException:
            sock.close()
            raise
        self._idle.append(sock)

    def _make_room(self, size: int) -> None:
        """Let the send buffer hold a datagram of this size: one transaction is one datagram."""
        if size > LIMIT_BYTES:
            raise TooLarge(size, LIMIT_BYTES)
        needed = size + _OVERHEAD
        if needed > self._room:
            self._room = resize(self._socket, needed, forced=_SO_SNDBUFFORCE, plain=socket.SO_SNDBUF)
        if needed > self._room:
            raise TooLarge(size, self._room)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _send(sock: socket.socket, datagram: bytes) -> None:
    try:
        sock.send(datagram)
    except OSError as error:
        raise refusal(error.errno or errno.EIO) from error


def receive(sock: socket.socket) -> bytes:
    """Read one datagram. Raises BlockingIOError: none waits; AnswerLost, Malformed."""
    try:
        datagram, _, flags, _ = sock.recvmsg(_RECEIVE_BYTES)
    except OSError as error:
        if error.errno == errno.ENOBUFS:
            raise AnswerLost("nf_tables: answers were lost, for the receive buffer was full") from error
        raise
    if flags & socket.MSG_TRUNC:
        raise Malformed(f"a netlink datagram of more than {_RECEIVE_BYTES} bytes was cut")
    return datagram


def _waiting(sock: socket.socket) -> Iterator[Message]:
    """Read all that waits."""
    while True:
        try:
            datagram = receive(sock)
        except BlockingIOError:
            return
        yield from wire.iterate_messages(datagram)


def _ask_generation(sock: socket.socket) -> int:
    _send(sock, Request(Kind.GETGEN, wire.AF_UNSPEC, b"").header(_QUESTION))
    for message in _waiting(sock):
        if message.sequence == _QUESTION:
            _raise_error(message)
            return wire.parse_number(message.attributes().get(_GENERATION, b""))
    raise AnswerLost("nf_tables did not answer")


def _dump(sock: socket.socket, request: Request) -> Iterator[list[Message]]:
    """Read the answer to one dump, datagram by datagram. Raises KernelRefusal, AnswerLost, Malformed."""
    _send(sock, request.header(_QUESTION) + request.attributes)
    complete = False
    while not complete:
        try:
            messages = list(wire.iterate_messages(receive(sock)))
        except BlockingIOError as error:
            raise AnswerLost("nf_tables: a list ended before its end") from error
        complete = _ends(messages)
        yield messages


def _ends(messages: Sequence[Message]) -> bool:
    """Is this the last part of a dump? Raises KernelRefusal."""
    for message in messages:
        _raise_error(message)
        if message.type == wire.NLMSG_DONE:
            if code := wire.parse_done(message):
                raise refusal(code)
            return True
    return False


def _raise_error(message: Message) -> None:
    if message.type == wire.NLMSG_ERROR:
        answer = wire.parse_acknowledgement(message)
        if answer.code:
            raise refusal(answer.code, text=answer.text, offset=answer.offset)


def _interrupted(messages: Sequence[Message]) -> bool:
    return any(message.flags & wire.NLM_F_DUMP_INTR for message in messages)


def _any_twice(parts: Sequence[Message]) -> Generator[list[Element], None, bool]:
    """Does an element come twice? Then another may be missing: a hash table that just grew is put into new order.

    The kernel gives out a list by places: it counts from the start to where the part before ended. So for each element
    that slipped forward another one slips back, and is seen again.
    """
    seen: set[int] = set()
    count = 0
    for message in parts:
        elements = parse_elements(message.payload, 4)
        seen.update(hash((element.key, element.key_end, element.flags)) for element in elements)
        count += len(elements)
        yield []
    return len(seen) < count


def _judge(batch: Batch, answers: Sequence[Message]) -> None:
    """Raise what the kernel says against a transaction; it is done when its last request is acknowledged."""
    read = [wire.parse_acknowledgement(answer) for answer in answers if answer.type == wire.NLMSG_ERROR]
    about = [answer for answer in read if batch.covers(answer.sequence)]
    for answer in about:
        if answer.code:
            index = batch.index(answer.sequence)
            raise refusal(answer.code, index=index, text=answer.text, offset=answer.offset)
    if not any(batch.index(answer.sequence) == batch.count - 1 for answer in about):
        raise AnswerLost("nf_tables did not acknowledge a transaction")
