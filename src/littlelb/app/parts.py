"""All parts of the daemon, built and wired: the one place where a target meets the world and the loop."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random

import structlog

from littlelb.announce.probe import LanProber
from littlelb.announce.target import AnnounceTarget
from littlelb.app.clock import SystemClock
from littlelb.app.incumbents import select_incumbents
from littlelb.app.planes import Planes
from littlelb.app.sources import ApiParts, ApiServer, Folder, Source, connect, resolve_server
from littlelb.app.stopwatch import Stopwatch
from littlelb.app.ways import RECORD, Ways
from littlelb.config import Config
from littlelb.control.apply import AnyTarget
from littlelb.control.loop import Loop
from littlelb.control.reconciler import PassResult, Reconciler
from littlelb.control.state_file import StateFile, Stored, encode_pieces
from littlelb.control.store import Store
from littlelb.core.model import Claim, Forward, Frontend, HostFacts, Ip, Key, Plane, Publication, Service
from littlelb.core.serving.planes import FORWARDED
from littlelb.core.story import EventType, changed_keys, tell
from littlelb.dataplane.nft.plane import NftPlane, NftSettings
from littlelb.dataplane.nft.runner import probe
from littlelb.dataplane.pipe.crew import PipeSettings
from littlelb.dataplane.pipe.plane import PipePlane
from littlelb.host.address import AddressTarget
from littlelb.host.facts import read_host_facts
from littlelb.host.forwarding.switch import Forwarding
from littlelb.host.links import LinkMonitor, Reactions
from littlelb.host.listeners import ListenerScan, name_listener
from littlelb.host.netlink import Netlink
from littlelb.kube.claim import ClaimTarget
from littlelb.kube.decode import decode_service
from littlelb.kube.events import Desk, Recorder
from littlelb.kube.status import PublishTarget
from littlelb.kube.writes.budget import TokenBucket, make_claim_budget, make_write_budget
from littlelb.kube.writes.deferred import BoundedTarget, DeferredTarget
from littlelb.kube.writes.patches import observed_publication
from littlelb.kube.writes.service_writer import Cache, ServiceWriter

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Speech:
    """What speaks to the API server: finalizers, status, Events."""

    parts: ApiParts
    writer: ServiceWriter
    budgets: tuple[TokenBucket, ...]
    """Of status and Events, and of finalizers."""
    claim: BoundedTarget[Claim]
    publish: DeferredTarget[Publication]
    recorder: Recorder


@dataclass(slots=True)
class Parts:
    """The daemon's parts."""

    config: Config
    clock: SystemClock
    store: Store
    reconciler: Reconciler
    loop: Loop
    planes: Planes
    address: AddressTarget
    announce: AnnounceTarget
    scan: ListenerScan
    monitor: LinkMonitor
    source: Source
    state_file: StateFile
    stored: Stored | None
    speech: Speech | None = None
    on_pass: list[Callable[[PassResult], None]] = field(default_factory=list)
    on_write: list[Callable[[float], None]] = field(default_factory=list)
    """Hear how many seconds each change of the kernel plane took."""
    from_state_file: bool = False
    saved_pass: int = 0

    async def close(self) -> None:
        """Close what has connections."""
        if self.speech is not None:
            await self.speech.parts.transport.close()

    async def see_listeners(self) -> None:
        """Look which ports the host itself listens on, once the workers are known: their sockets are ours."""
        self.store.tell_host(replace(self.store.host, listeners=await self.scan()))

    def take_settings(self, config: Config) -> None:
        """Decide by this configuration from now on, as far as the planes of this machine allow."""
        self.config = config
        self.planes.ask(config.plane)
        self.store.tell_settings(config.settings(self.planes.no_nft))

    def recognise(self, served: Mapping[Frontend, Forward]) -> None:
        """Take what workers already serve as held: it is newer than the state file, and outlives it."""
        self.store.tell_grants(select_incumbents(self.store.grants, served, self.clock.now()))

    def recall_world(self) -> None:
        """Serve the last known world, as the source does not answer, if there is one."""
        if self.stored is None:
            log.warning(
                "source.silent", source=self.source.name, effect="there is no state file: nothing is served yet"
            )
            return
        stored, self.stored = self.stored, None
        self.reconciler.use(self.local_targets, removing=False)
        self.store.recall(*stored.restore())
        self.from_state_file = True
        log.warning(
            "source.silent",
            source=self.source.name,
            effect="serving the last known world from the state file",
            services=len(stored.services),
            written=round(stored.written),
        )

    @property
    def local_targets(self) -> list[AnyTarget]:
        """Those that need nobody but this machine."""
        return [self.planes.switch, self.address, self.announce]

    @property
    def api_targets(self) -> list[AnyTarget]:
        """Those that write to the API server."""
        return [self.speech.claim, self.speech.publish] if self.speech is not None else []

    def source_answered(self) -> None:
        """Everything was listed: what the state file knew is no longer needed, and the API may be written to."""
        self.stored = None
        if self.from_state_file:
            self.from_state_file = False
            self.reconciler.use([*self.local_targets, *self.api_targets])
            self.loop.hint()

    def changed_since_save(self) -> bool:
        """Was there a pass since the last time that this was asked?"""
        number = self.loop.last.report.number if self.loop.last is not None else 0
        changed, self.saved_pass = number != self.saved_pass, number
        return changed

    def encode_state(self, written: float) -> Iterator[bytes]:
        """Encode the world and who holds what, piece by piece."""
        world = self.store.peek()
        return encode_pieces(world, world.grants, written)

    def save(self) -> None:
        """Write the state file; before anything was heard or recalled, the one that is there knows more."""
        if self.store.ready:
            self.state_file.write(b"".join(self.encode_state(self.clock.now())))

    def after_pass(self, result: PassResult) -> None:
        """Tell the story, and everybody who wants to know."""
        keys = changed_keys(result.before, result.after)
        for happening in tell(result.before, result.after, keys, self._shown):
            loud = log.error if happening.failed else log.warning
            say = loud if happening.type is EventType.WARNING else log.info
            say("service.event", service=happening.service, reason=happening.reason, note=happening.note)
            if self.speech is not None and not self.from_state_file:
                service = self._regarded(happening.service, result)
                self.speech.recorder.record(service, happening.type, happening.reason, happening.action, happening.note)
        for listener in self.on_pass:
            listener(result)

    def _shown(self, key: Key) -> Publication | None:
        """Find what a Service shows, perhaps since the daemon before this one."""
        service = self.store.services.items.get(key)
        return observed_publication(service) if service is not None else None

    def _regarded(self, key: Key, result: PassResult) -> Service:
        """Find whom an Event is about; one that is gone by now is named as it was decided last."""
        service = self.store.services.items.get(key)
        if service is not None:
            return service
        namespace, _, name = key.partition("/")
        last = result.before.decisions.get(key)
        return Service(namespace=namespace, name=name, uid=last.uid if last is not None else "")


