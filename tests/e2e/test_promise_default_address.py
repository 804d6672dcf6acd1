"""The default address: shared port by port, never taken away from the host, and nothing else on it changes."""

import errno
import socket
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from littlelb.core.shown.status import ServiceState
from tests.e2e.rig import ANSWERER, DEFAULT, Rig

pytestmark = pytest.mark.e2e

ON_ONE_ADDRESS = textwrap.dedent("""
    import socket, sys
    with socket.create_server((sys.argv[1], int(sys.argv[2]))) as server:
        while True:
            server.accept()[0].close()
""")
"""A process that listens on one address only."""


def ports(*numbers: int) -> dict[str, Any]:
    """Make the `ports` field of a Service."""
    return {"ports": [{"name": f"p{number}", "port": number, "protocol": "TCP"} for number in numbers]}


def knock(rig: Rig, port: int) -> str:
    """Connect from the client to the default address: open, refused (RST), or silent."""

    def connect() -> str:
        try:
            socket.create_connection((DEFAULT, port), 1).close()
        except ConnectionRefusedError:
            return "refused"
        except TimeoutError:
            return "silent"
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "open"

    return rig.lan.client.call(connect)


def ping(rig: Rig) -> bool:
    """Does the default address answer an ICMP echo request of the client (RFC 792) within two seconds?"""
    question = bytes((8, 0, 0xF7, 0xFF, 0, 0, 0, 0))  # type, code, checksum, identifier 0, sequence 0

    def ask() -> bool:
        with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
            raw.settimeout(2)
            raw.sendto(question, (DEFAULT, 0))
            try:
                answer, (sender, _) = raw.recvfrom(1500)
            except TimeoutError:
                return False
        return sender == DEFAULT and answer[20] == 0  # after the IP header: echo reply

    return rig.lan.client.call(ask)


def listen_everywhere(rig: Rig, port: int) -> "subprocess.Popen[str]":
    """Start a web server called `host` on the balancer itself, on the wildcard address."""
    process = rig.lan.balancer.popen([sys.executable, "-S", str(ANSWERER), "host", str(port)])
    rig.wait(f"the host listens on {port}", lambda: knock(rig, port) == "open")
    return process


def listen_on_default(rig: Rig, port: int) -> "subprocess.Popen[str]":
    """Start a process on the balancer itself that listens on the default address only."""
    process = rig.lan.balancer.popen([sys.executable, "-S", "-c", ON_ONE_ADDRESS, DEFAULT, str(port)])
    rig.wait(f"the host listens on {port}", lambda: knock(rig, port) == "open")
    return process


def refusal(rig: Rig, name: str) -> str:
    """Return what our condition on a Service says is wrong; empty: nothing, or no condition yet."""
    condition = rig.condition(name)
    return str(condition["message"]) if condition.get("status") == "False" else ""


def port_errors(rig: Rig, name: str) -> dict[int, str]:
    """Return the port errors of a Service's status."""
    found = rig.get(name).get("status", {}).get("loadBalancer", {}).get("ingress") or []
    return {port["port"]: port.get("error", "") for entry in found for port in entry.get("ports") or []}


def test_services_without_an_address_and_those_that_name_the_default_one_share_it(rig: Rig) -> None:
    """Both are served on the device's own address, which is neither added again nor ever taken off the device."""
    rig.start()
    rig.apply("web", **ports(80))
    rig.apply("mail", loadBalancerIP=DEFAULT, **ports(8025))
    rig.serve_service("web", 1, 2)
    rig.serve_service("mail", 1)
    for name in ("web", "mail"):
        rig.wait(f"{name} is published", lambda name=name: rig.ingress(name) == [DEFAULT])  # type: ignore[misc]
    assert rig.answers(DEFAULT, 80) == {"n1", "n2"}
    assert rig.answers(DEFAULT, 8025) == {"n1"}
    assert rig.held() == set()
    rig.delete("web")
    rig.wait("port 80 is closed", lambda: knock(rig, 80) == "refused")
    assert rig.ask(DEFAULT, 8025) == "n1"
    rig.delete("mail")
    rig.wait("port 8025 is closed", lambda: knock(rig, 8025) == "refused")
    assert f"inet {DEFAULT}/24" in rig.lan.balancer.ip("addr", "show", "dev", "eth0")


def test_the_second_service_on_a_port_is_refused_naming_the_winner_and_gets_its_turn(rig: Rig) -> None:
    """Only the port in dispute is refused; the holder keeps it, also against an older Service; then the next has it."""
    rig.start()
    rig.apply("older", **ports(90))
    rig.wait("older is served", lambda: rig.ingress("older") == [DEFAULT])
    rig.apply("holder", **ports(80))
    rig.serve_service("holder", 1)
    rig.wait("the holder is served", lambda: rig.ask(DEFAULT, 80) == "n1")

    rig.apply("second", **ports(80, 81))
    rig.serve_service("second", 2)
    rig.wait("second is refused", lambda: f"held by {rig.namespace}/holder since" in refusal(rig, "second"))
    rig.wait("second has its other port", lambda: rig.ask(DEFAULT, 81) == "n2")
    assert port_errors(rig, "second") == {80: "littlelb.io/PortInUse", 81: ""}
    rig.wait(
        "the owner is told",
        lambda: any(kind == "Warning" and "/holder" in note for kind, _, note in rig.events("second")),
    )

    rig.apply("older", **ports(80))
    rig.wait("older is refused", lambda: f"held by {rig.namespace}/holder since" in refusal(rig, "older"))
    assert rig.answers(DEFAULT, 80) == {"n1"}
    assert refusal(rig, "holder") == ""

    rig.delete("older")
    rig.delete("holder")
    rig.wait("second has its turn", lambda: rig.ask(DEFAULT, 80) == "n2")
    rig.wait("and says so", lambda: rig.condition("second").get("status") == "True")
    assert port_errors(rig, "second") in ({}, {80: "", 81: ""})


