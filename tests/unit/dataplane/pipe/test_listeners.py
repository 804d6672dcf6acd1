"""Binding, refusing and giving up ports; no packet is sent here: what clients see is in tests/lab/test_pipe_*.py."""

import os
import socket
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from littlelb.core.model import Frontend, Protocol
from littlelb.core.plan import Severity
from littlelb.core.reasons import Reason
from littlelb.dataplane.pipe.listeners import Listeners

ACCEPTCONN = socket.SO_ACCEPTCONN


@pytest.fixture
def listeners() -> Iterator[Listeners]:
    """None yet; a port that is taken is said to be sshd's."""
    made = Listeners(lambda frontend: f"sshd (pid 812) on {frontend.port}")
    yield made
    made.release()


def free(address: str = "127.0.0.1") -> Frontend:
    """A frontend on a port that nobody has now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as sock:
        sock.bind((address, 0))
        return Frontend(ip_address(address), Protocol.TCP, sock.getsockname()[1])


def accepts(fd: int) -> bool:
    """Is this socket listening?"""
    with socket.socket(fileno=os.dup(fd)) as sock:
        return bool(sock.getsockopt(socket.SOL_SOCKET, ACCEPTCONN))


def can_bind(frontend: Frontend) -> bool:
    """Could another process, which reuses addresses too, take this port?"""
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((str(frontend.address), frontend.port))
        except OSError:
            return False
        return True


@pytest.mark.parametrize("address", ["127.0.0.1", "203.0.113.7", "2001:db8::7"])
def test_an_address_that_is_not_on_the_device_is_bound(listeners: Listeners, address: str) -> None:
    """Binding does not wait for the address; the socket listens, and v6 sockets leave IPv4 alone."""
    frontend = Frontend(ip_address(address), Protocol.TCP, free().port)
    assert listeners.open(frontend, accepting=True) is None
    assert frontend in listeners
    assert accepts(listeners.fileno(frontend))


def test_listeners_leave_descriptors_for_connections() -> None:
    """Whoever asks for very many ports cannot take accepting from all others: the port too many fails by itself."""
    listeners = Listeners(lambda _: "", lambda: 4)
    assert [listeners.open(free(), accepting=True) for _ in range(3)] == [None, None, None]
    failure = listeners.open(free(), accepting=True)
    assert failure is not None
    assert "no file descriptor is left" in failure.message
    listeners.release()


def test_refusing_keeps_the_port_and_giving_up_frees_it(listeners: Listeners) -> None:
    """Accepting and refusing alternate on one descriptor, nobody else can bind meanwhile; after `close` anybody can."""
    frontend = free()
    for accepting in (False, True, False, True, False):
        assert listeners.open(frontend, accepting=accepting) is None
        assert accepts(listeners.fileno(frontend)) is accepting
        assert not can_bind(frontend)
    listeners.close(frontend)
    listeners.close(frontend)
    assert frontend not in listeners
    assert can_bind(frontend)


def test_giving_up_ends_listening_in_every_copy(listeners: Listeners) -> None:
    """A worker that hangs with its copy neither accepts on it nor keeps the port from the next one."""
    frontend = free()
    assert listeners.open(frontend, accepting=True) is None
    copy = os.dup(listeners.fileno(frontend))
    listeners.close(frontend)
    assert not accepts(copy)
    assert listeners.open(frontend, accepting=True) is None
    os.close(copy)


def test_a_taken_port_names_its_owner(listeners: Listeners) -> None:
    """Who has the port is in the message; it is tried again, for it may be freed."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        frontend = Frontend(ip_address("127.0.0.1"), Protocol.TCP, other.getsockname()[1])
        failure = listeners.open(frontend, accepting=True)
        assert failure is not None
        assert failure.reason == Reason.PORT_IN_USE
        assert failure.message.startswith(f"sshd (pid 812) on {frontend.port}")
        assert frontend not in listeners
    assert listeners.open(frontend, accepting=True) is None


def test_a_missing_privilege_is_permanent_and_has_its_remedy(listeners: Listeners) -> None:
    """EACCES names the capability; any other error is told as it is."""
    frontend = free()
    denied = listeners._explain(frontend, PermissionError(13, "Permission denied"))
    assert (denied.reason, denied.severity) == (Reason.NOT_PERMITTED, Severity.PERMANENT)
    assert "CAP_NET_BIND_SERVICE" in denied.message
    full = listeners._explain(frontend, OSError(24, "Too many open files"))
    assert (full.reason, full.severity) == (Reason.FAILED, Severity.TRANSIENT)
    assert "LimitNOFILE" in full.message
    assert "No such device" in listeners._explain(frontend, OSError(19, "No such device")).message


def test_a_second_copy_from_another_worker_is_closed(listeners: Listeners) -> None:
    """Two workers lend the same listener: one copy is kept."""
    frontend = free()
    assert listeners.open(frontend, accepting=True) is None
    copy = os.dup(listeners.fileno(frontend))
    listeners.adopt(frontend, copy)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(copy)
    assert list(listeners) == [frontend]


def test_who_leaves_keeps_its_socket_for_its_time(listeners: Listeners) -> None:
    """The time of a farewell is fixed when it begins; opening the frontend again ends it, and so does closing it."""
    one, two, other = free(), free(), free()
    for frontend in (one, two):
        assert listeners.open(frontend, accepting=True) is None
        listeners.leave(frontend, 10.0)
        listeners.leave(frontend, 20.0)
    listeners.leave(other, 5.0)
    assert (listeners.next_end, listeners.over(9.9), set(listeners.over(10.0))) == (10.0, [], {one, two})
    assert accepts(listeners.fileno(one))
    listeners.open(one, accepting=True)
    assert listeners.over(10.0) == [two]
    listeners.close(two)
    assert listeners.next_end is None
