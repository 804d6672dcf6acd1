"""What status shows of decisions, failures and counters."""

from ipaddress import ip_address

import msgspec
import pytest

from littlelb.core.counters import BackendCounters, ServiceCounters
from littlelb.core.model import (
    Backend,
    Endpoint,
    EndpointSlice,
    Family,
    Forward,
    Frontend,
    HostFacts,
    Ip,
    Key,
    Plane,
    Protocol,
    Service,
)
from littlelb.core.plan import Failure, PassReport, Severity
from littlelb.core.reasons import Notice, Reason, Refusal
from littlelb.core.shown.report import Observed, compute_report
from littlelb.core.shown.status import (
    ReasonLine,
    ServiceState,
    ServiceStatus,
    StatusReport,
    decode_report,
    encode,
)
from littlelb.core.state import Decision, DesiredState, Settings, Snapshot
from tests.worlds import DAEMON

VIP = ip_address("203.0.113.7")
HTTP = Frontend(VIP, Protocol.TCP, 80)
HTTPS = Frontend(VIP, Protocol.TCP, 443)
POD, OTHER_POD = ip_address("10.1.0.1"), ip_address("10.1.0.2")
KEY = "default/web"
REFUSED = Refusal(Reason.PORT_IN_USE, "192.0.2.7 port 443/TCP is held by default/old", HTTPS)


def forward(*backends: Ip) -> Forward:
    """Forward to port 8080 of these."""
    return Forward(service=KEY, backends=tuple(Backend(address, 8080) for address in backends))


def counted(active: int, connections: int, **backends: BackendCounters) -> ServiceCounters:
    """Counters of one frontend."""
    by_key = {(ip_address(name[1:].replace("_", ".")), 8080): one for name, one in backends.items()}
    return ServiceCounters(BackendCounters(connections, active, bytes_in=100), by_key)


def status(
    decision: Decision,
    failures: dict[Frontend | Ip | Key, Failure] | None = None,
    counters: dict[Frontend, ServiceCounters] | None = None,
    *,
    passed: bool = True,
    claimed: bool = True,
    unread: dict[str, Failure] | None = None,
    endpoints: tuple[Ip, ...] = (),
    with_backends: bool = False,
) -> ServiceStatus:
    """Compute the report of one Service."""
    piece = EndpointSlice(
        namespace="default",
        name="web-1",
        service="web",
        family=Family.IPV4,
        endpoints=tuple(Endpoint(address) for address in endpoints),
    )
    web = Service(namespace="default", name="web", has_finalizer=claimed)
    snapshot = Snapshot(settings=Settings(), host=HostFacts("eth0"), services={KEY: web}, slices={KEY: (piece,)})
    last = PassReport(4, 100.0, 0.5, 2, failures or {}, unread or {}) if passed else None
    desired = DesiredState(decisions={KEY: decision})
    (service,) = compute_report(
        DAEMON, snapshot, desired, Observed(last, counters or {}), with_backends=with_backends
    ).services
    return service


def test_serving() -> None:
    """A Service whose frontends all work is serving, held by this host, with its backends and connections counted."""
    decision = Decision(KEY, "u", forwards=((HTTP, forward(POD)), (HTTPS, forward(POD))))
    counters = {HTTP: counted(2, 10), HTTPS: counted(1, 5)}
    service = status(decision, counters=counters, endpoints=(POD, OTHER_POD))
    assert service.state is ServiceState.SERVING
    assert (service.addresses, service.plane, service.holder) == (("203.0.113.7",), "pipe", "lb-1")
    assert (service.backends_up, service.backends_total) == (1, 2)
    assert (service.connections_active, service.connections_accepted) == (3, 15)
    assert [(port.port, port.serving, port.error) for port in service.ports] == [(80, True, ""), (443, True, "")]


