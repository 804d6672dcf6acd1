"""A set of numbers as ranges: is an address in any of a thousand networks? One bisection, not a thousand questions."""

from bisect import bisect_right
from collections.abc import Container, Iterable


class Ranges(Container[int]):
    """Ranges that overlap or touch are one."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        """Each is the first and the last number of a range."""
        starts: list[int] = []
        ends: list[int] = []
        for first, last in sorted(ranges):
            if ends and first <= ends[-1] + 1:
                ends[-1] = max(ends[-1], last)
            else:
                starts.append(first)
                ends.append(last)
        self._starts, self._ends = tuple(starts), tuple(ends)

    def __contains__(self, number: object) -> bool:
        """Is a number in one of the ranges?"""
        if not isinstance(number, int):
            return False
        at = bisect_right(self._starts, number) - 1
        return at >= 0 and number <= self._ends[at]
