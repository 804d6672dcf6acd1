"""`check`: reads what the daemon would meet on this machine and in the cluster; `judges` makes findings of it.

Nothing is changed, and everything is looked at, whatever was wrong before it.
"""

import asyncio
import json
import os
import resource
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from littlelb.app.clock import SystemClock
from littlelb.app.commands import judges
from littlelb.app.sources import ApiParts, ApiServer, Folder, connect
from littlelb.app.ways import RECORD
from littlelb.config import Config, Plane
from littlelb.control.store import Store
from littlelb.core.errors import ConfigError, Transient, WorldError
from littlelb.core.model import HostFacts, Service, ServiceType
from littlelb.core.serving.nodes import select_nodes
from littlelb.core.shown.findings import Finding, Level
from littlelb.core.state import PrefixMode
from littlelb.dataplane.netfilter.conntrack.limits import read_pressure, read_setting
from littlelb.dataplane.nft.runner import probe
from littlelb.host.facts import read_host_facts
from littlelb.host.forwarding.switch import Forwarding
from littlelb.host.instance import read_holder
from littlelb.host.netlink import Netlink
from littlelb.host.sysctl import find_obstacles, read_sysctl
from littlelb.kube.client import FIELD_MANAGER, SERVICES, NotFound, Reference, Resource
from littlelb.kube.ownership import owners

REVIEWS = Resource("authorization.k8s.io", "v1", "selfsubjectaccessreviews")
NFT_SECONDS = 10.0
SYNC_SECONDS = 60.0
SAMPLE = 50
"""So many Services are read again to see who writes their status."""


async def check(config: Config) -> list[Finding]:
    """Look at everything; raises nothing that a finding can say."""
    found = [*_judge_process(), *_judge_files(config), *await _judge_planes(config)]
    found += [*await _judge_firewall(pipe_only=config.plane is Plane.PIPE), *await _judge_host(config)]
    if config.kubernetes:
        return found + await _judge_cluster(config)
    return found + await _judge_folder(config)


def _judge_process() -> list[Finding]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return [
        *judges.judge_capabilities(parse_capabilities(Path("/proc/self/status").read_text())),
        *judges.judge_descriptors(hard),
        *judges.judge_kernel(os.uname().release),
        *judges.judge_holder(read_holder(SystemClock().now())),
    ]


async def _judge_planes(config: Config) -> list[Finding]:
    no_nft = "" if config.plane is Plane.PIPE else await asyncio.to_thread(probe)
    return judges.judge_planes(config.plane, no_nft)


def may_administer() -> bool:
    """Has this process CAP_NET_ADMIN, without which the kernel shows none of its rules?"""
    bit, *_ = judges.CAPABILITIES["CAP_NET_ADMIN"]
    return bool(parse_capabilities(Path("/proc/self/status").read_text()) >> bit & 1)


def parse_capabilities(status: str) -> int:
    """Read CapEff out of the text of /proc/self/status (proc(5))."""
    line = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return int(line.split()[1], 16)


def _judge_files(config: Config) -> list[Finding]:
    folders = {"--run-dir": config.run_dir, "--state-dir": config.state_dir}
    return [
        finding
        for flag, path in folders.items()
        for finding in judges.judge_folder(flag, str(path), writable=is_writable(path))
    ]


def is_writable(path: Path) -> bool:
    """May we write there, or make it? A file in its place, or a read-only file system, says no."""
    # os.path, because a folder that may not be looked into is no error here: it is not writable.
    nearest = next(place for place in (path, *path.absolute().parents) if os.path.exists(place))  # noqa: PTH110
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


async def _judge_firewall(*, pipe_only: bool) -> list[Finding]:
    legacy = _read_text(Path("/proc/net/ip_tables_names"))
    return [*await _judge_nft(pipe_only=pipe_only), *judges.judge_legacy_tables(legacy)]


