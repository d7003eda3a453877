"""Middo as settings: everything that determines what a run makes, with the published values as defaults.

What does not change the result (batch sizes, what is kept on disk) is in `RunOptions`. The method itself is written
out in `burnish.coordinator.loop`, its decisions in `burnish.coordinator.policy.middo`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from burnish._types import Hyperparameters, Sampling, ValidationRules
from burnish.coordinator.content import derive_seed
from burnish.coordinator.errors import InputError
from burnish.coordinator.formats import Columns
from burnish.coordinator.policy.middo import Axis, Control, Overlap, PolicySettings, Unparseable
from burnish.coordinator.policy.thresholds import Rule

RECIPE = "middo"
_FROZEN = ConfigDict(frozen=True, extra="forbid")


class SamplingSettings(BaseModel):
    """How text is sampled; ranges as in burnish.api.common.v1.SamplingParameters."""

    model_config = _FROZEN

    temperature: float = Field(ge=0, le=2)
    top_p: float = Field(gt=0, le=1)
    top_k: int = Field(ge=0)
    max_tokens: int = Field(ge=1)
    repetition_penalty: float = Field(default=1.0, ge=1, le=2)

    def sampling(self, seed: int) -> Sampling:
        """As the SDK wants it."""
        return Sampling(**self.model_dump(), seed=seed)


class RewriteRules(BaseModel):
    """What a rewrite must satisfy; see rewriting.proto."""

    model_config = _FROZEN

    min_prompt_chars: int = Field(10, ge=0)
    max_prompt_chars: int = Field(4000, ge=1)
    min_response_chars: int = Field(1, ge=0)
    max_response_chars: int = Field(16000, ge=1)
    max_similarity: float = Field(0.95, gt=0, le=1)
    allow_language_change: bool = False

    def rules(self) -> ValidationRules:
        """As the SDK wants it."""
        return ValidationRules(**self.model_dump())


# What the published code does, which checks nothing but that there is something.
PUBLISHED_RULES = RewriteRules(
    min_prompt_chars=1,
    max_prompt_chars=1_000_000,
    min_response_chars=1,
    max_response_chars=1_000_000,
    max_similarity=1.0,
    allow_language_change=True,
)
PUBLISHED_JUDGE = SamplingSettings(temperature=0.1, top_p=0.7, top_k=50, max_tokens=1024)


class TrainingSettings(BaseModel):
    """How each round trains; unset values take the training service's defaults (see training.proto)."""

    model_config = _FROZEN

    num_epochs: float | None = Field(None, gt=0)
    max_steps: int | None = Field(None, ge=1)
    learning_rate: float | None = Field(None, gt=0)
    warmup_ratio: float | None = Field(None, ge=0, le=1)
    lr_scheduler: Literal["cosine", "linear", "constant"] | None = None
    per_device_batch_size: int | None = Field(None, ge=1)
    gradient_accumulation_steps: int | None = Field(None, ge=1)
    weight_decay: float | None = Field(None, ge=0)
    max_grad_norm: float | None = Field(None, ge=0)
    max_sequence_tokens: int | None = Field(None, ge=1)
    dtype: Literal["float32", "bfloat16"] | None = None
    seed: int | None = Field(None, ge=0, lt=2**32, description="default: derived from the run's seed and the round")
    checkpoint_steps: int | None = Field(None, ge=1)
    gradient_checkpointing: bool | None = None


