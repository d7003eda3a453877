"""The settings of bilevel selection with online self-refinement as options; see `recipe_options.py`."""

from __future__ import annotations

from burnish.cli.bds_options import BDS
from burnish.cli.recipe_options import Table, option, share
from burnish.coordinator.policy.refinement import Questions

_REFINE = "Answering anew"
_WEIGH = "What answers weigh"
_GUARD = "When answering anew stops"

BMO: Table = {
    "online_share": (
        "online_share",
        share("--online-share", "Share of the questions that are answered anew; default 0.1.", _REFINE),
    ),
    "questions": (
        "questions",
        option(Questions, "--questions", "Those whose responses weigh least (default), or any at random.", _REFINE),
    ),
    "responses": (
        "responses",
        option(int, "--responses", "Answers to each; default 4.", _REFINE, min=1, max=32),
    ),
    "max_answer_tokens": (
        "max_answer_tokens",
        option(int, "--max-answer-tokens", "Longest answer; what is cut off is not learnt from; default 256.", _REFINE),
    ),
    "warmup_steps": (
        "warmup_steps",
        option(int, "--refine-after", "Steps before the first pause; default: one pass.", _REFINE, metavar="STEPS"),
    ),
    "refresh_steps": (
        "refresh_steps",
        option(int, "--refine-every", "Steps from pause to pause; default: one pass.", _REFINE, metavar="STEPS"),
    ),
    "min_effective_share": (
        "min_effective_share",
        share("--min-effective-share", "Pause sooner where less than this still counts; default 0.5.", _REFINE),
    ),
    "response_weighting": (
        "response_weighting",
        option(
            str,
            "--response-weighting",
            "self_normalized (default), raw, softmin, uniform, or token, as the published code has it.",
            _WEIGH,
        ),
    ),
    "length_power": (
        "length_power",
        option(float, "--length-power", "Log-ratios are divided by length to this power; default 1.", _WEIGH),
    ),
    "response_temperature": (
        "response_temperature",
        option(float, "--response-temperature", "Weights go by the ratios to one over this; default 1.", _WEIGH),
    ),
    "min_accepted": (
        "min_accepted",
        share(
            "--min-accepted",
            "Stop answering anew when fewer than this share of the answers pass the checks; default 0.5.",
            _GUARD,
        ),
    ),
    "min_entropy": (
        "min_entropy",
        share(
            "--min-entropy",
            "Stop answering anew when the answers' entropy falls below this share of the first ones'; default 0.1.",
            _GUARD,
        ),
    ),
    "max_divergence": (
        "max_divergence",
        option(
            float,
            "--max-divergence",
            "Stop answering anew when the answers are further than this from the base model, in nats per token;"
            " default: no limit.",
            _GUARD,
        ),
    ),
    **BDS,
}