async def _judge_nft(*, pipe_only: bool) -> list[Finding]:
    """Look by `nft -j list chains`, which only reads."""
    program = shutil.which("nft")
    if program is None:
        return judges.judge_unseen_firewall("nft is not installed")
    process = await asyncio.create_subprocess_exec(
        program, "-j", "list", "chains", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(NFT_SECONDS):
            said, complained = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        return judges.judge_unseen_firewall(f"nft did not answer within {NFT_SECONDS:.0f} s")
    if process.returncode:
        first = complained.decode(errors="replace").strip().splitlines()[:1]
        return judges.judge_unseen_firewall(*first or [f"nft ended with {process.returncode}"])
    return judges.judge_chains(json.loads(said or b"{}"), pipe_only=pipe_only)


def _read_text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # no such table in this kernel, or not ours to see
        return ""


async def _judge_host(config: Config) -> list[Finding]:
    device = config.linkdevice
    obstacles = find_obstacles(device, link_prefix=config.prefix is PrefixMode.LINK)
    filters = [f"net/ipv4/conf/{name}/rp_filter" for name in (device, "all")]
    obstacles += judges.judge_reverse_path(device, {key: read_sysctl(key) for key in filters})
    if config.plane is not Plane.PIPE:
        obstacles += _judge_tracking()
    try:
        async with Netlink() as netlink:
            host = await read_host_facts(netlink, device)
            found = [*judges.judge_device(host), *obstacles]
            if host.present and config.plane is not Plane.PIPE:
                seen = await Forwarding(netlink, config.run_dir / RECORD).read([device])
                found += judges.judge_forwarding(host, seen)
            return found
    except WorldError as error:
        return [Finding(level=Level.ERROR, subject=f"device {config.linkdevice}", message=str(error)), *obstacles]


def _judge_tracking() -> list[Finding]:
    pressure, accounting = read_pressure(), read_setting("nf_conntrack_acct")
    counted = None if accounting is None else accounting == "1"
    if pressure is None:
        return judges.judge_tracking(None, None, counted=counted)
    return judges.judge_tracking(pressure.flows, pressure.limit, counted=counted)


async def _judge_folder(config: Config) -> list[Finding]:
    assert config.manifests is not None  # noqa: S101  (config.py has checked it)
    store = _empty_store(config)
    source = Folder(config.manifests, store)
    await source.list_once()
    errors = judges.judge_source_errors(source.name, source.errors)
    return [*errors, *_judge_nodes(config, store)]


def _empty_store(config: Config) -> Store:
    return Store(config.settings(), HostFacts(config.linkdevice), lambda: None)


def _judge_nodes(config: Config, store: Store) -> list[Finding]:
    nodes = store.nodes.items
    return judges.judge_nodes(config.node_selector, len(nodes), len(select_nodes(nodes, config.node_selector)))


async def _judge_cluster(config: Config) -> list[Finding]:
    try:
        api = connect(config, SystemClock())
    except ConfigError as error:
        remedy = "correct the kubeconfig, or name another one with --kubeconfig"
        return [Finding(level=Level.ERROR, subject="API server", message=text, remedy=remedy) for text in error.errors]
    try:
        return await _judge_api(config, api)
    except WorldError as error:
        remedy = "see that the server runs, that this machine reaches it, and whose credentials are used"
        return [Finding(level=Level.ERROR, subject=f"API server {api.server}", message=str(error), remedy=remedy)]
    finally:
        await api.transport.close()


async def _judge_api(config: Config, api: ApiParts) -> list[Finding]:
    """Raises `Transient`, `Permanent` where the server does not answer, or does not know us."""
    await api.api.ping()
    rights = [*judges.RIGHTS, *([judges.EXTERNAL_IPS_RIGHT] if config.external_ips else [])]
    allowed = {right: await _ask_right(api, right) for right in rights}
    found = [
        Finding(level=Level.OK, subject=f"API server {api.server}", message="answers, and knows us"),
        *judges.judge_rights(allowed),
    ]
    if not all(allowed[right] for right in judges.RIGHTS if right.verb in {"get", "list"}):
        return found
    store = _empty_store(config)
    try:
        async with asyncio.timeout(SYNC_SECONDS):
            await ApiServer(api, store, SystemClock()).list_once()
    except TimeoutError:
        raise Transient(f"it did not list everything within {SYNC_SECONDS:.0f} s") from None
    writers = await _read_writers(api, store.services.items)
    return [*found, *judges.judge_others(writers, class_less=config.class_less), *_judge_nodes(config, store)]


async def _ask_right(api: ApiParts, right: judges.Right) -> bool:
    """Ask by a SelfSubjectAccessReview, which everybody who has signed in may create; nothing of it is stored."""
    attributes = {
        "verb": right.verb,
        "group": right.group,
        "resource": right.resource,
        "subresource": right.subresource,
    }
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer: Mapping[str, Any] = msgspec.json.decode(
        await api.api.create(Reference(REVIEWS), msgspec.json.encode(review)), type=dict[str, Any]
    )
    return answer.get("status", {}).get("allowed") is True


async def _read_writers(api: ApiParts, services: Mapping[str, Service]) -> Mapping[str, list[str]]:
    """Find who else wrote `status.loadBalancer` of class-less Services: manager → Services."""
    asked = [
        service
        for service in services.values()
        if service.type is ServiceType.LOAD_BALANCER and service.load_balancer_class is None and service.ingress
    ]
    writers: dict[str, list[str]] = {}
    for service in asked[:SAMPLE]:
        try:
            owned = owners(await api.api.get(Reference(SERVICES, service.namespace, service.name)))
        except NotFound:  # deleted meanwhile
            continue
        for manager in owned.ingress - {FIELD_MANAGER}:
            writers.setdefault(manager, []).append(service.key)
    return writers
