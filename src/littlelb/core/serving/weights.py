"""Shares of new connections: `littlelb.io/weight` on EndpointSlices and Nodes → small whole numbers.

A backend's weight is that of its slice times that of its node, each 1 where nothing is said. 0 takes no new
connections, unless everybody has 0.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import gcd
from typing import Final, NamedTuple

from littlelb.core.ipam.requests import quote
from littlelb.core.model import Node
from littlelb.core.reasons import Notice, Reason

WEIGHT_ANNOTATION: Final = "littlelb.io/weight"
MAX_WEIGHT: Final = 1000


class Weight(NamedTuple):
    """What an annotation says, and what is wrong with it."""

    value: int = 1
    notice: Notice | None = None


UNWEIGHTED: Final = Weight()


def parse_weight(text: str, whose: str) -> Weight:
    """Read one annotation of `whose` (`node n1`); empty is none."""
    if not text:
        return Weight()
    if text.isascii() and text.isdigit() and len(text) <= 4 and int(text) <= MAX_WEIGHT:
        return Weight(int(text))
    message = f"{whose}: {WEIGHT_ANNOTATION}: {quote(text)} is not a number from 0 to {MAX_WEIGHT}; 1 holds"
    return Weight(1, Notice(Reason.INVALID_ANNOTATION, message))


def index_weights(nodes: Iterable[Node]) -> Mapping[str, Weight]:
    """Read the weights of the nodes that have one; what is wrong with one is nothing to warn every Service of."""
    return {node.name: _quietly(parse_weight(node.weight, f"node {node.name}")) for node in nodes if node.weight}


def _quietly(weight: Weight) -> Weight:
    return weight if weight.notice is None else weight._replace(notice=weight.notice.quiet())


def judge_weights(names: Iterable[str], weights: Mapping[str, tuple[int, Notice | None]]) -> Iterable[Notice]:
    """Say which of these nodes have a weight that cannot be read."""
    if weights:
        found = (weights.get(name, UNWEIGHTED) for name in dict.fromkeys(names))
        yield from (notice for _, notice in found if notice is not None)


def share_out(weights: Sequence[int]) -> list[int]:
    """Reduce weights to the smallest whole numbers of the same ratio; all 0 is as all 1. A 0 stays one."""
    divisor = gcd(*weights)
    return [weight // divisor for weight in weights] if divisor else [1] * len(weights)
