"""What a worker is told and says of itself; its loop is tested with real processes in tests/lab/test_pipe_*.py."""

import os
import resource

import pytest

from littlelb import __version__
from littlelb.dataplane.pipe.wire import WireError
from littlelb.dataplane.pipe.worker import Settings, parse_settings, read_facts, set_descriptor_limit

TOLD = (
    '{"socket":3,"path":"/run/x.sock","descriptors":0,"connections":9,"connect_ms":500,"idle_ms":60000,"detach":true}'
)


def test_settings_are_read_strictly() -> None:
    """All fields are needed and bounded."""
    assert parse_settings(TOLD) == Settings(3, "/run/x.sock", 0, 9, 0.5, 60.0, detach=True)
    for broken in ("{}", "[]", TOLD.replace("500", "0"), TOLD.replace('"/run/x.sock"', "7")):
        with pytest.raises(WireError):
            parse_settings(broken)


def test_facts_name_this_process() -> None:
    """`hello` says version, pid and network namespace of the process itself."""
    facts = read_facts()
    assert (facts["version"], facts["pid"]) == (__version__, os.getpid())
    assert isinstance(facts["netns"], int)
    assert facts["netns"] > 0


def test_the_descriptor_limit_is_never_above_the_hard_limit() -> None:
    """What is asked is set as far as it is allowed."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        assert set_descriptor_limit(before[1] + 5) == before[1]
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
