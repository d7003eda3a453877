"""Step `confidence`: what the model believes of each sample's response, and what it answers itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from burnish._confidence_types import ConfidenceBatch, ConfidenceTier
from burnish._types import ModelRef
from burnish.coordinator.beliefs import ConfidenceKey
from burnish.coordinator.content import digest_of
from burnish.coordinator.policy.confidence import Evidence
from burnish.coordinator.steps.measure import prompts_of, samples_of
from burnish.coordinator.steps.runs import ClearRun
from burnish.coordinator.steps.stage import same_prompts, same_version, version_detail


async def estimate(
    run: ClearRun, round_number: int, model: ModelRef, hashes: Sequence[str], tier: ConfidenceTier
) -> Mapping[str, Evidence]:
    """What `model` makes of each sample; absent where nothing could be had. The parts are kept, not a confidence: other
    weights of them cost nothing."""
    stage = run.stage(round_number, "confidence")
    beliefs = run.book.beliefs
    if stage.done:
        return beliefs.evidence(hashes, ConfidenceKey(**stage.words("key")))
    settings = run.settings
    sampled = tier is not ConfidenceTier.FAST
    sampling, count = settings.answer_sampling(), settings.num_answers
    params = {"tier": tier.value} | ({"sampling": asdict(sampling), "num_answers": count} if sampled else {})

    async def send(batch: Sequence[str]) -> ConfidenceBatch:
        return await run.client.scoring.confidence(
            samples_of(run, batch),
            model=model,
            tier=tier,
            num_answers=count,
            sampling=sampling,
            min_covered_mass=0.0,  # whether the letters had enough is decided here, where it can be decided anew
        )

    def store(batch: Sequence[str], reply: ConfidenceBatch) -> None:
        same_version(version, reply.model, "scoring")
        same_prompts(prompts, reply.prompt_digest, "scoring")
        beliefs.add_estimates(key, reply.estimates)

    with stage.working():
        if sampled:  # those with the same prompt together, since a request shares the answers to it
            prompt_of = prompts_of(run, hashes)
            place = {prompt: number for number, prompt in reversed(list(enumerate(prompt_of.values())))}
            hashes = sorted(hashes, key=lambda name: place[prompt_of[name]])
        version = await run.client.scoring.load_model(model)
        info = await run.client.scoring.info()
        prompts = info.prompt_digests.get("confidence", "")
        judged_by = prompts if tier is not ConfidenceTier.FULL else f"{prompts}+{info.nli_model_digest}"
        key = ConfidenceKey(version.digest, version.chat_template_digest, judged_by, digest_of(params))
        missing = beliefs.unestimated(hashes, key)
        detail = {"model": version_detail(version), "key": asdict(key), **params}
        stage.expect(len(hashes), known=len(hashes) - len(missing), detail=detail)
        await stage.in_batches(lambda: beliefs.unestimated(hashes, key), send, store)
    return beliefs.evidence(hashes, key)
