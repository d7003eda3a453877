"""Ratings from digits' probabilities against ratings read from generated replies: how fast, and how far they agree.

`published` lets the judge write up to 1,024 tokens, as the published method does; `generated` stops after 16, since the
number comes first; `logit` reads one token's probabilities. All are the same service on the same samples; turns are
interleaved. Agreement is Spearman's rank correlation over all ratings that both modes gave.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from bench.results import ratio, result, table, write
from bench.scoring_data import SOURCES, workload
from burnish import Client, JudgeMode, Sample, Sampling
from burnish.local import EngineOptions, LocalServices
from burnish_services.engine.hf_tokenizer import HfTokenizer

SIZES = {"small": (16, 2), "full": (200, 3)}  # samples, turns
CONTEXT = 2048
HOW = {
    "published": (JudgeMode.GENERATED, Sampling(temperature=0.1, top_p=0.7, top_k=50, max_tokens=1024, seed=0)),
    "generated": (JudgeMode.GENERATED, Sampling(temperature=0.1, top_p=0.7, top_k=50, max_tokens=16, seed=0)),
    "logit": (JudgeMode.LOGIT, None),
}


def rate(client: Client, model: Path, samples: list[Sample], name: str) -> tuple[float, list[float]]:
    """Samples per second, and all ratings in order; NaN where there is none."""
    mode, sampling = HOW[name]
    begin = time.perf_counter()
    batch = client.scoring.judge(samples, model=str(model), mode=mode, sampling=sampling)
    seconds = time.perf_counter() - begin
    values = [math.nan if r.value is None else r.value for one in batch.judgments for r in one.ratings]
    return len(samples) / seconds, values


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("build/models/smollm2-135m-instruct"))
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--data", choices=sorted(SOURCES), default="bundled")
    given = parser.parse_args()
    count, turns = SIZES[given.size]
    model = given.model.resolve()
    samples = workload(given.data, HfTokenizer(model), count, CONTEXT // 2).samples
    rates: dict[str, list[float]] = {name: [] for name in HOW}
    values: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as state:
        options = EngineOptions(dtype="bfloat16", max_model_len=CONTEXT)
        with (
            LocalServices(["scoring"], state_dir=state, model=model, engine="vllm", options=options) as services,
            Client(services.endpoints) as client,
        ):
            rate(client, model, samples[:2], "generated")
            rate(client, model, samples[:2], "logit")
            for _ in range(turns):
                for name in HOW:
                    speed, values[name] = rate(client, model, samples, name)
                    rates[name].append(speed)
                    print(f"{name}: {speed:.2f} samples per second", file=sys.stderr, flush=True)
    results = [result(given.data, name, "samples", "per second", speeds) for name, speeds in rates.items()]
    ratios = {
        f"{given.data}: logit / {name}": ratio(rates["logit"], rates[name]) for name in ("published", "generated")
    }
    agreement = {name: correlation(values["logit"], values[name]) for name in ("published", "generated")}
    missing = {name: int(np.isnan(found).sum()) for name, found in values.items()}
    print(table(results, ratios), file=sys.stderr)
    write(
        "judging",
        results,
        ratios,
        {"spearman_with_logit": agreement, "ratings_missing": missing, "ratings": len(values["logit"])},
    )


def correlation(one: list[float], other: list[float]) -> float:
    """Spearman's rho over the ratings that both have."""
    both = ~(np.isnan(one) | np.isnan(other))
    return float(spearmanr(np.array(one)[both], np.array(other)[both]).statistic)


if __name__ == "__main__":
    main()
