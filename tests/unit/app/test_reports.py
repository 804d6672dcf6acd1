"""What is asked again and again is computed once."""

import asyncio
from pathlib import Path
from typing import cast

from littlelb.app.clock import SystemClock
from littlelb.app.parts import build_parts
from littlelb.app.reports import Reporter
from littlelb.config import load_config
from littlelb.host.netlink import Netlink
from littlelb.testing.fake_kernel import FakeKernel


async def test_services_are_looked_at_after_a_pass_and_the_daemon_always(home: Path) -> None:
    """Between two passes only what the daemon says of itself and its source is fresh."""
    (home / "web.yaml").write_text(
        "{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {type: LoadBalancer, ports: [{port: 80}]}}"
    )
    flags = {
        "manifests": str(home),
        "linkdevice": "eth0",
        "plane": "pipe",
        "state-dir": "/nowhere",
        "run-dir": str(home / "r"),
    }
    config, clock = load_config(flags, {}), SystemClock()
    parts = await build_parts(config, clock, cast("Netlink", FakeKernel()))
    reporter = Reporter(config, parts, clock)
    before = await reporter.report()
    assert (before.services, before.daemon.synced) == ((), False)
    await parts.source.list_once()
    again = await reporter.report()
    assert again.services is before.services
    assert again.daemon.synced
    parts.reconciler.use([])
    reporter.take(await parts.reconciler.run_pass(full=True))
    shown, same = await asyncio.gather(reporter.report(), reporter.report())
    assert [service.key for service in shown.services] == ["default/web"]
    assert shown.services is same.services
