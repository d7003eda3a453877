"""The settings of recipes as command-line options: tables, so that a flag, its setting and its help stand together.

An option that is not given leaves its setting at the recipe's default. What a recipe has of its own is in
`middo_options.py`, `clear_options.py`, `mads_options.py`, `bds_options.py`, `bmo_options.py` and `filter_options.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from burnish._coverage_types import ProjectionMethod
from burnish.cli.expanding import Command, expanding
from burnish.coordinator.errors import InputError
from burnish.coordinator.recipes.base import SettingsError

# Parameter -> (setting, with dots where it is nested; the option)
Table = Mapping[str, tuple[str, Any]]

_TRAIN = "Training"
_WORK = "How the run is worked"


def option(kind: Any, flag: str, text: str, panel: str, **more: Any) -> Any:
    """An option of one kind, in one panel of the help."""
    return Annotated[kind | None, typer.Option(flag, help=text, rich_help_panel=panel, show_default=False, **more)]


def share(flag: str, text: str, panel: str) -> Any:
    """An option that takes a share, as 0.7 or as 70%."""
    return option(str, flag, text, panel, metavar="SHARE")


HOLD: Table = {
    "hold_size": (
        "hold_size",
        option(
            str,
            "--hold-size",
            "Most rows that go on: a share of the first round's such as 100%, or a number; those that cover all of them"
            " best by the base model's neurons; default: all.",
            "What goes on",
            metavar="N",
        ),
    ),
}
TRAINING: Table = {
    "epochs": ("training.num_epochs", option(float, "--epochs", "Passes over the data; default 1.", _TRAIN)),
    "max_steps": (
        "training.max_steps",
        option(int, "--max-steps", "Stop a training after this many steps; default: no limit.", _TRAIN),
    ),
    "learning_rate": (
        "training.learning_rate",
        option(float, "--learning-rate", "Peak learning rate; default 2e-5.", _TRAIN),
    ),
    "warmup_ratio": (
        "training.warmup_ratio",
        share("--warmup-ratio", "Share of steps in which it rises; default 0.03.", _TRAIN),
    ),
    "lr_scheduler": (
        "training.lr_scheduler",
        option(str, "--lr-scheduler", "cosine (default), linear or constant.", _TRAIN),
    ),
    "batch_size": (
        "training.per_device_batch_size",
        option(int, "--batch-size", "Samples per forward pass; default 4.", _TRAIN),
    ),
    "accumulation": (
        "training.gradient_accumulation_steps",
        option(int, "--accumulation", "Forward passes per optimiser step; default 8.", _TRAIN),
    ),
    "max_sequence_tokens": (
        "training.max_sequence_tokens",
        option(
            int,
            "--max-sequence-tokens",
            "Longer samples are not trained on; default 4096, or the model's context if that is shorter.",
            _TRAIN,
        ),
    ),
    "train_dtype": (
        "training.dtype",
        option(
            str,
            "--train-dtype",
            "Number format while training: float32, mixed (float32 weights, multiplied in bfloat16) or bfloat16 (half"
            " the memory, loses small updates); default float32 on a CPU, mixed on a GPU that has bfloat16.",
            _TRAIN,
        ),
    ),
    "gradient_checkpointing": (
        "training.gradient_checkpointing",
        option(bool, "--gradient-checkpointing", "Less memory, more time; default: no.", _TRAIN),
    ),
    "packing": (
        "training.packing",
        option(bool, "--packing", "Lay samples end to end instead of padding them; for GPUs; default: no.", _TRAIN),
    ),
    "max_loss_ratio": (
        "training.max_loss_ratio",
        option(
            float,
            "--max-loss-ratio",
            "Stop when a step's loss exceeds the largest of the last 100 by this factor; default 3, 0: never.",
            _TRAIN,
        ),
    ),
    "lora_rank": (
        "training.lora_rank",
        option(int, "--lora-rank", "Train low-rank adapters of this rank instead of all weights.", _TRAIN, min=1),
    ),
    "lora_alpha": (
        "training.lora_alpha",
        option(float, "--lora-alpha", "Their output is multiplied by this over the rank; default 32.", _TRAIN),
    ),
    "lora_dropout": (
        "training.lora_dropout",
        share("--lora-dropout", "Share of their inputs dropped while training; default 0.", _TRAIN),
    ),
    "lora_modules": (
        "training.lora_modules",
        option(
            str,
            "--lora-modules",
            "Linear layers that get one, such as q_proj,v_proj; default: all but the head.",
            _TRAIN,
            metavar="NAME,NAME",
        ),
    ),
    "lora_adapter_only": (
        "training.lora_adapter_only",
        option(bool, "--lora-adapter-only", "Publish them alone instead of merged into the model.", _TRAIN),
    ),
}
WORK: Table = {
    "items_per_batch": (
        "batch_size",
        option(int, "--items-per-batch", "Samples asked for and committed at a time; default 32.", _WORK, min=1),
    ),
    "batches_in_flight": (
        "max_in_flight",
        option(int, "--batches-in-flight", "Batches on the way at a time; default 4.", _WORK, min=1),
    ),
    "keep_models": (
        "keep_models",
        option(str, "--keep-models", "all (default), or last to delete those of earlier rounds.", _WORK),
    ),
    "models_uri": (
        "models_uri",
        option(
            str,
            "--models-uri",
            "Where the training service publishes models, such as s3://bucket/prefix, instead of the run directory;"
            " each run in a folder of its own.",
            _WORK,
            metavar="URI",
        ),
    ),
    "map": (
        "map",
        option(ProjectionMethod, "--map", "How the report's maps are drawn: by PCA (default) or UMAP.", _WORK),
    ),
    "truth": (
        "truth",
        option(
            str,
            "--truth",
            "What is known to be wrong, for the report alone: JSON lines of id and flaw, or the name of a column that"
            " holds the right response.",
            _WORK,
            metavar="FILE|COLUMN",
        ),
    ),
    "oracle": (
        "oracle",
        option(
            bool,
            "--oracle",
            "With --truth and --holdout, train on the right rows only as well once the recipe has ended, so that the"
            " report can say how much of what can be gained the run gained.",
            _WORK,
        ),
    ),
}
# For recipes that train nothing to compare with by themselves.
COMPARE: Table = {
    "compare": (
        "compare",
        option(
            bool,
            "--compare",
            "With --holdout, train on all rows as they came and on random ones as well, once the recipe has ended.",
            _WORK,
        ),
    ),
    "random_subsets": (
        "random_subsets",
        option(int, "--random-subsets", "How many times on random ones; default 3.", _WORK, min=0, max=20),
    ),
}


def work_of(table: Table) -> Table:
    """The options of how a run is worked, for a recipe with the settings of `table`."""
    return WORK if "random_subsets" in table else {**WORK, **COMPARE}


def given(table: Table, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that `values` sets, nested as the recipe wants them."""
    nested: dict[str, Any] = {}
    for name, (path, _) in table.items():
        value = values.get(name)
        if value is None or value == []:
            continue
        *groups, last = path.split(".")
        target = nested
        for group in groups:
            target = target.setdefault(group, {})
        target[last] = str(value) if isinstance(value, Path) else value
    return nested


def with_tables(**tables: Table) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Adds the options of each table to a command, whose parameter of the table's name gets what was given. Where these
    settings cannot be used, the command says so by the names of their flags."""
    expand = expanding(
        {name: (annotation, None) for table in tables.values() for name, (_, annotation) in table.items()},
        tables,
        lambda chosen: {name: given(table, chosen) for name, table in tables.items()},
    )
    names = flags(*tables.values())

    def decorate(function: Command) -> Command:
        @functools.wraps(function)
        def named(*args: Any, **kwargs: Any) -> None:
            try:
                function(*args, **kwargs)
            except SettingsError as error:
                raise InputError("; ".join(one.told(names) for one in error.problems)) from None

        return expand(named)

    return decorate


def flags(*tables: Table) -> dict[str, str]:
    """The flag of each setting of the tables, by the setting's whole name, and by the last part of it where no other
    setting is called so."""
    found: dict[str, str] = {}
    last: dict[str, list[str]] = {}
    for table in tables:
        for path, annotation in table.values():
            flag = str(annotation.__metadata__[0].default).split("/")[0]
            found[path] = flag
            last.setdefault(path.rpartition(".")[2], []).append(flag)
    return {name: one[0] for name, one in last.items() if len(one) == 1} | found