class _Wires:
    """Callbacks between parts that are built before the parts they call."""

    def __init__(self) -> None:
        self.parts: Parts | None = None

    def wake(self) -> None:
        """Something is new in the store."""
        if self.parts is not None:
            self.parts.loop.wake()

    def hint(self) -> None:
        """Somebody may have touched ours."""
        if self.parts is not None:
            self.parts.loop.hint()

    def look_again(self, addresses: frozenset[Ip]) -> None:
        """What these addresses waited for has happened."""
        if self.parts is not None:
            self.parts.loop.look_again(addresses)

    def outcome(self, failed: bool) -> None:
        """A deferred write failed, or was made good."""
        if self.parts is not None:
            self.parts.loop.heard_outcome(failed)

    def after_pass(self, result: PassResult) -> None:
        """A pass has ended."""
        if self.parts is not None:
            self.parts.after_pass(result)

    def wrote(self, seconds: float) -> None:
        """The kernel plane has carried out a change."""
        for listener in self.parts.on_write if self.parts is not None else ():
            listener(seconds)

    def name_listener(self, frontend: Frontend) -> str:
        """Name the process of this host that has a port; one that came since the last look is looked for now."""
        if self.parts is None:
            return ""
        process = name_listener(self.parts.store.host.listeners, frontend)
        if process is None:
            self.parts.monitor.look_at_listeners()
        return process or ""

    async def find_owners(self, frontends: Collection[Frontend]) -> Mapping[Frontend, str]:
        """Look now which of these ports processes of this host wait on."""
        listeners = await self.parts.scan() if self.parts is not None else ()
        found = {frontend: name_listener(listeners, frontend) for frontend in frontends}
        return {frontend: process for frontend, process in found.items() if process is not None}


