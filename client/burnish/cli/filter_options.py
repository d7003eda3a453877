"""The settings of filtering by a signal as options; see `recipe_options.py`."""

from __future__ import annotations

from burnish.cli.recipe_options import HOLD, TRAINING, Table, option, share
from burnish.coordinator.policy.signals import Signal
from burnish.coordinator.policy.verdict import Unscored
from burnish.coordinator.recipes.filter.settings import Start

_FILTER = "Filtering"
_CROSS = "Models that did not see a row"
_TRAIN = "Training on what is kept"
_COMPARE = "Comparing"


def _table(rival: Signal | str, keep: str, among: str, shares: str, trusted: str) -> Table:
    """The options of filtering, by these defaults, and what trusted rows are for."""
    return {
        "signal": (
            "signal",
            option(Signal, "--signal", "What rows are ranked by; default weakest.", _FILTER),
        ),
        "keep": (
            "keep",
            share("--keep", keep, _FILTER),
        ),
        "among": (
            "among",
            option(
                int,
                "--among",
                "Compare a row's value with so many neighbours by prompt instead of with all rows, so that what is hard"
                f" does not go as a whole; 0: with all rows. Default {among}.",
                _FILTER,
                min=0,
                max=100,
            ),
        ),
        "outliers": (
            "outliers",
            option(
                float,
                "--outliers",
                "Drop the rows that lie more than so many robust deviations below the median, be they none or many;"
                " default 3.5 by weakest, where neither --keep nor --shares is given, else none.",
                _FILTER,
            ),
        ),
        "unscored": (
            "unscored",
            option(Unscored, "--unscored", "Rows without a value; default: keep.", _FILTER),
        ),
        "folds": (
            "folds",
            option(
                int,
                "--folds",
                "For the cross signals, parts of the data, each measured by a model trained on the others; default 2.",
                _CROSS,
                min=2,
                max=10,
            ),
        ),
        "trusted": (
            "trusted",
            option(
                list[str],
                "--trusted",
                f"Rows known to be right{trusted} A file, folder or glob; may be repeated. Rows of the data with the"
                " same prompts are left out.",
                _FILTER,
                metavar="PATH",
            ),
        ),
        "start": (
            "start",
            option(
                Start,
                "--start",
                "What the first pass measures rows by: models of the other folds and of the trusted rows (folds), or"
                " one of the trusted rows alone (trusted); default folds.",
                _CROSS,
            ),
        ),
        "trusted_epochs": (
            "trusted_epochs",
            option(
                float,
                "--trusted-epochs",
                "With --start trusted, passes over the trusted rows that their model takes; default 3.",
                _CROSS,
            ),
        ),
        "passes": (
            "passes",
            option(
                int,
                "--passes",
                "Times that fold models are trained; from the second on, only on rows kept so far; default 1.",
                _CROSS,
                min=1,
                max=3,
            ),
        ),
        "shares": (
            "shares",
            option(
                str,
                "--shares",
                "Shares to try beside all rows, such as 85%,70%: a model is trained on each, and the trusted rows say"
                f" which is taken; default {shares}.",
                _FILTER,
                metavar="SHARES",
            ),
        ),
        "rival": (
            "rival",
            option(
                str,
                "--rival",
                "Another signal of the base model that is tried beside --signal: both on the middle one of --shares,"
                f" and on the others where it does better there; or none. Default {rival}.",
                _FILTER,
                metavar="SIGNAL",
            ),
        ),
        "cover": (
            "cover",
            option(
                bool,
                "--cover",
                "Also try a subset of the largest of --shares that represents it best (by neuron activations), as many"
                " rows as the middle share, weighted by rank; default: no.",
                _FILTER,
            ),
        ),
        "errors": (
            "errors",
            option(
                float,
                "--errors",
                "Of --shares: standard errors that one must be better by than all rows to be taken; default 2.",
                _FILTER,
                min=0,
            ),
        ),
        "weighted": (
            "weighted",
            option(
                bool,
                "--weighted",
                "Have what is kept count by its rank while it is trained on, the last row a quarter of the first.",
                _TRAIN,
            ),
        ),
        "compare": (
            "compare",
            option(
                bool,
                "--compare/--no-compare",
                "With --holdout, train on all rows and on random subsets as well, and with --trusted on all and trusted"
                " rows and on the trusted ones alone; default: yes.",
                _COMPARE,
            ),
        ),
        "random_subsets": (
            "random_subsets",
            option(int, "--random-subsets", "Random subsets to train on as well; default 3.", _COMPARE, min=0, max=20),
        ),
        "seed": ("seed", option(int, "--seed", "Seed of everything random; default 0.", _FILTER, min=0)),
        **HOLD,
        **TRAINING,
    }


FILTER = _table(
    "none",
    "Share of the scored rows to keep; default 0.7 (weakest: all but --outliers).",
    "16 by weakest and calibrated, else 0",
    "none",
    ". They choose among --shares, teach calibrated what right looks like, train the cross signals' models (with"
    " --shares half of them do, and half choose), and are compared with (--compare).",
)
_AUTO = _table(
    Signal.CALIBRATED,
    "No effect unless --passes is 2 or 3: share of the rows that the models of the next pass learn from; default 0.7."
    " Which share is kept in the end, --shares says.",
    "16",
    "0.85,0.7,0.5",
    "; needed. They choose among --shares, and teach calibrated what right looks like.",
)
# Shares say how many go.
AUTO = {name: one for name, one in _AUTO.items() if name not in ("outliers", "hold_size")}
