"""Runs that end between what a step makes and the note that it is done, in each step of each recipe. In one process,
which is quicker than to kill so many; what SIGKILL does besides is in `test_resume_kill.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from burnish import Client
from burnish.coordinator.book import RunBook
from burnish.coordinator.loop import RunOptions, run_recipe
from burnish.coordinator.recipes.registry import METHODS, settings_of
from burnish.testing import FakeServices
from tests.chaos.content import content_of, differences
from tests.chaos.lane import RECIPES
from tests.e2e.killing import Gone, gone_at_ends
from tests.e2e.support import alpaca, history, write_jsonl

MORE: dict[str, dict[str, Any]] = {
    **RECIPES,
    "bds": {"validation_split": 3, "keep": 0.6, "compare": False},
    "filter": {"signal": "cross_weakest", "folds": 2, "keep": 0.6, "compare": False},
}


def test_all_recipes_are_here() -> None:
    assert MORE.keys() == METHODS.keys() - {"auto"}, "which is filter with other defaults"


@pytest.mark.parametrize("recipe", MORE)
def test_a_run_that_ends_before_it_notes_the_end_of_each_step_makes_the_same(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_jsonl(tmp_path / "data.jsonl", alpaca(12, duplicates=1))
    holdout = write_jsonl(tmp_path / "holdout.jsonl", [{**row, "instruction": "Another?"} for row in alpaca(2)])
    settings = settings_of(recipe).parse(
        {"data": str(data), "holdout": [str(holdout)], "model": "base", "rounds": 1, "seed": 7} | MORE[recipe]
    )
    out = tmp_path / "out"
    # Trainings that pause are named by it, and these services' models by their training.
    monkeypatch.setattr(RunBook, "began", lambda self: "then")

    def run(fakes: FakeServices) -> None:
        with Client(fakes.endpoints) as client:
            run_recipe(settings, client, out, options=RunOptions(batch_size=4, max_in_flight=2))

    with FakeServices() as fakes:
        run(fakes)
    expected = content_of(out)
    out.rename(tmp_path / "undisturbed")  # the other one is at the same place, which reports name

    struck = gone_at_ends(monkeypatch)
    beginnings = 0
    with FakeServices() as fakes:
        while True:
            beginnings += 1
            try:
                run(fakes)
            except Gone:
                continue
            break
    with history(out) as h:
        steps = h.steps()
    assert struck == {(step.round, step.name) for step in steps}
    assert beginnings == len(steps) + 1
    assert [step for step in steps if step.state != "done" or step.done != step.total] == []
    assert not (problems := differences(expected, content_of(out))), "\n".join(problems)
