"""Makes the golden values anew: `.venv/bin/python -m tests.golden.make`, from the repository's root.

They come from the transformers engine in float32. A change in them needs a reason: another model, another template,
another definition of a response token.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from pathlib import Path

import numpy as np

from burnish_services.engine.base import EngineFailure, EngineSettings, ScoreRequest, Task, TokenScores
from burnish_services.engine.model_digests import model_digests
from burnish_services.engine.transformers_engine import TransformersEngine
from tests.golden.cases import CONTEXT, GOLDEN, MODEL, tokenized, write_perturbed


async def values_of(model: Path) -> dict[str, object]:
    """What the reference says with one set of weights."""
    engine = TransformersEngine(EngineSettings(str(model), Task.GENERATE, dtype="float32", max_model_len=CONTEXT))
    await engine.start()
    samples = tokenized(engine.tokenizer)
    scores = await engine.score([ScoreRequest(sample.ids) for sample in samples.values()])
    vectors = await engine.embed([samples[name].ids for name in ("single", "full-context")])
    await engine.close()
    return {
        "weights": model_digests(model).weights,
        "logprobs": {name: _rounded(score) for name, score in zip(samples, scores, strict=True)},
        "embeddings": dict(zip(("single", "full-context"), map(_rounded, vectors), strict=True)),
    }


async def main() -> None:
    """Writes the file."""
    with tempfile.TemporaryDirectory() as scratch:
        perturbed = write_perturbed(MODEL, Path(scratch, "perturbed"))
        base, other = await values_of(MODEL), await values_of(perturbed)
    engine = TransformersEngine(EngineSettings(str(MODEL), dtype="float32"))
    await engine.start()
    samples = {
        name: {"ids": sample.ids, "turns": [[turn.message_index, turn.start, turn.end] for turn in sample.turns]}
        for name, sample in tokenized(engine.tokenizer).items()
    }
    await engine.close()
    golden = {"samples": samples, "models": {"base": base, "perturbed": other}}
    lines = json.dumps(golden, separators=(",", ":"), indent=None).replace('},"', '},\n"').replace('],"', '],\n"')
    GOLDEN.write_text(lines + "\n")


def _rounded(values: TokenScores | np.ndarray | EngineFailure) -> list[float]:
    assert not isinstance(values, EngineFailure), values
    values = values.logprobs if isinstance(values, TokenScores) else values
    return [round(float(value), 6) for value in values]


if __name__ == "__main__":
    asyncio.run(main())
