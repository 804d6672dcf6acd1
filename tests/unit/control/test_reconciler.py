"""The loop's passes: order, incremental against full, failures, moves, drains."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from littlelb.control.reconciler import PassResult, Reconciler, keys_for
from littlelb.control.store import Store
from littlelb.core.errors import Transient
from littlelb.core.interfaces import Phase
from littlelb.core.model import Protocol, Service, ServicePort
from littlelb.core.plan import Failure, Severity
from littlelb.core.state import DesiredState, Settings, Touched
from littlelb.testing.fake_target import FakeTarget
from tests.worlds import HOST, STAND_ALONE, frontend, ip, piece, service

VIP, OTHER = "203.0.113.7", "203.0.113.8"


class _Clock:
    """Time that only the test moves."""

    def __init__(self) -> None:
        self.time = 1_000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    async def sleep(self, seconds: float) -> None:
        self.time += seconds


class Machine:
    """A store, five fake targets and the reconciler between them."""

    def __init__(self, settings: Settings = STAND_ALONE) -> None:
        self.clock = _Clock()
        self.transcript: list[str] = []
        self.wakes = 0
        self.store = Store(settings, HOST, self._wake)
        selects: dict[Phase, Callable[[DesiredState], Any]] = {
            Phase.CLAIM: lambda state: state.claims,
            Phase.FORWARD: lambda state: state.forwards,
            Phase.ADDRESS: lambda state: state.placements,
            Phase.ANNOUNCE: lambda state: state.announcements,
            Phase.PUBLISH: lambda state: state.publications,
        }
        self.targets = {
            phase: FakeTarget[Any, Any](phase, select, self.transcript) for phase, select in selects.items()
        }
        self.reconciler = Reconciler(self.store, list(self.targets.values()), self.clock)
        for shelf in (self.store.services, self.store.slices, self.store.nodes):
            shelf.retain(frozenset())

    def _wake(self) -> None:
        self.wakes += 1

    def put(self, *services: Service) -> None:
        for one in services:
            self.store.services.upsert(one)

    async def go(self, *, full: bool = False) -> PassResult:
        self.transcript.clear()
        return await self.reconciler.run_pass(full=full)

    @property
    def addresses(self) -> set[str]:
        return {str(address) for address in self.targets[Phase.ADDRESS].world}

    @property
    def phases(self) -> list[str]:
        return [line.split()[1] for line in self.transcript]

    def published(self, key: str) -> list[str]:
        return [entry.ip for entry in self.targets[Phase.PUBLISH].world[key].ingress]


def _run(scenario: Callable[[Machine], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(scenario(Machine()))


def test_bring_up_runs_inside_out_and_tear_down_outside_in() -> None:
    """Claim first and last."""

    async def scenario(machine: Machine) -> None:
        machine.put(service("web", VIP))
        await machine.go(full=True)
        assert [line.split()[1] for line in machine.transcript] == [
            "CLAIM",
            "FORWARD",
            "ADDRESS",
            "ANNOUNCE",
            "PUBLISH",
        ]
        machine.store.services.remove("default/web")
        await machine.go()
        assert [line.split()[1] for line in machine.transcript] == [
            "PUBLISH",
            "ANNOUNCE",
            "ADDRESS",
            "FORWARD",
            "CLAIM",
        ]
        assert all(line.startswith("remove") for line in machine.transcript)
        assert not machine.store.grants

    _run(scenario)


def test_an_incremental_pass_touches_only_what_is_dirty() -> None:
    """The others' worlds are not even looked at."""

    async def scenario(machine: Machine) -> None:
        machine.put(service("web", VIP), service("api", OTHER))
        await machine.go(full=True)
        machine.targets[Phase.FORWARD].world.pop(frontend(OTHER))
        machine.store.slices.upsert(piece("web"))
        await machine.go()
        assert machine.transcript == [f"change FORWARD {frontend(VIP)}"]
        assert machine.targets[Phase.FORWARD].full_observations == 1

    _run(scenario)


