"""The daemon's life."""

import gc
import sys

import pytest

from littlelb.app.daemon import SWITCH_SECONDS, YOUNG_OBJECTS, spare_collector, tune_interpreter
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


def test_the_interpreter_is_tuned_for_a_loop_that_events_wait_for() -> None:
    """Threads give way soon, and the collector looks at young objects less often; the old ones as ever."""
    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    try:
        tune_interpreter()
        assert sys.getswitchinterval() == pytest.approx(SWITCH_SECONDS)
        assert gc.get_threshold() == (YOUNG_OBJECTS, *thresholds[1:])
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*thresholds)
