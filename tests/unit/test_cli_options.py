"""The options of all recipes: there is a setting where their tables say so, no flag stands for two things, and what is
written on a command line, or varied by a sweep, arrives in the settings."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
import typer.main
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from burnish._training_types import Lora
from burnish.cli import run, sweep, train
from burnish.cli.app import app
from burnish.cli.recipe_options import COMPARE, HOLD, TRAINING, WORK, Table, given, work_of
from burnish.cli.run import RECIPES
from burnish.coordinator.errors import InputError
from burnish.coordinator.recipes.base import HoldSettings, RecipeSettings, RunOptions, TrainingSettings, parse_settings
from burnish.coordinator.sweep import Point
from tools.cli_reference import commands

COMMAND: Any = typer.main.get_command(app)
TABLES: list[tuple[type[BaseModel], Table]] = [
    *((kind, table) for kind, table, _ in RECIPES.values()),
    (RecipeSettings, TRAINING),
    (HoldSettings, HOLD),
    (RunOptions, {**WORK, **COMPARE}),
]
TRUSTED = "trusted.jsonl"

# What every recipe needs, but where just that is the option in question.
NEEDED = {"bds": ("--validation-split", "4"), "bmo": ("--validation-split", "4"), "auto": ("--trusted", TRUSTED)}
# What goes together with an option.
ALONG: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("lora_alpha", "lora_dropout", "lora_modules", "lora_adapter_only"), ("--lora-rank", "8")),
    "candidates": ("--propose-temperature", "0.5"),
    "epsilon": ("--optimizer", "stochastic"),
    "folds": ("--signal", "cross_weakest"),
    "trusted_epochs": ("--signal", "cross_weakest", "--start", "trusted", "--trusted", TRUSTED),
    "auto keep": ("--signal", "cross_weakest", "--passes", "2"),
    "oracle": ("--truth", "right"),
    "passes": ("--signal", "cross_weakest"),
    "start": ("--signal", "cross_weakest", "--trusted", TRUSTED),
    "filter trusted": ("--signal", "calibrated"),
    "filter shares": ("--trusted", TRUSTED),
    "filter rival": ("--trusted", TRUSTED, "--shares", "0.9,0.6"),
    "filter errors": ("--trusted", TRUSTED, "--shares", "0.9,0.6"),
    "filter cover": ("--trusted", TRUSTED, "--shares", "0.9,0.6"),
}
# What is written after an option's flag, and the value that this is; a switch has no word. Where an option takes
# several values they are parted by commas. By option, or by recipe and option.
GIVEN: dict[str, tuple[str, object]] = {
    "epochs": ("0.5", 0.5),
    "max_steps": ("7", 7),
    "learning_rate": ("1e-4", 1e-4),
    "warmup_ratio": ("0.2", 0.2),
    "lr_scheduler": ("linear", "linear"),
    "batch_size": ("3", 3),
    "accumulation": ("2", 2),
    "max_sequence_tokens": ("512", 512),
    "train_dtype": ("bfloat16", "bfloat16"),
    "max_loss_ratio": ("5", 5.0),
    "lora_rank": ("8", 8),
    "lora_alpha": ("16", 16.0),
    "lora_dropout": ("0.1", 0.1),
    "lora_modules": ("q_proj,v_proj", ("q_proj", "v_proj")),
    "hold_size": ("50%", 0.5),
    "items_per_batch": ("16", 16),
    "batches_in_flight": ("2", 2),
    "keep_models": ("last", "last"),
    "models_uri": ("s3://bucket/runs/", "s3://bucket/runs"),
    "map": ("umap", "umap"),
    "truth": ("right", "right"),
    "random_subsets": ("5", 5),
    "rounds": ("3", 3),
    "seed": ("11", 11),
    "control": ("random", "random"),
    # middo
    "axes": ("hard,low_quality", ("hard", "low_quality")),
    "m_loss": ("1.5", 1.5),
    "m_sparse": ("1.6", 1.6),
    "m_quality": ("1.7", 1.7),
    "share_loss": ("0.2", 0.2),
    "share_sparse": ("0.3", 0.3),
    "share_quality": ("0.4", 0.4),
    "ddof_loss": ("1", 1),
    "ddof_sparse": ("1", 1),
    "ddof_quality": ("0", 0),
    "middo k": ("5", 5),
    "overlap": ("hard_first", "hard_first"),
    "unparseable": ("zero", "zero"),
    "max_rows": ("9", 9),
    "refiner": ("other", "other"),
    "judge_temperature": ("0.3", 0.3),
    "judge_max_tokens": ("8", 8),
    "rewrite_temperature": ("0.5", 0.5),
    "rewrite_top_p": ("0.9", 0.9),
    "rewrite_max_tokens": ("99", 99),
    "max_attempts": ("5", 5),
    "accept": ("agree", "agree"),
    "rejected": ("drop", "drop"),
    # clear
    "tier": ("fast", "fast"),
    "alpha": ("0.4", 0.4),
    "beta": ("0.3", 0.3),
    "likelihood_weight": ("0.2", 0.2),
    "num_answers": ("3", 3),
    "answer_temperature": ("0.6", 0.6),
    "answer_max_tokens": ("77", 77),
    "min_covered_mass": ("0.6", 0.6),
    "clear signal": ("likelihood", "likelihood"),
    "drop_fraction": ("0.25", 0.25),
    "threshold": ("0.35", 0.35),
    "ties": ("rank", "rank"),
    "unscored": ("drop", "drop"),
    "scope": ("all", "all"),
    "proposer": ("base", "base"),
    "candidates": ("2", 2),
    "propose_temperature": ("0.5", 0.5),
    "propose_max_tokens": ("88", 88),
    "eta": ("0.7", 0.7),
    "max_length_ratio": ("2.5", 2.5),
    # mads
    "budget": ("20%", 0.2),
    "selector": ("other", "other"),
    "objective": ("max_cover", "max_cover"),
    "optimizer": ("naive", "naive"),
    "epsilon": ("0.1", 0.1),
    "mads weighting": ("idf", "idf"),
    "rule": ("top_k", "top_k"),
    "mads k": ("4", 4),
    "pooling": ("mean", "mean"),
    "tokens": ("all", "all"),
    "feature_tokens": ("256", 256),
    "calibration_size": ("50", 50),
    "length_boundaries": ("64,256", (64, 256)),
    # bds and bmo
    "validation": (TRUSTED, (TRUSTED,)),
    "validation_split": ("10%", 0.1),
    "weighting": ("softmax", "softmax"),
    "penalty_start": ("0.9", 0.9),
    "penalty_decay": ("0.03", 0.03),
    "selector_learning_rate": ("0.25", 0.25),
    "selection_epochs": ("2", 2.0),
    "keep": ("0.6", 0.6),
    "online_share": ("0.2", 0.2),
    "questions": ("random", "random"),
    "responses": ("2", 2),
    "max_answer_tokens": ("99", 99),
    "warmup_steps": ("5", 5),
    "refresh_steps": ("6", 6),
    "min_effective_share": ("0.3", 0.3),
    "response_weighting": ("uniform", "uniform"),
    "length_power": ("0.5", 0.5),
    "response_temperature": ("2", 2.0),
    "min_accepted": ("0.4", 0.4),
    "min_entropy": ("0.2", 0.2),
    "max_divergence": ("1.5", 1.5),
    # filter and auto
    "signal": ("loss", "loss"),
    "among": ("5", 5),
    "outliers": ("2.5", 2.5),
    "folds": ("3", 3),
    "trusted": (TRUSTED, (TRUSTED,)),
    "start": ("trusted", "trusted"),
    "trusted_epochs": ("2", 2.0),
    "passes": ("2", 2),
    "shares": ("0.9,0.6", (0.9, 0.6)),
    "rival": ("pmi", "pmi"),
    "errors": ("1.5", 1.5),
}

OF_SETTINGS = [(recipe, name) for recipe, (_, table, _) in RECIPES.items() for name in table]
OF_WORK = [(recipe, name) for recipe, (_, table, _) in RECIPES.items() for name in work_of(table)]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("options") / "data.jsonl"
    path.write_text(json.dumps({"instruction": "Q?", "output": "A.", "right": "B."}) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def asked(data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[RecipeSettings, RunOptions]]:
    """What `burnish run` would run, by recipe and arguments: all is done but the run itself."""
    found: list[tuple[RecipeSettings, RunOptions]] = []

    def noted(settings: RecipeSettings, _out: Path, options: RunOptions) -> object:
        found.append((settings, options))
        return object()  # as though it had been run before

    monkeypatch.setattr(run, "check_data", lambda _: None)  # what is given here is no file
    monkeypatch.setattr(run, "finished", noted)
    monkeypatch.setattr(run, "_conclude", lambda _summary, **_: None)

    def ask(recipe: str, *arguments: str) -> tuple[RecipeSettings, RunOptions]:
        command("run", recipe, "--data", str(data), "--model", "base", "--out", str(data.parent / "out"), *arguments)
        return found.pop()

    return ask


@pytest.fixture
def varied(data: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RecipeSettings]:
    """The settings of the only point that `burnish sweep` would run, by recipe and arguments."""
    found: list[RecipeSettings] = []

    def noted(points: list[Point]) -> None:
        found.extend(point.settings for point in points)
        raise typer.Exit

    monkeypatch.setattr(sweep, "check_different", noted)

    def ask(recipe: str, *arguments: str) -> RecipeSettings:
        command("sweep", recipe, "--data", str(data), "--model", "base", "--out", str(data.parent / "out"), *arguments)
        (settings,) = found
        return settings

    return ask


def command(*arguments: str) -> None:
    """Runs the command in this process; it must end well."""
    assert not COMMAND.main(list(arguments), prog_name="burnish", standalone_mode=False)


def flags_of(annotation: Any) -> list[str]:
    """The flags of an option; of a switch that can be turned off, that which does so last."""
    info = annotation.__metadata__[0]
    return [flag for text in (info.default, *(info.param_decls or ())) for flag in text.split("/")]


def kind_of(annotation: Any) -> Any:
    """What an option takes, where it is given."""
    return next(kind for kind in get_args(get_args(annotation)[0]) if kind is not type(None))


def of(values: Mapping[str, Any], recipe: str, name: str, otherwise: Any) -> Any:
    return values.get(f"{recipe} {name}", values.get(name, otherwise))


def needed(recipe: str, name: str) -> list[str]:
    """The arguments that an option needs beside it."""
    always = () if name in ("validation", "validation_split") else NEEDED.get(recipe, ())
    if recipe == "auto" and name == "trusted":
        always = ()
    along = of(ALONG, recipe, name, ())
    return [*along] if "--trusted" in along else [*always, *along]


def written(recipe: str, name: str, annotation: Any) -> tuple[list[str], str, object]:
    """An option on a command line, the same as a word for a sweep, and the value that it must give its setting."""
    flags, kind = flags_of(annotation), kind_of(annotation)
    if kind is bool:
        return [flags[-1]], str(len(flags) == 1).lower(), len(flags) == 1
    text, value = of(GIVEN, recipe, name, (None, None))
    assert text is not None, f"option {name} is new: say in GIVEN what is written after it, and what that means"
    words = text.split(",") if get_args(kind) else [text]
    return [part for word in words for part in (flags[0], word)], text.replace(",", "+"), value


def at(values: BaseModel, path: str) -> object:
    found: Any = values
    for name in path.split("."):
        found = getattr(found, name)
    return found


def field_at(kind: type[BaseModel], path: str) -> FieldInfo:
    *groups, last = path.split(".")
    for group in groups:
        kind = kind.model_fields[group].annotation  # type: ignore[assignment]
    return kind.model_fields[last]


def default_of(kind: type[BaseModel], path: str) -> object:
    first, _, rest = path.partition(".")
    value = kind.model_fields[first].get_default(call_default_factory=True)
    return at(value, rest) if rest else value


@pytest.mark.parametrize(("kind", "table"), TABLES, ids=[kind.__name__ for kind, _ in TABLES])
def test_a_table_names_settings_that_there_are_and_each_once(kind: type[BaseModel], table: Table) -> None:
    for path, _ in table.values():
        field_at(kind, path)  # raises KeyError where there is none
    paths = Counter(path for path, _ in table.values())
    flags = Counter(flag for _, annotation in table.values() for flag in flags_of(annotation))
    assert [name for name, count in (paths + flags).items() if count > 1] == []
    assert all(flag.startswith("--") for flag in flags)
    assert sweep.setting_paths(table).keys() == {flags_of(one)[0].removeprefix("--") for _, one in table.values()}


def test_no_flag_of_a_command_stands_for_two_things() -> None:
    seen = 0
    for path, one in commands(COMMAND, "burnish"):
        flags = Counter(flag for parameter in one.params for flag in (*parameter.opts, *parameter.secondary_opts))
        assert [flag for flag, count in flags.items() if count > 1] == [], path
        seen += 1
    assert seen > 2 * len(RECIPES)


@pytest.mark.parametrize(("recipe", "name"), OF_SETTINGS)
def test_an_option_arrives_in_the_settings(asked: Callable[..., Any], recipe: str, name: str) -> None:
    kind, table, _ = RECIPES[recipe]
    path, annotation = table[name]
    words, _, value = written(recipe, name, annotation)
    settings, _ = asked(recipe, *needed(recipe, name), *words)
    assert type(settings) is kind
    assert at(settings, path) == value
    assert default_of(kind, path) != value, "else nothing is shown"


@pytest.mark.parametrize(("recipe", "name"), OF_WORK)
def test_an_option_arrives_in_how_a_run_is_worked(asked: Callable[..., Any], recipe: str, name: str) -> None:
    path, annotation = work_of(RECIPES[recipe][1])[name]
    words, _, value = written(recipe, name, annotation)
    _, options = asked(recipe, *needed(recipe, name), *words)
    assert at(options, path) == value
    assert default_of(RunOptions, path) != value, "else nothing is shown"


@pytest.mark.parametrize(("recipe", "name"), OF_SETTINGS)
def test_a_sweep_sets_what_the_option_sets(
    asked: Callable[..., Any], varied: Callable[..., Any], recipe: str, name: str
) -> None:
    annotation = RECIPES[recipe][1][name][1]
    words, word, _ = written(recipe, name, annotation)
    expected, _ = asked(recipe, *needed(recipe, name), *words)
    flag = flags_of(annotation)[0].removeprefix("--")
    assert varied(recipe, *needed(recipe, name), "--vary", f"{flag}={word}") == expected


@pytest.mark.parametrize("name", TRAINING)
def test_training_alone_has_the_same_options(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    found: list[TrainingSettings] = []

    def noted(kind: type[TrainingSettings], values: dict[str, Any]) -> None:
        found.append(parse_settings(kind, values))
        raise typer.Exit

    monkeypatch.setattr(train, "parse_settings", noted)
    path, annotation = TRAINING[name]
    words, _, value = written("train", name, annotation)
    place = ("--data", str(data), "--model", "base", "--out", str(tmp_path / "out"))
    command("train", *place, *needed("train", name), *words)
    assert at(found[0], path.removeprefix("training.")) == value


def test_what_is_not_given_is_left_to_the_recipe(asked: Callable[..., Any]) -> None:
    for recipe, (kind, _, _) in RECIPES.items():
        settings, options = asked(recipe, *NEEDED.get(recipe, ()))
        own = {"data", "model", "trusted", "validation_split", "outliers", "among"}  # the last two follow from others
        for name in kind.model_fields.keys() - own:
            assert getattr(settings, name) == default_of(kind, name), (recipe, name)
        assert options == RunOptions()


@pytest.mark.parametrize(
    ("text", "modules"),
    [
        ("q_proj", ("q_proj",)),
        ("q_proj,v_proj", ("q_proj", "v_proj")),
        (" q_proj , v_proj ", ("q_proj", "v_proj")),
    ],
)
def test_the_layers_that_get_an_adapter_are_listed_in_a_word(
    asked: Callable[..., Any], text: str, modules: tuple[str, ...]
) -> None:
    settings, _ = asked("middo", "--lora-rank", "8", "--lora-modules", text)
    assert settings.training.lora_modules == modules
    assert settings.lora() == Lora(8, None, None, modules, None)
    with pytest.raises(InputError, match="give lora_rank as well"):
        parse_settings(TrainingSettings, {"lora_modules": text})


def test_what_was_given_is_nested_and_the_rest_is_not_there() -> None:
    table: Table = {"one": ("a.b", None), "two": ("a.c", None), "three": ("d", None), "four": ("e", None)}
    values = {"one": 0, "two": False, "three": Path("here"), "four": []}
    assert given(table, values) == {"a": {"b": 0, "c": False}, "d": "here"}
    assert given(table, {"one": None}) == {}
