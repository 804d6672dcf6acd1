"""`cleanup`: takes away what bears our mark, in the order of a tear-down, and nothing else.

    status, conditions, externalIPs → addresses → our table → workers with their listeners → settings →
    finalizers → our files

Each thing is looked for where it is, not where a record says it was made: a crash may have lost the record.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from littlelb.announce.probe import LanProber
from littlelb.app.clock import SystemClock
from littlelb.app.commands.files import find_files, remove_empty_folders, remove_files
from littlelb.app.commands.wording import render_key
from littlelb.app.parts import build_planes
from littlelb.app.sources import ApiParts, connect, list_all
from littlelb.app.ways import RECORD
from littlelb.config import Config
from littlelb.control.shelf import Shelf
from littlelb.core.errors import ConfigError, Transient, WorldError
from littlelb.core.model import Claim, Key, Publication, Service
from littlelb.core.plan import Changes, Failure
from littlelb.host.address import AddressTarget
from littlelb.host.forwarding.record import Record
from littlelb.host.forwarding.switch import Forwarding, Restored
from littlelb.host.instance import InstanceLock
from littlelb.host.netlink import Netlink
from littlelb.kube.claim import ClaimTarget
from littlelb.kube.client import SERVICES, Selection
from littlelb.kube.decode import decode_service, decode_service_page
from littlelb.kube.marks import Marks, read_marks, shows_something
from littlelb.kube.status import PublishTarget
from littlelb.kube.writes.budget import TokenBucket
from littlelb.kube.writes.service_writer import Cache, ServiceWriter

WRITES_PER_SECOND = 200
"""Somebody waits for the command to end."""


@dataclass(slots=True)
class Tally:
    """What was removed, or would be, and what could not be."""

    lines: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Cluster:
    """The Services of an API server that bear our marks."""

    services: Mapping[Key, Service]
    marks: Mapping[Key, Marks]
    publish: PublishTarget
    claim: ClaimTarget

    async def clear_status(self, tally: Tally, *, dry_run: bool) -> None:
        """Clear ingress, conditions and externalIPs where they are ours."""
        found = {key: marks for key, marks in self.marks.items() if marks.shown}
        failed: Mapping[Key, Failure] = {}
        if not dry_run:
            shown = {key: Publication(uid=self.services[key].uid) for key in found}
            failed = await self.publish.apply(Changes({}, {}, shown))
        for key, marks in found.items():
            _enter(tally, f"{_render_marks(marks)} of Service {key}", failed.get(key))

    async def release(self, tally: Tally, *, dry_run: bool) -> None:
        """Take our finalizers off, unless there is something left that they stand for."""
        found = [key for key, marks in self.marks.items() if marks.finalizer]
        failed: Mapping[Key, Failure] = {}
        if not dry_run and not tally.failures:
            failed = await self.claim.apply(Changes({}, {}, {key: Claim(self.services[key].uid) for key in found}))
        elif not dry_run:
            failed = dict.fromkeys(found, Failure("Failed", "it stays until everything else has gone"))
        for key in found:
            _enter(tally, f"finalizer of Service {key}", failed.get(key))


async def cleanup(config: Config, *, dry_run: bool) -> list[str]:
    """Remove everything that bears our mark; return a line for each thing.

    Raises `Permanent` while a daemon runs here: it would put everything back. `Transient` where something could not be
    removed, naming it, and what was.
    """
    clock = SystemClock()
    tally = Tally()
    with InstanceLock(clock.now):
        async with _reach(config, clock, tally) as cluster, Netlink() as netlink:
            if cluster is not None:
                await cluster.clear_status(tally, dry_run=dry_run)
            await _clear_host(config, netlink, tally, dry_run=dry_run)
            if cluster is not None:
                await cluster.release(tally, dry_run=dry_run)
            _clear_files(config, tally, dry_run=dry_run)
    if tally.failures:
        done = f"{'would be removed' if dry_run else 'removed'}: {', '.join(tally.lines) or 'nothing'}"
        raise Transient("; ".join([*tally.failures, done]))
    return tally.lines


async def _clear_host(config: Config, netlink: Netlink, tally: Tally, *, dry_run: bool) -> None:
    """Remove addresses, then what forwards for them: the table, the workers."""
    planes = build_planes(config, netlink)
    try:
        removed = await AddressTarget(netlink, LanProber()).remove_all(dry_run=dry_run)
        tally.lines += [f"address {found}" for found in removed]
    except OSError as error:
        tally.failures.append(f"addresses cannot be removed: {error.strerror}; are you root?")
    except WorldError as error:
        tally.failures.append(str(error))
    try:
        if await planes.kernel.remove(dry_run=dry_run):
            tally.lines.append("nftables table inet littlelb")
    except WorldError as error:
        tally.failures.append(f"the nftables table cannot be removed: {error}")
    try:
        tally.lines += [f"listener {render_key(frontend)}" for frontend in sorted(await planes.pipe.look(), key=str)]
        tally.lines += [f"worker process {pid}" for pid in sorted(planes.pipe.pids)]
        if not dry_run:
            await planes.pipe.end_workers()
    except WorldError as error:
        tally.failures.append(str(error))
    await _restore_settings(config, netlink, tally, dry_run=dry_run)


async def _restore_settings(config: Config, netlink: Netlink, tally: Tally, *, dry_run: bool) -> None:
    """Put back the settings of devices that are still as we set them."""
    record = config.run_dir / RECORD
    if dry_run:
        tally.lines += [f"setting {Restored(change.key, change.before)}" for change in Record(record).read()]
        return
    try:
        for restored in await Forwarding(netlink, record).restore():
            kept = tally.failures if restored.reason.startswith("refused") else tally.lines
            kept.append(f"setting {restored}")
    except OSError as error:
        tally.failures.append(f"{record} cannot be written: {error.strerror}")


def _clear_files(config: Config, tally: Tally, *, dry_run: bool) -> None:
    found = find_files(config)
    try:
        if not dry_run:
            remove_files(found)
            remove_empty_folders(config)
        tally.lines += [f"file {path}" for path in found]
    except WorldError as error:
        tally.failures.append(str(error))


@asynccontextmanager
async def _reach(config: Config, clock: SystemClock, tally: Tally) -> AsyncIterator[Cluster | None]:
    """Read what is ours on the API server; None where none is configured, or where it does not answer."""
    api = _connect(config, clock)
    if api is None:
        yield None
        return
    try:
        try:
            cluster = await _read_cluster(api, clock)
        except WorldError as error:
            tally.failures.append(f"the Services of {api.server} keep our marks, because it does not answer: {error}")
            cluster = None
        yield cluster
    finally:
        await api.transport.close()


def _connect(config: Config, clock: SystemClock) -> ApiParts | None:
    """Build the client; where nobody named an API server, and there is no kubeconfig, there is nothing to clear."""
    if not config.kubernetes:
        return None
    try:
        return connect(config, clock)
    except ConfigError:
        if config.kubeconfig or config.in_cluster:
            raise
        return None


async def _read_cluster(api: ApiParts, clock: SystemClock) -> Cluster:
    shelf: Shelf[Service] = Shelf(lambda _old, _new: None, lambda: None)
    await list_all(api.api, Selection(SERVICES), decode_service_page, shelf)
    budget = TokenBucket(WRITES_PER_SECOND, WRITES_PER_SECOND, clock)
    writer = ServiceWriter(api.api, budget, decode_service, Cache(lambda: shelf.items, shelf.upsert))
    marks = await read_marks(writer, [key for key, service in shelf.items.items() if shows_something(service)])
    return Cluster(shelf.items, dict(sorted(marks.items())), PublishTarget(writer, clock), ClaimTarget(writer))


def _render_marks(marks: Marks) -> str:
    parts = []
    if marks.ingress:
        parts.append(f"status {', '.join(marks.ingress)}")
    if marks.conditions:
        parts.append(f"conditions {', '.join(marks.conditions)}")
    if marks.external_ips:
        parts.append(f"externalIPs {', '.join(marks.external_ips)}")
    return "; ".join(parts)


def _enter(tally: Tally, line: str, failure: Failure | None) -> None:
    if failure is None:
        tally.lines.append(line)
    else:
        tally.failures.append(f"{line} could not be removed: {failure.message}")
