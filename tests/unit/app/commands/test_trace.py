"""A trace of parts on a folder and a made-up kernel."""

import json
from ipaddress import ip_address
from pathlib import Path
from typing import cast

from littlelb.app.clock import SystemClock
from littlelb.app.commands.trace import follow
from littlelb.app.parts import build_parts
from littlelb.config import load_config
from littlelb.core.desired import compute
from littlelb.core.trace.packet import Entering, Outcome, parse_packet
from littlelb.host.netlink import Netlink
from littlelb.host.rtnl import Address
from littlelb.testing.fake_kernel import ETH0, FakeKernel

VIP, POD = "203.0.113.10", "198.51.100.11"


async def test_follow(home: Path) -> None:
    """A packet of this machine's own address is local, whatever it was said to be; another one is as it was said."""
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web", "namespace": "demo"},
        "spec": {"type": "LoadBalancer", "loadBalancerIP": VIP, "ports": [{"port": 80}]},
    }
    piece = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "web", "namespace": "demo", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080}],
        "endpoints": [{"addresses": [POD]}],
    }
    (home / "web.json").write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": [service, piece]}))
    flags = {"manifests": str(home), "linkdevice": "eth0", "plane": "pipe", "run-dir": str(home / "r")}
    kernel = FakeKernel(addresses=[Address(ip_address("192.0.2.2"), 24, ETH0.index, marked=False)])
    netlink = cast("Netlink", kernel)
    parts = await build_parts(load_config({**flags, "state-dir": str(home / "s")}, {}), SystemClock(), netlink)
    await parts.source.list_once()
    state = compute(parts.store.peek())
    found = await follow(parts, netlink, parse_packet("192.0.2.10", f"{VIP}:80"), state, {})
    assert (found.outcome, found.service, found.plane) == (Outcome.FORWARDED, "demo/web", "pipe")
    assert [one.address for one in found.backends] == [POD]
    other = await follow(parts, netlink, parse_packet("192.0.2.2", f"{VIP}:81", Entering.OTHER), state, {})
    assert other.outcome is Outcome.HOST
