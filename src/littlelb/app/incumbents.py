"""Who holds what when nobody remembers: the workers of an earlier daemon say it by what they serve."""

from collections.abc import Mapping
from dataclasses import replace

from littlelb.core.model import Forward, Frontend, Grant, Key


def select_incumbents(known: Mapping[Key, Grant], served: Mapping[Frontend, Forward], now: float) -> dict[Key, Grant]:
    """Give the grants that what is served stands for, less those known already; they count from `now` (epoch seconds).

    What workers serve is newer than the state file, which is written every few seconds and may be lost; only the file
    knows since when. Frontends on which the workers disagree are nobody's.
    """
    holding: dict[Key, set[Frontend]] = {}
    for frontend, forward in served.items():
        if forward.service:
            holding.setdefault(forward.service, set()).add(frontend)
    nothing = Grant(frozenset(), now)
    found = {
        key: replace(known.get(key, nothing), frontends=frozenset(frontends)) for key, frontends in holding.items()
    }
    return {key: grant for key, grant in found.items() if known.get(key) != grant}
