"""Fake models on disk: one JSON file that says what the fake engine shall be like.

Owns the file's format and its faults, which make the engine fail in the ways real ones do.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

from burnish_services.engine import canary
from burnish_services.engine.base import ModelLoadError
from burnish_services.engine.fake.numbers import token_logprobs
from burnish_services.engine.fake.tokenizer import FakeTokenizer
from burnish_services.engine.model_digests import model_digest
from burnish_services.engine.models import FAKE_MODEL_FILE, read_json

# load: cannot be loaded; stale: loading it keeps the old weights; nan: every result is NaN; dead: the engine dies at
# the first request after it has been loaded and checked.
Fault = Literal["", "load", "stale", "nan", "dead"]


@dataclass(frozen=True, slots=True)
class FakeModel:
    """What a fake model is like."""

    name: str
    seed: int = 0
    skill: float = 0.0  # in [0, 1]: lowers losses and raises ratings
    fault: Fault = ""
    latency_seconds: float = 0.0  # every engine call takes this much longer


def write_fake_model(
    directory: Path | str,
    *,
    name: str = "fake",
    seed: int = 0,
    skill: float = 0.0,
    fault: Fault = "",
    latency_seconds: float = 0.0,
) -> Path:
    """Makes (or replaces) a fake model in `directory` and returns that directory; equal arguments, equal digest."""
    path = Path(directory)
    path.mkdir(parents=True, exist_ok=True)
    model = FakeModel(name, seed, skill, fault, latency_seconds)
    (path / FAKE_MODEL_FILE).write_text(json.dumps(asdict(model), sort_keys=True) + "\n", encoding="utf-8")
    return path


def read_fake_model(directory: Path) -> FakeModel:
    """The fake model in a directory. Raises ModelLoadError where there is none or it is malformed."""
    path = directory / FAKE_MODEL_FILE
    if not path.is_file():
        raise ModelLoadError(
            f"{directory} holds no {FAKE_MODEL_FILE}: the fake engine serves fake models only; make one with "
            "burnish_services.engine.fake.write_fake_model, or choose another engine"
        )
    try:
        model = FakeModel(**read_json(path))
        valid = 0.0 <= model.skill <= 1.0 and model.latency_seconds >= 0.0 and model.fault in get_args(Fault)
    except TypeError as error:
        raise ModelLoadError(f"{path}: {str(error)[:200]}") from error
    if not valid or not isinstance(model.seed, int):
        raise ModelLoadError(
            f"{path}: expected skill in [0, 1], latency >= 0, a whole seed, a known fault: {str(model)[:200]}"
        )
    return model


def canary_mean_nll(directory: Path) -> float:
    """The mean that a fake model's `burnish.json` must state for `canary.CANARY_TEXT`."""
    ids = canary.canary_ids(FakeTokenizer())
    return canary.mean_nll(token_logprobs(ids, model_digest(directory), read_fake_model(directory).skill)[1:])
