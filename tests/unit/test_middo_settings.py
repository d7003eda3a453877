"""The recipe's settings: published defaults, what compat fixes, what contradicts itself, and what names a run."""

from __future__ import annotations

from typing import Any

import pytest

from burnish.coordinator.errors import InputError
from burnish.coordinator.policy.middo import Axis, Overlap, Unparseable
from burnish.coordinator.policy.thresholds import Rule
from burnish.coordinator.recipes.middo.settings import MiddoSettings


def parse(**values: Any) -> MiddoSettings:
    return MiddoSettings.parse({"data": "d.json", "model": "m"} | values)


def test_defaults_are_those_of_the_paper() -> None:
    policy = parse().policy()
    assert policy.axes == frozenset(Axis)
    assert (policy.loss, policy.sparse, policy.quality) == (Rule(1, None, 0), Rule(1, None, 0), Rule(1, None, 1))
    assert (policy.k, policy.overlap, policy.unparseable) == (2, Overlap.BOTH, Unparseable.EXCLUDE)
    judge = parse().judge_sampling(1)
    assert (judge.temperature, judge.top_p, judge.top_k, judge.repetition_penalty) == (0.1, 0.7, 50, 1.0)


def test_compat_fills_in_what_the_published_code_does() -> None:
    settings = parse(compat=True, m_sparse=1.5, m_quality=0.5)
    assert settings.unparseable is Unparseable.ZERO
    assert settings.judge.max_tokens == 1024
    assert settings.max_attempts == 1
    assert (settings.policy().sparse.m, settings.policy().quality.m) == (1.5, 0.5)
    assert MiddoSettings.parse(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"compat": True, "m_loss": 2.0}, "compat does as the published code does, which fixes m_loss"),
        ({"compat": True, "overlap": "hard_first", "unparseable": "exclude"}, "fixes overlap, unparseable"),
        ({"compat": True, "accept": "agree", "rejected": "drop"}, "fixes accept, rejected"),
        ({"accept": "always"}, "accept: Input should be 'valid', 'agree' or 'none'"),
        ({"share_sparse": 0.1, "m_sparse": 2.0}, "m_sparse and share_sparse both say where the line is drawn"),
        ({"share_loss": 0.0}, "share_loss: Input should be greater than 0"),
        ({"rounds": 0}, "rounds: Input should be greater than or equal to 1"),
        ({"axes": []}, "axes: "),
        ({"axes": ["hardest"]}, "axes.0: "),
        ({"training": {"lr": 1}}, "training.lr: Extra inputs are not permitted"),
        ({"temperature": 1}, "temperature: Extra inputs are not permitted"),
        ({"data": []}, "data: "),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as error:
        parse(**values)
    assert words in str(error.value)


@pytest.mark.parametrize(("word", "is_on"), [("false", False), ("no", False), ("0", False), ("true", True)])
def test_compat_may_come_as_a_word_of_a_sweep(word: str, is_on: bool) -> None:
    settings = parse(compat=word)
    assert settings.compat is is_on
    assert settings.max_attempts == (1 if is_on else 3)
    with pytest.raises(InputError, match="compat: Input should be a valid boolean"):
        parse(compat="perhaps")


def test_seeds_depend_on_seed_round_and_purpose_only() -> None:
    one, other = parse(seed=1), parse(seed=2, data="elsewhere.json")
    assert one.judge_sampling(1) == parse(seed=1, data="elsewhere.json").judge_sampling(1)
    seeds = {
        s
        for settings in (one, other)
        for t in (1, 2)
        for s in (settings.judge_sampling(t).seed, settings.rewrite_sampling(t).seed, settings.hyperparameters(t).seed)
    }
    assert len(seeds) == 12
    assert all(0 <= (parse(seed=s).hyperparameters(1).seed or 0) < 2**32 for s in range(50))
    assert parse(training={"seed": 3}).hyperparameters(2).seed == 3


def test_a_run_is_named_by_content_of_data_and_by_every_setting() -> None:
    identity = parse().identity({"data": "sha256:1", "holdout": ""})
    assert parse(data="moved.json").identity({"data": "sha256:1", "holdout": ""}) == identity
    assert parse().identity({"data": "sha256:2", "holdout": ""}) != identity
    assert parse(k=3).identity({"data": "sha256:1", "holdout": ""}) != identity
