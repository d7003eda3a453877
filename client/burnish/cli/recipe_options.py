"""The settings of a recipe as command-line options: one table, so that a flag, its setting and its help stand together.

An option that is not given leaves its setting at the recipe's default.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from burnish.coordinator.policy.middo import Axis, Control, Overlap, Unparseable

_SELECT = "What is selected"
_JUDGE = "Judging and rewriting"
_TRAIN = "Training"
_WORK = "How the run is worked"


def _option(kind: Any, flag: str, text: str, panel: str, **more: Any) -> Any:
    return Annotated[kind | None, typer.Option(flag, help=text, rich_help_panel=panel, show_default=False, **more)]


# Parameter -> (setting, with dots where it is nested; the option)
MIDDO: dict[str, tuple[str, Any]] = {
    "rounds": ("rounds", _option(int, "--rounds", "Rounds of refinement; default 1.", _SELECT, min=1, max=100)),
    "axes": (
        "axes",
        _option(list[Axis], "--axis", "Work on this axis only; may be repeated. Default: all three.", _SELECT),
    ),
    "m_loss": (
        "m_loss",
        _option(float, "--m-loss", "Too hard: losses above mean + m deviations; default 1.", _SELECT),
    ),
    "m_sparse": (
        "m_sparse",
        _option(float, "--m-sparse", "Sparse: similarity below mean - m deviations; default 1.", _SELECT),
    ),
    "m_quality": (
        "m_quality",
        _option(float, "--m-quality", "Low quality: ratings below mean - m deviations; default 1.", _SELECT),
    ),
    "share_loss": ("share_loss", _option(float, "--share-loss", "Select this share instead of by --m-loss.", _SELECT)),
    "share_sparse": (
        "share_sparse",
        _option(float, "--share-sparse", "Select this share instead of by --m-sparse.", _SELECT),
    ),
    "share_quality": (
        "share_quality",
        _option(float, "--share-quality", "Select this share instead of by --m-quality.", _SELECT),
    ),
    "ddof_loss": (
        "ddof_loss",
        _option(int, "--ddof-loss", "0: population deviation (default), 1: sample.", _SELECT, min=0, max=1),
    ),
    "ddof_sparse": (
        "ddof_sparse",
        _option(int, "--ddof-sparse", "0: population deviation (default), 1: sample.", _SELECT, min=0, max=1),
    ),
    "ddof_quality": (
        "ddof_quality",
        _option(int, "--ddof-quality", "0: population deviation, 1: sample (default).", _SELECT, min=0, max=1),
    ),
    "k": ("k", _option(int, "--neighbors", "Nearest neighbours looked at; default 2.", _SELECT, min=1, max=100)),
    "overlap": (
        "overlap",
        _option(Overlap, "--overlap", "A row both too hard and of low quality; default: both rewrites.", _SELECT),
    ),
    "unparseable": (
        "unparseable",
        _option(Unparseable, "--unparseable", "A row with ratings missing; default: exclude.", _SELECT),
    ),
    "max_rows": ("max_rows", _option(int, "--max-rows", "Most rows of the next data set.", _SELECT, min=1)),
    "control": (
        "control",
        _option(Control, "--control", "random: as many rows, drawn at random, to compare with.", _SELECT),
    ),
    "compat": ("compat", _option(bool, "--compat", "Do exactly as the published code does.", _SELECT)),
    "seed": ("seed", _option(int, "--seed", "Seed of everything random; default 0.", _SELECT, min=0)),
    "refiner": (
        "refiner",
        _option(str, "--refiner", "Model that rewrites; default: the base model.", _JUDGE, metavar="DIR"),
    ),
    "judge_temperature": (
        "judge.temperature",
        _option(float, "--judge-temperature", "Of the ratings; default 0.1.", _JUDGE),
    ),
    "judge_max_tokens": (
        "judge.max_tokens",
        _option(int, "--judge-max-tokens", "Most tokens of a rating; the number comes first; default 16.", _JUDGE),
    ),
    "rewrite_temperature": (
        "rewrite.temperature",
        _option(float, "--rewrite-temperature", "Of rewrites; default 1.", _JUDGE),
    ),
    "rewrite_top_p": ("rewrite.top_p", _option(float, "--rewrite-top-p", "Of rewrites; default 1.", _JUDGE)),
    "rewrite_max_tokens": (
        "rewrite.max_tokens",
        _option(int, "--rewrite-max-tokens", "Most tokens of a new prompt or answer; default 1024.", _JUDGE),
    ),
    "max_attempts": (
        "max_attempts",
        _option(int, "--attempts", "Tries before a rewrite is given up; default 3.", _JUDGE, min=1, max=10),
    ),
    "epochs": ("training.num_epochs", _option(float, "--epochs", "Passes over the data; default 1.", _TRAIN)),
    "max_steps": ("training.max_steps", _option(int, "--max-steps", "Stop a training after this many steps.", _TRAIN)),
    "learning_rate": (
        "training.learning_rate",
        _option(float, "--learning-rate", "Peak learning rate; default 2e-5.", _TRAIN),
    ),
    "warmup_ratio": (
        "training.warmup_ratio",
        _option(float, "--warmup-ratio", "Share of steps in which it rises; default 0.03.", _TRAIN),
    ),
    "lr_scheduler": (
        "training.lr_scheduler",
        _option(str, "--lr-scheduler", "cosine (default), linear or constant.", _TRAIN),
    ),
    "batch_size": (
        "training.per_device_batch_size",
        _option(int, "--batch-size", "Samples per forward pass; default 4.", _TRAIN),
    ),
    "accumulation": (
        "training.gradient_accumulation_steps",
        _option(int, "--accumulation", "Forward passes per optimiser step; default 8.", _TRAIN),
    ),
    "max_sequence_tokens": (
        "training.max_sequence_tokens",
        _option(int, "--max-sequence-tokens", "Longer samples are not trained on; default 4096.", _TRAIN),
    ),
    "train_dtype": (
        "training.dtype",
        _option(str, "--train-dtype", "float32 or bfloat16 weights while training.", _TRAIN),
    ),
    "gradient_checkpointing": (
        "training.gradient_checkpointing",
        _option(bool, "--gradient-checkpointing", "Less memory, more time.", _TRAIN),
    ),
}
WORK: dict[str, tuple[str, Any]] = {
    "items_per_batch": (
        "batch_size",
        _option(int, "--items-per-batch", "Samples asked for and committed at a time; default 32.", _WORK, min=1),
    ),
    "batches_in_flight": (
        "max_in_flight",
        _option(int, "--batches-in-flight", "Batches on the way at a time; default 4.", _WORK, min=1),
    ),
    "keep_models": (
        "keep_models",
        _option(str, "--keep-models", "all (default), or last to delete those of earlier rounds.", _WORK),
    ),
    "truth": (
        "truth",
        _option(
            Path,
            "--truth",
            "JSON lines of id and flaw, planted on purpose; only the report reads it.",
            _WORK,
            metavar="FILE",
        ),
    ),
}


def given(table: Mapping[str, tuple[str, Any]], values: Mapping[str, Any]) -> dict[str, Any]:
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
