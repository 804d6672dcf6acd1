"""A plan of parts on a folder and a made-up kernel; nothing is made on the way."""

import json
from ipaddress import ip_address
from pathlib import Path
from typing import Any, cast

import pytest

from littlelb.app.clock import SystemClock
from littlelb.app.commands.plan import compute_plan, list_in_time, render_lines
from littlelb.app.parts import Parts, build_parts
from littlelb.config import load_config
from littlelb.core.errors import Transient
from littlelb.core.interfaces import Phase
from littlelb.core.model import Claim, Placement
from littlelb.core.plan import Changes
from littlelb.core.shown.plan_document import PlanLine, Verb
from littlelb.host.netlink import Netlink
from littlelb.host.rtnl import Address
from littlelb.testing.fake_kernel import ETH0, FakeKernel

VIP = "203.0.113.10"


def documents(*names: str) -> str:
    """Write Services that all want one address, in order of age."""
    items: list[dict[str, Any]] = []
    for number, name in enumerate(names):
        created = f"20{10 + number}-01-01T00:00:00Z"
        meta = {"name": name, "namespace": "demo", "creationTimestamp": created}
        spec = {"type": "LoadBalancer", "loadBalancerIP": VIP, "ports": [{"port": 80}]}
        labels = {"kubernetes.io/service-name": name}
        items.append({"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec})
        items.append(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {"name": name, "namespace": "demo", "labels": labels},
                "addressType": "IPv4",
                "ports": [{"name": "", "port": 8080}],
                "endpoints": [{"addresses": ["198.51.100.11"]}],
            }
        )
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def names(folder: Path) -> list[str]:
    """Name what lies in a folder."""
    return [path.name for path in folder.iterdir()]


@pytest.fixture
def kernel() -> FakeKernel:
    """eth0 with an address of its own."""
    return FakeKernel(addresses=[Address(ip_address("192.0.2.2"), 24, ETH0.index, marked=False)])


@pytest.fixture
async def parts(home: Path, kernel: FakeKernel) -> Parts:
    """Parts on an empty folder, on a machine that has nothing of ours."""
    (home / "services").mkdir()
    flags = {"manifests": str(home / "services"), "linkdevice": "eth0", "plane": "pipe"}
    flags |= {name: str(home / name) for name in ("state-dir", "run-dir")}
    return await build_parts(load_config(flags, {}), SystemClock(), cast("Netlink", kernel))


async def test_an_empty_folder_changes_nothing(parts: Parts) -> None:
    """Exit 0."""
    found = await compute_plan(parts)
    assert (found.lines, found.refused, found.errors, found.exit_code) == ((), (), (), 0)


async def test_what_comes_what_goes_and_who_is_refused(parts: Parts, kernel: FakeKernel, home: Path) -> None:
    """Listeners and addresses in order of bring-up; an orphan goes; a refused Service is no error; nothing is made."""
    kernel.addresses.append(Address(ip_address("203.0.113.99"), 32, ETH0.index, marked=True, deprecated=True,
                                    prefix_route=False))  # fmt: skip
    (home / "services" / "web.json").write_text(documents("web", "rival"))
    before = list(kernel.addresses)
    found = await compute_plan(parts)
    assert found.lines == (
        PlanLine(phase="forward", verb=Verb.ADD, key=f"{VIP}:80/TCP", after="198.51.100.11:8080 (demo/web, pipe)"),
        PlanLine(phase="address", verb=Verb.ADD, key=VIP, after="/32 on eth0"),
        PlanLine(phase="address", verb=Verb.REMOVE, key="203.0.113.99", before="/32 on eth0"),
    )
    (refused,) = found.refused
    assert refused.startswith("demo/rival: AddressInUse: ")
    assert (found.errors, found.exit_code) == ((), 2)
    assert kernel.addresses == before
    assert names(home) == ["services"]


async def test_what_cannot_be_read_is_an_error_and_the_rest_is_planned(
    parts: Parts, kernel: FakeKernel, home: Path
) -> None:
    """A folder error and an unreadable kernel: exit 1, and the listener all the same."""
    (home / "services" / "web.json").write_text(documents("web"))
    (home / "services" / "bad.yaml").write_text("kind: [")
    kernel.unreadable = 11
    found = await compute_plan(parts)
    assert [line.phase for line in found.lines] == ["forward"]
    assert found.exit_code == 1
    assert found.errors[0].startswith("bad.yaml")
    assert found.errors[1].startswith("ADDRESS: ")


async def test_a_source_that_does_not_answer_in_time_is_named(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan does not wait for ever."""

    async def silence() -> None:
        raise TimeoutError

    monkeypatch.setattr(parts.source, "list_once", silence)
    with pytest.raises(Transient, match="did not list everything"):
        await list_in_time(parts)


def test_lines_are_sorted_by_what_they_concern() -> None:
    """A change shows before and after; keys are in order whatever the verb."""
    old, new = Placement("eth0", 24), Placement("eth0", 32)
    one, two, three = (ip_address(f"203.0.113.{number}") for number in (1, 2, 3))
    lines = render_lines(Phase.ADDRESS, Changes({three: new}, {two: new}, {one: old}), {two: old, one: old})
    assert [(line.verb, line.key, line.before, line.after) for line in lines] == [
        (Verb.REMOVE, "203.0.113.1", "/24 on eth0", ""),
        (Verb.CHANGE, "203.0.113.2", "/24 on eth0", "/32 on eth0"),
        (Verb.ADD, "203.0.113.3", "", "/32 on eth0"),
    ]
    (claim,) = render_lines(Phase.CLAIM, Changes({"demo/web": Claim("uid")}, {}, {}), {})
    assert (claim.phase, claim.after) == ("claim", "finalizer")
