"""Who is taken for what, by names alone: rendezvous ranks names for one key, Maglev fills a table of slots.

Thaler and Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM ToN 6(1), 1998: each key ranks the
names by a score of its own, so one name less moves only its own keys. Eisenbud et al., "Maglev: a fast and reliable
software network load balancer", NSDI 2016, section 3.4: each name has a permutation of the slots and takes in its turn
the next one that is free. Scores do not depend on the process (Python's own `hash` does), nor on the order in which the
names are given, so two balancers with the same objects choose alike.
"""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import blake2b
from heapq import nsmallest
from typing import Final

_MASK = (1 << 64) - 1
TABLE_SIZES: Final = (67, 127, 251, 509, 1021, 2039, 4093, 8191, 16_381, 32_749, 65_521)
"""Primes, so that every step from 1 to size - 1 meets all slots."""


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


def maglev(names: Sequence[tuple[str, int]], size: int) -> list[int]:
    """Fill a table of `size` slots (one of TABLE_SIZES): for each slot the index in `names` of who has it.

    `names` are different names with their weights, each at least 1, and there is at least one. Shares are as exact as
    `size` allows: the share by weight, rounded down or up, and at least one slot.
    """
    shares = _shares([weight for _, weight in names], size, [_digest(name) for name, _ in names])
    turns = sorted(
        ((turn + 0.5) / weight, name, index)
        for index, ((name, weight), share) in enumerate(zip(names, shares, strict=True))
        for turn in range(share)
    )
    table = [-1] * size
    steps = [_mix(_digest(name)) % (size - 1) + 1 for name, _ in names]
    places = [_digest(name) % size for name, _ in names]
    for _, _, index in turns:
        place, step = places[index], steps[index]
        while table[place] >= 0:
            place = (place + step) % size
        table[place] = index
        places[index] = place
    return table


def maglev_size(weights: Sequence[int]) -> int:
    """Choose the smallest table in which nobody has more than 1.1 times its fair share; if there is none, the largest.

    `weights` are at least 1 each. Cost: a few microseconds for each of them and each size that is too small.
    """
    total = sum(weights)
    for size in (size for size in TABLE_SIZES if size >= len(weights)):
        shares = _shares(weights, size, weights)
        if all(10 * share * total <= 11 * size * weight for share, weight in zip(shares, weights, strict=True)):
            return size
    return TABLE_SIZES[-1]


def _shares(weights: Sequence[int], size: int, ranks: Sequence[int]) -> list[int]:
    """Slots of each: at least one, else by largest remainder (Hamilton); ties go to the larger weight, then by rank.

    Where there are more names than slots, those of the smallest weight have none.
    """
    by_weight = sorted(range(len(weights)), key=lambda index: (weights[index], ranks[index]), reverse=True)
    shares = [0] * len(weights)
    rest, slots = by_weight[:size], size
    while tiny := _below_one(weights, rest, slots):
        for index in tiny:
            shares[index] = 1
        rest, slots = rest[: -len(tiny)], slots - len(tiny)
    total = sum(weights[index] for index in rest)
    for index in rest:
        shares[index] = slots * weights[index] // total
    left = slots - sum(shares[index] for index in rest)
    for index in nsmallest(left, rest, key=lambda index: -(slots * weights[index] % total)):
        shares[index] += 1
    return shares


def _below_one(weights: Sequence[int], rest: Sequence[int], slots: int) -> list[int]:
    """Those that would get less than one slot: they stand at the end of `rest`, which is in order of weight."""
    total = sum(weights[index] for index in rest)
    return [index for index in rest if slots * weights[index] < total]
