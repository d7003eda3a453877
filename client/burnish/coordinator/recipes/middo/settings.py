"""Middo as settings: everything that determines what a run makes, with the published values as defaults.

The method itself is written out in `loop.py` beside this, its decisions in `burnish.coordinator.policy.middo`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, Field, TypeAdapter, ValidationError, field_validator, model_validator

from burnish._types import Sampling, ValidationRules
from burnish.coordinator.content import derive_seed
from burnish.coordinator.policy.acceptance import Accept, Rejected
from burnish.coordinator.policy.control import Control
from burnish.coordinator.policy.middo import Axis, Overlap, PolicySettings, Unparseable
from burnish.coordinator.policy.thresholds import Rule
from burnish.coordinator.recipes.base import FROZEN, HoldSettings, SamplingSettings, absolute
from burnish.coordinator.recipes.shares import Share


class RewriteRules(BaseModel):
    """What a rewrite must satisfy; see rewriting.proto."""

    model_config = FROZEN

    min_prompt_chars: int = Field(10, ge=0)
    max_prompt_chars: int = Field(4000, ge=1)
    min_response_chars: int = Field(1, ge=0)
    max_response_chars: int = Field(16000, ge=1)
    max_similarity: float = Field(0.95, gt=0, le=1)
    allow_language_change: bool = False

    def rules(self) -> ValidationRules:
        """As the SDK wants it."""
        return ValidationRules(**self.model_dump())


# As near as it goes to the published code, which checks nothing but that there is something: neither length nor
# language, and of copies exact ones. Refusals, leaked instructions, repetition and replies that were cut off are never
# taken.
PUBLISHED_RULES = RewriteRules(
    min_prompt_chars=1,
    max_prompt_chars=1_000_000,
    min_response_chars=1,
    max_response_chars=1_000_000,
    max_similarity=1.0,
    allow_language_change=True,
)
PUBLISHED_JUDGE = SamplingSettings(temperature=0.1, top_p=0.7, top_k=50, max_tokens=1024)


class MiddoSettings(HoldSettings):
    """One run of Middo. Comparisons and formulas: `policy.middo`."""

    RECIPE: ClassVar[str] = "middo"
    STEPS: ClassVar[tuple[str, ...]] = (
        "read",
        "train",
        "evaluate",
        "score_pre",
        "score_post",
        "embed",
        "project",
        "judge",
        "decide",
        "refine",
        "score_rewrites",
        "judge_rewrites",
        "accept",
        "calibrate",
        "features",
        "hold",
        "assemble",
    )

    refiner: str = Field("", description="model that rewrites; empty: the base model")

    axes: tuple[Axis, ...] = Field(tuple(Axis), min_length=1)
    m_loss: float = 1.0
    m_sparse: float = 1.0
    m_quality: float = 1.0
    share_loss: Share | None = Field(None, gt=0, le=1, description="share of rows to select instead of m_loss")
    share_sparse: Share | None = Field(None, gt=0, le=1)
    share_quality: Share | None = Field(None, gt=0, le=1)
    ddof_loss: int = Field(0, ge=0, le=1)
    ddof_sparse: int = Field(0, ge=0, le=1)
    ddof_quality: int = Field(1, ge=0, le=1)
    k: int = Field(2, ge=1, le=100)
    overlap: Overlap = Overlap.BOTH
    unparseable: Unparseable = Unparseable.EXCLUDE
    max_rows: int | None = Field(None, ge=1, description="most rows of the next data set; only additions are cut")
    control: Control = Control.NONE
    compat: bool = Field(False, description="do as the published code does, as near as it goes")

    judge: SamplingSettings = SamplingSettings(temperature=0.1, top_p=0.7, top_k=50, max_tokens=16)
    rewrite: SamplingSettings = SamplingSettings(temperature=1.0, top_p=1.0, top_k=0, max_tokens=1024)
    max_attempts: int = Field(3, ge=1, le=10)
    rules: RewriteRules = RewriteRules()
    accept: Accept = Field(Accept.VALID, description="which rewrites are accepted; agree departs from the paper")
    rejected: Rejected = Field(Rejected.KEEP, description="what happens to a row whose rewrite is refused")

    @field_validator("axes", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("axes")
    @classmethod
    def _in_order(cls, value: tuple[Axis, ...]) -> tuple[Axis, ...]:
        return tuple(axis for axis in Axis if axis in value)

    @model_validator(mode="before")
    @classmethod
    def _follow_the_published_code(cls, values: Any) -> Any:
        """With `compat`, fills in what is published and refuses what contradicts it."""
        if not isinstance(values, dict) or not _is_true(values.get("compat", False)):
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
            "hold_size": None,
            "axes": tuple(Axis),
            "judge": PUBLISHED_JUDGE.model_dump(),
            "max_attempts": 1,
            "rules": PUBLISHED_RULES.model_dump(),
            "accept": Accept.VALID,
            "rejected": Rejected.KEEP,
        }
        wrong = [name for name, value in fixed.items() if name in values and _plain(values[name]) != _plain(value)]
        if wrong:
            raise ValueError(
                f"`compat` does as the published code does, which fixes {', '.join(f'`{one}`' for one in wrong)}; leave"
                f" out {'it' if len(wrong) == 1 else 'them'}, or `compat`"
            )
        return values | fixed

    @model_validator(mode="after")
    def _consistent(self) -> MiddoSettings:
        for axis in ("loss", "sparse", "quality"):
            if getattr(self, f"share_{axis}") is not None and getattr(self, f"m_{axis}") != 1.0:
                raise ValueError(f"`m_{axis}` and `share_{axis}` both say where the line is drawn; give one of them")
        return self

    @property
    def tries_rewrites(self) -> bool:
        """Whether more than the rewriting service's rules decides what becomes of a rewrite and its row."""
        return (self.accept, self.rejected) != (Accept.VALID, Rejected.KEEP)

    @property
    def rewrites(self) -> bool:
        """Whether rewrites are made at all."""
        return self.accept is not Accept.NONE

    def services(self) -> tuple[str, ...]:
        """See RecipeSettings."""
        embeds = Axis.SPARSE in self.axes or self.hold_size is not None
        needed = {"rewriting": self.rewrites, "embedding": embeds}
        return tuple(name for name in super().services() if needed.get(name, True))

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

    def models(self) -> dict[str, str]:
        """See RecipeSettings."""
        return {"rewriting": self.refiner} if self.refiner else {}

    def absolute(self) -> MiddoSettings:
        """See RecipeSettings."""
        return super().absolute().model_copy(update={"refiner": absolute(self.refiner)})


def _is_true(value: Any) -> bool:
    """What a switch is set to, which may come as a word; False for what is no such word, and refused later."""
    try:
        return TypeAdapter(bool).validate_python(value)
    except ValidationError:
        return False


def _plain(value: Any) -> Any:
    """A value as it compares: models, enums and tuples in their JSON form."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value.value if hasattr(value, "value") else value
