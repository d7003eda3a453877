"""What calls ask an engine for: nothing twice, and nothing that goes on once the call has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace

import pytest

from burnish_services.engine.base import EngineFailure, GenerateRequest, Sampling
from burnish_services.engine.fake import FakeTokenizer
from burnish_services.engine.tokenizer import ChatMessage
from burnish_services.rewriting.core import Item, Rewriter
from burnish_services.rewriting.strategies import Material, RewritePrompts, Strategy
from burnish_services.rewriting.validation import Rules
from burnish_services.runtime.calls import CallRecord
from burnish_services.runtime.prompts import PromptFiles
from burnish_services.scoring.answering import sample_answers


class Engine:
    """Fails the first request and takes its time over all others."""

    model = SimpleNamespace(max_model_len=2048)

    def __init__(self) -> None:
        self.tokenizer = FakeTokenizer()
        self.asked: list[GenerateRequest] = []
        self.ended = 0

    async def generate(self, requests: Sequence[GenerateRequest]) -> list[EngineFailure]:
        self.asked += requests
        if len(self.asked) == 1:
            raise RuntimeError("out of memory")
        await asyncio.sleep(0.05)
        self.ended += len(requests)
        return [EngineFailure("NOT_FINITE", "no") for _ in requests]


async def test_a_defect_ends_all_rewrites_of_a_call() -> None:
    engine = Engine()
    rewriter = Rewriter(
        engine, RewritePrompts(), Strategy.SIMPLIFY, Rules(), Sampling(), 3, CallRecord("RewriteSamples")
    )  # type: ignore[arg-type]
    items = [Item(Material(f"What is number {number}?"), str(number)) for number in range(8)]
    with pytest.raises(RuntimeError, match="out of memory"):
        await rewriter.rewrite(items)
    asked = len(engine.asked)
    await asyncio.sleep(0.2)
    assert (len(engine.asked), engine.ended) == (asked, 0)


async def test_answers_to_one_prompt_share_its_tokens() -> None:
    engine = Engine()
    engine.asked = [GenerateRequest([1], Sampling())]
    turns = [ChatMessage("user", "What is it?"), ChatMessage("assistant", "That.")]
    prompts = PromptFiles("burnish_services.scoring")
    (answers,) = await sample_answers(engine, prompts, [turns], 5, Sampling(seed=3), CallRecord("EstimateConfidence"))  # type: ignore[arg-type]
    assert len(answers) == 5
    first, *others = engine.asked[1:]
    assert all(one.token_ids is first.token_ids for one in others)
    assert len({one.sampling.seed for one in engine.asked[1:]}) == 5
