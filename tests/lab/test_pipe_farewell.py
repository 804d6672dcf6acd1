"""The end of a connection whose address has left the device before it: the client has to hear of it all the same."""

import socket
from ipaddress import ip_address

import pytest

from littlelb.core.model import Frontend, Protocol
from littlelb.dataplane.pipe.descriptors import set_linger
from littlelb.dataplane.pipe.listeners import Listeners
from littlelb.testing.lan import Lan, vip

pytestmark = pytest.mark.lab


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_reset_reaches_the_client_though_the_address_is_gone(family: socket.AddressFamily) -> None:
    """Tear-down takes the address off before the flows are cut; who is still connected is reset, not left waiting."""
    version = 0 if family == socket.AF_INET else 1
    address = str(vip(10)[version])
    entry = [f"{address}/{(32, 128)[version]}", "dev", "eth0"]
    with Lan(prefix="llbbye", vips_on_link=True) as lan:
        lan.balancer.ip("addr", "add", *entry, *([] if version == 0 else ["nodad"]))
        listeners = Listeners(lambda _: "")
        frontend = Frontend(ip_address(address), Protocol.TCP, 80)
        assert lan.balancer.call(lambda: listeners.open(frontend, accepting=True)) is None
        listener = socket.socket(fileno=listeners.fileno(frontend))
        listener.settimeout(5)
        client = lan.client.socket(family, socket.SOCK_STREAM)
        client.settimeout(5)
        client.connect((address, 80))
        accepted, _ = listener.accept()
        lan.balancer.ip("addr", "del", *entry)
        set_linger(accepted.fileno())
        accepted.close()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        client.close()
        listener.detach()
        listeners.close(frontend)
