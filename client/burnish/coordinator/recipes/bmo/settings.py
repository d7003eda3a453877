"""Bilevel selection with online self-refinement as settings: everything that determines what a run makes.

Xiao and Chen, arXiv 2511.21056 (BMO). Of the paper's formula for what a response weighs only the abstract could be
read: the importance ratios here are our derivation, and the variants that others use can be chosen
(--response-weighting). docs/bilevel.md says what is whose; the method itself is written out in `loop.py` beside this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from burnish._training_types import SelfRefinement
from burnish._types import Sampling
from burnish.coordinator.content import derive_seed
from burnish.coordinator.policy.refinement import Limits, Questions
from burnish.coordinator.recipes.base import NoEffect
from burnish.coordinator.recipes.bds.settings import BdsSettings
from burnish.coordinator.recipes.shares import Share

MOST_ONLINE = 0.5  # share of the questions that may be answered anew: beyond it a model learns from itself above all
# What the weights of answers go by, and whether they tell how many still count; the others weigh all alike.
_USED: Mapping[str, tuple[str, ...]] = {
    "self_normalized": ("min_effective_share", "length_power", "response_temperature"),
    "raw": ("min_effective_share", "length_power"),
    "softmin": ("min_effective_share", "length_power", "response_temperature"),
    "uniform": (),
    "token": (),
}


class BmoSettings(BdsSettings):
    """One run of bilevel selection in which the model answers some questions anew. What the settings of how its answers
    are weighed mean: training.proto, SelfRefinement."""

    RECIPE: ClassVar[str] = "bmo"
    STEPS: ClassVar[tuple[str, ...]] = (
        "read",
        "split",
        "train",
        "respond",
        "probe",
        "evaluate",
        "weigh",
        "decide",
        "assemble",
    )

    online_share: Share = Field(0.1, gt=0, le=MOST_ONLINE, description="share of the questions that are answered anew")
    questions: Questions = Field(Questions.LOWEST, description="which: those whose responses weigh least, or any")
    responses: int = Field(4, ge=1, le=32, description="answers to each")
    max_answer_tokens: int = Field(256, ge=1, description="of an answer; one that is cut off there is not learnt from")

    warmup_steps: int | None = Field(None, ge=0, description="first pause; default: after a pass over the data")
    refresh_steps: int | None = Field(None, ge=1, description="from one pause to the next; default: a pass")
    min_effective_share: Share | None = Field(None, ge=0, le=1, description="pause sooner where less still counts")
    response_weighting: Literal["self_normalized", "raw", "softmin", "uniform", "token"] = "self_normalized"
    length_power: float | None = Field(None, ge=0, le=1)
    response_temperature: float | None = Field(None, gt=0)

    min_accepted: Share = Field(0.5, ge=0, le=1, description="stop where a smaller share of answers passes the checks")
    min_entropy: Share = Field(0.1, ge=0, le=1, description="stop where entropy falls below this share of the first")
    max_divergence: float | None = Field(None, gt=0, description="stop beyond so many nats per token from the base")

    @model_validator(mode="after")
    def _pauses(self) -> Self:
        if self.warmup_steps is None and self.selection_epochs <= 1:
            raise ValueError(
                f"`selection_epochs` is {self.selection_epochs:g} and the first pause comes after a pass over the data:"
                " no question would be answered anew; expected more passes, or a sooner pause (`warmup_steps`)"
            )
        return self

    def without_effect(self) -> Iterator[NoEffect]:
        """See RecipeSettings."""
        yield from super().without_effect()
        used = _USED[self.response_weighting]
        for name in _USED["self_normalized"]:
            if name not in used:
                others = ", ".join(weighting for weighting, names in _USED.items() if name in names)
                why = f"where `response_weighting` is {self.response_weighting}; leave it out, or take {others}"
                yield NoEffect(name, why)

    def services(self) -> tuple[str, ...]:
        """See RecipeSettings."""
        return ("scoring", "rewriting", "training")

    def refinement(self) -> SelfRefinement:
        """When the training pauses, and how it weighs answers."""
        return SelfRefinement(
            warmup_steps=self.warmup_steps,
            refresh_steps=self.refresh_steps,
            min_effective_share=self.min_effective_share,
            response_weighting=self.response_weighting,
            length_power=self.length_power,
            temperature=self.response_temperature,
        )

    def online_sampling(self, step: int) -> Sampling:
        """How the answers of a pause are sampled: as the model itself would, or their weights would mean nothing."""
        seed = derive_seed(self.seed, "answers", step)
        return Sampling(temperature=1.0, top_p=1.0, top_k=0, max_tokens=self.max_answer_tokens, seed=seed)

    def limits(self) -> Limits:
        """Where answering anew stops."""
        return Limits(self.min_accepted, self.min_entropy, self.max_divergence)
