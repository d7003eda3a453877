"""Step `compare`: which of response and candidate the model prefers, asked in both orders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from burnish._confidence_types import CompareBatch, ResponsePair
from burnish._types import ModelRef
from burnish.coordinator.beliefs import PreferenceKey
from burnish.coordinator.content import digest_of
from burnish.coordinator.policy.clear import Preference
from burnish.coordinator.steps.runs import ClearRun
from burnish.coordinator.steps.stage import same_prompts, same_version, version_detail

Pair = tuple[str, str]  # sample hashes: the conversation as it is, and with the candidate


async def compare(
    run: ClearRun, round_number: int, model: ModelRef, pairs: Sequence[Pair]
) -> Mapping[Pair, Preference | str]:
    """By pair, how `model` judged it, or the reason why it did not. `pairs` are distinct."""
    stage = run.stage(round_number, "compare")
    beliefs = run.book.beliefs
    if stage.done:
        return beliefs.preferences(pairs, PreferenceKey(**stage.words("key")))

    async def send(batch: Sequence[Pair]) -> CompareBatch:
        found = run.book.samples(name for pair in batch for name in pair)
        asked = [
            ResponsePair(digest_of(pair), found[pair[0]][:-1], found[pair[0]][-1].content, found[pair[1]][-1].content)
            for pair in batch
        ]
        return await run.client.scoring.compare(asked, model=model, min_covered_mass=0.0)

    def store(batch: Sequence[Pair], reply: CompareBatch) -> None:
        same_version(version, reply.model, "scoring")
        same_prompts(prompts, reply.prompt_digest, "scoring")
        beliefs.add_preferences(key, batch, reply.preferences)

    with stage.working():
        version = await run.client.scoring.load_model(model)
        prompts = (await run.client.scoring.info()).prompt_digests.get("compare", "")
        key = PreferenceKey(version.digest, version.chat_template_digest, prompts)
        missing = beliefs.uncompared(pairs, key)
        detail = {"model": version_detail(version), "key": asdict(key)}
        stage.expect(len(pairs), known=len(pairs) - len(missing), detail=detail)
        await stage.in_batches(lambda: beliefs.uncompared(pairs, key), send, store)
    return beliefs.preferences(pairs, key)
