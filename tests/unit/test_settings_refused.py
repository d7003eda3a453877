"""Settings that are refused: by the words of who gave them, settings or flags; and what would have no effect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from burnish.cli.filter_options import FILTER
from burnish.cli.middo_options import MIDDO
from burnish.cli.recipe_options import WORK, flags, with_tables
from burnish.coordinator.errors import InputError
from burnish.coordinator.recipes.auto.settings import AutoSettings
from burnish.coordinator.recipes.base import RecipeSettings, RunOptions, TrainingSettings, parse_settings
from burnish.coordinator.recipes.bmo.settings import BmoSettings
from burnish.coordinator.recipes.clear.settings import ClearSettings
from burnish.coordinator.recipes.filter.settings import FilterSettings
from burnish.coordinator.recipes.middo.settings import MiddoSettings
from tests.e2e.commands import burnish

PLACE = {"data": "d", "model": "m"}
CROSS = {"signal": "cross_weakest"}
SHARES = {"shares": "85%,70%", "trusted": "t"}
BMO = {"validation_split": "10%"}


def refused(kind: type[RecipeSettings], **values: Any) -> str:
    with pytest.raises(InputError) as error:
        kind.parse({**PLACE, **values})
    return str(error.value)


def on_the_command_line(*arguments: object) -> str:
    done = burnish(*arguments)
    assert done.exit_code == 2
    return " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (FilterSettings, {"folds": 3}, "folds has no effect with signal weakest, which needs no fold models"),
        (FilterSettings, {**CROSS, "start": "trusted", "trusted": "t", "folds": 3}, "folds has no effect where start"),
        (FilterSettings, {"trusted_epochs": 1}, "trusted_epochs has no effect but where start is trusted"),
        (FilterSettings, {"errors": 1}, "errors has no effect without shares to choose among"),
        (FilterSettings, {**SHARES, "keep": 0.5}, "keep has no effect here: trusted rows choose among shares; leave"),
        (FilterSettings, {**SHARES, "keep": 0.7}, "keep has no effect here"),
        (FilterSettings, {**SHARES, "shares": "70%", "cover": True}, "cover has no effect on a single one of shares"),
        (
            AutoSettings,
            {"trusted": "t", "keep": "50%"},
            "keep has no effect here: trusted rows choose among shares. To keep a fixed share, use"
            " `burnish run filter --keep 0.5`",
        ),
        (
            BmoSettings,
            {**BMO, "response_weighting": "uniform", "min_effective_share": 0.5},
            "where response_weighting is",
        ),
        (BmoSettings, {**BMO, "response_weighting": "token", "length_power": 0.5}, "length_power has no effect where"),
        (BmoSettings, {**BMO, "response_weighting": "raw", "response_temperature": 2}, "response_temperature has no"),
    ],
)
def test_what_would_have_no_effect_is_refused(kind: type[RecipeSettings], values: dict[str, Any], said: str) -> None:
    assert said in refused(kind, **values)


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (FilterSettings, {}),
        (FilterSettings, {"folds": 2, "errors": 2.0, "trusted_epochs": 3.0, "cover": False}),
        (FilterSettings, {**CROSS, "folds": 3, "passes": 2, "keep": 0.5}),
        (FilterSettings, {**CROSS, "start": "trusted", "trusted": "t", "passes": 2, "folds": 3, "trusted_epochs": 1}),
        (FilterSettings, {**SHARES, **CROSS, "passes": 2, "keep": 0.5, "errors": 1, "cover": True}),
        (AutoSettings, {"trusted": "t"}),
        (AutoSettings, {"trusted": "t", **CROSS, "passes": 2, "keep": 0.5}),
        (BmoSettings, {**BMO, "min_effective_share": 0.3, "length_power": 0.5, "response_temperature": 2}),
        (BmoSettings, {**BMO, "response_weighting": "raw", "min_effective_share": 0.3, "length_power": 0.5}),
        (BmoSettings, {**BMO, "response_weighting": "softmin", "length_power": 0.5, "response_temperature": 2}),
        (BmoSettings, {**BMO, "response_weighting": "uniform"}),
    ],
)
def test_what_has_one_is_not_nor_are_defaults(kind: type[RecipeSettings], values: dict[str, Any]) -> None:
    settings = kind.parse({**PLACE, **values})
    assert kind.stored(settings.model_dump(mode="json")) == settings


@pytest.mark.parametrize(
    ("kind", "values", "more"),
    [
        (FilterSettings, {}, {"folds": 5, "trusted_epochs": 1.0, "errors": 1.0}),
        (FilterSettings, {**SHARES}, {"keep": 0.4}),
        (AutoSettings, {"trusted": "t"}, {"keep": 0.4}),
        (BmoSettings, {**BMO, "response_weighting": "token"}, {"min_effective_share": 0.5}),
    ],
)
def test_a_run_that_was_begun_with_it_goes_on(
    kind: type[RecipeSettings], values: dict[str, Any], more: dict[str, Any]
) -> None:
    begun = kind.parse({**PLACE, **values}).model_dump(mode="json") | more
    assert kind.stored(begun).model_dump(mode="json") == begun


def test_a_share_may_be_a_percentage_wherever_one_is_meant() -> None:
    assert FilterSettings.parse({**PLACE, "keep": "70%"}).keep == 0.7
    assert FilterSettings.parse({**PLACE, **SHARES}).shares == (0.85, 0.7)
    assert MiddoSettings.parse({**PLACE, "share_loss": "10%"}).share_loss == 0.1
    assert ClearSettings.parse({**PLACE, "drop_fraction": "30%"}).drop_fraction == 0.3
    bmo = BmoSettings.parse({**PLACE, **BMO, "keep": "60%", "online_share": "20%", "min_accepted": "40%"})
    assert (bmo.keep, bmo.online_share, bmo.min_accepted) == (0.6, 0.2, 0.4)
    assert "keep: expected a share, such as 0.7 or 70%" in refused(FilterSettings, keep=70)


def test_in_python_settings_are_called_as_they_are() -> None:
    said = refused(MiddoSettings, training={"per_device_batch_size": 0}, m_loss=2, rounds=0)
    assert said == (
        "The settings cannot be used. rounds: Input should be greater than or equal to 1;"
        " training.per_device_batch_size: Input should be greater than or equal to 1"
    )
    said = refused(MiddoSettings, m_loss=2, share_loss=0.1)
    assert said.startswith("The settings cannot be used. m_loss and share_loss both say where the line is drawn")


def test_settings_have_the_names_of_their_flags() -> None:
    names = flags(MIDDO, WORK)
    assert names["training.per_device_batch_size"] == names["per_device_batch_size"] == "--batch-size"
    assert (names["batch_size"], names["axes"], names["max_steps"]) == ("--items-per-batch", "--axis", "--max-steps")
    assert names["judge.temperature"] == "--judge-temperature"
    assert "temperature" not in names, "there are two"
    assert flags(FILTER)["compare"] == "--compare"


def test_on_a_command_line_settings_are_called_by_their_flags() -> None:
    def saying(kind: Any, **values: Any) -> str:
        @with_tables(settings=MIDDO, work=WORK)
        def it(settings: dict[str, Any], work: dict[str, Any]) -> None:
            parse_settings(kind, values)

        with pytest.raises(InputError) as error:
            it(**dict.fromkeys([*MIDDO, *WORK]))
        assert type(error.value) is InputError
        return str(error.value)

    assert saying(MiddoSettings, **PLACE, training={"per_device_batch_size": 0}, axes=["hardest"]) == (
        "--batch-size 0: Input should be greater than or equal to 1;"
        " --axis hardest: Input should be 'hard', 'sparse' or 'low_quality'"
    )
    assert saying(MiddoSettings, **PLACE, share_loss="70").startswith("--share-loss 70: expected a share, such as")
    assert saying(MiddoSettings, **PLACE, m_loss=2, share_loss=0.1).startswith("--m-loss and --share-loss both say")
    assert saying(MiddoSettings, **PLACE, training={"lora_alpha": 8}).startswith("--lora-alpha, --lora-dropout, ")
    assert saying(TrainingSettings, max_steps=0) == "--max-steps 0: Input should be greater than or equal to 1"
    assert "say which are wrong with --truth" in saying(RunOptions, oracle=True)
    assert saying(MiddoSettings, data="d", model="").startswith("model: ")


def test_commands_say_so(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"instruction": "Q?", "output": "A."}\n', encoding="utf-8")
    place = ("--data", data, "--model", "base", "--out", tmp_path / "out")
    said = on_the_command_line("run", "auto", *place, "--trusted", data, "--keep", "0.5")
    assert said == (
        "burnish: --keep has no effect here: trusted rows choose among --shares. To keep a fixed share, use"
        " `burnish run filter --keep 0.5`"
    )
    assert on_the_command_line("run", "filter", *place, "--keep", "70").startswith(
        "burnish: --keep 70: expected a share"
    )
    assert "--batch-size 0: Input" in on_the_command_line("run", "middo", *place, "--batch-size", "0")
    assert "--hold-size 200%: expected a share up to 100%" in on_the_command_line(
        "sweep", "clear", *place, "--vary", "hold-size=50%,200%"
    )
    assert on_the_command_line("train", *place, "--max-steps", "0").startswith("burnish: --max-steps 0: Input should")
