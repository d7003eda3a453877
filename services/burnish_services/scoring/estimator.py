"""Estimates confidence tier by tier: beliefs from one pass, sampled answers, contradictions. Knows no RPC.

The pass and the sampling need engines of different kinds, so the weights are held twice, one after the other; by digest
in the second case, so that both parts are made by the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

from burnish_services.engine.base import EngineFailure, Sampling
from burnish_services.engine.hosting import ModelHost, ModelName, ModelReference, ModelVersion
from burnish_services.engine.tokenizer import ChatMessage
from burnish_services.runtime.calls import CallRecord
from burnish_services.runtime.errors import PreconditionFailed
from burnish_services.runtime.prompts import PromptFiles
from burnish_services.scoring.answering import ANSWER_SAMPLING, Answer, sample_answers
from burnish_services.scoring.answers import overlap
from burnish_services.scoring.confidence import NUM_ANSWERS, Weights, similarity_from_contradiction
from burnish_services.scoring.estimating import Estimate, Similarity, compare, estimate
from burnish_services.scoring.reflecting import Belief, believe

if TYPE_CHECKING:
    from burnish_services.engine.nli import Contradictions


class Tier(IntEnum):
    """How much is spent; each holds all of the one before."""

    FAST = 1
    STANDARD = 2
    FULL = 3


@dataclass(frozen=True, slots=True)
class Asked:
    """What an estimate is to be made of."""

    tier: Tier = Tier.FAST
    weights: Weights = field(default_factory=Weights)
    num_answers: int = NUM_ANSWERS
    sampling: Sampling = ANSWER_SAMPLING
    min_covered_mass: float = 0.5


@dataclass(frozen=True, slots=True)
class Estimator:
    """`scorer` and `generator` are the hosts of the two kinds of engine; `nli` is None where none is configured."""

    scorer: ModelHost
    generator: ModelHost
    prompts: PromptFiles
    nli: Contradictions | None = None

    async def estimate(
        self, model: ModelName, conversations: Sequence[Sequence[ChatMessage]], asked: Asked, record: CallRecord
    ) -> tuple[ModelVersion, list[Estimate | EngineFailure]]:
        """One estimate per conversation, or why there is none, and the weights that made them. Raises
        PreconditionFailed where the full tier has no model."""
        if asked.tier is Tier.FULL and self.nli is None:
            raise PreconditionFailed(
                "NLI_NOT_CONFIGURED",
                "the full tier needs an NLI model; start the server with BURNISH_SCORING_NLI_MODEL set to the "
                "directory of one, or ask for the standard tier",
            )
        async with self.scorer.using(model) as held:
            record.swap_seconds = held.swap_seconds
            beliefs = await believe(self.scorer.engine, self.prompts, conversations, record)
        answers: list[tuple[Answer, ...]] = [()] * len(conversations)
        if asked.tier > Tier.FAST:
            answers = await self._answers(held, conversations, beliefs, asked, record)
        similarity = await self._similarity(conversations, answers) if asked.tier is Tier.FULL else overlap

        def estimates() -> list[Estimate | EngineFailure]:
            return [
                estimate(
                    belief,
                    compare(messages[-1].content, some, asked.weights.alpha, similarity) if some else (),
                    asked.weights,
                    asked.min_covered_mass,
                )
                for messages, belief, some in zip(conversations, beliefs, answers, strict=True)
            ]

        # Word by word, of every answer: seconds, for a large batch.
        return held, await asyncio.to_thread(estimates)

    async def _answers(
        self,
        held: ModelVersion,
        conversations: Sequence[Sequence[ChatMessage]],
        beliefs: Sequence[Belief | EngineFailure],
        asked: Asked,
        record: CallRecord,
    ) -> list[tuple[Answer, ...]]:
        """Answers to the prompts of all conversations that there is a belief about."""
        good = [m for m, belief in zip(conversations, beliefs, strict=True) if isinstance(belief, Belief)]
        async with self.generator.using(ModelReference(held.uri, held.digest)) as again:
            record.swap_seconds += again.swap_seconds
            found = iter(
                await sample_answers(
                    self.generator.engine, self.prompts, good, asked.num_answers, asked.sampling, record
                )
            )
        return [next(found) if isinstance(belief, Belief) else () for belief in beliefs]

    async def _similarity(
        self, conversations: Sequence[Sequence[ChatMessage]], answers: Sequence[tuple[Answer, ...]]
    ) -> Similarity:
        """Similarity by contradiction, judged for all pairs at once and in both orders."""
        assert self.nli is not None
        pairs = list(
            dict.fromkeys(
                pair
                for messages, some in zip(conversations, answers, strict=True)
                for answer in some
                if answer.failure is None
                for pair in ((answer.text, messages[-1].content), (messages[-1].content, answer.text))
            )
        )
        found = dict(zip(pairs, await self.nli.contradictions(pairs), strict=True))
        return lambda one, other: similarity_from_contradiction(found[one, other], found[other, one])
