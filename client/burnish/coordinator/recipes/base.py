"""What every recipe's settings have, and what of a run is no setting.

A recipe's settings are everything that determines what a run makes, and so what its id is made from. What does not
change the result (batch sizes, what is kept on disk) is in `RunOptions`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator

from burnish._coverage_types import ProjectionMethod
from burnish._training_types import Lora
from burnish._types import Hyperparameters, Sampling
from burnish.coordinator.content import derive_seed
from burnish.coordinator.coverage import FeatureChoice
from burnish.coordinator.errors import InputError
from burnish.coordinator.formats import Columns
from burnish.coordinator.formats.remote import local_copies
from burnish.coordinator.paths import is_remote
from burnish.coordinator.policy.amount import SIZE
from burnish.coordinator.recipes.shares import Share, Size

ModelT = TypeVar("ModelT", bound=BaseModel)
FROZEN = ConfigDict(frozen=True, extra="forbid")
MOST_ROUNDS = 100


class SamplingSettings(BaseModel):
    """How text is sampled; ranges as in burnish.api.common.v1.SamplingParameters."""

    model_config = FROZEN

    temperature: float = Field(ge=0, le=2)
    top_p: float = Field(gt=0, le=1)
    top_k: int = Field(ge=0)
    max_tokens: int = Field(ge=1)
    repetition_penalty: float = Field(default=1.0, ge=1, le=2)

    def sampling(self, seed: int) -> Sampling:
        """As the SDK wants it."""
        return Sampling(**self.model_dump(), seed=seed)


class TrainingSettings(BaseModel):
    """How each round trains; unset values take the training service's defaults (see training.proto)."""

    model_config = FROZEN

    num_epochs: float | None = Field(None, gt=0)
    max_steps: int | None = Field(None, ge=1)
    learning_rate: float | None = Field(None, gt=0)
    warmup_ratio: Share | None = Field(None, ge=0, le=1)
    lr_scheduler: Literal["cosine", "linear", "constant"] | None = None
    per_device_batch_size: int | None = Field(None, ge=1)
    gradient_accumulation_steps: int | None = Field(None, ge=1)
    weight_decay: float | None = Field(None, ge=0)
    max_grad_norm: float | None = Field(None, ge=0)
    max_sequence_tokens: int | None = Field(None, ge=1)
    dtype: Literal["float32", "mixed", "bfloat16"] | None = None
    seed: int | None = Field(None, ge=0, lt=2**32, description="default: derived from the run's seed and the round")
    checkpoint_steps: int | None = Field(None, ge=1)
    gradient_checkpointing: bool | None = None
    max_loss_ratio: float | None = Field(None, ge=0, description="stop where a step's loss is so much above all others")
    packing: bool | None = Field(None, description="lay samples end to end instead of padding them")
    lora_rank: int | None = Field(None, ge=1, le=1024, description="train low-rank adapters of this rank")
    lora_alpha: float | None = Field(None, gt=0)
    lora_dropout: Share | None = Field(None, ge=0, lt=1)
    lora_modules: tuple[str, ...] = Field((), description="linear layers that get one; default all but the head")
    lora_adapter_only: bool | None = Field(None, description="publish the adapters alone instead of merged")

    @field_validator("lora_modules", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return tuple(filter(None, value.replace(" ", "").split(","))) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _of_adapters(self) -> Self:
        if self.lora_rank is None and (
            self.lora_alpha or self.lora_dropout or self.lora_modules or self.lora_adapter_only
        ):
            raise ValueError(
                "`lora_alpha`, `lora_dropout`, `lora_modules` and `lora_adapter_only` are of adapters; give `lora_rank`"
                " as well"
            )
        return self

    def hyperparameters(self) -> Hyperparameters:
        """As the SDK wants them, without the adapters."""
        return Hyperparameters(**self.model_dump(exclude=_OF_ADAPTERS))

    def lora(self) -> Lora | None:
        """The adapters that are trained; None: all weights are."""
        if self.lora_rank is None:
            return None
        return Lora(self.lora_rank, self.lora_alpha, self.lora_dropout, self.lora_modules, self.lora_adapter_only)


_OF_ADAPTERS = {"lora_rank", "lora_alpha", "lora_dropout", "lora_modules", "lora_adapter_only"}


class RecipeSettings(BaseModel):
    """One run of a recipe. `data` names files, folders, globs or a saved Hugging Face data set; `model` is the
    directory of the base model, as the services see it, or its place in object storage."""

    model_config = FROZEN

    RECIPE: ClassVar[str]
    ALL_SERVICES: ClassVar[tuple[str, ...]] = ("scoring", "embedding", "rewriting", "training")
    STEPS: ClassVar[tuple[str, ...]]  # of a round, in the order they are taken

    data: tuple[str, ...] = Field(min_length=1)
    columns: Columns = Columns()
    skip_bad_rows: bool = False
    holdout: tuple[str, ...] = Field((), description="held-out data that losses are measured on; never trained on")
    model: str = Field(min_length=1)
    rounds: int = Field(1, ge=1, le=MOST_ROUNDS)
    seed: int = Field(0, ge=0, lt=2**63)
    training: TrainingSettings = TrainingSettings()

    @field_validator("data", "holdout", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        items = [value] if isinstance(value, str | Path) else value
        return tuple(str(item) for item in items) if isinstance(items, list | tuple) else items

    @classmethod
    def parse(cls, values: dict[str, Any], *, with_effect: bool = True) -> Self:
        """Settings from plain values; `with_effect`: none may be given that does nothing. Raises InputError that names
        every setting that is wrong."""
        return parse_settings(cls, values, with_effect=with_effect)

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> Self:
        """Settings as a ledger has them: all are given, and what has no effect may be among them, so that a run goes on
        by what it began with. Raises InputError."""
        return cls.parse(dict(values), with_effect=False)

    @model_validator(mode="after")
    def _all_have_an_effect(self, info: ValidationInfo) -> Self:
        if info.context is None or info.context[_WITH_EFFECT]:
            for one in self.without_effect():
                if one.is_given_in(self):
                    raise ValueError(one.said)
        return self

    def without_effect(self) -> Iterator[NoEffect]:
        """The settings that do nothing beside the others: who gives one would take it for done."""
        return iter(())

    def hyperparameters(self, round_number: int) -> Hyperparameters:
        """How a round trains."""
        asked = self.training.hyperparameters()
        seed = derive_seed(self.seed, round_number, "train") % 2**32
        return asked if asked.seed is not None else replace(asked, seed=seed)

    def lora(self) -> Lora | None:
        """The adapters that are trained; None: all weights are."""
        return self.training.lora()

    def files(self) -> dict[str, tuple[str, ...]]:
        """The settings that name files whose content determines what a run makes."""
        return {"data": self.data, "holdout": self.holdout}

    def with_copies(self, folder: Path) -> Self:
        """With data that are in object storage named by their copies in `folder`, made where they are not there yet.
        Raises DataError."""
        return self.model_copy(update={name: local_copies(items, folder) for name, items in self.files().items()})

    def identity(self, digests: Mapping[str, str]) -> dict[str, Any]:
        """What a run's id is made from: all settings, with `files` named by content instead of by place."""
        return self.model_dump(mode="json") | dict(digests)

    def services(self) -> tuple[str, ...]:
        """The services that a run needs."""
        return self.ALL_SERVICES

    def models(self) -> dict[str, str]:
        """The services that begin with another model than `model`, and which; where they are started for the run."""
        return {}

    def absolute(self) -> Self:
        """With models that are directories here named by absolute path, for a service may work in another directory."""
        return self.model_copy(update={"model": absolute(self.model)})


@dataclass(frozen=True, slots=True)
class NoEffect:
    """A setting that does nothing beside the others, and why, in words that follow "has no effect". `even_by_default`:
    to give its default value says something as well, which is not done."""

    name: str
    why: str
    even_by_default: bool = False

    def is_given_in(self, settings: BaseModel) -> bool:
        """Whether somebody asked for it: beyond what happens anyway, unless that is not what its default means."""
        if self.name not in settings.model_fields_set:
            return False
        default = type(settings).model_fields[self.name].get_default(call_default_factory=True)
        return self.even_by_default or getattr(settings, self.name) != default

    @property
    def said(self) -> str:
        """As a sentence."""
        return f"`{self.name}` has no effect {self.why}"


HOLD_STEPS = ("calibrate", "features", "project", "hold")  # that holding the size takes


class HoldSettings(RecipeSettings):
    """Settings of a recipe whose rounds can hold the set's size: where more rows would go on, those that cover all of
    them best do, by the base model's neurons."""

    hold_size: Size | None = Field(
        None, description="most rows that go on: up to 1 a share of the first round's, else a number"
    )

    def held_rows(self, num_first: int) -> int | None:
        """Most rows that go on, where the first round began with so many; None: any number."""
        return None if self.hold_size is None else SIZE.of(self.hold_size, num_first)

    def hold_features(self) -> FeatureChoice:
        """Which features they are covered in; the same in every round, so that only what is new is read."""
        return FeatureChoice(seed=derive_seed(self.seed, "calibration"))


class RunOptions(BaseModel):
    """How a run is worked; may be changed when it goes on."""

    model_config = FROZEN

    batch_size: int = Field(32, ge=1, description="samples asked for, and committed, at a time")
    max_in_flight: int = Field(4, ge=1, description="batches on the way at a time")
    retries: int = Field(2, ge=0, description="how often items with a retryable failure are asked for again")
    keep_models: Literal["all", "last"] = "all"
    models_uri: str = Field(
        "", description="where models are published, such as s3://bucket/prefix, instead of the run's directory"
    )
    map: ProjectionMethod = Field(ProjectionMethod.PCA, description="how the report's maps are drawn")
    truth: str = Field("", description="what is wrong with the data, for the report; no recipe reads it")
    compare: bool = Field(False, description="train on all rows and on random ones too, once the recipe has ended")
    random_subsets: int = Field(3, ge=0, le=20, description="how many times on random ones")
    oracle: bool = Field(False, description="train on the rows that `truth` calls right too, once the recipe has ended")

    @field_validator("models_uri")
    @classmethod
    def _place(cls, value: str) -> str:
        return value.rstrip("/") if is_remote(value) or not value else str(Path(value).absolute())

    @model_validator(mode="after")
    def _known_to_be_right(self) -> Self:
        if self.oracle and not self.truth:
            raise ValueError("`oracle` trains on the rows that are known to be right; say which are wrong with `truth`")
        return self

    @model_validator(mode="after")
    def _removed_here_only(self) -> Self:
        if self.models_uri and self.keep_models == "last":
            raise ValueError(
                "earlier models are removed from the run's directory only: `keep_models` last does not go together with"
                " `models_uri`; keep all, and let the store's own rules remove old ones"
            )
        return self


class SettingsError(InputError):
    """Settings that cannot be used; `problems` are places among them (none: all together) with what is wrong there. In
    the words a setting that is named stands in backticks."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        said = "; ".join(one.told({}) for one in problems)
        super().__init__(f"The settings cannot be used. {said}")
        self.problems = tuple(problems)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a setting, named with dots where it is nested, and the `value` that was given for it."""

    place: str
    words: str
    value: object

    def told(self, names: Mapping[str, str]) -> str:
        """In words, with settings by their `names`, where they have others than their own: then with the value too,
        which is no part of the name."""
        words = _QUOTED.sub(lambda found: names.get(found[1], found[1]), self.words)
        if not self.place:
            return words
        named = next((names[one] for one in self._places() if one in names), None)
        if named is None:  # of a group that has no name of its own the words name the members
            is_group = any(one.startswith(f"{self.place}.") for one in names)
            return words if is_group else f"{self.place}: {words}"
        is_plain = isinstance(self.value, str | int | float) and not isinstance(self.value, bool)
        return f"{named} {self.value}: {words}" if is_plain else f"{named}: {words}"

    def _places(self) -> Iterator[str]:
        """Its own place, then what that is a part of: an item of a list has no name."""
        parts = self.place.split(".")
        return (".".join(parts[:number]) for number in range(len(parts), 0, -1))


_QUOTED = re.compile(r"`([a-z_]+(?:\.[a-z_]+)*)`")
_OURS = "Value error, "  # pydantic's, before the words of a ValueError
_WITH_EFFECT = "with effect"


def parse_settings(kind: type[ModelT], values: dict[str, Any], *, with_effect: bool = True) -> ModelT:
    """Settings from plain values; `with_effect`: see RecipeSettings. Raises SettingsError, an InputError, that names
    every setting that is wrong."""
    try:
        return kind.model_validate(values, context={_WITH_EFFECT: with_effect})
    except ValidationError as error:
        found = error.errors()
        items = {one["loc"][:-1] for one in found}
        raise SettingsError(
            [
                Problem(".".join(map(str, one["loc"])), one["msg"].removeprefix(_OURS), one["input"])
                for one in found
                if one["type"] != "too_short" or one["loc"] not in items  # but for those that are wrong
            ]
        ) from None


def absolute(uri: str) -> str:
    """A directory that is here by its absolute path; anything else as it is."""
    return str(Path(uri).absolute()) if uri and Path(uri).is_dir() else uri
