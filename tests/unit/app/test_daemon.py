"""The daemon's life."""

import gc

from littlelb.app.daemon import spare_collector
from littlelb.testing.clock import LoopClock, run_virtual


def test_the_first_world_is_taken_out_of_the_collectors_sight_once_it_is_decided() -> None:
    """Not before: what is thrown away until then is to be found."""
    asked: list[int] = []

    def decided() -> bool:
        asked.append(gc.get_freeze_count())
        return len(asked) == 3

    try:
        run_virtual(spare_collector(decided, LoopClock()))
        assert asked == [asked[0]] * 3
        assert gc.get_freeze_count() > asked[0] + 1_000
    finally:
        gc.unfreeze()
