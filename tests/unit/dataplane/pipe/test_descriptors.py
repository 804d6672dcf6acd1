"""The stock of pipes, endings, and the watch over silence."""

import ctypes
import os
import socket

import pytest

from littlelb.dataplane.pipe.descriptors import Pipes, send_last, set_linger, shut, watch_silence


def test_pipes_are_bounded_and_reused() -> None:
    """No more than the limit at a time; what comes back empty is lent again."""
    pipes = Pipes(1)
    pipe = pipes.take()
    assert pipe is not None
    assert pipes.take() is None
    pipes.give(pipe)
    assert pipes.take() == pipe
    pipes.give(pipe, empty=False)
    assert pipes.count == 0


def test_a_pipe_with_bytes_of_the_dead_is_never_lent_again() -> None:
    """What one connection left in a pipe cannot reach another."""
    pipes = Pipes(1)
    pipe = pipes.take()
    assert pipe is not None
    os.write(pipe[1], b"secret")
    pipes.give(pipe, empty=False)
    fresh = pipes.take()
    assert fresh is not None
    os.write(fresh[1], b"new")
    assert os.read(fresh[0], 100) == b"new"
    pipes.give(fresh, empty=False)


def test_shut_ends_one_way_only() -> None:
    """After FIN the peer reads the end, and can still write."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        shut(ours.fileno())
        assert theirs.recv(1) == b""
        theirs.sendall(b"x")
        assert ours.recv(1) == b"x"


def test_what_cannot_be_shut_says_so() -> None:
    """A socket that is not connected has nobody to send FIN to."""
    with socket.socket() as sock, pytest.raises(OSError, match="not connected"):
        shut(sock.fileno())


def test_the_last_bytes_arrive_with_the_end() -> None:
    """What is written before FIN is delivered in full; to a full socket nothing is written, and it says so."""
    octets = (ctypes.c_char * 4).from_buffer(bytearray(b"last"))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0)
        assert send_last(ours.fileno(), octets, 3) == 3
        shut(ours.fileno())
        assert theirs.recv(10) == b"las"
        assert theirs.recv(10) == b""
        theirs.settimeout(0)
        with pytest.raises(BlockingIOError):
            sum(send_last(theirs.fileno(), octets, 4) for _ in range(1 << 20))


def test_a_reset_comes_after_what_was_written() -> None:
    """Bytes that waited for more are sent before the RST."""
    octets = (ctypes.c_char * 4).from_buffer(bytearray(b"last"))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    with theirs:
        theirs.settimeout(5)
        send_last(ours.fileno(), octets, 4)
        set_linger(ours.fileno())
        assert theirs.recv(10) == b"last"
        ours.close()
        with pytest.raises(ConnectionResetError):
            theirs.recv(1)


def test_silence_is_watched_by_keepalive() -> None:
    """A silent peer is given up after a minute and four questions."""
    with socket.socket() as sock:
        watch_silence(sock.fileno())
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 4
