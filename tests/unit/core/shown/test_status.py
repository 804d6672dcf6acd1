"""What a report says of readiness, and the short forms of its numbers."""

from ipaddress import ip_address

import msgspec

from littlelb.core.model import Frontend, HostFacts, Ip, Key, Protocol
from littlelb.core.plan import Failure, PassReport, Severity
from littlelb.core.shown.report import Observed, compute_report
from littlelb.core.shown.status import (
    DaemonStatus,
    PortStatus,
    ServiceState,
    ServiceStatus,
    SyncProgress,
    compute_unready,
    render_backends,
    render_ports,
    render_traffic,
)
from littlelb.core.state import DesiredState, Settings, Snapshot
from tests.worlds import DAEMON

VIP = ip_address("203.0.113.7")
HTTP = Frontend(VIP, Protocol.TCP, 80)


def test_unready() -> None:
    """Ready means synced, one pass done, and no failure that will not pass by itself."""
    snapshot, desired = Snapshot(settings=Settings(), host=HostFacts("eth0")), DesiredState()
    progress = (SyncProgress("Service", 3, listed=True), SyncProgress("Node", 2, listed=False))
    syncing = msgspec.structs.replace(DAEMON, synced=False, progress=progress)
    failures: dict[Frontend | Ip | Key, Failure] = {
        HTTP: Failure("Failed", "EBUSY"),
        VIP: Failure("NotPermitted", "run as root", Severity.PERMANENT),
    }

    def unready(daemon: DaemonStatus, last: PassReport | None) -> tuple[str, ...]:
        return compute_unready(compute_report(daemon, snapshot, desired, Observed(last)))

    assert unready(syncing, None) == ("not synced with https://192.0.2.1; waiting for: Node (2 so far)",)
    assert unready(DAEMON, None) == ("synced, but the first pass is not finished",)
    assert unready(DAEMON, PassReport(1, 1.0, 0.1, 0)) == ()
    refused = msgspec.structs.replace(DAEMON, refused=("cannot watch nodes: apply the role",))
    assert unready(refused, PassReport(1, 1.0, 0.1, 0)) == ("cannot watch nodes: apply the role",)
    assert unready(DAEMON, PassReport(1, 1.0, 0.1, 0, failures)) == ("203.0.113.7: run as root",)
    unread = {"FORWARD": Failure("Failed", "no nft", Severity.PERMANENT)}
    assert unready(DAEMON, PassReport(1, 1.0, 0.1, 0, {}, unread)) == ("phase forward: no nft",)


def test_short_forms() -> None:
    """What nobody counts is left out; what drains is said."""
    service = ServiceStatus(key="a/b", state=ServiceState.SERVING, backends_up=2, backends_total=3)
    assert (render_backends(service), render_traffic(service)) == ("2/3", "0 so far")
    busy = msgspec.structs.replace(
        service,
        backends_draining=1,
        connections_active=5,
        connections_accepted=100,
        connections_draining=2,
        bytes_in=2048,
        bytes_out=3,
    )
    assert render_backends(busy) == "2/3, 1 draining"
    assert render_traffic(busy) == "5 open (2 draining), 100 so far, 2.0 KiB in, 3 B out"
    port = PortStatus("203.0.113.7", 80, Protocol.TCP, serving=True)
    assert render_ports(port) == "80/TCP"
    assert render_ports(msgspec.structs.replace(port, last_port=90)) == "80-90/TCP"
