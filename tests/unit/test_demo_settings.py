"""The demo's own settings, and what is left of them under options that contradict them."""

from __future__ import annotations

from typing import Any

import pytest

from burnish.cli.run import for_the_demo
from burnish.coordinator.recipes.middo.settings import PUBLISHED_JUDGE, MiddoSettings


def settings(**given: Any) -> MiddoSettings:
    values = for_the_demo(given)
    for group in ("judge", "rewrite"):
        if group in values:
            values[group] = MiddoSettings.model_fields[group].default.model_dump() | values[group]
    return MiddoSettings.parse(values | {"data": "demo.jsonl", "model": "m"})


def test_the_demo_has_two_rounds_and_bounds_each_axis() -> None:
    plain = settings()
    assert plain.rounds == 2
    assert (plain.share_loss, plain.share_sparse, plain.share_quality) == (0.1, 0.1, 0.1)


def test_one_option_of_a_group_leaves_the_others() -> None:
    other = settings(training={"max_steps": 3}, rounds=1)
    assert other.rounds == 1
    assert other.training.max_steps == 3
    assert other.training.learning_rate == settings().training.learning_rate


@pytest.mark.parametrize("axis", ["loss", "sparse", "quality"])
def test_a_line_drawn_by_deviations_takes_the_place_of_the_share(axis: str) -> None:
    other = settings(**{f"m_{axis}": 1.5})
    assert getattr(other, f"m_{axis}") == 1.5
    assert getattr(other, f"share_{axis}") is None
    assert sum(share == 0.1 for share in (other.share_loss, other.share_sparse, other.share_quality)) == 2


def test_the_published_behaviour_can_be_demonstrated() -> None:
    published = settings(compat=True)
    assert published.judge == PUBLISHED_JUDGE
    assert published.share_quality is None
