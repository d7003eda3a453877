"""How much of everything at each size, and how long it will take, reckoned in tokens."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.efficacy.arms import ARMS, NOISY, ORACLE, SHARED, Work
from bench.efficacy.flaws import DUPLICATE, VAGUE
from bench.efficacy.rows import Fitting
from bench.efficacy.scores import SCORES
from bench.efficacy.tasks import ANSWERS, TASKS

# What needs no models but its own; filter's default.
CHEAP = (NOISY, ORACLE, "outliers")


@dataclass(frozen=True)
class Size:
    """`max_tokens`: of a right row, prompt and answer. `score_rows`: of the held-out rows, how many are answered.
    `steps`: of the optimiser, for all models alike, and so few that the rows which an arm is expected to keep, at the
    most noise half of them, are not read twice: a row that is read again is learnt by heart, right or wrong, which
    costs more than what is wrong. 0: as many as `epochs` passes over what each has."""

    tasks: tuple[str, ...]
    noise: tuple[float, ...]
    flaws: tuple[str, ...]
    arms: tuple[str, ...]
    rows: int
    validation_rows: int
    held_out_rows: int
    score_rows: int
    first_seed: int
    seeds: int
    max_tokens: int
    random_subsets: int
    epochs: float
    steps: int
    warm_steps: int
    warm_learning_rate: float
    learning_rate: float
    batch_size: int
    engine: str
    dtype: str
    train_dtype: str


_FULL = Size(
    tasks=tuple(TASKS),
    noise=(0.0, 0.3),
    flaws=(ANSWERS,),
    arms=tuple(ARMS),
    rows=1500,
    validation_rows=100,
    held_out_rows=300,
    score_rows=200,
    first_seed=0,
    seeds=3,
    max_tokens=512,
    random_subsets=2,
    epochs=1.0,
    steps=46,
    warm_steps=60,
    warm_learning_rate=5e-4,
    learning_rate=5e-5,
    batch_size=16,
    engine="transformers",
    dtype="float32",
    train_dtype="float32",
)
SIZES = {
    "small": Size(
        tasks=("procedural",),
        noise=(0.3,),
        flaws=(ANSWERS,),
        arms=CHEAP,
        rows=230,
        validation_rows=40,
        held_out_rows=80,
        score_rows=40,
        first_seed=0,
        seeds=3,
        max_tokens=256,
        random_subsets=1,
        epochs=1.0,
        steps=20,
        warm_steps=80,
        warm_learning_rate=4e-4,
        learning_rate=5e-5,
        batch_size=8,
        engine="transformers",
        dtype="float32",
        train_dtype="float32",
    ),
    "full": _FULL,
    "gpu": replace(_FULL, noise=(0.0, 0.1, 0.3, 0.5), flaws=(ANSWERS, VAGUE, DUPLICATE), score_rows=300, engine="vllm"),
}

# Of SmolLM2-135M in the transformers engine on two slow cores: tokens per second; and seconds to begin a training and
# to load its model for scoring and answering, and to start a cell's services.
TRAINED, READ, GENERATED = 85.0, 240.0, 40.0
PER_MODEL, PER_CELL = 20.0, 20.0


@dataclass(frozen=True)
class Estimate:
    """Of all cells together: models to be trained, tokens trained on, read and generated, and the seconds that two slow
    cores take for them."""

    cells: int = 0
    models: float = 0.0
    trained: float = 0.0
    read: float = 0.0
    generated: float = 0.0

    @property
    def seconds(self) -> float:
        """See the constants above."""
        working = self.trained / TRAINED + self.read / READ + self.generated / GENERATED
        return working + self.models * PER_MODEL + self.cells * PER_CELL

    def __add__(self, other: Estimate) -> Estimate:
        return Estimate(
            self.cells + other.cells,
            self.models + other.models,
            self.trained + other.trained,
            self.read + other.read,
            self.generated + other.generated,
        )

    def __str__(self) -> str:
        return (
            f"{self.cells} cells, {self.models:.0f} models: {self.trained / 1000:,.0f} thousand tokens to train on,"
            f" {self.read / 1000:,.0f} to read, {self.generated / 1000:,.0f} to write; about {self.seconds / 60:,.0f}"
            " minutes for SmolLM2-135M on two slow cores"
        )


def estimate(
    task: str, arms: Sequence[str], rows: Fitting, given: Size | Namespace, num_rows: int | None = None
) -> Estimate:
    """Of one cell."""
    count, held_out = num_rows or given.rows, given.held_out_rows
    chosen = [ARMS[name] for name in arms]
    shared = {name for arm in chosen for name in arm.work.shared}
    sizes = {arm.size for arm in chosen if arm.chooses} - {"100%"}
    controls = [Work()] * (given.random_subsets * len(sizes))
    work = [*(arm.work for arm in chosen), *controls, *(SHARED[name] for name in shared)]
    trainings = [share for one in work for share in one.trainings]
    helpers = [share for one in work for share in one.helpers]
    if given.steps:
        trained = given.steps * given.batch_size * (len(trainings) + sum(helpers))
    else:
        trained = count * given.epochs * sum([*trainings, *helpers])
    evaluated = len(chosen) + len(controls)
    answers = evaluated * min(given.score_rows, held_out) if task in SCORES else 0
    prompts = answers * (rows.tokens - rows.answer_tokens)
    return Estimate(
        cells=1,
        models=len(trainings) + len(helpers) + sum(one.learn > 0 for one in work),
        trained=rows.tokens * (trained + count * sum(one.learn for one in work)),
        read=rows.tokens * (count * sum(one.score for one in work) + held_out * evaluated) + prompts,
        generated=rows.answer_tokens * (answers + count * sum(one.generate for one in work)),
    )


def estimate_base(rows: Fitting, given: Size | Namespace) -> Estimate:
    """Of a base model that is trained first."""
    return Estimate(1, 1, rows.tokens * given.warm_steps * given.batch_size)