def test_where_nobody_holds_a_port_age_decides_then_uid(rig: Rig) -> None:
    """Of three that were there before the daemon the oldest is served; of one second, the one with the least uid."""
    made = [rig.apply(name, **ports(80))["metadata"] for name in ("zebra", "horse", "ape")]
    winner, *losers = sorted(made, key=lambda one: (one["creationTimestamp"], one["uid"]))
    rig.start()
    rig.wait("the winner is published", lambda: rig.ingress(winner["name"]) == [DEFAULT])
    for loser in losers:
        rig.wait(
            f"{loser['name']} is refused",
            lambda name=loser["name"]: f"held by {rig.namespace}/{winner['name']}" in refusal(rig, name),  # type: ignore[misc]
        )
        assert rig.ingress(loser["name"]) == []


@pytest.mark.parametrize("listen", [listen_everywhere, listen_on_default])
def test_a_port_on_which_this_host_listens_is_refused_naming_the_process(rig: Rig, listen: Any) -> None:
    """Otherwise a Service on port 22 would take ssh away; when the process ends, the Service gets the port."""
    rig.apply("neighbour", **ports(8080))
    process = listen(rig, 2222)
    rig.start()
    rig.serve_service("neighbour", 1)
    rig.wait("the neighbour is served", lambda: rig.ask(DEFAULT, 8080) == "n1")
    rig.apply("grabber", **ports(2222))
    rig.serve_service("grabber", 2)
    rig.wait("refused", lambda: f"(pid {process.pid})" in refusal(rig, "grabber"))
    assert rig.ingress("grabber") == []
    assert knock(rig, 2222) == "open"
    assert rig.ask(DEFAULT, 2222) != "n2"
    assert rig.ask(DEFAULT, 8080) == "n1"
    process.kill()
    process.wait()
    rig.wait("served", lambda: rig.ask(DEFAULT, 2222) == "n2")
    rig.wait("published", lambda: rig.ingress("grabber") == [DEFAULT])


def test_a_port_that_the_host_took_a_moment_ago_is_refused_naming_the_process(rig: Rig) -> None:
    """A process that began to listen since the daemon looked last is looked for when its port turns out to be taken."""
    rig.start()
    process = listen_everywhere(rig, 2222)
    rig.apply("grabber", **ports(2222))
    rig.wait("refused", lambda: f"(pid {process.pid})" in refusal(rig, "grabber"))
    assert rig.ask(DEFAULT, 2222) == "host"


def test_default_address_refuse_leaves_services_without_an_address_unserved(rig: Rig) -> None:
    """With `--default-address refuse` a Service has to name an address; the host's own one by name is still allowed."""
    rig.start("--default-address", "refuse")
    rig.apply("nameless", **ports(80))
    rig.apply("named", loadBalancerIP=DEFAULT, **ports(81))
    rig.serve_service("named", 1)
    rig.wait("refused", lambda: "--default-address=refuse" in refusal(rig, "nameless"))
    rig.wait("served", lambda: rig.ask(DEFAULT, 81) == "n1")
    assert rig.ingress("nameless") == []
    assert knock(rig, 80) == "refused"


def test_nothing_on_the_default_address_changes_beyond_the_ports_of_services(rig: Rig) -> None:
    """Before, while and after Services share it: it answers pings, the host's own servers, and RST on free ports."""
    listen_everywhere(rig, 2222)

    def look() -> tuple[bool, str, str]:
        return ping(rig), rig.ask(DEFAULT, 2222), knock(rig, 9999)

    before = look()
    assert before == (True, "host", "refused")
    rig.start()
    rig.apply("web", **ports(80))
    rig.serve_service("web", 1)
    rig.wait("served", lambda: rig.ask(DEFAULT) == "n1")
    assert look() == before
    rig.delete("web")
    rig.wait("closed", lambda: knock(rig, 80) == "refused")
    assert look() == before
    assert rig.stop() == 0
    assert look() == before


def test_the_workers_of_an_earlier_daemon_are_nobody_elses_listeners(rig: Rig) -> None:
    """Without the state file too: `plan` beside the daemon finds nothing to change, and a next daemon adopts them."""
    rig.start()
    rig.apply("web", **ports(80))
    rig.serve_service("web", 1)
    rig.wait("published", lambda: rig.ingress("web") == [DEFAULT])
    no_state = ("--state-dir", str(rig.home / "empty"))
    plan = rig.command("plan", *no_state, check=False)
    assert plan.returncode == 0, plan.stdout
    assert rig.daemon is not None
    rig.daemon.kill()
    rig.daemon.wait()
    assert rig.ask(DEFAULT) == "n1"
    rig.start(*no_state)
    rig.wait("a pass was made", lambda: rig.status("web").state is ServiceState.SERVING)
    assert rig.condition("web")["status"] == "True"
    assert rig.ask(DEFAULT) == "n1"