def test_a_full_pass_repairs_what_somebody_else_changed() -> None:
    """It reads the world, not belief."""

    async def scenario(machine: Machine) -> None:
        machine.put(service("web", VIP))
        await machine.go(full=True)
        machine.targets[Phase.ADDRESS].world.clear()
        machine.targets[Phase.FORWARD].world[frontend("203.0.113.99")] = next(
            iter(machine.targets[Phase.FORWARD].world.values())
        )
        await machine.go(full=True)
        assert machine.transcript == [
            f"remove FORWARD {frontend('203.0.113.99')}",
            f"add ADDRESS {VIP}",
        ]

    _run(scenario)


def test_a_pass_with_nothing_new_does_nothing() -> None:
    """Not even an observation."""

    async def scenario(machine: Machine) -> None:
        machine.put(service("web", VIP))
        await machine.go(full=True)
        result = await machine.go()
        assert (machine.transcript, result.report.changes) == ([], 0)

    _run(scenario)


def test_a_frontend_that_fails_is_not_held_and_published_with_its_reason() -> None:
    """Its neighbour is not affected; with the reason gone, a full pass serves it."""

    async def scenario(machine: Machine) -> None:
        machine.put(service("web", VIP), service("api", OTHER))
        forward = machine.targets[Phase.FORWARD]
        forward.fails[frontend(VIP)] = Failure("PortInUse", "taken by nginx (pid 9)")
        result = await machine.go(full=True)
        assert result.report.failed
        assert machine.addresses == {OTHER}
        assert machine.published("default/web") == []
        assert machine.store.grants.keys() == {"default/api"}
        forward.fails.clear()
        await machine.go(full=True)
        assert machine.published("default/web") == [VIP]

    _run(scenario)


def test_an_address_that_the_host_loses_is_never_put_back_on_the_device() -> None:
    """A Service shared the host's own address: it goes where the host goes, or is told that there is none."""

    async def scenario(machine: Machine) -> None:
        machine.put(service("web", ""))
        await machine.go(full=True)
        assert machine.published("default/web") == ["192.0.2.2"]
        for own in ((ip("192.0.2.3"),), ()):
            machine.store.tell_host(replace(HOST, own=own))
            await machine.go()
            assert machine.published("default/web") == [str(address) for address in own]
            assert machine.addresses == set()

    _run(scenario)


def test_a_failure_stands_while_passes_look_at_other_things() -> None:
    """Nobody is told that all is well because a neighbour changed; a pass that tries it again says how it went."""

    async def scenario(machine: Machine) -> None:
        machine.put(service("web", VIP))
        forward = machine.targets[Phase.FORWARD]
        forward.fails[frontend(VIP)] = Failure("PortInUse", "taken by nginx (pid 9)")
        refused = (await machine.go(full=True)).after.publications["default/web"]
        machine.put(service("api", OTHER))
        result = await machine.go()
        assert (result.report.failed, dict(result.report.standing)) == (False, dict(forward.fails))
        assert result.after.publications["default/web"] == refused
        assert (machine.addresses, machine.published("default/web")) == ({OTHER}, [])
        forward.fails.clear()
        result = await machine.go(full=True)
        assert (result.report.known, machine.published("default/web")) == ({}, [VIP])
        assert machine.store.grants["default/web"].addresses == {ip(VIP)}

    _run(scenario)


def test_what_waits_is_tried_again_by_itself() -> None:
    """When what an address waited for has happened, a pass touches that address and its Services, and nothing else."""

    async def scenario(machine: Machine) -> None:
        machine.put(service("web", VIP), service("api", OTHER))
        address = machine.targets[Phase.ADDRESS]
        address.fails[ip(VIP)] = Failure("Pending", "asking the LAN", Severity.WAITING)
        result = await machine.go(full=True)
        assert not result.report.failed
        assert machine.addresses == {OTHER}
        assert machine.targets[Phase.PUBLISH].world.keys() == {"default/api"}
        await machine.go()
        assert machine.transcript == []
        address.fails.clear()
        observed = address.full_observations
        machine.reconciler.look_again([ip(VIP)])
        result = await machine.go()
        assert machine.transcript == [f"add ADDRESS {VIP}", f"add ANNOUNCE {VIP}", "add PUBLISH default/web"]
        assert (result.report.known, address.full_observations) == ({}, observed)
        assert machine.store.grants["default/web"].addresses == {ip(VIP)}
        machine.reconciler.look_again([ip(VIP)])
        assert (await machine.go()).report.changes == 0

    _run(scenario)