class MiddoSettings(BaseModel):
    """One run of Middo. `data` names files, folders, globs or a saved Hugging Face data set; `model` is the directory
    of the base model, as the services see it. Comparisons and formulas: `policy.middo`."""

    model_config = _FROZEN

    data: tuple[str, ...] = Field(min_length=1)
    columns: Columns = Columns()
    skip_bad_rows: bool = False
    holdout: tuple[str, ...] = Field((), description="held-out data that losses are measured on; never trained on")
    model: str = Field(min_length=1)
    refiner: str = Field("", description="model that rewrites; empty: the base model")
    rounds: int = Field(1, ge=1, le=100)
    seed: int = Field(0, ge=0, lt=2**63)

    axes: tuple[Axis, ...] = Field(tuple(Axis), min_length=1)
    m_loss: float = 1.0
    m_sparse: float = 1.0
    m_quality: float = 1.0
    share_loss: float | None = Field(None, gt=0, le=1, description="share of rows to select instead of m_loss")
    share_sparse: float | None = Field(None, gt=0, le=1)
    share_quality: float | None = Field(None, gt=0, le=1)
    ddof_loss: Literal[0, 1] = 0
    ddof_sparse: Literal[0, 1] = 0
    ddof_quality: Literal[0, 1] = 1
    k: int = Field(2, ge=1, le=100)
    overlap: Overlap = Overlap.BOTH
    unparseable: Unparseable = Unparseable.EXCLUDE
    max_rows: int | None = Field(None, ge=1, description="most rows of the next data set; only additions are cut")
    control: Control = Control.NONE
    compat: bool = Field(False, description="do exactly as the published code does")

    judge: SamplingSettings = SamplingSettings(temperature=0.1, top_p=0.7, top_k=50, max_tokens=16)
    rewrite: SamplingSettings = SamplingSettings(temperature=1.0, top_p=1.0, top_k=0, max_tokens=1024)
    max_attempts: int = Field(3, ge=1, le=10)
    rules: RewriteRules = RewriteRules()
    training: TrainingSettings = TrainingSettings()

    @field_validator("data", "holdout", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        items = [value] if isinstance(value, str | Path) else value
        return tuple(str(item) for item in items) if isinstance(items, list | tuple) else items

    @field_validator("axes")
    @classmethod
    def _in_order(cls, value: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple(axis for axis in Axis if axis in value)

    @model_validator(mode="before")
    @classmethod
    def _follow_the_published_code(cls, values: Any) -> Any:
        """With `compat`, fills in what is published and refuses what contradicts it."""
        if not isinstance(values, dict) or not values.get("compat"):
            return values
        fixed: dict[str, Any] = {
            "m_loss": 1.0,  # the published filter ignores its --m on this axis
            "share_loss": None,
            "ddof_loss": 0,
            "ddof_sparse": 0,
            "ddof_quality": 1,
            "overlap": Overlap.BOTH,
            "unparseable": Unparseable.ZERO,
            "max_rows": None,
            "axes": tuple(Axis),
            "judge": PUBLISHED_JUDGE.model_dump(),
            "max_attempts": 1,
            "rules": PUBLISHED_RULES.model_dump(),
        }
        wrong = [name for name, value in fixed.items() if name in values and _plain(values[name]) != _plain(value)]
        if wrong:
            raise ValueError(
                f"compat does exactly as the published code does, which fixes {', '.join(wrong)}; leave out"
                f" {'it' if len(wrong) == 1 else 'them'}, or compat"
            )
        return values | fixed

    @model_validator(mode="after")
    def _consistent(self) -> MiddoSettings:
        for axis in ("loss", "sparse", "quality"):
            if getattr(self, f"share_{axis}") is not None and getattr(self, f"m_{axis}") != 1.0:
                raise ValueError(f"m_{axis} and share_{axis} both say where the line is drawn; give one of them")
        return self

    @classmethod
    def parse(cls, values: dict[str, Any]) -> MiddoSettings:
        """Settings from plain values. Raises InputError that names every setting that is wrong."""
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            lines = [f"{'.'.join(map(str, e['loc'])) or 'settings'}: {e['msg']}" for e in error.errors()]
            raise InputError("The settings cannot be used. " + "; ".join(lines)) from None

    def policy(self) -> PolicySettings:
        """The settings of the pure policy."""
        return PolicySettings(
            axes=frozenset(self.axes),
            loss=Rule(self.m_loss, self.share_loss, self.ddof_loss),
            sparse=Rule(self.m_sparse, self.share_sparse, self.ddof_sparse),
            quality=Rule(self.m_quality, self.share_quality, self.ddof_quality),
            k=self.k,
            overlap=self.overlap,
            unparseable=self.unparseable,
            max_rows=self.max_rows,
            control=self.control,
            seed=self.seed,
            compat=self.compat,
        )

    def judge_sampling(self, round_number: int) -> Sampling:
        """How a round's ratings are sampled."""
        return self.judge.sampling(derive_seed(self.seed, round_number, "judge"))

    def rewrite_sampling(self, round_number: int) -> Sampling:
        """How a round's rewrites are sampled."""
        return self.rewrite.sampling(derive_seed(self.seed, round_number, "rewrite"))

    def hyperparameters(self, round_number: int) -> Hyperparameters:
        """How a round trains."""
        values = self.training.model_dump()
        if values["seed"] is None:
            values["seed"] = derive_seed(self.seed, round_number, "train") % 2**32
        return Hyperparameters(**values)

    def identity(self, data_digest: str, holdout_digest: str) -> dict[str, Any]:
        """What a run's id is made from: all settings, with data named by content instead of by place."""
        return self.model_dump(mode="json") | {"data": data_digest, "holdout": holdout_digest}


class RunOptions(BaseModel):
    """How a run is worked; may be changed when it goes on."""

    model_config = _FROZEN

    batch_size: int = Field(32, ge=1, description="samples asked for, and committed, at a time")
    max_in_flight: int = Field(4, ge=1, description="batches on the way at a time")
    retries: int = Field(2, ge=0, description="how often items with a retryable failure are asked for again")
    keep_models: Literal["all", "last"] = "all"
    truth: str = Field("", description="JSONL of id and flaw, for the report; no recipe reads it")


def _plain(value: Any) -> Any:
    """A value as it compares: models, enums and tuples in their JSON form."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.value if hasattr(value, "value") else value
