"""The hash by which the kernel chooses a slot: Bob Jenkins' lookup3 as in linux/jhash.h, and how nft scales it.

`jhash KEY mod N seed S` in nft is no remainder: the kernel takes the upper half of hash times N (reciprocal_scale in
linux/kernel.h). The key is what the registers hold: fields in network byte order, each padded to 4 bytes. Words are
read in the processor's byte order, so machines of different endianness choose different slots; here it is little-endian
(x86-64, arm64).
"""

from typing import Final

_MASK: Final = 0xFFFF_FFFF
_INITIAL: Final = 0xDEAD_BEEF


def jhash(key: bytes, seed: int) -> int:
    """Return the 32 bits that the kernel's `jhash(key, len(key), seed)` returns. `key` is not empty."""
    a = b = c = (_INITIAL + len(key) + seed) & _MASK
    rest = key
    while len(rest) > 12:
        a, b, c = _mix(*_add((a, b, c), rest[:12]))
        rest = rest[12:]
    return _finish(*_add((a, b, c), rest))


def scale(value: int, size: int) -> int:
    """Bring 32 bits into 0 to `size` - 1."""
    return value * size >> 32


def _add(state: tuple[int, int, int], block: bytes) -> tuple[int, int, int]:
    """Add up to 12 bytes, missing ones as zeros, to the three words."""
    padded = block.ljust(12, b"\0")
    a, b, c = (
        (word + int.from_bytes(padded[place : place + 4], "little")) & _MASK
        for word, place in zip(state, (0, 4, 8), strict=True)
    )
    return a, b, c


def _rotate(word: int, bits: int) -> int:
    return (word << bits | word >> (32 - bits)) & _MASK


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    """`__jhash_mix`: after each 12 bytes but the last ones."""
    a, c = (a - c & _MASK) ^ _rotate(c, 4), c + b & _MASK
    b, a = (b - a & _MASK) ^ _rotate(a, 6), a + c & _MASK
    c, b = (c - b & _MASK) ^ _rotate(b, 8), b + a & _MASK
    a, c = (a - c & _MASK) ^ _rotate(c, 16), c + b & _MASK
    b, a = (b - a & _MASK) ^ _rotate(a, 19), a + c & _MASK
    c, b = (c - b & _MASK) ^ _rotate(b, 4), b + a & _MASK
    return a, b, c


def _finish(a: int, b: int, c: int) -> int:
    """`__jhash_final`: after the last bytes."""
    c = (c ^ b) - _rotate(b, 14) & _MASK
    a = (a ^ c) - _rotate(c, 11) & _MASK
    b = (b ^ a) - _rotate(a, 25) & _MASK
    c = (c ^ b) - _rotate(b, 16) & _MASK
    a = (a ^ c) - _rotate(c, 4) & _MASK
    b = (b ^ a) - _rotate(a, 14) & _MASK
    return (c ^ b) - _rotate(b, 24) & _MASK
