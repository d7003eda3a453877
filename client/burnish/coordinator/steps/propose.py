"""Step `propose`: candidates for responses that may be wrong, with how likely their maker found every token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from burnish._response_types import Prompt, ResponseBatch
from burnish._types import Message, ModelRef, Role
from burnish.coordinator.beliefs import ResponseKey, Said
from burnish.coordinator.content import digest_of, sample_hash
from burnish.coordinator.curation import CandidateRecord
from burnish.coordinator.policy.assembly import DataRow
from burnish.coordinator.policy.clear import rejection_of
from burnish.coordinator.steps.measure import ROWS_PER_READ, prompts_of
from burnish.coordinator.steps.runs import ClearRun
from burnish.coordinator.steps.stage import same_version, version_detail


async def propose(run: ClearRun, round_number: int, model: ModelRef, rows: Sequence[DataRow]) -> None:
    """Has `model` respond to the prompts of `rows`, and writes down what came of it for each row."""
    stage = run.stage(round_number, "propose")
    if stage.done:
        return
    settings, book, beliefs = run.settings, run.book, run.book.beliefs
    sampling, count = settings.propose_sampling(), settings.candidates

    async def send(batch: Sequence[str]) -> ResponseBatch:
        found = book.samples(first[prompt] for prompt in batch)
        asked = [Prompt(prompt, found[first[prompt]][:-1]) for prompt in batch]
        return await run.client.rewriting.respond(
            asked, model=model, num_responses=count, sampling=sampling, return_tokens=True
        )

    def store(batch: Sequence[str], reply: ResponseBatch) -> None:
        same_version(version, reply.model, "rewriting")
        beliefs.add_responses(key, reply.results)

    with stage.working():
        version = await run.client.rewriting.load_model(model)
        params = {"sampling": asdict(sampling), "candidates": count}
        key = ResponseKey(version.digest, version.chat_template_digest, digest_of(params))
        prompt_of = prompts_of(run, [row.sample_hash for row in rows])
        first = {prompt: sample for sample, prompt in reversed(prompt_of.items())}  # a sample that begins so
        prompts = list(dict.fromkeys(prompt_of.values()))
        missing = beliefs.unanswered(prompts, key, count)
        detail = {"model": version_detail(version), "key": asdict(key), **params}
        stage.expect(len(prompts), known=len(prompts) - len(missing), detail=detail)
        await stage.in_batches(lambda: beliefs.unanswered(prompts, key, count), send, store)
        said = beliefs.responses(prompts, key)
        for start in range(0, len(rows), ROWS_PER_READ):
            part = rows[start : start + ROWS_PER_READ]
            samples = book.samples(row.sample_hash for row in part)
            made: dict[str, tuple[Message, ...]] = {}
            records = [
                _record(row, samples[row.sample_hash], one, made)
                for row in part
                for one in said.get(prompt_of[row.sample_hash], ())
            ]
            with book.transaction():
                book.add_samples(made)
                book.curation.add_candidates(round_number, records)


def _record(
    row: DataRow, messages: tuple[Message, ...], said: Said, made: dict[str, tuple[Message, ...]]
) -> CandidateRecord:
    """A candidate for a row; its conversation goes into `made` where it is one."""
    if said.text is None:
        return CandidateRecord(row.row_id, said.number, None, said.reason)
    truncated = said.finish_reason != "stop"
    rejection = rejection_of(messages[-1].content, said.text, truncated=truncated)
    text = said.text.strip()
    if not text:
        return CandidateRecord(row.row_id, said.number, None, rejection)
    conversation = (*messages[:-1], Message(Role.ASSISTANT, text))
    name = sample_hash(conversation)
    made[name] = conversation
    return CandidateRecord(row.row_id, said.number, name, rejection)
