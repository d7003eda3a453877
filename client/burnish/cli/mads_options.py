"""The settings of MADS-style selection as options; see `recipe_options.py`."""

from __future__ import annotations

from burnish._coverage_types import (
    ActivationPooling,
    CoverageOptimizer,
    FeatureRule,
    FeatureWeighting,
)
from burnish._types import TokenSpan
from burnish.cli.objective import Objective
from burnish.cli.recipe_options import TRAINING, Table, option

_SELECT = "Selecting"
_FEATURES = "Features"
_COMPARE = "Comparing"

MADS: Table = {
    "budget": (
        "budget",
        option(str, "--budget", "How many samples: a share such as 15% (default), or a number.", _SELECT, metavar="N"),
    ),
    "selector": (
        "selector",
        option(str, "--selector", "Whose neurons are looked at; default: the trained model's.", _SELECT, metavar="DIR"),
    ),
    "objective": (
        "objective",
        option(Objective, "--objective", "What a selection should be good at; default log.", _SELECT),
    ),
    "optimizer": (
        "optimizer",
        option(
            CoverageOptimizer,
            "--optimizer",
            "Default: lazy up to 100,000 samples (facility_location: 3,000), stochastic beyond.",
            _SELECT,
        ),
    ),
    "epsilon": (
        "epsilon",
        option(
            float,
            "--epsilon",
            "With --optimizer stochastic: the smaller, the more samples it looks at; default 0.05.",
            _SELECT,
        ),
    ),
    "weighting": (
        "weighting",
        option(FeatureWeighting, "--weighting", "All features alike (default), or rare ones more (idf).", _SELECT),
    ),
    "select_only": ("select_only", option(bool, "--select-only", "Stop before any training.", _SELECT)),
    "rule": (
        "rule",
        option(FeatureRule, "--rule", "When a neuron is active; default standardized_top_k.", _FEATURES),
    ),
    "k": ("k", option(int, "--top-k", "Active neurons of each layer; default a 256th, 8 to 32.", _FEATURES, min=1)),
    "pooling": (
        "pooling",
        option(
            ActivationPooling,
            "--pooling",
            "How several tokens become one; default max (above_zero: max_signed).",
            _FEATURES,
        ),
    ),
    "tokens": ("tokens", option(TokenSpan, "--tokens", "Whose activations count; default response.", _FEATURES)),
    "feature_tokens": (
        "max_tokens",
        option(int, "--feature-tokens", "Conversations are read up to here; default 1024.", _FEATURES, min=16),
    ),
    "calibration_size": (
        "calibration_size",
        option(int, "--calibration-size", "Samples that show what is usual; default 2000.", _FEATURES, min=2),
    ),
    "length_boundaries": (
        "length_boundaries",
        option(
            str,
            "--length-boundaries",
            "Compare neurons with samples of like length alone, such as 64,256 tokens; default: with all.",
            _FEATURES,
            metavar="N,N",
        ),
    ),
    "random_subsets": (
        "random_subsets",
        option(int, "--random-subsets", "Random subsets to train on as well; default 3.", _COMPARE, min=0, max=20),
    ),
    "compare_full": (
        "compare_full",
        option(bool, "--full/--no-full", "Train on all rows as well; default: yes.", _COMPARE),
    ),
    "seed": ("seed", option(int, "--seed", "Seed of everything random; default 0.", _SELECT, min=0)),
    **TRAINING,
}