def test_backends_are_listed_where_asked_for() -> None:
    """Each backend is summed over its frontends; one that is gone but has connections left drains, at weight 0."""
    decision = Decision(KEY, "u", forwards=((HTTP, forward(POD)), (HTTPS, forward(POD))))
    busy, idle = BackendCounters(4, 2), BackendCounters(3, 0)
    counters = {
        HTTP: counted(3, 8, _10_1_0_1=busy, _10_1_0_2=BackendCounters(1, 1), _10_1_0_3=idle),
        HTTPS: counted(0, 4, _10_1_0_1=busy),
    }
    service = status(decision, counters=counters, with_backends=True)
    assert [(one.address, one.weight, one.connections, one.active, one.draining) for one in service.backends] == [
        ("10.1.0.1", 1, 8, 4, False),
        ("10.1.0.2", 0, 1, 1, True),
    ]
    assert (service.backends_draining, service.connections_draining, service.bytes_in) == (1, 1, 200)
    assert service.bytes_out is None
    assert status(decision, counters=counters).backends == ()
    (fresh,) = status(Decision(KEY, "u", forwards=((HTTP, forward(POD)),)), with_backends=True).backends
    assert (fresh.connections, fresh.active, fresh.port) == (0, None, 8080)


@pytest.mark.parametrize(("second", "state"), [((), ServiceState.NO_BACKENDS), ((POD,), ServiceState.PARTIAL)])
def test_a_service_without_backends_is_not_served(second: tuple[Ip, ...], state: ServiceState) -> None:
    """This machine answers for it and refuses: that is said, and which port it is."""
    service = status(Decision(KEY, "u", forwards=((HTTP, forward()), (HTTPS, forward(*second)))))
    assert (service.state, service.holder) == (state, "lb-1")
    assert [(port.serving, port.held, port.error) for port in service.ports] == [
        (False, True, "NoBackends"),
        (bool(second), True, "" if second else "NoBackends"),
    ]


def test_the_plane_is_the_services_own() -> None:
    """Each Service says what carries it; on the way from one plane to the other it may be both."""
    moved = Forward(service=KEY, backends=(Backend(POD, 8080),), plane=Plane.NFT)
    assert status(Decision(KEY, "u", forwards=((HTTP, moved),))).plane == "nft"
    assert status(Decision(KEY, "u", forwards=((HTTP, moved), (HTTPS, forward(POD))))).plane == "nft, pipe"


def test_node_backends_are_not_mixed_with_endpoints() -> None:
    """Where NodePorts are the backends, pod endpoints do not count as backends."""
    node = ip_address("198.51.100.1")
    service = status(Decision(KEY, "u", forwards=((HTTP, forward(node)),)), endpoints=(POD, OTHER_POD))
    assert (service.backends_up, service.backends_total) == (1, 1)


def test_partial_by_refusal() -> None:
    """A refused port beside a served one makes the Service partial, and says which port and why."""
    service = status(Decision(KEY, "u", forwards=((HTTP, forward(POD)),), refusals=(REFUSED,)))
    assert service.state is ServiceState.PARTIAL
    assert [(port.port, port.serving, port.error) for port in service.ports] == [
        (80, True, ""),
        (443, False, "PortInUse"),
    ]
    assert service.reasons == (ReasonLine("PortInUse", REFUSED.message),)


def test_refused() -> None:
    """With nothing served by decision a Service is refused and nobody holds it."""
    service = status(Decision(KEY, "u", refusals=(Refusal(Reason.INVALID_ADDRESS, "bad\x1b address"),)))
    assert (service.state, service.holder, service.plane) == (ServiceState.REFUSED, "", "")
    assert service.reasons == (ReasonLine("InvalidAddress", "bad\\x1b address"),)


def test_pending_before_the_first_pass() -> None:
    """Nothing is claimed to be served before a pass has been."""
    service = status(Decision(KEY, "u", forwards=((HTTP, forward(POD)),)), passed=False)
    assert (service.state, service.holder) == (ServiceState.PENDING, "")


def test_waiting_is_pending_and_no_failure() -> None:
    """The reason is the Service's; the pass has not failed at anything."""
    decision = Decision(KEY, "u", forwards=((HTTP, forward(POD)),))
    waiting = Failure(Reason.PENDING, f"asking the LAN whether {HTTP.address} is free", Severity.WAITING)
    service = status(decision, {HTTP.address: waiting})
    assert service.state is ServiceState.PENDING
    assert service.reasons == (ReasonLine("Pending", f"{HTTP.address}: {waiting.message}"),)
    last = PassReport(4, 100.0, 0.5, 2, {HTTP.address: waiting})
    report = compute_report(DAEMON, Snapshot(Settings(), HostFacts("eth0")), DesiredState(), Observed(last))
    assert report.last_pass is not None
    assert report.last_pass.failures == ()