def test_a_failure_is_forgotten_with_what_failed() -> None:
    """A Service that goes, or that is decided again, takes its failure with it."""

    async def scenario(machine: Machine) -> None:
        machine.put(service("web", VIP))
        machine.targets[Phase.FORWARD].fails[frontend(VIP)] = Failure("PortInUse", "taken by nginx (pid 9)")
        await machine.go(full=True)
        machine.store.services.remove("default/web")
        assert (await machine.go()).report.known == {}

    _run(scenario)


def test_a_port_that_is_given_up_goes_to_who_waits_for_it() -> None:
    """On a shared address: the holder is edited to another port, or to none that can be served."""

    async def scenario(machine: Machine) -> None:
        machine.put(service("web", ports=[80, 81]))
        await machine.go(full=True)
        machine.put(service("rival", ports=[80]), service("third", ports=[81]))
        await machine.go()
        assert {forward.service for forward in machine.targets[Phase.FORWARD].world.values()} == {"default/web"}
        machine.put(service("web", ports=[82, 81]))
        wakes = machine.wakes
        await machine.go()
        assert machine.wakes > wakes
        await machine.go()
        machine.put(service("web", ports=[ServicePort(port=81, protocol=Protocol.UDP)]))
        await machine.go()
        await machine.go()
        served = {str(f): forward.service for f, forward in machine.targets[Phase.FORWARD].world.items()}
        assert served == {"192.0.2.2 port 80/TCP": "default/rival", "192.0.2.2 port 81/TCP": "default/third"}
        wakes = machine.wakes
        await machine.go()
        assert machine.wakes == wakes

    _run(scenario)


def test_a_move_is_made_before_it_is_broken() -> None:
    """First both addresses, the new one published; the next pass takes the old one away."""

    async def scenario(machine: Machine) -> None:
        machine.put(service("web", VIP))
        await machine.go(full=True)
        machine.put(service("web", OTHER))
        wakes = machine.wakes
        await machine.go()
        assert machine.addresses == {VIP, OTHER}
        assert machine.published("default/web") == [OTHER]
        assert machine.wakes > wakes
        await machine.go()
        assert machine.addresses == {OTHER}

    _run(scenario)


def test_a_move_to_an_address_of_another_machine_changes_nothing_for_clients() -> None:
    """The probe says no: the old address stays, published, with the reason; the conflict is remembered."""

    async def scenario(machine: Machine) -> None:
        machine.put(service("web", VIP))
        await machine.go(full=True)
        machine.targets[Phase.ADDRESS].fails[ip(OTHER)] = Failure("AddressConflict", f"{OTHER} is in use by 02:00")
        machine.put(service("web", OTHER))
        await machine.go()
        assert machine.addresses == {VIP}
        assert machine.published("default/web") == [VIP]
        await machine.go()
        assert machine.store.peek().conflicts.keys() == {ip(OTHER)}
        assert frontend(OTHER) not in machine.targets[Phase.FORWARD].world
        assert machine.published("default/web") == [VIP]

    _run(scenario)


def test_a_publication_that_fails_takes_nothing_away() -> None:
    """It is served though its owner cannot be told; the grant stays, and the failure is in the report."""

    async def scenario(machine: Machine) -> None:
        machine.targets[Phase.PUBLISH].fails["default/web"] = Failure("NotPermitted", "403")
        machine.put(service("web", VIP))
        result = await machine.go(full=True)
        assert result.report.failures.keys() == {"default/web"}
        assert machine.store.grants.keys() == {"default/web"}
        assert result.after.forwards.keys() == {frontend(VIP)}
        await machine.go(full=True)
        assert machine.addresses == {VIP}

    _run(scenario)


def test_a_claim_that_fails_keeps_everything_else_from_being_made() -> None:
    """Nothing is made for a Service that could vanish before we have cleaned up."""

    async def scenario(machine: Machine) -> None:
        machine.targets[Phase.CLAIM].fails["default/web"] = Failure("NotPermitted", "403")
        machine.put(service("web", VIP))
        await machine.go(full=True)
        assert machine.addresses == set()
        assert not machine.targets[Phase.FORWARD].world

    _run(scenario)


