"""What `burnish select` makes of a budget and of an answer."""

from __future__ import annotations

import pytest

from burnish._coverage_types import (
    ActivationPooling,
    CoverageCurve,
    CoverageSelection,
    FeatureRule,
    SelectedSample,
    Witness,
)
from burnish._errors import UsageError
from burnish._types import ModelVersion, TokenSpan
from burnish.cli.select import budget_of, left_out, summary
from burnish.coordinator.coverage import FeatureChoice, features_collection

VERSION = ModelVersion("/m", "sha256:" + "ab" * 32, "vllm/0.32.0", "bfloat16", "0" * 16)


@pytest.mark.parametrize(("text", "expected"), [("15%", 30), ("0.15", 30), ("1", 1), ("0.1%", 1), ("500", 200)])
def test_a_budget_is_a_number_or_a_share(text: str, expected: int) -> None:
    assert budget_of(text, 200) == expected


@pytest.mark.parametrize("text", ["0", "-3", "0%", "100%", "1.5", "many", "", "%", "nan"])
def test_other_budgets_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected a share below 100%, such as 15%"):
        budget_of(text, 200)


def selection(**more: object) -> CoverageSelection:
    fields: dict[str, object] = {
        "model": None,
        "selected": (SelectedSample("A", 2.0), SelectedSample("B", 1.0)),
        "witnesses": (Witness("C", "A", 0.5),),
        "curve": CoverageCurve((0, 2), (0.0, 11.0), (0, 30)),
        "random_curves": tuple(CoverageCurve((0, 2), (0.0, value), (0, 20)) for value in (9.0, 10.0, 11.0)),
        "num_candidates": 3,
        "num_features": 40,
        "length_correlation": 0.1,
        "hub_share": 0.05,
        "optimizer": None,
    }
    return CoverageSelection(**(fields | more))  # type: ignore[arg-type]


def test_every_row_left_out_has_who_stands_for_it() -> None:
    rows = {"A": ["1", "4"], "B": ["2"], "C": ["3", "5"]}
    assert left_out(selection(), rows) == [
        {"id": "4", "nearest": "1", "cosine": 1.0},
        {"id": "3", "nearest": "1", "cosine": 0.5},
        {"id": "5", "nearest": "1", "cosine": 0.5},
    ]


def test_what_came_of_it_is_said_with_its_warnings() -> None:
    said = summary(selection(), 5, 3)
    assert said[0] == "Selected 2 of 3 different samples (5 rows)."
    assert "30 of 40 features, three random selections of that size 20 to 20" in said[1]
    assert "+10.0%" in said[1]
    assert len(said) == 2
    warned = summary(selection(length_correlation=-0.6, hub_share=0.3, curve=None), 5, 3)
    assert "longer samples were picked first (rank correlation -0.60)" in warned[1]
    assert "30% of all activity" in warned[2]


@pytest.mark.parametrize(
    ("rule", "pooling", "sent"),
    [
        (FeatureRule.ABOVE_ZERO, ActivationPooling.MAX, ActivationPooling.MAX_SIGNED),
        (FeatureRule.ABOVE_ZERO, ActivationPooling.MEAN, ActivationPooling.MEAN),
        (FeatureRule.TOP_K, ActivationPooling.MAX, ActivationPooling.MAX),
    ],
)
def test_above_zero_goes_by_the_sign_unless_told_otherwise(
    rule: FeatureRule, pooling: ActivationPooling, sent: ActivationPooling
) -> None:
    settings = FeatureChoice(rule, pooling=pooling).feature_settings("")
    assert settings.activations is not None
    assert settings.activations.pooling is sent


def test_names_follow_from_content() -> None:
    choice, ids = FeatureChoice(calibration_size=3), ["e", "d", "c", "b", "a"]
    chosen = choice.calibration_ids(ids)
    assert len(chosen) == 3
    assert chosen == choice.calibration_ids([*reversed(ids), "a"])
    name = choice.calibration_name(VERSION, chosen)
    assert name != choice.calibration_name(VERSION, ids)
    assert name != FeatureChoice(tokens=TokenSpan.ALL).calibration_name(VERSION, chosen)
    collections = {
        features_collection(VERSION, source, one, calibration)
        for one in (choice, FeatureChoice(k=4), FeatureChoice(FeatureRule.TOP_K))
        for calibration in ("a", "b")
        for source in TokenSpan
    }
    vectors_alone = {features_collection(VERSION, source, None, "") for source in TokenSpan}
    assert len(collections | vectors_alone) == 18 + 3, "with features and without are two collections"
    assert all(len(one) < 128 and one == one.lower() for one in [*collections, name])
