"""Rendezvous hashing: each key ranks the names by a score of its own, so one name less moves only its own keys.

Thaler and Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM ToN 6(1), 1998. Scores do not depend
on the process (Python's own `hash` does), so two balancers with the same objects choose alike.
"""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from heapq import nsmallest

_MASK = (1 << 64) - 1


@lru_cache(maxsize=65_536)
def _digest(text: str) -> int:
    """64 bits of a text."""
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _mix(value: int) -> int:
    """Scatter 64 bits (the finaliser of splitmix64, Steele, Lea and Flood, OOPSLA 2014)."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def rendezvous(key: str, names: Sequence[str], count: int | None = None) -> list[str]:
    """Order `names` by how much `key` prefers them; the best `count` of them, or all."""
    seed = _digest(key)
    return nsmallest(len(names) if count is None else count, names, key=lambda name: (_mix(seed ^ _digest(name)), name))