@pytest.mark.parametrize(
    ("phase", "what"),
    [(Phase.FORWARD, frontend(VIP)), (Phase.ADDRESS, ip(VIP)), (Phase.PUBLISH, "default/web")],
)
def test_the_claim_stays_while_anything_else_could_not_be_removed(phase: Phase, what: object) -> None:
    """And goes with the pass that removes it."""

    async def scenario(machine: Machine) -> None:
        machine.put(service("web", VIP))
        await machine.go(full=True)
        machine.targets[phase].fails[what] = Failure("Failed", "EBUSY")
        machine.store.services.remove("default/web")
        await machine.go()
        assert machine.targets[Phase.CLAIM].world.keys() == {"default/web"}
        machine.targets[phase].fails.clear()
        await machine.go(full=True)
        assert not machine.targets[Phase.CLAIM].world
        assert machine.addresses == set()

    _run(scenario)


def test_a_phase_that_cannot_be_read_stops_what_stands_behind_it() -> None:
    """Nothing is published that may not be held; what is removed first is still removed."""

    async def scenario(machine: Machine) -> None:
        machine.put(service("gone", OTHER))
        await machine.go(full=True)
        machine.store.services.remove("default/gone")
        machine.put(service("web", VIP))
        machine.targets[Phase.ADDRESS].blind = Transient("netlink: no buffer space")
        result = await machine.go()
        assert result.report.unread.keys() == {"ADDRESS"}
        assert machine.targets[Phase.PUBLISH].world == {}
        assert machine.targets[Phase.CLAIM].world.keys() == {"default/gone", "default/web"}
        machine.targets[Phase.ADDRESS].blind = None
        await machine.go(full=True)
        assert machine.published("default/web") == [VIP]
        assert machine.targets[Phase.CLAIM].world.keys() == {"default/web"}

    _run(scenario)


def test_a_draining_service_keeps_its_address_and_claim_until_the_deadline() -> None:
    """The listener goes at once."""

    async def scenario(machine: Machine) -> None:
        machine.put(service("web", VIP, annotations={"littlelb.io/drain-seconds": "30"}))
        await machine.go(full=True)
        machine.store.services.remove("default/web")
        await machine.go()
        assert not machine.targets[Phase.FORWARD].world
        assert machine.addresses == {VIP}
        assert machine.targets[Phase.CLAIM].world
        assert machine.reconciler.next_deadline == machine.clock.time + 30
        machine.clock.time += 31
        await machine.go(full=True)
        assert machine.addresses == set()
        assert not machine.targets[Phase.CLAIM].world

    _run(scenario)


def test_withdrawing_takes_everything_away_in_order() -> None:
    """And forgets the grants."""

    async def scenario(machine: Machine) -> None:
        machine.put(service("web", VIP), service("api", ""))
        await machine.go(full=True)
        machine.transcript.clear()
        result = await machine.reconciler.withdraw()
        assert machine.phases == sorted(machine.phases, key=lambda name: -Phase[name])
        assert all(not target.world for target in machine.targets.values())
        assert not machine.store.grants
        assert result.after == DesiredState()

    _run(scenario)


def test_targets_that_come_later_are_served_by_a_full_pass() -> None:
    """The API's targets, once the API has answered."""

    async def scenario(machine: Machine) -> None:
        late = FakeTarget[Any, Any](Phase.PUBLISH, lambda state: state.publications, machine.transcript)
        kernel = [target for phase, target in machine.targets.items() if phase is not Phase.PUBLISH]
        reconciler = Reconciler(machine.store, kernel, machine.clock)
        machine.put(service("web", VIP))
        await reconciler.run_pass(full=True)
        assert late.world == {}
        reconciler.use([*kernel, late])
        await reconciler.run_pass(full=True)
        assert late.world.keys() == {"default/web"}

    _run(scenario)


