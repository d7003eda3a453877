"""What a selection means for every row."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish._coverage_types import CoverageObjective, CoverageOptimizer
from burnish._types import ModelVersion
from burnish.coordinator.coverage import parse_budget
from burnish.coordinator.errors import InputError
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.controls import draws, random_rows
from burnish.coordinator.policy.coverage import Nearest, Picked, hold, verdicts
from burnish.coordinator.policy.verdict import Action
from burnish.coordinator.recipes.clear.settings import ClearSettings
from burnish.coordinator.recipes.mads.settings import MadsSettings
from burnish.coordinator.recipes.middo.settings import MiddoSettings


def rows(*samples: str) -> list[DataRow]:
    return [DataRow(f"r{number}", sample, "source", None, f"r{number}") for number, sample in enumerate(samples)]


def test_every_row_is_kept_or_left_out_for_another_or_unread() -> None:
    data = rows("A", "B", "A", "C", "D", "C")
    found = verdicts(data, {"A": Picked(2, 1.5), "B": Picked(1, 3.0)}, {"C": Nearest("A", 0.9)}, {"D": "too short"})
    assert [one.row_id for one in found] == [row.row_id for row in data]
    assert [one.actions for one in found] == [
        (Action.KEEP,),
        (Action.KEEP,),
        (Action.DROP,),
        (Action.DROP,),
        (Action.UNREAD,),
        (Action.DROP,),
    ]
    assert dict(found[0].signals) == {"rank": 2.0, "gain": 1.5}
    assert (found[2].hints, found[2].reasons) == (("r0",), ("The same as row r0, which is in the core set.",))
    assert found[3].hints == found[5].hints == ("r0",)
    assert dict(found[3].signals) == {"cosine": 0.9}
    assert "too short" in found[4].reasons[0]


def test_a_sample_that_nobody_told_of_is_a_defect() -> None:
    with pytest.raises(ValueError, match="nothing is known of sample B, row r1"):
        verdicts(rows("A", "B"), {"A": Picked(1, 1.0)}, {}, {})


@given(st.lists(st.sampled_from("ABCDEFGH"), min_size=1, max_size=20), st.integers(1, 10), st.integers(0, 5))
def test_random_subsets_have_copies_only_for_want_of_others_and_keep_the_order(
    samples: list[str], size: int, number: int
) -> None:
    data = rows(*samples)
    drawn = random_rows(data, size, seed=1, number=number)
    assert len(drawn) == len({row.row_id for row in drawn}) == min(size, len(samples))
    assert len({row.sample_hash for row in drawn}) == min(size, len(set(samples)))
    assert [row for row in data if row in drawn] == drawn
    assert drawn == random_rows(data, size, seed=1, number=number)


def test_random_subsets_differ() -> None:
    data = rows(*(f"s{number}" for number in range(100)))
    subsets = {tuple(row.row_id for row in random_rows(data, 15, 1, number)) for number in range(3)}
    assert len(subsets) == 3
    assert tuple(row.row_id for row in random_rows(data, 15, 2, 0)) not in subsets


def parsed(**more: object) -> MadsSettings:
    return MadsSettings.parse({"data": "d", "model": "m", **more})


@pytest.mark.parametrize(
    ("budget", "size"), [("15%", 30), (0.15, 30), ("0.15", 30), (1, 1), ("40", 40), (500, 200), ("0.1%", 1)]
)
def test_a_budget_is_a_share_or_a_number(budget: object, size: int) -> None:
    assert parsed(budget=budget).size(200) == size


@pytest.mark.parametrize(
    "more",
    [
        {"budget": 0},
        {"budget": "100%"},
        {"budget": 1.5},
        {"budget": "few"},
        {"rounds": 2},
        {"objective": CoverageObjective.REPRESENTATION_FILTER},
        {"objective": CoverageObjective.K_CENTER, "optimizer": CoverageOptimizer.LAZY},
        {"random_subsets": 21},
        {"length_boundaries": "few"},
        {"length_boundaries": "256,64"},
        {"length_boundaries": [64, 64]},
        {"length_boundaries": "0,64"},
        {"length_boundaries": "64,1024"},
        {"length_boundaries": list(range(1, 17))},
        {"length_boundaries": "64", "rule": "top_k"},
        {"length_boundaries": "64", "objective": "k_center"},
        *(
            {"objective": objective, **ignored}
            for objective in ("k_center", "facility_location")
            for ignored in (
                *({"weighting": "idf"}, {"rule": "top_k"}, {"k": 16}, {"tokens": "all"}, {"pooling": "mean"}),
                *({"max_tokens": 512}, {"calibration_size": 50}),
            )
        ),
        {"rule": "top_k", "calibration_size": 50},
        {"epsilon": 0.1},
        {"epsilon": 0.1, "optimizer": "lazy"},
    ],
)
def test_settings_that_mean_nothing_are_refused(more: dict[str, object]) -> None:
    with pytest.raises(InputError):
        parsed(**more)


def test_what_has_an_effect_may_be_given_with_what_is_default_anyway() -> None:
    assert parsed(epsilon=0.1, optimizer="stochastic").epsilon == 0.1
    assert parsed(calibration_size=50, rule="sections").calibration_size == 50
    assert parsed(objective="k_center", weighting="uniform", tokens="response", epsilon=0.05).features() is None


def test_a_run_that_was_begun_with_what_had_no_effect_goes_on() -> None:
    begun = parsed(objective="k_center").model_dump(mode="json") | {"weighting": "idf", "epsilon": 0.2}
    assert MadsSettings.stored(begun).model_dump(mode="json") == begun
    with pytest.raises(InputError, match="weighting has no effect with objective k_center"):
        MadsSettings.parse(begun)


def test_budgets_in_words() -> None:
    assert [parse_budget(text) for text in ("15%", "0.2", "7", "99.9%")] == [0.15, 0.2, 7.0, 0.999]


@pytest.mark.parametrize("given", ["64,256", " 64, 256 ", [64, 256], ["64", "256"], (64, 256)])
def test_boundaries_of_length_are_listed(given: object) -> None:
    choice = parsed(length_boundaries=given).features()
    assert choice is not None
    assert choice.length_boundaries == (64, 256)


def test_other_boundaries_make_another_run_and_another_calibration() -> None:
    with_some, with_others, without = (parsed(length_boundaries=b) for b in ("64,256", "64", ()))
    identities = [one.identity({"data": "data", "holdout": ""}) for one in (with_some, with_others, without)]
    assert [one["length_boundaries"] for one in identities] == [[64, 256], [64], []]
    version = ModelVersion("/m", "sha256:1", "fake/0", "float32", "0" * 16)
    choices = [one.features() for one in (with_some, with_others, without)]
    names = [choice.calibration_name(version, ["a", "b"]) for choice in choices if choice is not None]
    assert len(set(names)) == 3


def test_all_that_are_compared_are_trained_alike() -> None:
    settings = parsed(seed=5)
    assert len({settings.hyperparameters(number).seed for number in range(5)}) == 1
    assert settings.hyperparameters(1).seed != parsed(seed=6).hyperparameters(1).seed
    assert settings.services() == ("embedding", "scoring", "training")
    assert parsed(select_only=True).services() == ("embedding",)


def test_a_held_set_has_what_was_ranked_then_copies_then_what_could_not_be_read() -> None:
    data = rows("A", "B", "A", "C", "D")
    near = {"C": Nearest("A", 0.8)}
    two = hold(data, 2, ["B", "A"], near, {"D": "too short"})
    assert [one.row_id for one in two if one.kept] == ["r0", "r1"]
    assert two[0].reason == "Kept as number 2 of 2."
    assert two[2].reason == "Left out to hold 2 rows: the same as row r0."
    assert two[3].reason == "Left out to hold 2 rows: row r0 is the nearest to it (cosine 0.800)."
    assert two[4].reason == "Left out to hold 2 rows: it could not be read (too short)."
    four = hold(data, 4, ["B", "C", "A"], {}, {"D": "too short"})
    assert [one.row_id for one in four if one.kept] == ["r0", "r1", "r2", "r3"]
    assert [one.row_id for one in hold(data, 1, [], {}, dict.fromkeys("ABCD", "?")) if one.kept] == ["r0"]


@given(
    st.lists(st.sampled_from("ABCDEFGH"), min_size=2, max_size=20),
    st.sets(st.sampled_from("ABCDEFGH")),
    st.randoms(use_true_random=False),
)
def test_a_held_set_has_exactly_its_size(samples: list[str], unread: set[str], random: Random) -> None:
    data = rows(*samples)
    size = random.randint(1, len(data) - 1)
    readable = sorted(set(samples) - unread)
    random.shuffle(readable)
    ranking, rest = readable[:size], readable[size:]
    near = {sample: Nearest(ranking[0], 0.5) for sample in rest}
    held = hold(data, size, ranking, near, dict.fromkeys(unread & set(samples), "?"))
    assert [one.row_id for one in held] == [row.row_id for row in data]
    assert sum(one.kept for one in held) == size


@pytest.mark.parametrize(
    ("hold_size", "expected"), [(None, None), ("100%", 40), (1, 40), (0.5, 20), ("50%", 20), (55, 55), ("7", 7)]
)
def test_a_held_size_is_a_share_of_the_first_rounds_rows_or_a_number(hold_size: object, expected: int | None) -> None:
    for kind in (MiddoSettings, ClearSettings):
        settings = kind.parse({"data": "d", "model": "m", "hold_size": hold_size})
        assert settings.held_rows(40) == expected


@pytest.mark.parametrize("hold_size", [None, "50%"])
def test_vectors_are_asked_for_by_who_needs_them(hold_size: object) -> None:
    common = {"data": "d", "model": "m", "hold_size": hold_size}
    for settings in (ClearSettings.parse(common), MiddoSettings.parse({**common, "axes": ["hard", "low_quality"]})):
        assert ("embedding" in settings.services()) == (hold_size is not None)
    assert "embedding" in MiddoSettings.parse({**common, "axes": ["sparse"]}).services()


@pytest.mark.parametrize("hold_size", [0, -1, 1.5, "many", "0%", "200%", "inf", "inf%", "nan"])
def test_other_held_sizes_are_refused(hold_size: object) -> None:
    with pytest.raises(InputError, match="hold_size"):
        MiddoSettings.parse({"data": "d", "model": "m", "hold_size": hold_size})
    with pytest.raises(InputError, match="compat"):
        MiddoSettings.parse({"data": "d", "model": "m", "hold_size": 1, "compat": True})


def test_where_nothing_is_left_out_draws_differ_in_the_order_of_training_alone() -> None:
    data = rows("A", "B", "A")
    assert [one.seed for one in draws(data, 2, 1, 3)] == [None] * 3
    everything = draws(data, 3, 1, 3)
    assert [one.rows for one in everything] == [data] * 3
    assert len({one.seed for one in everything}) == 3
