"""Ratings from digits' probabilities against ratings read from generated replies: how fast, and how far they agree.

`published` is the published method beside Burnish: vLLM alone, six prompts a sample, up to 1,024 tokens each, of which
the first number counts. `generated` is our own generating mode, whose worked examples have the model be brief and whose
prompts share what can be shared; `logit` reads one token's probabilities. The last two are timed over gRPC. Contenders
take turns on the same samples, and no turn repeats one. Agreement is Spearman's rank correlation over the ratings that
both gave.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from bench.judging_published import QUESTIONS
from bench.peers import Peer, started
from bench.results import ratio, result, table, write
from bench.scoring_data import SOURCES, Workload, workload
from burnish import Client, JudgeMode
from burnish.local import EngineOptions, LocalServices
from burnish_services.engine.hf_tokenizer import HfTokenizer
from burnish_services.scoring.rating import parse_rating

SIZES = {"small": (8, 2), "full": (48, 3)}  # samples in a turn, turns
CONTEXT = 2048
LOGIT = "logit"
# A turn: seconds, and all ratings in order, NaN where there is none.
Turn = Callable[[Workload], tuple[float, list[float]]]


def ours(client: Client, model: Path, mode: JudgeMode) -> Turn:
    """By the service."""

    def turn(work: Workload) -> tuple[float, list[float]]:
        begin = time.perf_counter()
        batch = client.scoring.judge(work.samples, model=str(model), mode=mode)
        seconds = time.perf_counter() - begin
        return seconds, [math.nan if r.value is None else r.value for one in batch.judgments for r in one.ratings]

    return turn


def published(peer: Peer) -> Turn:
    """By vLLM alone."""

    def turn(work: Workload) -> tuple[float, list[float]]:
        samples = [[[str(message.role), message.content] for message in one.messages] for one in work.samples]
        answer = peer.ask({"samples": samples})
        asked = len(samples) * len(QUESTIONS)
        print(f"published: {answer['tokens'] / asked:.0f} tokens a reply", file=sys.stderr, flush=True)
        ratings = [parse_rating(reply) for reply in answer["replies"]]
        return answer["seconds"], [math.nan if rating is None else rating for rating in ratings]

    return turn


def correlation(one: list[float], other: list[float]) -> float:
    """Spearman's rho over the ratings that both have."""
    both = ~(np.isnan(one) | np.isnan(other))
    return float(spearmanr(np.array(one)[both], np.array(other)[both]).statistic)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("build/models/smollm2-135m-instruct"))
    parser.add_argument("--size", choices=sorted(SIZES), default="small")
    parser.add_argument("--data", choices=sorted(SOURCES), default="bundled")
    parser.add_argument("--eager", action="store_true", help="not compiled; the default where there is no C++ compiler")
    given = parser.parse_args()
    count, turns = SIZES[given.size]
    model = given.model.resolve()
    compiled = not given.eager and shutil.which("g++") is not None
    work = workload(given.data, HfTokenizer(model), count * (turns + 1), CONTEXT // 2)
    rates: dict[str, list[float]] = {}
    values: dict[str, list[float]] = {}
    with ExitStack() as stack:
        state = stack.enter_context(tempfile.TemporaryDirectory())
        options = EngineOptions(dtype="bfloat16", max_model_len=CONTEXT, compile=compiled)
        services = LocalServices(["scoring"], state_dir=state, model=model, engine="vllm", options=options)
        client = stack.enter_context(Client(stack.enter_context(services).endpoints))
        arguments = ["--model", str(model), "--context", str(CONTEXT), *(["--compile"] if compiled else [])]
        contenders = {
            LOGIT: ours(client, model, JudgeMode.LOGIT),
            "generated": ours(client, model, JudgeMode.GENERATED),
            "published": published(stack.enter_context(started("bench.judging_published", *arguments))),
        }
        for turn in range(turns + 1):  # the first warms up
            part = work.part(turn, turns + 1)
            for name, contender in contenders.items():
                seconds, ratings = contender(part)
                print(f"{name}: {len(part.samples) / seconds:.2f} samples per second", file=sys.stderr, flush=True)
                values.setdefault(name, []).extend(ratings)
                if turn > 0:
                    rates.setdefault(name, []).append(len(part.samples) / seconds)
    results = [result(given.data, name, "samples", "per second", speeds) for name, speeds in rates.items()]
    others = [name for name in rates if name != LOGIT]
    ratios = {f"{given.data}: {LOGIT} / {name}": ratio(rates[LOGIT], rates[name]) for name in others}
    notes = {
        "spearman_with_logit": {name: correlation(values[LOGIT], values[name]) for name in others},
        "spearman_published_generated": correlation(values["published"], values["generated"]),
        "ratings_missing": {name: int(np.isnan(found).sum()) for name, found in values.items()},
        "ratings": len(values[LOGIT]),
        "compiled": compiled,
    }
    print(table(results, ratios), notes, sep="\n", file=sys.stderr)
    write("judging", results, ratios, notes)


if __name__ == "__main__":
    main()