def test_what_may_be_old_removes_nothing() -> None:
    """What is served and an old list of Services does not name stays, with whoever holds it, until a new one came."""

    async def scenario(machine: Machine) -> None:
        targets = list(machine.targets.values())
        machine.put(service("web", VIP), service("api", OTHER))
        await machine.go(full=True)
        machine.reconciler.use(targets, removing=False)
        machine.store.services.remove("default/web")
        machine.put(service("new", "203.0.113.9"))
        await machine.go(full=True)
        assert machine.addresses == {VIP, OTHER, "203.0.113.9"}
        assert machine.store.grants.keys() == {"default/web", "default/api", "default/new"}
        machine.reconciler.use(targets)
        await machine.go(full=True)
        assert machine.addresses == {OTHER, "203.0.113.9"}
        assert machine.store.grants.keys() == {"default/api", "default/new"}

    _run(scenario)


def test_withdrawing_removes_also_what_an_old_list_did_not_name() -> None:
    """Who stops has to leave nothing behind, whatever was known."""

    async def scenario(machine: Machine) -> None:
        machine.put(service("web", VIP))
        await machine.go(full=True)
        machine.reconciler.use(list(machine.targets.values()), removing=False)
        machine.store.services.remove("default/web")
        await machine.go(full=True)
        await machine.reconciler.withdraw()
        assert machine.addresses == set()

    _run(scenario)


def test_a_grant_remembers_since_when() -> None:
    """As long as the addresses stay; a new address is held since it was granted."""

    async def scenario(machine: Machine) -> None:
        machine.put(service("web", VIP, [80]))
        await machine.go(full=True)
        machine.clock.time += 100
        machine.put(service("web", VIP, [80, 81]))
        await machine.go()
        assert machine.store.grants["default/web"].since == 1_000.0
        machine.put(service("web", OTHER))
        await machine.go()
        assert machine.store.grants["default/web"].since == 1_100.0

    _run(scenario)


def test_keys_are_named_by_phase() -> None:
    """Services, frontends or addresses; None is everything."""
    touched = Touched(frozenset({frontend(VIP)}), frozenset({ip(VIP)}), frozenset({"default/web"}))
    keys = {phase: set(keys_for(phase, touched) or ()) for phase in Phase}
    assert keys[Phase.FORWARD] == {frontend(VIP)}
    assert keys[Phase.ADDRESS] == keys[Phase.ANNOUNCE] == {ip(VIP)}
    assert keys[Phase.CLAIM] == keys[Phase.PUBLISH] == {"default/web"}
    assert keys_for(Phase.CLAIM, None) is None


STEPS = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from(["", VIP, OTHER, "junk", None]),
        st.sampled_from([80, 81]),
        st.booleans(),
    ),
    max_size=8,
)
FAULTS = st.lists(st.sampled_from([Phase.FORWARD, Phase.ADDRESS, Phase.CLAIM, Phase.PUBLISH]), max_size=3)


@given(STEPS, FAULTS)
def test_whatever_happens_the_world_becomes_what_is_wanted(  # noqa: C901  (one history, told in order)
    steps: list[tuple[str, str | None, int, bool]], faults: list[Phase]
) -> None:
    """Services come, move and go, targets fail for a while: in the end nothing is missing and nothing left."""

    async def scenario(machine: Machine) -> None:
        for faulty in faults:
            target = machine.targets[faulty]
            target.fails = {key: Failure("Failed", "for now") for key in (frontend(VIP), ip(OTHER), "default/a")}
        for name, address, port, full in steps:
            if address is None:
                machine.store.services.remove(f"default/{name}")
            else:
                machine.put(replace_service(name, address, port))
            await machine.go(full=full)
            if not faults:
                served = {one.address for one in machine.targets[Phase.FORWARD].world}
                assert set(machine.targets[Phase.ADDRESS].world) <= served
        for target in machine.targets.values():
            target.fails = {}
        for _ in range(5):
            await machine.go(full=True)
        for phase, target in machine.targets.items():
            assert target.world == target.wanted(machine.reconciler.state), phase
        result = await machine.go(full=True)
        assert result.report.changes == 0

    asyncio.run(scenario(Machine(replace(STAND_ALONE))))


def replace_service(name: str, address: str, port: int) -> Service:
    """A Service that keeps its name while it changes."""
    return service(name, address, [port])
