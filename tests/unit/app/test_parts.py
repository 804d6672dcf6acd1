"""What the parts do together when the source has not answered."""

from pathlib import Path
from typing import cast

import pytest

from littlelb.app.clock import SystemClock
from littlelb.app.parts import Parts, build_parts
from littlelb.config import load_config
from littlelb.control.state_file import StateFile, encode_world
from littlelb.host.netlink import Netlink
from littlelb.testing.fake_kernel import FakeKernel
from tests.worlds import node, service, snapshot


@pytest.fixture
async def parts(home: Path) -> Parts:
    """Parts of a daemon on an empty folder, with a state file of an earlier one."""
    StateFile(home / "state").write(encode_world(snapshot(service("web"), node("n1", "198.51.100.11")), {}, 1.0))
    (home / "services").mkdir()
    flags = {
        "manifests": str(home / "services"),
        "linkdevice": "eth0",
        "plane": "pipe",
        "state-dir": str(home / "state"),
        "run-dir": str(home / "r"),
    }
    return await build_parts(load_config(flags, {}), SystemClock(), cast("Netlink", FakeKernel()))


async def test_before_the_source_has_answered_the_last_known_world_stays_on_disk(parts: Parts) -> None:
    """A daemon that is stopped while it still waits knows less than the file that the one before it wrote."""
    parts.save()
    stored = parts.state_file.read()
    assert stored is not None
    assert [one.key for one in stored.services] == ["default/web"]
    await parts.source.list_once()
    parts.save()
    stored = parts.state_file.read()
    assert stored is not None
    assert stored.services == []
