"""Schedules over all recipes, a lane each, side by side."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from unittest import mock

from tests.chaos.lane import RECIPES, Lane, Outcome, forking
from tests.chaos.schedule import Schedule, scheduled

# So that what happens within milliseconds anyway takes no longer here.
QUICK = {"BURNISH_TRAINING_RESTART_DELAY": "0.05", "BURNISH_TRAINING_FAKE_STEP_SECONDS": "0"}
_MEMORY = Path("/dev/shm")  # noqa: S108 - these runs would wait for the disk most of the time


class Runner:
    """Lanes whose undisturbed runs are done."""

    def __init__(self, lanes: dict[str, Lane]) -> None:
        self.lanes = lanes
        self._courses = {recipe: lane.stretches for recipe, lane in lanes.items()}

    def schedule(self, seed: int) -> Schedule:
        """The schedule of a seed."""
        return scheduled(seed, self._courses)

    def told(self, schedule: Schedule) -> str:
        """A schedule in words."""
        return schedule.told(self._courses[schedule.recipe])

    def run(self, seeds: Iterable[int], tell: Callable[[Schedule, Outcome], None]) -> None:
        """Runs the schedules of these seeds."""
        schedules = [self.schedule(seed) for seed in seeds]

        def work(recipe: str) -> None:
            for schedule in schedules:
                if schedule.recipe == recipe:
                    tell(schedule, self.lanes[recipe].run(schedule))

        _side_by_side(work, list(self.lanes))


@contextmanager
def ready(recipes: Sequence[str] = tuple(RECIPES)) -> Iterator[Runner]:
    """A runner for the length of a block."""
    context = forking()
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, QUICK))
        place = _MEMORY if os.access(_MEMORY, os.W_OK) else None
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="burnish-chaos-", dir=place)))
        lanes = {recipe: Lane(folder / recipe, recipe, context) for recipe in recipes}
        for lane in lanes.values():
            stack.callback(lane.close)
        _side_by_side(lambda recipe: lanes[recipe].run_undisturbed(), list(lanes))
        yield Runner(lanes)


def _side_by_side(work: Callable[[str], None], recipes: list[str]) -> None:
    with ThreadPoolExecutor(len(recipes)) as pool:
        list(pool.map(work, recipes))
