"""The table of hostile input in one folder of the real daemon: a hundred neighbours answer throughout, nothing else.

client ── LAN ── eth0 box eth1 ── backend n1, which answers for every pod of 10.1.0.0/24
           └ a stranger that has 203.0.113.150
"""

import json
import re
import subprocess
import sys
from itertools import cycle
from pathlib import Path

import pytest
import yaml

from littlelb.core.shown.status import ServiceStatus
from tests.contract.hostile import (
    FREE_ADDRESS,
    NAMESPACE,
    NEIGHBOURS,
    Case,
    Document,
    Refused,
    Rejected,
    Unserved,
    cases,
    good_documents,
)
from tests.lab.box import ANSWERER, OWN, Box

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]
GOOD = [f"203.0.113.{number}" for number in range(1, NEIGHBOURS + 1)]
UNSERVED = {FREE_ADDRESS, "2001:db8:1::7"}
"""Granted to Services whose own backends or source ranges let nothing through."""
MOST_MIB = 256
ELSEWHERE = frozenset({"address-api-server"})
"""Rows about what a folder does not know."""


def rows() -> list[Case]:
    """All rows that a folder can bring."""
    return [case for case in cases() if case.id not in ELSEWHERE]


def moved(case: Case) -> list[Document]:
    """Give the row a namespace of its own, where it has a sound one, so that all fit into one folder."""
    documents: list[Document] = json.loads(json.dumps(case.documents))
    for document in documents:
        metadata = document.get("metadata") if isinstance(document, dict) else None
        if isinstance(metadata, dict) and metadata.get("namespace") == NAMESPACE:
            metadata["namespace"] = case.id[:63]
    return documents


def text_of(case: Case) -> bytes:
    """The row as a file."""
    return case.text if case.id.startswith("file-") else yaml.safe_dump_all(moved(case)).encode()


@pytest.fixture
def world(box: Box) -> Box:
    """The machine that the table is about: a gateway, another device, an sshd, a stranger on the wire."""
    balancer, backend = box.lan.balancer, box.lan.backends[0]
    backend.ip("route", "add", "local", "10.1.0.0/24", "dev", "lo")
    balancer.batch(
        "route add 10.1.0.0/24 via 198.51.100.11",
        "route add 198.18.0.0/15 via 198.51.100.1",
        "addr add 198.51.100.10/24 dev eth1",
        "link add docker0 type bridge",
        "link set docker0 up",
        "addr add 172.17.0.1/16 dev docker0",
    )
    argv = [sys.executable, "-S", str(ANSWERER), "sshd", "22"]
    balancer.popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    box.lan.add_client().ip("addr", "add", "203.0.113.150/24", "dev", "eth0")
    box.write("good.yaml", *good_documents())
    return box


def ask_all(box: Box) -> set[str]:
    """Ask every neighbour once; those that do not answer."""
    return {address for address in GOOD if box.ask(address) != "n1"}


def read_peak_mib(pid: int) -> float:
    """Most memory that the daemon ever had (proc(5), VmHWM)."""
    (line,) = re.findall(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(line) / 1024


def files_with_errors(box: Box) -> set[str]:
    """Files that the daemon names as wrong."""
    return {error.partition(",")[0].partition(":")[0] for error in box.report().daemon.folder_errors}


def judge(service: ServiceStatus, case: Case | None) -> None:
    """Check a bad Service. None: of a bad file in which the Service itself is sound, but not its endpoints."""
    assert set(service.addresses) <= UNSERVED, service
    assert case is not None or service.backends_up == 0, service
    if case is not None:
        assert isinstance(case.folder, Refused | Unserved), service
        assert {line.reason for line in service.reasons} & {case.folder.reason, "AddressInUse"}, service


def test_a_folder_full_of_hostile_objects_harms_nobody(world: Box) -> None:
    """Every row gets a reason, none an answer, an address or a listener; a hundred neighbours answer throughout."""
    world.start("--refuse-addresses", "203.0.113.224/28")
    world.wait("all neighbours answer", lambda: not ask_all(world), 30)
    table = rows()
    expected = {f"{case.id}.yaml" for case in table if isinstance(case.folder, Rejected)}
    for case in table:
        (world.manifests / f"{case.id}.yaml").write_bytes(text_of(case))
    neighbours, silent = cycle(GOOD), list[str]()

    def everything_was_read() -> bool:
        silent.extend(address for _, address in zip(range(10), neighbours, strict=False) if world.ask(address) != "n1")
        return expected <= files_with_errors(world)

    world.wait("every bad file is named", everything_was_read, 120)
    known = {f"{case.id[:63]}/bad": case for case in table if isinstance(case.folder, Refused | Unserved)}
    world.wait("every bad Service has its reason", lambda: known.keys() <= {s.key for s in world.report().services})
    assert not silent
    assert not ask_all(world)
    assert files_with_errors(world) == expected
    for service in world.report().services:
        if service.key.startswith("shop/"):
            assert service.state == "serving"
        else:
            judge(service, known.pop(service.key, None))
    assert not known
    assert world.held() - UNSERVED == set(GOOD) - OWN
    assert {host for host, _ in world.listening()} - UNSERVED <= {*GOOD, "0.0.0.0", "*"}
    assert world.ask(FREE_ADDRESS) == ""
    assert world.daemon is not None
    assert read_peak_mib(world.daemon.pid) < MOST_MIB
    for case in table:
        (world.manifests / f"{case.id}.yaml").unlink()
    world.wait("all is well again", lambda: not world.report().daemon.folder_errors, 30)
    world.wait("only the neighbours are held", lambda: world.held() == set(GOOD) - OWN)
    assert not ask_all(world)
    assert world.stop() == 0
    log = world.log_text()
    assert "Traceback" not in log
    assert not world.log_events("target.bug")
    assert all(line.isprintable() and len(line) < 20_000 for line in log.splitlines())
