"""The LAN of the other lab tests: who reaches whom, and that nothing of it is left."""

import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from littlelb.testing.lan import Lan, backend_address, lan_address
from littlelb.testing.netns import Namespace, Network

pytestmark = pytest.mark.lab


def answers(client: Namespace, server: Namespace, address: str) -> bool:
    """Does a TCP connection from one to the other come through?"""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with server.socket(family, socket.SOCK_STREAM) as listener, client.socket(family, socket.SOCK_STREAM) as dialler:
        listener.settimeout(5)
        dialler.settimeout(5)
        listener.bind((address, 0))
        listener.listen()
        dialler.connect(listener.getsockname())
        accepted, _ = listener.accept()
        accepted.close()
    return True


@pytest.mark.parametrize("one_link", [False, True])
def test_everybody_reaches_the_balancer(one_link: bool) -> None:
    """Client and balancer, balancer and backend talk over IPv4 and IPv6, in both layouts."""
    with Lan(one_link=one_link, vips_on_link=True) as lan:
        for own in lan_address(2):
            assert answers(lan.client, lan.balancer, str(own))
        for backend in backend_address(12):
            assert answers(lan.balancer, lan.backends[1], str(backend))
        assert "203.0.113.2/24" in lan.balancer.ip("addr", "show", "dev", "eth0")


def test_nothing_is_left_after_a_failure() -> None:
    """Leaving by an exception removes namespaces and ends the processes in them, also those of a dead parent."""
    network = Network()
    box = network.namespace("box")
    shell = box.popen(["sh", "-c", "sleep 60 & echo $!; exec sleep 60"], stdout=subprocess.PIPE)
    assert shell.stdout is not None
    orphan = int(shell.stdout.readline())
    shell.send_signal(signal.SIGKILL)
    assert shell.wait(timeout=5) == -signal.SIGKILL
    assert orphan in box.pids()
    with pytest.raises(ZeroDivisionError), network:
        raise ZeroDivisionError
    assert not box.path.exists()
    with pytest.raises(ChildProcessError):
        os.waitpid(orphan, os.WNOHANG)
    state = Path(f"/proc/{orphan}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z"


def test_settings_belong_to_the_namespace() -> None:
    """A sysctl written in one namespace is read there, and not in its neighbour; dots in a device name survive."""
    with Network() as network:
        one, two = network.namespace("one"), network.namespace("two")
        assert one.sysctl("net.ipv4.ip_forward", "1") == "1"
        assert two.sysctl("net.ipv4.ip_forward") == "0"
        one.ip("link", "add", "lan.5", "type", "bridge")
        assert one.sysctl("net/ipv4/conf/lan.5/arp_ignore", "1") == "1"


def test_errors_of_ip_reach_the_caller() -> None:
    """A failed `ip` command raises with the kernel's words; an exception in `call` is raised to the caller."""
    with Network() as network:
        box = network.namespace("box")
        with pytest.raises(RuntimeError, match="eth9"):
            box.ip("link", "set", "eth9", "up")
        with pytest.raises(ZeroDivisionError):
            box.call(lambda: 1 // 0)
