"""What a device tells of itself without any right."""

from littlelb.announce.port import read_device, read_own_macs


def test_loopback_asks_nobody() -> None:
    """The loopback device is there, and nobody is asked for addresses on it."""
    device = read_device("lo")
    assert device is not None
    assert not device.asked
    assert device.mac == bytes(6)


def test_missing_device() -> None:
    """A device that does not exist is None, no error."""
    assert read_device("littlelb-none0") is None


def test_own_macs_leave_loopback_out() -> None:
    """The zero address of loopback is nobody's: an answer with it would not be our own."""
    assert bytes(6) not in read_own_macs()
