"""The fake engine: the same everywhere, lossless, and malformed just often enough."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish_services.engine.base import (
    EngineDead,
    EngineFailure,
    EngineSettings,
    GenerateRequest,
    Generation,
    ModelLoadError,
    Sampling,
    ScoreRequest,
    Task,
)
from burnish_services.engine.chat import prompt_ids, tokenize_sample
from burnish_services.engine.fake import FakeEngine, FakeTokenizer, read_fake_model, write_fake_model
from burnish_services.engine.model_digests import model_digest
from burnish_services.engine.tokenizer import ChatMessage

TOKENIZER = FakeTokenizer()


async def started(directory: Path, task: Task = Task.GENERATE, **model: object) -> FakeEngine:
    engine = FakeEngine(EngineSettings(str(write_fake_model(directory, **model)), task))  # type: ignore[arg-type]
    await engine.start()
    return engine


@given(st.text(max_size=200))
def test_any_text_comes_back_and_every_character_has_its_tokens(text: str) -> None:
    encoding = TOKENIZER.encode(text)
    specials = re.compile(r"<\|(?:im_start|im_end|endoftext)\|>")
    assert TOKENIZER.decode(encoding.ids) == specials.sub("", text)
    covered = sorted({at for start, end in encoding.spans for at in range(start, end)})
    assert covered == list(range(len(text)))
    assert all(a <= b for a, b in zip(encoding.spans, encoding.spans[1:], strict=False))


def test_special_tokens_are_recognised_and_a_bos_is_added_only_on_request() -> None:
    assert TOKENIZER.encode("<|im_start|>").ids == [1]
    assert TOKENIZER.encode("a", add_special_tokens=True).ids == [1, *TOKENIZER.encode("a").ids]
    assert TOKENIZER.encode("a").ids[0] != 1


_DESCRIBE = """
import asyncio, sys, hashlib
from burnish_services.engine.base import *
from burnish_services.engine.fake import FakeEngine
async def main():
    seen = hashlib.sha256()
    for task in Task:
        engine = FakeEngine(EngineSettings(sys.argv[1], task))
        await engine.start()
        ids = engine.tokenizer.encode("Explain the tides, please: 東京!").ids
        (scores,) = await engine.score([ScoreRequest(ids, distribution=True)])
        ranks = await engine.rank([RankRequest(ids, [5, 9])])
        for numbers in (scores.logprobs, scores.entropies, scores.margins, *ranks, *await engine.embed([ids])):
            seen.update(numbers.tobytes())
        for reply in await engine.generate([GenerateRequest(ids, Sampling(seed=seed)) for seed in range(9)]):
            seen.update(reply.text.encode())
    print(seen.hexdigest())