def build_planes(config: Config, netlink: Netlink, wires: _Wires | None = None) -> Planes:
    """Build both planes; nothing is started or asked."""
    wires = wires or _Wires()
    workers = PipeSettings(config.run_dir / "pipe", workers=config.pipe_workers, connect_seconds=config.connect_timeout)
    pipe = PipePlane(workers, wires.name_listener, wires.hint)
    counting = NftSettings(config.linkdevice, config.accounting, config.run_dir / "nf_conntrack_acct")
    kernel = NftPlane(counting, wires.hint)
    timed = Stopwatch(kernel, SystemClock())
    timed.on_write = wires.wrote
    ways = Ways(timed, Forwarding(netlink, config.run_dir / RECORD), netlink, config.linkdevice)
    ways.find_owners = wires.find_owners
    return Planes(config.plane, pipe, kernel, ways, probe)


def _most_able(config: Config) -> Plane:
    """Name the plane that may come to carry the most."""
    return Plane.PIPE if config.plane.value == Plane.PIPE.value else Plane.NFT


async def build_parts(config: Config, clock: SystemClock, netlink: Netlink) -> Parts:
    """Build and wire; reads the host's facts (`see_listeners` adds to them) and the state file.

    Raises `ConfigError`, `Transient`.
    """
    wires = _Wires()
    api = connect(config, clock) if config.kubernetes else None
    servers = await resolve_server(api.server) if api is not None else frozenset()
    facts = await read_host_facts(netlink, config.linkdevice)
    planes = build_planes(config, netlink, wires)
    await planes.find_out()
    store = Store(config.settings(planes.no_nft), replace(facts, api_servers=servers), wires.wake)
    scan = ListenerScan(lambda: planes.pipe.pids | {os.getpid()}, protocols=FORWARDED[_most_able(config)])
    address = AddressTarget(netlink, LanProber(), wires.look_again)
    announce = AnnounceTarget()
    reconciler = Reconciler(store, [], clock)
    reactions = Reactions(partial(_tell_host, store, servers, planes), wires.hint, announce.forget, address.expects)
    state_file = StateFile(config.state_dir)
    stored = state_file.read()
    if stored is not None:
        store.tell_grants(stored.granted())
    parts = Parts(
        config=config,
        clock=clock,
        store=store,
        reconciler=reconciler,
        loop=Loop(store, reconciler, clock, wires.after_pass),
        planes=planes,
        address=address,
        announce=announce,
        scan=scan,
        monitor=LinkMonitor(config.linkdevice, netlink, reactions, scan),
        source=_source(config, api, store, clock),
        state_file=state_file,
        stored=stored if config.kubernetes else None,
        speech=_speech(api, store, clock, wires) if api is not None else None,
    )
    wires.parts = parts
    planes.on_change = partial(_follow_planes, parts)
    reconciler.use([*parts.local_targets, *parts.api_targets])
    return parts


def _follow_planes(parts: Parts) -> None:
    """Another plane works than before: Services move to it, or away from it."""
    parts.take_settings(parts.config)
    parts.loop.hint()


def _tell_host(store: Store, servers: frozenset[Ip], planes: Planes, facts: HostFacts) -> None:
    planes.road.forget()
    store.tell_host(replace(facts, api_servers=servers))


def _source(config: Config, api: ApiParts | None, store: Store, clock: SystemClock) -> Source:
    if api is not None:
        return ApiServer(api, store, clock)
    assert config.manifests is not None  # noqa: S101  (config.py has checked it)
    return Folder(config.manifests, store)


def _speech(api: ApiParts, store: Store, clock: SystemClock, wires: _Wires) -> Speech:
    """Build what writes to the API server."""
    budget = make_write_budget(clock)
    cache = Cache(lambda: store.services.items, partial(_told, store))
    writer = ServiceWriter(api.api, budget, decode_service, cache)
    claims = make_claim_budget(clock)
    claimer = ServiceWriter(api.api, claims, decode_service, cache)
    desk = Desk(api.api, budget, clock, Random(), os.uname().nodename)  # noqa: S311  (names of Events)
    publish = PublishTarget(writer, clock)
    return Speech(
        parts=api,
        writer=writer,
        budgets=(budget, claims),
        claim=BoundedTarget(ClaimTarget(claimer), clock),
        publish=DeferredTarget(publish, wires.outcome),
        recorder=Recorder(desk),
    )


def _told(store: Store, service: Service) -> None:
    """Take the answer to a write, unless the watch has told something newer already (KEP-5504: versions compare)."""
    known = store.services.items.get(service.key)
    if known is None or _version(known) < _version(service):
        store.services.upsert(service)


def _version(service: Service) -> int:
    return int(service.resource_version) if service.resource_version.isdecimal() else 0
