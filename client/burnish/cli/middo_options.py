"""Middo's settings as options; see `recipe_options.py`."""

from __future__ import annotations

from burnish.cli.recipe_options import HOLD, TRAINING, Table, option, share
from burnish.coordinator.policy.acceptance import Accept, Rejected
from burnish.coordinator.policy.control import Control
from burnish.coordinator.policy.middo import Axis, Overlap, Unparseable

_SELECT = "What is selected"
_JUDGE = "Judging and rewriting"

MIDDO: Table = {
    "rounds": ("rounds", option(int, "--rounds", "Rounds of refinement; default 1.", _SELECT, min=1, max=100)),
    "axes": (
        "axes",
        option(list[Axis], "--axis", "Work on this axis only; may be repeated. Default: all three.", _SELECT),
    ),
    "m_loss": (
        "m_loss",
        option(float, "--m-loss", "Too hard: losses above mean + m deviations; default 1.", _SELECT),
    ),
    "m_sparse": (
        "m_sparse",
        option(float, "--m-sparse", "Sparse: similarity below mean - m deviations; default 1.", _SELECT),
    ),
    "m_quality": (
        "m_quality",
        option(float, "--m-quality", "Low quality: ratings below mean - m deviations; default 1.", _SELECT),
    ),
    "share_loss": ("share_loss", share("--share-loss", "Select this share instead of by --m-loss.", _SELECT)),
    "share_sparse": (
        "share_sparse",
        share("--share-sparse", "Select this share instead of by --m-sparse.", _SELECT),
    ),
    "share_quality": (
        "share_quality",
        share("--share-quality", "Select this share instead of by --m-quality.", _SELECT),
    ),
    "ddof_loss": (
        "ddof_loss",
        option(int, "--ddof-loss", "0: population deviation (default), 1: sample.", _SELECT, min=0, max=1),
    ),
    "ddof_sparse": (
        "ddof_sparse",
        option(int, "--ddof-sparse", "0: population deviation (default), 1: sample.", _SELECT, min=0, max=1),
    ),
    "ddof_quality": (
        "ddof_quality",
        option(int, "--ddof-quality", "0: population deviation, 1: sample (default).", _SELECT, min=0, max=1),
    ),
    "k": ("k", option(int, "--neighbors", "Nearest neighbours looked at; default 2.", _SELECT, min=1, max=100)),
    "overlap": (
        "overlap",
        option(Overlap, "--overlap", "A row both too hard and of low quality; default: both rewrites.", _SELECT),
    ),
    "unparseable": (
        "unparseable",
        option(Unparseable, "--unparseable", "A row with ratings missing; default: exclude.", _SELECT),
    ),
    "max_rows": (
        "max_rows",
        option(
            int,
            "--max-rows",
            "Add rows only up to this many in all, the sparsest first; rows that are there stay, be they more; default:"
            " no limit.",
            _SELECT,
            min=1,
        ),
    ),
    "control": (
        "control",
        option(Control, "--control", "random: as many rows, drawn at random, to compare with; default none.", _SELECT),
    ),
    "compat": ("compat", option(bool, "--compat", "Do as the published code does, as near as it goes.", _SELECT)),
    "seed": ("seed", option(int, "--seed", "Seed of everything random; default 0.", _SELECT, min=0)),
    "refiner": (
        "refiner",
        option(str, "--refiner", "Model that rewrites; default: the base model.", _JUDGE, metavar="DIR"),
    ),
    "judge_temperature": (
        "judge.temperature",
        option(float, "--judge-temperature", "Sampling temperature of ratings; 0 is greedy; default 0.1.", _JUDGE),
    ),
    "judge_max_tokens": (
        "judge.max_tokens",
        option(int, "--judge-max-tokens", "Most tokens of a rating; the number comes first; default 16.", _JUDGE),
    ),
    "rewrite_temperature": (
        "rewrite.temperature",
        option(float, "--rewrite-temperature", "Sampling temperature of rewrites; 0 is greedy; default 1.", _JUDGE),
    ),
    "rewrite_top_p": ("rewrite.top_p", option(float, "--rewrite-top-p", "Of rewrites; default 1.", _JUDGE)),
    "rewrite_max_tokens": (
        "rewrite.max_tokens",
        option(int, "--rewrite-max-tokens", "Most tokens of a new prompt or answer; default 1024.", _JUDGE),
    ),
    "max_attempts": (
        "max_attempts",
        option(int, "--attempts", "Tries before a rewrite is given up; default 3.", _JUDGE, min=1, max=10),
    ),
    "accept": (
        "accept",
        option(
            Accept,
            "--accept",
            "valid (default): any rewrite that passes the rules, as published; agree: only where neither the round's"
            " model finds it less likely nor the base model rates it lower than the original; none: no rewrite, which"
            " with --rejected drop is the set without the rows that were to be replaced.",
            _JUDGE,
        ),
    ),
    "rejected": (
        "rejected",
        option(Rejected, "--rejected", "A row whose rewrites are refused: keep (default) or drop.", _JUDGE),
    ),
    **HOLD,
    **TRAINING,
}
