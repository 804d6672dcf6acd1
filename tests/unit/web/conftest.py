"""One report that has something of everything, hostile texts too."""

import pytest

from littlelb.core.model import Protocol
from littlelb.core.shown.status import (
    DaemonStatus,
    FailureLine,
    PassStatus,
    PortStatus,
    ReasonLine,
    ServiceState,
    ServiceStatus,
    StatusReport,
    SyncProgress,
    TableUse,
)

EVIL = '</td><script>alert("1")</script>\x1b[31m\u202e'


@pytest.fixture
def report() -> StatusReport:
    """Two Services, one refused for a reason that an attacker wrote."""
    daemon = DaemonStatus(
        version="1.2",
        pid=812,
        started=1_767_225_600.0,
        source="https://192.0.2.1:6443",
        plane="pipe",
        holder="lb-1",
        synced=True,
        connected=True,
        progress=(SyncProgress("Service", 2, listed=True),),
        folder_errors=(f"a.yaml:3: {EVIL}",),
        events_dropped=4,
        conntrack=TableUse(50, 1000),
    )
    web = ServiceStatus(
        key="default/web",
        state=ServiceState.SERVING,
        addresses=("203.0.113.7",),
        ports=(PortStatus("203.0.113.7", 80, Protocol.TCP, serving=True, held=True),),
        plane="pipe",
        holder="lb-1",
        backends_up=2,
        backends_total=3,
        connections_active=5,
        connections_accepted=100,
        connections_draining=1,
        bytes_in=2048,
        bytes_out=4096,
    )
    bad = ServiceStatus(key="default/bad", state=ServiceState.REFUSED, reasons=(ReasonLine("InvalidAddress", EVIL),))
    last = PassStatus(
        number=9,
        finished=1_767_225_700.0,
        duration_seconds=0.0125,
        changes=3,
        failures=(FailureLine("203.0.113.9", "Failed", "EBUSY", permanent=False),),
    )
    return StatusReport(daemon=daemon, last_pass=last, services=(bad, web))