asyncio.run(main())
"""


def test_two_processes_say_the_same(tmp_path: Path) -> None:
    directory = write_fake_model(tmp_path / "model", seed=3)
    outputs = {
        subprocess.run(
            [sys.executable, "-c", _DESCRIBE, directory],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1
    assert len(outputs.pop()) == 64 + 1


async def test_models_differ_and_skill_helps(tmp_path: Path) -> None:
    ids = TOKENIZER.encode("The quick brown fox jumps over the lazy dog. " * 3).ids
    engines = [
        await started(tmp_path / "a", seed=1),
        await started(tmp_path / "b", seed=2),
        await started(tmp_path / "c", seed=1, skill=1.0),
    ]
    first, second, skilled = [(await engine.score([ScoreRequest(ids)]))[0].logprobs for engine in engines]
    assert (first < 0).all()
    assert not np.array_equal(first, second)
    assert skilled.mean() > first.mean() + 0.2


async def test_rare_words_are_unlikely_and_repetition_is_not(tmp_path: Path) -> None:
    engine = await started(tmp_path / "model")
    plain, rare = TOKENIZER.encode("this is how the people of the world").ids, TOKENIZER.encode("zyxomma qwrtz").ids
    results = await engine.score([ScoreRequest(ids) for ids in (plain, rare, plain * 4)])
    scores = [result.logprobs for result in results]
    assert scores[0].mean() > scores[1].mean() + 0.5
    assert scores[2].mean() > scores[0].mean() + 0.1


async def test_texts_that_share_words_are_close(tmp_path: Path) -> None:
    engine = await started(tmp_path / "model", Task.POOL)
    texts = ["the capital city of france", "the capital city of italy", "def f(x): return 3 * x ** 2"]
    vectors = [v / np.linalg.norm(v) for v in await engine.embed([TOKENIZER.encode(text).ids for text in texts])]
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.1
    assert vectors[0].shape == (64,)


async def ask(engine: FakeEngine, text: str, number: int, **sampling: object) -> list[Generation]:
    ids = prompt_ids(TOKENIZER, [ChatMessage("user", text)])
    requests = [GenerateRequest(ids, Sampling(seed=seed, **sampling)) for seed in range(number)]  # type: ignore[arg-type]
    replies = await engine.generate(requests)
    assert all(isinstance(reply, Generation) for reply in replies)
    return replies  # type: ignore[return-value]


async def test_about_three_judgements_in_a_hundred_hold_no_number(tmp_path: Path) -> None:
    engine = await started(tmp_path / "model")
    replies = await ask(engine, "What are tides?\nRate the clarity on a scale from 0 to 10.", 1000)
    malformed = [reply for reply in replies if not re.match(r"\d+\.\d", reply.text)]
    assert 10 <= len(malformed) <= 60
    assert not any(re.search(r"\d", reply.text) for reply in malformed)


async def test_rewrites_follow_the_marker_that_was_asked_for(tmp_path: Path) -> None:
    engine = await started(tmp_path / "model")
    text = "Instruction:\nExplain how tides work.\n\nFirst say why. Then write RESULT>> and after it only the text."
    replies = await ask(engine, text, 400)
    good = [reply.text.split("RESULT>>")[1] for reply in replies if "RESULT>>" in reply.text]
    assert 370 <= len(good) < 400
    assert all(re.search(r"explain|tides|work", prompt) for prompt in good)


async def test_sampling_parameters_are_obeyed(tmp_path: Path) -> None:
    engine = await started(tmp_path / "model")
    (whole,) = await ask(engine, "Describe the weather", 1)
    (cut,) = await ask(engine, "Describe the weather", 1, max_tokens=5)
    assert (whole.finish_reason, cut.finish_reason) == ("stop", "length")
    assert cut.token_ids == whole.token_ids[:5]
    (stopped,) = await ask(engine, "Describe the weather", 1, stop=(" ",))
    assert stopped.text == whole.text.split(" ")[0]
    greedy = await ask(engine, "Describe the weather", 3, temperature=0.0)
    assert len({reply.text for reply in greedy}) == 1
    assert len({reply.text for reply in await ask(engine, "Describe the weather", 20)}) > 5


async def test_faults(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="by its own wish"):
        await started(tmp_path / "load", fault="load")
    nan = await started(tmp_path / "nan", fault="nan")
    (failure,) = await nan.score([ScoreRequest([4, 5, 6])])
    assert isinstance(failure, EngineFailure)
    assert failure.reason == "NOT_FINITE"
    dead = await started(tmp_path / "dead", fault="dead")
    await dead.score([ScoreRequest([4, 5])])  # the canary's
    with pytest.raises(EngineDead):
        await dead.score([ScoreRequest([4, 5])])
    slow = await started(tmp_path / "slow", latency_seconds=0.05)
    begin = time.monotonic()
    await slow.score([ScoreRequest([4, 5])])
    assert time.monotonic() - begin >= 0.05


@pytest.mark.parametrize(
    "content",
    [
        '{"name": "x", "skill": 2}',
        '{"nom": "x"}',
        "[]",
        "no json",
        '{"name": "x", "fault": "other"}',
        '{"name": "x", "seed": "1"}',
    ],
)
def test_malformed_models_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "fake_model.json").write_text(content)
    with pytest.raises(ModelLoadError, match=r"fake_model.json"):
        read_fake_model(tmp_path)


def test_equal_arguments_make_equal_models(tmp_path: Path) -> None:
    paths = [write_fake_model(tmp_path / name, name="same", seed=7) for name in ("x", "y")]
    assert len({model_digest(path) for path in paths}) == 1
    with pytest.raises(ModelLoadError, match="write_fake_model"):
        read_fake_model(tmp_path)


def test_a_thousand_samples_are_scored_in_a_moment(tmp_path: Path) -> None:
    messages = [ChatMessage("user", "What is the capital of France? " * 5), ChatMessage("assistant", "Paris. " * 20)]
    begin = time.process_time()
    from burnish_services.engine.fake.numbers import token_logprobs

    for _ in range(1000):
        sample = tokenize_sample(TOKENIZER, messages)
        token_logprobs(sample.ids, "digest", 0.0)
    assert time.process_time() - begin < 10.0
