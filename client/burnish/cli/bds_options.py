"""The settings of bilevel data selection as options; see `recipe_options.py`."""

from __future__ import annotations

from burnish.cli.recipe_options import TRAINING, Table, option, share

_VALIDATE = "Validation set (one of the two is needed)"
_LEARN = "Learning weights"
_SELECT = "Selecting"
_COMPARE = "Comparing"

BDS: Table = {
    "validation": (
        "validation",
        option(
            list[str],
            "--validation",
            "Trusted rows (--trusted elsewhere): samples that can be trusted, as a file, folder or glob; may be"
            " repeated. Rows of the data with the same prompts are left out of training.",
            _VALIDATE,
            metavar="PATH",
        ),
    ),
    "validation_split": (
        "validation_split",
        option(
            str,
            "--validation-split",
            "Hold so much of the data out as validation set: a share such as 5%, or a number of rows.",
            _VALIDATE,
            metavar="N",
        ),
    ),
    "weighting": (
        "weighting",
        option(str, "--weighting", "sigmoid (default), or softmax as SEAL has it.", _LEARN),
    ),
    "auxiliary": (
        "auxiliary",
        option(bool, "--auxiliary", "Go by how much a second model explains a sample better (Algorithm 1).", _LEARN),
    ),
    "penalty_start": (
        "penalty_start",
        share("--penalty-start", "Share of the validation loss in a step at first; default 0.8.", _LEARN),
    ),
    "penalty_decay": (
        "penalty_decay",
        share("--penalty-decay", "What that falls by with each pass; default 0.05.", _LEARN),
    ),
    "selector_learning_rate": (
        "selector_learning_rate",
        option(float, "--selector-learning-rate", "Default 0.5 for sigmoid, 0.005 for softmax.", _LEARN),
    ),
    "selection_epochs": (
        "selection_epochs",
        option(float, "--selection-epochs", "Passes over the data while weights are learnt; default 3.", _LEARN),
    ),
    "keep": ("keep", share("--keep", "Share of the rows that is trained on in the end; default 0.8.", _SELECT)),
    "compare": (
        "compare",
        option(
            bool,
            "--compare/--no-compare",
            "With --holdout, train on data and validation set together, on the latter alone, and on random subsets as"
            " well; default: yes.",
            _COMPARE,
        ),
    ),
    "random_subsets": (
        "random_subsets",
        option(int, "--random-subsets", "Random subsets to train on as well; default 3.", _COMPARE, min=0, max=20),
    ),
    "seed": ("seed", option(int, "--seed", "Seed of everything random; default 0.", _SELECT, min=0)),
    **TRAINING,
}
