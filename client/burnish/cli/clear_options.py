"""CLEAR's settings as options; see `recipe_options.py`."""

from __future__ import annotations

from burnish._confidence_types import ConfidenceTier
from burnish.cli.recipe_options import HOLD, TRAINING, Table, option, share
from burnish.coordinator.policy.clear import Scope
from burnish.coordinator.policy.control import Control
from burnish.coordinator.policy.filtering import Ties
from burnish.coordinator.policy.verdict import Unscored
from burnish.coordinator.recipes.clear.settings import Proposer, Signal

_CONFIDENCE = "Confidence"
_FILTER = "Filtering"
_CORRECT = "Correcting"

CLEAR: Table = {
    "tier": (
        "tier",
        option(
            ConfidenceTier,
            "--tier",
            "fast: the model's own verdict; standard (default): and sampled answers; full: and an NLI model, which the"
            " scoring service is told of by BURNISH_SCORING_NLI_MODEL.",
            _CONFIDENCE,
        ),
    ),
    "alpha": (
        "alpha",
        option(float, "--alpha", "Similarity against exact match of answers; default 0.8.", _CONFIDENCE),
    ),
    "beta": ("beta", option(float, "--beta", "Sampled answers against the verdict; default 0.7.", _CONFIDENCE)),
    "likelihood_weight": (
        "likelihood_weight",
        option(float, "--likelihood-weight", "The response's probability against both; default 0.", _CONFIDENCE),
    ),
    "num_answers": (
        "num_answers",
        option(int, "--answers", "Answers sampled per prompt; default 5.", _CONFIDENCE, min=1, max=32),
    ),
    "answer_temperature": (
        "answers.temperature",
        option(float, "--answer-temperature", "Sampling temperature of answers; 0 is greedy; default 1.", _CONFIDENCE),
    ),
    "answer_max_tokens": (
        "answers.max_tokens",
        option(int, "--answer-max-tokens", "Most tokens of a sampled answer; default 256.", _CONFIDENCE),
    ),
    "min_covered_mass": (
        "min_covered_mass",
        option(float, "--min-mass", "Least probability of a verdict's letters; default 0.5.", _CONFIDENCE),
    ),
    "signal": (
        "signal",
        option(Signal, "--signal", "What rows are filtered by; default confidence, others to compare.", _FILTER),
    ),
    "drop_fraction": (
        "drop_fraction",
        share("--drop-fraction", "Drop this share of the rows; default: those below the median.", _FILTER),
    ),
    "threshold": (
        "threshold",
        option(float, "--threshold", "Keep rows at or above this, instead of a share.", _FILTER),
    ),
    "ties": (
        "ties",
        option(Ties, "--ties", "Rows on the line: all stay (keep, default), or go by seed (rank).", _FILTER),
    ),
    "unscored": (
        "unscored",
        option(Unscored, "--unscored", "Rows without a confidence; default: keep.", _FILTER),
    ),
    "filter_only": (
        "filter_only",
        option(bool, "--filter-only", "Stop before any training: filter, and write what is kept.", _FILTER),
    ),
    "control": (
        "control",
        option(
            Control, "--control", "random: as many rows fail, drawn at random, to compare with; default none.", _FILTER
        ),
    ),
    "scope": (
        "scope",
        option(Scope, "--scope", "Candidates for rows that failed (failed, default), or for all.", _CORRECT),
    ),
    "proposer": (
        "proposer",
        option(Proposer, "--proposer", "Who proposes: tuned on what passed (default), or base.", _CORRECT),
    ),
    "candidates": (
        "candidates",
        option(int, "--candidates", "Candidates per row; default 1.", _CORRECT, min=1, max=32),
    ),
    "propose_temperature": (
        "propose.temperature",
        option(float, "--propose-temperature", "Sampling temperature of candidates; 0 is greedy; default 0.", _CORRECT),
    ),
    "propose_max_tokens": (
        "propose.max_tokens",
        option(int, "--propose-max-tokens", "Most tokens of a candidate; default 512.", _CORRECT),
    ),
    "eta": ("eta", option(float, "--eta", "Replace where P(candidate better) is above this; default 0.8.", _CORRECT)),
    "swap": ("swap", option(bool, "--swap/--no-swap", "Ask in both orders; default: yes.", _CORRECT)),
    "max_length_ratio": (
        "max_length_ratio",
        option(
            float,
            "--max-length-ratio",
            "A candidate more than this many times as long cannot win; default: no limit.",
            _CORRECT,
        ),
    ),
    "rounds": ("rounds", option(int, "--rounds", "Rounds; default 1.", _CORRECT, min=1, max=100)),
    "seed": ("seed", option(int, "--seed", "Seed of everything random; default 0.", _CORRECT, min=0)),
    **HOLD,
    **TRAINING,
}
