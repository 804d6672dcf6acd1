"""The hash, against what a kernel answered (6.18, x86-64: `jhash … mod 65521 seed 0x6c6c6231` read back from a set)."""

from ipaddress import ip_address

import pytest

from littlelb.core.trace.jhash import jhash, scale

SEED = 0x6C6C6231


@pytest.mark.parametrize(
    ("address", "port", "answer"),
    [
        ("127.0.0.5", 30004, 10263),
        ("127.0.0.3", 30002, 52381),
        ("2001:db8::1", 30000, 6654),
        ("2001:db8::1", 30003, 58456),
        ("2001:db8::1", None, 30243),
    ],
)
def test_the_kernel_agrees(address: str, port: int | None, answer: int) -> None:
    """Keys of 8, 20 and 16 bytes, the port padded to 4, give the number that the kernel's own rule gave."""
    key = ip_address(address).packed + (b"" if port is None else port.to_bytes(2, "big") + b"\0\0")
    assert scale(jhash(key, SEED), 65521) == answer


def test_the_scale_covers_all_slots_evenly() -> None:
    """The lowest and the highest hash are the first and the last slot."""
    assert (scale(0, 3), scale(0xFFFF_FFFF, 3)) == (0, 2)
    counts = [0, 0, 0]
    for port in range(3000):
        counts[scale(jhash(port.to_bytes(4, "big"), SEED), 3)] += 1
    assert min(counts) > 900