@pytest.mark.parametrize("subject", [HTTP, VIP])
def test_failure_of_frontend_or_address(subject: Frontend | Ip) -> None:
    """What the world refused is not shown as served, and the reason names it."""
    decision = Decision(KEY, "u", forwards=((HTTP, forward(POD)),))
    service = status(decision, {subject: Failure("Failed", "EBUSY; tried again")})
    assert service.state is ServiceState.PENDING
    assert service.ports[0].error == "Failed"
    assert service.reasons == (ReasonLine("Failed", f"{subject}: EBUSY; tried again"),)


@pytest.mark.parametrize(("claimed", "state"), [(True, ServiceState.PARTIAL), (False, ServiceState.PENDING)])
def test_failure_of_the_service_itself(claimed: bool, state: ServiceState) -> None:
    """A Service that cannot be published is served, but not wholly; one that cannot be claimed is not served."""
    decision = Decision(KEY, "u", forwards=((HTTP, forward(POD)),))
    service = status(decision, {KEY: Failure("NotPermitted", "give the role")}, claimed=claimed)
    assert service.state is state
    assert service.holder == ("lb-1" if claimed else "")
    assert service.reasons == (ReasonLine("NotPermitted", "default/web: give the role"),)


@pytest.mark.parametrize(
    ("phase", "claimed", "state"),
    [
        ("FORWARD", True, ServiceState.PENDING),
        ("ADDRESS", True, ServiceState.PENDING),
        ("ANNOUNCE", True, ServiceState.PENDING),
        ("CLAIM", False, ServiceState.PENDING),
        ("CLAIM", True, ServiceState.SERVING),
        ("PUBLISH", True, ServiceState.SERVING),
    ],
)
def test_phases_that_could_not_be_read(phase: str, claimed: bool, state: ServiceState) -> None:
    """Where this machine cannot be read nothing is claimed to be served; an API that is away changes nothing."""
    decision = Decision(KEY, "u", forwards=((HTTP, forward(POD)),))
    service = status(decision, unread={phase: Failure("Failed", "netlink: EPERM")}, claimed=claimed)
    assert service.state is state
    said = (ReasonLine("Failed", "netlink: EPERM"),)
    assert service.reasons == (said if state is ServiceState.PENDING else ())


def test_notices_are_shown_and_change_no_state() -> None:
    """A notice is a reason to read, not a fault."""
    notice = Notice(Reason.CLIENT_ADDRESS_LOST, "backends see this machine's address")
    fact = Notice(Reason.SOURCE_ADDRESS, "a fact", warning=False)
    service = status(Decision(KEY, "u", forwards=((HTTP, forward(POD)),), notices=(notice, fact)))
    assert service.state is ServiceState.SERVING
    assert service.reasons == (
        ReasonLine("ClientAddressLost", notice.message),
        ReasonLine("SourceAddress", "a fact", warning=False),
    )
    assert (service.backends_up, service.backends_total) == (1, 1)


def test_json_round_trip() -> None:
    """The JSON of a report decodes to the same report, and its top-level keys are stable."""
    decision = Decision(KEY, "u", forwards=((HTTP, forward(POD)),), refusals=(REFUSED,))
    snapshot = Snapshot(settings=Settings(), host=HostFacts("eth0"))
    last = PassReport(4, 100.0, 0.5, 2, {VIP: Failure("Failed", "EBUSY")})
    report = compute_report(DAEMON, snapshot, DesiredState(decisions={KEY: decision}), Observed(last))
    assert decode_report(encode(report)) == report
    assert list(msgspec.json.decode(encode(report))) == ["daemon", "last_pass", "services"]
    assert isinstance(report, StatusReport)


def test_services_are_in_order() -> None:
    """Services are sorted by key, whatever order they came in."""
    snapshot = Snapshot(settings=Settings(), host=HostFacts("eth0"))
    desired = DesiredState(decisions={key: Decision(key, "u") for key in ("b/a", "a/z", "a/a")})
    report = compute_report(DAEMON, snapshot, desired, Observed())
    assert [service.key for service in report.services] == ["a/a", "a/z", "b/a"]
