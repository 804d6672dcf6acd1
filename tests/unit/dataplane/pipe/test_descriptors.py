"""The stock of pipes, and endings."""

import os
import socket

from littlelb.dataplane.pipe.descriptors import Pipes, shut


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
